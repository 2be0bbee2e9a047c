"""A TCP proxy that cuts a connection after some bytes of answer, as a network does in a long night."""

import contextlib
import socket
import threading


class BreakingProxy:
    """Forwards to a port of this host; the first ``num_cuts`` connections that answer ``cut_after`` bytes are cut.

    Args:
        port: Where to forward.
        cut_after: Bytes of an answer after which its connection is cut; shorter answers pass.
        num_cuts: Connections to cut.
    """

    def __init__(self, port: int, cut_after: int, num_cuts: int) -> None:
        self.target = ("127.0.0.1", port)
        self.cut_after = cut_after
        self.cuts_left = num_cuts
        self.server = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        self.server.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.server.accept()
                upstream = socket.create_connection(self.target)
                for source, sink, is_answer in ((client, upstream, False), (upstream, client, True)):
                    threading.Thread(target=self._pump, args=(source, sink, is_answer), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        num_bytes = 0
        with contextlib.suppress(OSError):
            while data := source.recv(512):
                sink.sendall(data)
                num_bytes += len(data)
                if is_answer and num_bytes > self.cut_after and self.cuts_left > 0:
                    self.cuts_left -= 1
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
