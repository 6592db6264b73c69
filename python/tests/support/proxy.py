"""A way to a server that can be cut, in the middle of whatever is on it."""

import contextlib
import socket
import threading


class Proxy:
    """Hands on bytes between its own port on loopback and a server."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self._server = host, int(port)
        self._pairs = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        #: Where to connect to.
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        #: How many connections were cut.
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                try:
                    far = socket.create_connection(self._server)
                except OSError:
                    near.close()
                    continue
                self._pairs.add((near, far))
                for source, target in ((near, far), (far, near)):
                    threading.Thread(target=self._hand_on, args=(source, target, (near, far)), daemon=True).start()

    def _hand_on(self, source, target, pair):
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
        self._end(pair)

    def _end(self, pair):
        self._pairs.discard(pair)
        for one in pair:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def cut(self):
        """Ends all connections that there are."""
        for pair in list(self._pairs):
            self.cuts += 1
            self._end(pair)

    def close(self):
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
