"""A real HTTP server on loopback whose paths say how it misbehaves."""

import io
import struct
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


def jpeg(number: int, size: tuple[int, int] = (48, 40)) -> bytes:
    """A JPEG whose content depends on `number`."""
    buffer = io.BytesIO()
    colour = (number * 37 % 256, number * 91 % 256, number * 53 % 256)
    Image.new("RGB", size, colour).save(buffer, format="JPEG")
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header announces that many pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class FaultServer:
    """Where it listens, how often (`hits`) and when (`times`) each path was asked for, how many requests there were
    at one time (`peak`), and its robots.txt: status, text and other headers.
    """

    def __init__(self, host: str) -> None:
        self.hits: Counter[str] = Counter()
        self.times: dict[str, list[float]] = {}
        self.robots: tuple[int, str, dict[str, str]] = (404, "", {})
        self.active = self.peak = 0
        self.lock = threading.Lock()
        self.closing = threading.Event()
        server = self

        class Handler(_Handler):
            owner = server

        self._http = ThreadingHTTPServer((host, 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://{host}:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()


@contextmanager
def running_server(host: str = "127.0.0.1") -> Iterator[FaultServer]:
    """A server for the time of the block."""
    server = FaultServer(host)
    try:
        yield server
    finally:
        server.close()


class _Handler(BaseHTTPRequestHandler):
    owner: FaultServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.owner.hits[self.path] += 1
        self.owner.times.setdefault(self.path, []).append(time.monotonic())
        if self.path == "/robots.txt":
            status, text, headers = self.owner.robots
            return self.send(status, text.encode(), **headers)
        with self.owner.lock:
            self.owner.active += 1
            self.owner.peak = max(self.owner.peak, self.owner.active)
        fault, *rest = self.path.strip("/").split("/", 1)
        try:
            return getattr(self, f"serve_{fault}")(rest[0] if rest else "")
        finally:
            with self.owner.lock:
                self.owner.active -= 1

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def serve_ok(self, number: str) -> None:
        self.send(200, jpeg(int(number)))

    def serve_slow(self, number: str) -> None:
        time.sleep(0.03)
        self.send(200, jpeg(int(number)))

    def serve_closing(self, number: str) -> None:
        """An image after which the connection ends."""
        self.send(200, jpeg(int(number)), Connection="close")
        self.close_connection = True

    def serve_typed(self, rest: str) -> None:
        """`typed/<content type with ~ for />/<number>`: an image, whatever it is said to be."""
        kind, number = rest.split("/")
        self.send(200, jpeg(int(number)), Content_Type=kind.replace("~", "/"))

    def serve_tagged(self, rest: str) -> None:
        """`tagged/<X-Robots-Tag>/<number>`: an image with that header."""
        tag, number = rest.split("/")
        self.send(200, jpeg(int(number)), X_Robots_Tag=tag)

    def serve_status(self, rest: str) -> None:
        self.send(int(rest.split("/")[0]), b"no")

    def serve_flaky(self, rest: str) -> None:
        """`flaky/<status>/<times>/<number>`: so often the status (429 with Retry-After 1), then an image."""
        status, times, number = rest.split("/")
        if self.owner.hits[self.path] > int(times):
            return self.send(200, jpeg(int(number)))
        headers = {"Retry-After": "1"} if status == "429" else {}
        return self.send(int(status), b"later", **headers)

    def serve_later(self, seconds: str) -> None:
        self.send(429, b"later", Retry_After=seconds)

    def serve_hang(self, _: str) -> None:
        self.owner.closing.wait(20)
        self.close_connection = True

    def serve_drip(self, _: str) -> None:
        """Bytes that keep coming, too slowly ever to end in time."""
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.close_connection = True
        left = iter(jpeg(0, (400, 300)))
        while not self.owner.closing.wait(0.05):
            try:
                self.wfile.write(bytes([next(left)]))
                self.wfile.flush()
            except OSError:
                return

    def serve_announced(self, size: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", size)
        self.end_headers()
        self.close_connection = True

    def serve_endless(self, _: str) -> None:
        """A body of unknown length that goes on until the client hangs up."""
        self.send_response(200)
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            self.wfile.write(jpeg(0))
            while not self.owner.closing.is_set():
                self.wfile.write(bytes(65536))
        except OSError:
            pass

    def serve_cut(self, number: str) -> None:
        body = jpeg(int(number))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:100])
        self.close_connection = True

    def serve_loop(self, _: str) -> None:
        self.send(302, Location=self.path)

    def serve_hops(self, rest: str) -> None:
        """`hops/<count>/<number>`: that many redirects, then an image."""
        count, number = (int(part) for part in rest.split("/"))
        if count == 0:
            return self.send(200, jpeg(number))
        return self.send(302, Location=f"/hops/{count - 1}/{number}")

    def serve_slowhops(self, rest: str) -> None:
        time.sleep(0.4)
        count, number = (int(part) for part in rest.split("/"))
        return self.send(302, Location=f"/slowhops/{count - 1}/{number}" if count else f"/ok/{number}")

    def serve_to(self, target: str) -> None:
        self.send(302, Location=target.replace("~", "/"))

    def serve_corrupt(self, number: str) -> None:
        self.send(200, jpeg(int(number), (400, 300))[:-700])

    def serve_bomb(self, _: str) -> None:
        self.send(200, bomb(40_000, 30_000), Content_Type="image/png")

    def serve_html(self, _: str) -> None:
        self.send(200, b"<html><body>Sign in to see this image</body></html>", Content_Type="image/jpeg")
