"""Train a method on joined samples: data -> models/<method> (DVC stages `train@<method>`)."""

from pathlib import Path

from lotlip.params import entry, load_params
from stages import run


def main(name: str) -> None:
    """Train the method `name` of params.yaml; it reports to reports/train/<name>.json and .csv."""
    params = load_params()
    method = entry(params.methods, "method", name)
    settings = params.train_settings(name)

    import transformers

    from lotlip.data.loading.join import join_samples
    from lotlip.data.manifest import read_manifest
    from lotlip.records import write_json
    from lotlip.tracking import follow_training
    from lotlip.training.callbacks import Callback, ConsoleProgress, EventLog
    from lotlip.training.check import require_consistent
    from lotlip.training.curve import write_curve
    from lotlip.training.loop import train
    from lotlip.training.ranks import is_first_process, is_launched, launch

    transformers.utils.logging.disable_progress_bar()
    data, reports = Path("data"), Path("reports/train")
    images = [read_manifest(data / "images" / source, "images") for source in params.sources]
    captions = {c: read_manifest(data / "captions" / c, "captions") for c in params.captioners_of(name)}
    quarantine = read_manifest(data / "quarantine", "quarantine")
    held_out = {source: settings.held_out_share for source, settings in params.sources.items()}
    work = Path(".work")
    samples = join_samples(images, captions, quarantine, held_out, work=work)
    require_consistent(name, settings, method, len(samples), work)
    if settings.compute.processes > 1 and not is_launched():
        launch("stages.train", [name], settings.compute.processes)
        return
    callbacks: list[Callback] = [
        ConsoleProgress(f"train {name}"),
        EventLog(Path(".work/events/train") / f"{name}.jsonl"),
    ]
    with follow_training(name, params):
        out, root = Path("models") / name, params.storage.root
        result = train(samples, images, settings, method, out, work, callbacks, root)
    if not is_first_process():
        return
    write_curve(reports / f"{name}.csv", result.curve)
    write_json(reports / f"{name}.json", {**samples.counts, **result.metrics})


if __name__ == "__main__":
    run(main)
