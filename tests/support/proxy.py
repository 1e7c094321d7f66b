"""A TCP proxy on loopback that breaks connections on demand."""

import contextlib
import socket
import threading


class BreakingProxy:
    """Passes bytes to a server; the first `breaks` answers are cut off after `after` bytes."""

    def __init__(self, port, *, breaks, after):
        self._target = port
        self._breaks = breaks
        self._after = after
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.broken = 0

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._listener.close()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            threading.Thread(target=self._pass, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(server, client, self._after), daemon=True).start()

    def _pass(self, source, target, limit):
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passed += len(data)
                if limit is not None and passed > limit and self._break():
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _break(self):
        with self._lock:
            if self.broken >= self._breaks:
                return False
            self.broken += 1
            return True
