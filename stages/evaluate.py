"""Evaluate one method on every set: -> reports/evaluate/<method>.json (DVC stages `evaluate@<method>`)."""

from pathlib import Path

from lotlip.errors import ParamsError
from lotlip.params import entry, load_params
from lotlip.records import write_json
from stages import run


def main(name: str) -> None:
    """Write the metrics of the method `name`, by name of the evaluation set."""
    params = load_params()
    if name in params.checkpoints:
        raise ParamsError(f"{name} is a checkpoint, not trained here: `dvc repro evaluate_checkpoint@{name}`.")
    entry(params.methods, "method", name)
    # Imported once the name is known to be right: torch and transformers take seconds.
    import transformers

    from lotlip.evaluation.evaluate import evaluate_on_sets

    transformers.utils.logging.disable_progress_bar()
    evalsets = [Path("data/evalsets") / evalset for evalset in params.evalsets]
    report = evaluate_on_sets(name, Path("models") / name, evalsets, params.evaluate)
    write_json(Path("reports/evaluate") / f"{name}.json", report)


if __name__ == "__main__":
    run(main)
