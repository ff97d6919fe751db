"""Validate images and captions: -> data/quarantine, reports/validate (DVC stage `validate`)."""

from pathlib import Path

from lotlip.data.manifest import read_manifest
from lotlip.params import load_params
from lotlip.records import write_json
from lotlip.validation.summary import check_summary
from lotlip.validation.validate import validate
from stages import run


def main() -> None:
    params = load_params()
    images = [read_manifest(Path("data/images") / name, "images") for name in params.sources]
    captions = {name: read_manifest(Path("data/captions") / name, "captions") for name in params.captioners}
    docs = Path("reports/validate/docs")
    summary = validate(images, captions, params.validate_, out=Path("data/quarantine"), docs=docs)
    write_json(Path("reports/validate/summary.json"), summary)
    check_summary(summary, params.validate_.on_breach)


if __name__ == "__main__":
    run(main)
