"""Real pictures over HTTP: the whole graph on ../shared/data/pictures, served on loopback."""

import functools
import http.server
import threading
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from tests.pipeline.workspace import TOP, Workspace

PICTURES = TOP.parent / "shared" / "data" / "pictures"


# What the faulty server does to a path, by its CRC modulo 10, and the error that its row must get (None: a picture).
FAULTS = {
    0: ("404", "HTTP 404"),
    1: ("503 once", None),
    2: ("cut off", "connection broken"),
    3: ("html", "not an image"),
}


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


class FaultyHandler(QuietHandler):
    """Serves some paths wrongly, the same ones each time."""

    asked: ClassVar[Counter[str]] = Counter()

    def do_GET(self) -> None:
        fault, _ = fault_of(self.path.lstrip("/"))
        self.asked[self.path] += 1
        if fault == "404":
            self.send_error(404)
        elif fault == "503 once" and self.asked[self.path] == 1:
            self.send_error(503)
        elif fault == "cut off":
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"\xff\xd8\xff" + bytes(500))
        elif fault == "html":
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "15")
            self.end_headers()
            self.wfile.write(b"<html>no</html>")
        else:
            super().do_GET()


def fault_of(path: str) -> tuple[str, str | None]:
    """What the faulty server does to a path, and the error's class."""
    number = zlib.crc32(path.encode()) % 10 if path.startswith("images/") else -1  # robots.txt has none
    return FAULTS.get(number, ("", None))


@contextmanager
def serve(folder: Path, handler_class: type[QuietHandler] = QuietHandler) -> Iterator[str]:
    """Serve a folder on a free loopback port and yield its address."""
    handler = functools.partial(handler_class, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def read_pairs(count: int | None = None) -> list[tuple[str, str]]:
    """(caption, relative path) of the pictures, evenly chosen so that every format is among them."""
    lines = (PICTURES / "table.tsv").read_text(encoding="utf-8").splitlines()
    pairs = [(caption, path) for path, _, caption in (line.partition("\t") for line in lines)]
    return pairs if count is None else pairs[:: len(pairs) // count][:count]


def configure(workspace: Workspace, address: str, rows: Sequence[bytes], *settings: str) -> None:
    """Write a headerless `caption<TAB>url` table, and params.yaml for it: quick sizes, limits reported."""
    (workspace.folder / "pictures.tsv").write_bytes(b"\n".join(rows) + b"\n")
    values = (
        "sources.mine.path=pictures.tsv",
        "sources.mine.caption_column=0",
        "sources.mine.url_column=1",
        f"sources.mine.url_prefix={address}",
        "download.allow_private_hosts=true",
        "download.num_retries=0",
        "validate.on_breach=report",
        *settings,
    )
    flags = [part for value in values for part in ("--set", value)]
    workspace.succeed("lotlip", "configure", "conf/url_table.yaml", *flags)
    workspace.commit("Pictures")
