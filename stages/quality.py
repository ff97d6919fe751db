"""Measure captions against each other and the images: -> data/quality, reports/quality (DVC stage `quality`)."""

from collections.abc import Iterator
from pathlib import Path

from lotlip.data.layouts.datasets import read_dataset
from lotlip.data.manifest import read_manifest
from lotlip.data.statistics import dataset_statistics
from lotlip.evaluation.agreement import ObjectNames
from lotlip.evaluation.caption_quality import measure_quality
from lotlip.evaluation.similarity import open_similarity
from lotlip.params import load_params
from lotlip.records import write_json
from lotlip.validation.texts import open_token_counter
from stages import run


def main() -> None:
    """Measure quality on a sample, and the statistics of all raw and long texts."""
    params = load_params()
    settings = params.quality
    images = {name: Path("data/images") / name for name in params.sources}
    captions = {name: Path("data/captions") / name for name in params.captioners}
    quality = measure_quality(
        [read_manifest(folder, "images") for folder in images.values()],
        {name: read_manifest(folder, "captions") for name, folder in captions.items()},
        ObjectNames.load(settings.objects),
        open_similarity(settings.similarity),
        settings.max_images,
        params.download.max_pixels,
        Path("data/quality"),
        params.storage.root,
    )
    count_tokens = open_token_counter(params.validate_.tokenizer, params.validate_.tokenizer_revision)
    sets = {"raw": list(images.values()), **{name: [folder] for name, folder in captions.items()}}
    statistics = {name: dataset_statistics(_texts(folders), count_tokens) for name, folders in sets.items()}
    write_json(Path("reports/quality/summary.json"), {**quality, "statistics": statistics})
    for name, measured in quality["captioners"].items():
        print(f"quality {name}: " + ", ".join(f"{key} {value}" for key, value in measured.items()), flush=True)


def _texts(folders: list[Path]) -> Iterator[tuple[str, ...]]:
    for folder in folders:
        yield from (entry.texts for entry in read_dataset(folder))


if __name__ == "__main__":
    run(main)
