"""Commands that reckon before work starts: what captioning and training will take."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lotlip.cli.app import AsJson, app
from lotlip.cli.shown import print_columns, print_json

plan = typer.Typer(help="Reckon what captioning or training will take, before it starts.", no_args_is_help=True)
app.add_typer(plan, name="plan")

_COLUMNS = 4  # methods side by side on a terminal


@plan.command()
def recaption(
    images: Annotated[int, typer.Option(min=1, help="How many images are to be captioned.")],
    workers: Annotated[int, typer.Option(min=1, help="On how many workers like this machine's one.")] = 1,
    captioner: Annotated[list[str] | None, typer.Option(help="Entries of params.yaml; default: all.")] = None,
    shards: Annotated[Path | None, typer.Option(help="Folder of shards to try; default: the first source's.")] = None,
    batches: Annotated[int, typer.Option(min=1, help="Batches to measure, after one to warm up.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Measure a few batches of each captioner here; print speed, hours, storage, and the arithmetic beside them."""
    from lotlip.data.manifest import read_manifest
    from lotlip.params import TableCaptioner, entry, load_params
    from lotlip.plan.recaption import LABELS, make_plan, measure_captioner

    params = load_params()
    folder = shards or Path("data/images") / next(iter(params.sources))
    manifest = read_manifest(folder, "images")
    plans = {}
    for name in captioner or params.captioners:
        settings = entry(params.captioners, "captioner", name)
        if isinstance(settings, TableCaptioner):
            print(f"{name}: imported from {settings.path}, nothing to generate.", file=sys.stderr)
            continue
        measured = measure_captioner(settings, manifest, batches, params.download.max_pixels)
        gpus, size = params.executor.num_gpus, params.download.shard_size
        plans[name] = make_plan(measured, manifest, images, workers, gpus, size)
    if as_json:
        print_json(plans)
    elif plans:
        print_columns(f"{images:,} images like those of {folder} on {workers} workers like this one", plans, LABELS)


@plan.command()
def train(
    methods: Annotated[list[str] | None, typer.Argument(help="Entries of params.yaml; default: all.")] = None,
    gpu: Annotated[str, typer.Option(help="Name or part of it, e.g. H100, 'A100 40GB', 'H100 PCIe'.")] = "H100",
    gpus: Annotated[int | None, typer.Option(min=1, help="How many; default: train.compute.processes.")] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Share of the GPUs' dense peak that is reached: an assumption.")
    ] = 0.4,
    pairs: Annotated[int | None, typer.Option(min=1, help="Image-text pairs; default: those of data/images.")] = None,
    raw_tokens: Annotated[float | None, typer.Option(min=1, help="Of a short text; default: found out.")] = None,
    long_tokens: Annotated[
        float | None, typer.Option(min=1, help="Of a long training text; default: as above.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the settings of training without weights; print FLOPs, speed, hours, memory and disk on given GPUs."""
    from lotlip.params import load_params
    from lotlip.plan.train import LABELS, Request, plan_training

    params = load_params()
    request = Request(gpu, gpus, utilisation, pairs, raw_tokens, long_tokens)
    found = plan_training(params, methods or list(params.methods), request)
    if as_json:
        print_json({"methods": found.methods, "remarks": found.remarks})
        return
    columns = list(found.methods.items())
    for start in range(0, len(columns), _COLUMNS):
        print_columns(f"Training on {gpu}", dict(columns[start : start + _COLUMNS]), LABELS)
        print()
    for remark in found.remarks:
        print(remark)
