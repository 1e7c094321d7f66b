"""An HTTP server on loopback that notes what it is asked, and answers as a test says."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Asked(NamedTuple):
    method: str
    path: str
    headers: dict[str, str]
    body: str


class Listener:
    """Listens until its context ends; answers with the codes of `answers`, one after the other, then 200."""

    def __init__(self, answers=()):
        self.asked = []
        self.answers = iter(answers)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.listener = self
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    def pings(self):
        return [(asked.method, asked.path) for asked in self.asked]


class Handler(BaseHTTPRequestHandler):
    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.listener.asked.append(Asked(self.command, self.path, headers, body.decode()))
        self.send_response(next(self.server.listener.answers, 200))
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"OK")

    do_GET = do_POST = answer  # noqa: N815 - http.server's words

    def log_message(self, *_):
        """Tests say what happened."""
