"""Validate images and captions: -> data/quarantine, reports/validate (DVC stage `validate`)."""

from pathlib import Path

from lotlip.params import load_params
from lotlip.records import write_json
from lotlip.validation.summary import check_summary
from lotlip.validation.validate import open_inputs, validate
from stages import run


def main() -> None:
    params = load_params()
    rules, docs = params.validate_, Path("reports/validate/docs")
    summary = validate(open_inputs(params), rules, Path("data/quarantine"), docs, params.storage.root)
    write_json(Path("reports/validate/summary.json"), summary)
    check_summary(summary, rules.on_breach)


if __name__ == "__main__":
    run(main)
