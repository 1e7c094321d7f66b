"""An HTTP proxy on loopback that passes requests to a server, and does to some what a script says.

A script maps the names of S3's operations to what happens to their requests, one after the other:

    "pass"       nothing
    "reset"      the connection is reset before the body is read
    "reset-late" after the body is read; the server never sees the request
    "lost"       the server does it, but the connection is reset before the answer
    "cut"        the connection is reset in the middle of the answer's body
    "short"      it is closed there, as if that were the end
    "garble"     what comes there is no TLS
    "stall"      nothing more comes there, for STALLED_S
    "slow"       the server does it, but the answer comes after STALLED_S
    "truncate"   the answer's body ends in the middle, and says so in its length; "empty": it has none
    "lengthen"   there is more of it
    "flip"       a bit of it is another one; "flip-sent": a bit of the request's body is, on its way to the server
    "500"        an InternalError, "503": a SlowDown, "403", "404", "409", "412": what they are for S3; all without the server
    a callable   called with the request first; what it returns happens then
"""

import contextlib
import http.client
import itertools
import os
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message><RequestId>1</RequestId></Error>'
)
FAULTY = {
    "500": ("InternalError", "We encountered an internal error."),
    "503": ("SlowDown", "Reduce your request rate."),
    "403": ("AccessDenied", "Access Denied."),
    "404": ("NoSuchKey", "The specified key does not exist."),
    "409": ("ConditionalRequestConflict", "A conflicting operation occurred."),
    "412": ("PreconditionFailed", "At least one of the pre-conditions you specified did not hold."),
}
ALTERED = {
    "truncate": lambda body: body[: len(body) // 2],
    "empty": lambda _: b"",
    "lengthen": lambda body: body + b"more",
    "flip": lambda body: body[: len(body) // 3] + bytes([body[len(body) // 3] ^ 1]) + body[len(body) // 3 + 1 :],
}
SKIPPED = {"connection", "expect", "keep-alive", "transfer-encoding"}
BLOCK = 1 << 16
HELD_S = 8
"""How long a request may be held back: after 10 s its client tries again."""
STALLED_S = 1


class Request:
    """One request, and when it was under way."""

    def __init__(self, method, target):
        self.method = method
        self.target = target
        self.operation = operation(method, target)
        self.fault = "pass"
        self.began = time.monotonic()
        self.ended = None
        self.size = 0
        """Bytes of the answer's body, as the server gave it."""


class Proxy:
    """Stands before a server until its context ends."""

    def __init__(self, server, script=None, *, delay_s=0, tls=None):
        """`server` is an S3Server or a port, `tls` the SSLContext of a server that speaks TLS to clients."""
        self.target = server if isinstance(server, int) else urlsplit(server.endpoint).port
        self.script = {name: iter(faults) for name, faults in (script or {}).items()}
        self.delay_s = delay_s
        self.requests = []
        self.changed = threading.Condition()
        self._listener = Listener(("127.0.0.1", 0), Handler, bind_and_activate=True)
        self._listener.proxy = self
        self._listener.tls = tls
        self.port = self._listener.server_address[1]
        self.endpoint = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.shutdown()
        self._listener.server_close()

    def begin(self, method, target):
        request = Request(method, target)
        with self.changed:
            self.requests.append(request)
            request.fault = next(self.script.get(request.operation, iter(())), "pass")
            self.changed.notify_all()
        if callable(request.fault):
            request.fault = request.fault(request) or "pass"
        time.sleep(self.delay_s)
        return request

    def end(self, request):
        with self.changed:
            request.ended = time.monotonic()
            self.changed.notify_all()

    def operations(self, *names):
        """The requests of these operations, in the order of their arrival."""
        return [request for request in list(self.requests) if request.operation in names]

    def faults(self):
        """How many requests weren't just passed on."""
        return sum(request.fault != "pass" for request in list(self.requests))

    def under_way(self, *names):
        """How many requests of these operations were under way together, at most."""
        ends = [(r.began, 1) for r in self.operations(*names)] + [(r.ended, -1) for r in self.operations(*names)]
        return max(itertools.accumulate(step for _, step in sorted(ends)), default=0)


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def get_request(self):
        connection, address = super().get_request()
        if self.tls:
            # The handshake is left to the connection's own thread.
            connection = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def handle_error(self, request, client_address):
        """A broken connection is what this is for."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_any(self):
        request = self.server.proxy.begin(self.command, self.path)
        try:
            self.serve(request)
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # one of both sides is gone
        finally:
            self.server.proxy.end(request)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815 - http.server's words

    def handle_expect_100(self):
        return True  # serve() says when it wants the body

    def serve(self, request):
        if request.fault == "reset":
            return self.reset()
        body = self.read_body()
        if request.fault == "reset-late":
            return self.reset()
        if request.fault in FAULTY:
            code, message = FAULTY[request.fault]
            return self.answer(
                int(request.fault), {"Content-Type": "application/xml"}, ERROR.format(code, message).encode()
            )
        status, headers, answer = self.forward(ALTERED["flip"](body) if request.fault == "flip-sent" else body)
        request.size = len(answer)
        if request.fault == "lost":
            return self.reset()
        if request.fault == "slow":
            time.sleep(STALLED_S)
        if request.fault in ALTERED:
            answer = ALTERED[request.fault](answer)
            headers = {name: value for name, value in headers.items() if name.lower() != "content-length"}
        part = request.fault if request.fault in ("cut", "short", "garble", "stall") else None
        return self.answer(status, headers, answer, part=part)

    def read_body(self):
        if self.headers.get("Expect", "").lower() == "100-continue":
            self.send_response_only(http.HTTPStatus.CONTINUE)
            self.end_headers()
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        if len(body) < size:
            raise ConnectionResetError("the client broke off")
        return body

    def forward(self, body):
        connection = http.client.HTTPConnection("127.0.0.1", self.server.proxy.target, timeout=60)
        with contextlib.closing(connection):
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in SKIPPED | {"content-length"}:
                    connection.putheader(name, value)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            headers = {name: value for name, value in answer.getheaders() if name.lower() not in SKIPPED}
            return answer.status, headers, answer.read()

    def answer(self, status, headers, body, part=None):
        self.send_response_only(status)
        if self.command != "HEAD" and "Content-Length" not in headers:
            headers["Content-Length"] = str(len(body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if part is None or self.command == "HEAD":
            self.wfile.write(b"" if self.command == "HEAD" else body)
            return
        self.wfile.write(body[: len(body) // 2])
        self.wfile.flush()
        if part == "cut":
            # Not at once: a reset takes with it what the other side has not read yet.
            time.sleep(0.05)
            self.reset()
        if part == "stall":
            time.sleep(STALLED_S)
        if part == "garble":
            with socket.socket(fileno=os.dup(self.connection.fileno())) as bare:
                bare.sendall(b"this is no record of TLS " * 100)
        self.close_connection = True

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()
        self.rfile.close()

    def finish(self):
        with contextlib.suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *_):
        """Tests say what happened."""


def operation(method, target):
    """What S3 calls a request (path addressing)."""
    parts = urlsplit(target)
    query = parse_qs(parts.query, keep_blank_values=True)
    of_object = "/" in parts.path.lstrip("/").rstrip("/")
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if "uploadId" in query:
        return {"PUT": "UploadPart", "POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload"}[method]
    if of_object:
        return {"PUT": "PutObject", "GET": "GetObject", "HEAD": "HeadObject", "DELETE": "DeleteObject"}[method]
    return {"GET": "ListObjectsV2", "HEAD": "HeadBucket", "POST": "DeleteObjects", "PUT": "CreateBucket"}[method]


class Canned:
    """A server on loopback that gives every request the same answer, whatever it asks for."""

    def __init__(self, *, status="200 OK", code=None, body=b"", headers=(), raw=None, breaks=()):
        """An answer with a body, or with the XML of one of S3's error codes, or any bytes at all.

        The first answers end before that many bytes of their body, which `breaks` tells.
        """
        body = ERROR.format(code, "as the test wants it").encode() if code else body
        head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
        self.answer = "\r\n".join(head).encode() + b"\r\n\r\n" + body if raw is None else raw
        self.breaks = [len(self.answer) - len(body) + size for size in breaks]
        self.asked = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    head = b""
                    while b"\r\n\r\n" not in head and (data := connection.recv(BLOCK)):
                        head += data
                    broken = self.breaks[self.asked] if self.asked < len(self.breaks) else None
                    self.asked += 1
                    connection.sendall(self.answer[:broken])
                    # Closing with bytes unread would be a reset.
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(5)
                    while connection.recv(BLOCK):
                        pass
