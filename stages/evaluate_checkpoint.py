"""Evaluate a checkpoint that was not trained here: -> reports/evaluate/<name>.json (DVC stages
`evaluate_checkpoint@<name>`).
"""

from pathlib import Path

from lotlip.params import entry, load_params
from lotlip.records import write_json
from stages import run


def main(name: str) -> None:
    """Write the metrics of the checkpoint `name`, by name of the evaluation set, as a method's."""
    params = load_params()
    checkpoint = entry(params.checkpoints, "checkpoint", name)
    # Imported once the name is known to be right: torch and transformers take seconds.
    import transformers

    from lotlip.evaluation.evaluate import evaluate_on_sets

    transformers.utils.logging.disable_progress_bar()
    evalsets = [Path("data/evalsets") / evalset for evalset in params.evalsets]
    report = evaluate_on_sets(name, checkpoint.model, evalsets, params.evaluate, checkpoint.revision)
    write_json(Path("reports/evaluate") / f"{name}.json", report)


if __name__ == "__main__":
    run(main)
