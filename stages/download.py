"""Get the images and raw captions of a source: -> data/images/<source> (DVC stages `download@<source>`)."""

from pathlib import Path

from lotlip.data.download import download_source
from lotlip.data.layouts.datasets import read_dataset
from lotlip.data.statistics import dataset_statistics
from lotlip.params import entry, load_params
from lotlip.records import write_json
from stages import run


def main(name: str) -> None:
    params = load_params()
    source = entry(params.sources, "source", name)
    out = Path("data/images") / name
    report = download_source(source, name, params.download, out, Path(".work/download") / name, params.storage.root)
    raw = dataset_statistics(entry.texts for entry in read_dataset(out))
    del raw["tokens_per_text"]  # no tokenizer belongs to this stage
    write_json(Path("reports/download") / f"{name}.json", {**report, "raw": raw})


if __name__ == "__main__":
    run(main)
