"""Real pictures over HTTP: the whole graph on ../shared/data/pictures, served on loopback."""

import functools
import http.server
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.pipeline.workspace import TOP, Workspace

PICTURES = TOP.parent / "shared" / "data" / "pictures"


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on a free loopback port and yield its address."""
    handler = functools.partial(QuietHandler, directory=str(folder))
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
