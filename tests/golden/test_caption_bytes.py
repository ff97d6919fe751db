"""Captions of a fixed case must stay the same as long as CODE_VERSION does: cached work is keyed by it.

After a wanted change: raise `CODE_VERSION` in lotlip/captioning/captioner.py, then write the new captions
with `python -m tests.golden.test_caption_bytes`.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

from lotlip.captioning.backends import open_captioner
from lotlip.captioning.captioner import CODE_VERSION
from lotlip.captioning.shards import caption_shards
from lotlip.captioning.tables import read_captions
from tests.captioning.samples import captioner_params, encode_png, make_pictures, write_images
from tests.captioning.tiny import build_tiny_llava

GOLDEN = Path(__file__).with_name("captions.json")


def make_captions(folder: Path) -> list[dict[str, Any]]:
    """Rows of captions of eight fixed pictures and a file that is no image: greedy, sampled, and long with short."""
    images = write_images(folder / "images", "a", [[*(encode_png(image) for image in make_pictures(8)), b"no image"]])
    checkpoint = build_tiny_llava(folder / "llava")
    rows = []
    cases: list[dict[str, Any]] = [
        {},
        {"do_sample": True},
        {
            "retry_temperature": 0.7,
            "short_prompt": "Name it",
            "short_max_new_tokens": 5,
        },  # cut captions are drawn once more
    ]
    for number, changes in enumerate(cases):
        captioner = open_captioner(captioner_params(checkpoint, **changes))
        out = folder / f"captions-{number}"
        caption_shards([images], out, lambda: captioner, batch_size=4, max_pixels=10**6, work=folder / "work")  # noqa: B023
        rows += read_captions(out / "a-00000.parquet")
    # The identity holds the hash of weights that torch draws anew on each machine.
    return [{**row, "captioner": None} for row in rows]


def test_captions_change_only_with_the_code_version(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text())
    assert golden["code_version"] == CODE_VERSION, f"CODE_VERSION was raised: write {GOLDEN.name} anew (see above)."
    assert make_captions(tmp_path) == golden["rows"], (
        "Captions changed, CODE_VERSION did not: old cached captions would be mixed with new ones. Raise it."
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        record = {"code_version": CODE_VERSION, "rows": make_captions(Path(folder))}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")
