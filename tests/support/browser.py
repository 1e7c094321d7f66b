"""Debian's Chromium, headless, by its own debugging protocol; the websocket client is tornado's, which Luigi brings."""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
import urllib.request
from pathlib import Path

import tornado.websocket

WIDTH, HEIGHT = 1180, 760


class Page:
    """One page."""

    def __init__(self, loop, socket):
        self._loop = loop
        self._socket = socket
        self._number = 0

    def call(self, method, **params):
        return self._loop.run_until_complete(asyncio.wait_for(self._call(method, params), 60))

    async def _call(self, method, params):
        self._number += 1
        await self._socket.write_message(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            text = await self._socket.read_message()
            assert text is not None, "the browser is gone"
            answer = json.loads(text)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url):
        self.call("Page.navigate", url=url)

    def evaluate(self, expression):
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression):
        """Wait until an expression is true, and return it."""
        for _ in range(600):
            with contextlib.suppress(AssertionError):
                if found := self.evaluate(expression):
                    return found
            time.sleep(0.1)
        raise AssertionError(f"never true: {expression}; the page says: {self.text()}")

    def text(self):
        return self.evaluate("document.body.innerText")

    def picture(self, path):
        answer = self.call("Page.captureScreenshot", format="png", optimizeForSpeed=False)
        path.write_bytes(base64.b64decode(answer["data"]))


@contextlib.contextmanager
def browser(folder):
    """A browser with one empty page; its profile lies in a folder that goes away."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert found, "chromium is not installed: make test installs it (apt-get install chromium)"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"]
    # Root has no sandbox, nor do many containers; nothing but luigid's own page is opened.
    options += [
        "--no-sandbox",
        "--remote-debugging-port=0",
        f"--user-data-dir={folder}",
        f"--window-size={WIDTH},{HEIGHT}",
    ]
    with Path(f"{folder}.log").open("wb") as log:
        process = subprocess.Popen(
            [found, *options, "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": str(folder)},
            start_new_session=True,
        )
    loop = asyncio.new_event_loop()
    try:
        page = Page(loop, loop.run_until_complete(connect(find_socket(process, folder))))
        page.call("Page.enable")
        page.call("Emulation.setDeviceMetricsOverride", width=WIDTH, height=HEIGHT, deviceScaleFactor=1, mobile=False)
        yield page
        page._socket.close()
        loop.run_until_complete(asyncio.sleep(0))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)


def find_socket(process, folder):
    """Where the browser's one page listens."""
    for _ in range(600):
        assert process.poll() is None, Path(f"{folder}.log").read_text()
        with contextlib.suppress(OSError, IndexError, StopIteration):
            number = (folder / "DevToolsActivePort").read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{number}/json/list", timeout=10) as answer:
                return next(page["webSocketDebuggerUrl"] for page in json.load(answer) if page["type"] == "page")
        time.sleep(0.1)
    raise AssertionError("the browser does not answer")


async def connect(url):
    return await tornado.websocket.websocket_connect(url, max_message_size=1 << 26)
