"""A small reverse proxy: serves one server below a path of its own port, as nginx or Traefik would, and nothing elsewhere."""

import contextlib
import re
import socket
import threading

HEAD_BYTES = 1 << 16
NOT_HERE = b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\ncontent-length: 14\r\nconnection: close\r\n\r\nanother's path"


class ReverseProxy:
    """`is_stripping`: whether the server is asked without the prefix. `strays`: what was asked beside it, which another application would get."""

    def __init__(self, port: int, prefix: str, *, is_stripping: bool, scheme: str = "http") -> None:
        self._to, self._prefix, self._is_stripping, self._scheme = port, prefix, is_stripping, scheme
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}{prefix}"
        self.strays: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        """Serves one request of a connection; a WebSocket lives on in it."""
        with contextlib.suppress(OSError), near:
            text = b""
            while b"\r\n\r\n" not in text and len(text) < HEAD_BYTES:
                more = near.recv(1 << 16)
                if not more:
                    return
                text += more
            head, _, rest = text.partition(b"\r\n\r\n")
            line, *headers = head.split(b"\r\n")
            method, target, version = line.split(b" ")
            path = target.decode("latin-1")
            if not re.match(rf"{re.escape(self._prefix)}(?:[/?]|$)", path):
                self.strays.append(f"{method.decode()} {path}")
                near.sendall(NOT_HERE)
                return
            if self._is_stripping:
                path = path[len(self._prefix) :]
                path = path if path.startswith("/") else f"/{path}"
            is_upgrade = any(each.lower().startswith(b"upgrade:") for each in headers)
            if not is_upgrade:
                headers = [each for each in headers if not each.lower().startswith(b"connection:")]
                headers.append(b"connection: close")
            headers.append(f"x-forwarded-proto: {self._scheme}".encode())
            asked = b" ".join((method, path.encode("latin-1"), version))
            with socket.create_connection(("127.0.0.1", self._to)) as far:
                far.sendall(b"\r\n".join((asked, *headers)) + b"\r\n\r\n" + rest)
                back = threading.Thread(target=_carry, args=(far, near), daemon=True)
                back.start()
                _carry(near, far)
                back.join()


def _carry(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            sink.sendall(data)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_WR if each is sink else socket.SHUT_RD)
