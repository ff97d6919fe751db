"""Caption every image shard: data/images -> data/captions/<captioner> (DVC stage `recaption@<captioner>`)."""

from pathlib import Path

from lotlip.captioning.backends import captioner_opener
from lotlip.captioning.shards import caption_shards
from lotlip.data.manifest import read_manifest
from lotlip.params import entry, load_params
from lotlip.records import write_json
from stages import run


def main(name: str) -> None:
    """Caption all sources' images with the captioner `name` and write its report."""
    params = load_params()
    settings = entry(params.captioners, "captioner", name)
    report = caption_shards(
        [read_manifest(Path("data/images") / source, "images") for source in params.sources],
        Path("data/captions") / name,
        captioner_opener(settings),
        batch_size=settings.batch_size,
        max_pixels=params.download.max_pixels,
        work=Path(".work/recaption") / name,
        executor=params.executor,
        max_failed_share=settings.max_failed_share,
        root=params.storage.root,
    )
    write_json(Path("reports/recaption") / f"{name}.json", report)


if __name__ == "__main__":
    run(main)
