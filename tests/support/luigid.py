"""A real luigid on loopback, its whole API, and everything that is ever sent to it."""

import contextlib
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from tests.support.servers import free_ports
from tests.support.site import BIN

STATUSES = ("PENDING", "RUNNING", "DONE", "FAILED", "DISABLED", "UNKNOWN", "BATCH_RUNNING")
SHIPPED_CFG = Path(__file__).parents[2] / "luigi.cfg"


class Luigid:
    """A luigid that can be killed, stopped for a while and started again on the same port."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        self.known = set()

    def begin_anew(self):
        """Be alive, and take what was so far for known."""
        if self.process is None:
            self.start()
        self.process.send_signal(signal.SIGCONT)
        self.api("unpause")
        self.known |= self.tasks().keys()

    def start(self):
        command = [sys.executable, BIN / "luigid", "--address", "127.0.0.1", "--port", str(self.port)]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--state-path", self.folder / "state"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder)},
                start_new_session=True,
            )
        for _ in range(600):
            with contextlib.suppress(OSError):
                self.api("is_paused")
                return
            assert self.process.poll() is None, "luigid ended at its start"
            time.sleep(0.05)
        raise AssertionError("luigid does not answer")

    def end(self, number=signal.SIGKILL):
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            self.process.wait()
            self.process = None

    def forget(self):
        """What is left when it was killed: nothing."""
        (self.folder / "state").unlink(missing_ok=True)

    def get(self, path):
        with urllib.request.urlopen(f"{self.url}/{path}", timeout=20) as answer:
            return answer.read().decode()

    def api(self, method, **arguments):
        query = urllib.parse.urlencode({"data": json.dumps(arguments)})
        return json.loads(self.get(f"api/{method}?{query}"))["response"]

    def tasks(self, *statuses):
        """All tasks by id that weren't known, of some statuses."""
        found = {}
        for status in statuses or STATUSES:
            found |= self.api("task_list", status=status, upstream_status="", limit=False)
        return {key: task for key, task in found.items() if key not in self.known}

    def of_family(self, family, *statuses):
        return {key: task for key, task in self.tasks(*statuses).items() if task["name"] == family}

    def wait_for(self, family, *statuses):
        """Wait until a task of a family has one of some statuses."""
        return self.wait_until(lambda: self.of_family(family, *statuses))

    def wait_until(self, look):
        """Wait until something is true, and return it."""
        for _ in range(2400):
            if found := look():
                return found
            time.sleep(0.025)
        raise AssertionError("it never was so")

    def everything(self):
        """Whatever luigid would tell anybody, as one text."""
        told = []
        tasks = self.tasks()
        for upstream in ("", "UPSTREAM_FAILED", "UPSTREAM_RUNNING", "UPSTREAM_MISSING_INPUT", "UPSTREAM_DISABLED"):
            told += [self.api("task_list", status=s, upstream_status=upstream, limit=False) for s in STATUSES]
        told += [
            self.api(method) for method in ("graph", "worker_list", "resource_list", "is_paused", "has_task_history")
        ]
        told += [self.api("task_search", task_str=text) for text in ("a", "_")]
        for task in tasks:
            for method in ("dep_graph", "inverse_dep_graph", "fetch_error"):
                told.append(self.api(method, task_id=task))
            for method in ("get_task_status_message", "get_task_progress_percentage", "get_running_task_resources"):
                told.append(self.api(method, task_id=task))
        pages = [self.get("metrics")]
        for path in ("history", "tasklist"):
            with contextlib.suppress(urllib.error.HTTPError):
                pages.append(self.get(path))
        return json.dumps(told) + "".join(pages)


@contextlib.contextmanager
def luigid(folder):
    daemon = Luigid(folder)
    try:
        daemon.start()
        yield daemon
    finally:
        daemon.end()
        shutil.rmtree(folder, ignore_errors=True)


class Wiretap(socketserver.ThreadingTCPServer):
    """Passes connections on to a port, and keeps all that clients sent."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port):
        self.heard = bytearray()
        tap = self

        class Passing(socketserver.BaseRequestHandler):
            def handle(self):
                with socket.create_connection(("127.0.0.1", port)) as server:
                    back = threading.Thread(target=pump, args=(server, self.request, bytearray()), daemon=True)
                    back.start()
                    pump(self.request, server, tap.heard)
                    back.join()

        super().__init__(("127.0.0.1", 0), Passing)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        """A client that was killed is no news."""


def pump(source, sink, heard):
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            heard += data
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def wiretap(port):
    with Wiretap(port) as tap:
        thread = threading.Thread(target=tap.serve_forever, daemon=True)
        thread.start()
        try:
            yield tap
        finally:
            tap.shutdown()
            thread.join()


def write_cfg(path, url, config=None, host=None):
    """The shipped luigi.cfg, with a central luigid."""
    text = SHIPPED_CFG.read_text()
    text = text.replace("local_scheduler=true\n", "").replace(
        "#scheduler_url=http://127.0.0.1:8082", f"scheduler_url={url}"
    )
    if config is not None:
        text = text.replace("config=/etc/vaultik.yaml", f"config={config}")
    if host is not None:
        text = text.replace("#host=web-1", f"host={host}")
    path.write_text(text)
    return path
