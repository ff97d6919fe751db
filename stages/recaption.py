"""Caption every image shard: data/images -> data/captions/<captioner> (DVC stage `recaption@<captioner>`)."""

from pathlib import Path

from lotlip.captioning.make import make_captions
from lotlip.data.manifest import read_manifest
from lotlip.params import load_params
from lotlip.records import write_json
from stages import run


def main(name: str) -> None:
    """Caption all sources' images with the captioner `name` and write its report."""
    params = load_params()
    images = [read_manifest(Path("data/images") / source, "images") for source in params.sources]
    report = make_captions(name, images, Path("data/captions") / name, params)
    write_json(Path("reports/recaption") / f"{name}.json", report)


if __name__ == "__main__":
    run(main)
