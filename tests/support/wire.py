"""A wire to a server on this machine that can be cut and mended: for the client, the server is gone and comes back."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Wire:
    """Forwards a port of its own. Cut, it resets every connection and refuses new ones.

    ``sent`` counts the bytes from clients; those beyond ``stop_at`` do not arrive, as if the client stood still.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.sent = 0
        self.stop_at: int | None = None
        self.mend()

    def mend(self) -> None:
        """Let connections through, on the same port as ever."""
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Everything that goes through ends at once."""
        with self._guard:
            listener, self._listener = self._listener, None
            ends, self._open = self._open, set()
        for end in [*ends, *([listener] if listener else [])]:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:  # cut
                return
            server = socket.create_connection(self._target)
            with self._guard:
                if self._listener is not listener:
                    client.close()
                    server.close()
                    return
                self._open |= {client, server}
            for source, sink, arriving in ((client, server, self._arriving), (server, client, bytes)):
                threading.Thread(target=self._pump, args=(source, sink, arriving), daemon=True).start()

    def _arriving(self, data: bytes) -> bytes:
        with self._guard:
            left = len(data) if self.stop_at is None else max(0, self.stop_at - self.sent)
            self.sent += len(data)
        return data[:left]

    def _pump(self, source: socket.socket, sink: socket.socket, arriving: Callable[[bytes], bytes]) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(arriving(data))
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
            with self._guard:
                self._open.discard(end)


@contextmanager
def running_wire(port: int) -> Iterator[Wire]:
    """A wire to that port of this machine."""
    wire = Wire(port)
    try:
        yield wire
    finally:
        wire.cut()
