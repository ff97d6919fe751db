"""The command line `lotlip`: each command calls the function that a stage calls.

Heavy imports wait inside their command, so that `lotlip --help` answers at once.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lotlip.errors import LotlipError

app = typer.Typer(
    help="Image-text models that understand long texts: the workflow's parts, one by one. "
    "The whole workflow is `dvc repro`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

SETS = ("manifest", "jsonl", "iiw", "dci", "sharegpt4v", "urban1k", "coco", "flickr30k")
JsonFile = Annotated[Path | None, typer.Option("--json", help="Also write the result to this JSON file.")]
TableFormat = Annotated[str | None, typer.Option("--format", help="tsv, csv, jsonl or parquet; default: by its name.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def main() -> None:
    """Run the command line; a user's error becomes one message and exit status 1."""
    try:
        app()
    except LotlipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def configure(
    overlays: Annotated[list[Path] | None, typer.Argument(help="Overlay files, e.g. conf/quick.yaml.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, e.g. train.epochs=2; repeatable.")
    ] = None,
) -> None:
    """Merge overlays and settings into params.yaml, checked before it is written. `git diff` shows the change."""
    from lotlip.overlays import apply_overlays
    from lotlip.params import load_params

    if not overlays and not settings:
        raise typer.BadParameter("give an overlay file or --set section.key=value")
    apply_overlays(overlays or [], settings or [])
    for name, source in load_params().sources.items():
        if isinstance(source.path, Path) and not source.path.exists():
            print(f"warning: sources.{name}.path: {source.path} is missing; `dvc repro` needs it.", file=sys.stderr)
    print("params.yaml is up to date: `git diff params.yaml` shows it, `dvc repro` runs it.")


@app.command()
def download(
    table: Annotated[Path, typer.Argument(help="Table of image URLs and captions, or a folder of its parts.")],
    out: Annotated[Path, typer.Argument(help="New folder for shards, tables and manifest.json.")],
    layout: Annotated[str | None, typer.Option(help="cc3m, cc12m, yfcc15m, laion, coyo or dreamlip.")] = None,
    table_format: TableFormat = None,
    url_column: Annotated[
        str | None, typer.Option(help="Name, or number from 0 where there is no header; default: the layout's, or url.")
    ] = None,
    caption_column: Annotated[
        str | None, typer.Option(help="Name, or number from 0; default: the layout's, or caption.")
    ] = None,
    url_prefix: Annotated[str, typer.Option(help="Put before relative paths.")] = "",
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Requests in flight; default: params.yaml, which also says how many to one host."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode and check; default: params.yaml.")
    ] = None,
    retry: Annotated[
        list[str] | None,
        typer.Option(help='Class of error, e.g. timeout or "HTTP 503": ask again for OUT\'s rows with it; repeatable.'),
    ] = None,
    allow_private_hosts: Annotated[bool, typer.Option(help="Let URLs point to loopback and private nets.")] = False,
) -> None:
    """Fetch the images of a URL table into shards, with a status for every row."""
    from lotlip.data.download import download_source
    from lotlip.params import UrlTableSource, load_params

    _check_new(out, "images")
    params = load_params()
    settings = params.download
    updates: dict[str, Any] = {"allow_private_hosts": allow_private_hosts or settings.allow_private_hosts}
    updates |= {"concurrency": concurrency or settings.concurrency, "workers": workers or settings.workers}
    columns = (url_column, caption_column) if layout else (url_column or "url", caption_column or "caption")
    source = _section(
        UrlTableSource,
        kind="url_table",
        path=table,
        layout=layout,
        format=table_format,
        url_column=_column(columns[0]),
        caption_column=_column(columns[1]),
        url_prefix=url_prefix,
    )
    work, root = Path(".work/download") / out.name, params.storage.root
    settings = settings.model_copy(update=updates)
    _print_json(download_source(source, out.name, settings, out, work, root, retry or ()))


@app.command()
def caption(
    shards: Annotated[Path, typer.Argument(help="Folder of image shards with manifest.json.")],
    out: Annotated[Path, typer.Argument(help="New folder for the captions.")],
    captioner: Annotated[str, typer.Option(help="An entry of `captioners` in params.yaml.")],
) -> None:
    """Describe every image of a folder of shards at length; killed, it continues where it was."""
    from lotlip.captioning.make import make_captions
    from lotlip.data.manifest import read_manifest
    from lotlip.params import entry, load_params

    params = load_params()
    entry(params.captioners, "captioner", captioner)
    _check_new(out, "captions")
    _print_json(make_captions(captioner, [read_manifest(shards, "images")], out, params))


@app.command("import-captions")
def import_captions(
    table: Annotated[Path, typer.Argument(help="Table of image URLs and texts, or a folder of its parts.")],
    shards: Annotated[Path, typer.Argument(help="Folder of image shards with manifest.json.")],
    out: Annotated[Path, typer.Argument(help="New folder for the captions.")],
    long_column: Annotated[str, typer.Option(help="Of the long texts: name, or number from 0 without a header.")],
    short_column: Annotated[str | None, typer.Option(help="Of short texts; default: none.")] = None,
    layout: Annotated[str | None, typer.Option(help="dreamlip or recap_long.")] = None,
    table_format: TableFormat = None,
    url_column: Annotated[str | None, typer.Option(help="Default: the layout's, or url.")] = None,
    max_failed_share: Annotated[float, typer.Option(min=0, max=1, help="Of images without a text.")] = 0.2,
) -> None:
    """Join texts that others published with image shards, by URL; rows and images left alone are counted."""
    from lotlip.captioning.table_import import import_captions as join_table
    from lotlip.data.manifest import read_manifest
    from lotlip.params import TableCaptioner, load_params

    settings = _section(
        TableCaptioner,
        kind="table",
        path=table,
        layout=layout,
        format=table_format,
        url_column=_column(url_column if layout else url_column or "url"),
        long_column=_column(long_column),
        short_column=_column(short_column),
        max_failed_share=max_failed_share,
    )
    _check_new(out, "captions")
    images = [read_manifest(shards, "images")]
    work, root = Path(".work/import-captions") / out.name, load_params().storage.root
    _print_json(join_table(images, out, settings, work=work, root=root))


@app.command()
def baseline(
    name: Annotated[str, typer.Argument(help="Writes conf/baselines/NAME.json, for `validate.baseline: NAME`.")],
) -> None:
    """Write down how the present images and texts are distributed: later ones are held against it."""
    from lotlip.errors import ParamsError
    from lotlip.params import load_params
    from lotlip.validation.drift import BASELINES, write_baseline
    from lotlip.validation.validate import judge_rows, open_inputs

    if not name.replace("_", "").isalnum() or not name.islower():
        raise ParamsError(f"{name!r} is no name: give lower-case letters, digits and _ only.")
    params = load_params()
    tables, _ = judge_rows(open_inputs(params), params.validate_)
    write_baseline(BASELINES / f"{name}.json", tables)
    print(f"{BASELINES / name}.json is written: commit it, and set validate.baseline to {name}.")


@app.command()
def plan(
    images: Annotated[int, typer.Option(min=1, help="How many images are to be captioned.")],
    workers: Annotated[int, typer.Option(min=1, help="On how many workers like this machine's one.")] = 1,
    captioner: Annotated[list[str] | None, typer.Option(help="Entries of params.yaml; default: all.")] = None,
    shards: Annotated[Path | None, typer.Option(help="Folder of shards to try; default: the first source's.")] = None,
    batches: Annotated[int, typer.Option(min=1, help="Batches to measure, after one to warm up.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a few batches of each captioner here; print speed, hours, storage, and the arithmetic beside them."""
    from lotlip.data.manifest import read_manifest
    from lotlip.params import TableCaptioner, entry, load_params
    from lotlip.plan import LABELS, make_plan, measure_captioner

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
        _print_json(plans)
    elif plans:
        _print_columns(f"{images:,} images like those of {folder} on {workers} workers like this one", plans, LABELS)


@app.command()
def verify(
    manifest: Annotated[Path, typer.Argument(help="Dataset folder of any kind, or its manifest.json.")],
    images: Annotated[
        list[Path] | None, typer.Option(help="Image folder of a sidecar; repeatable. Default: images/* beside it.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Move damaged shards to FOLDER.damaged.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Read every byte of a dataset and name all that is damaged, missing or does not fit; status 1 if anything is."""
    from dataclasses import asdict

    from lotlip.data.verify.datasets import verify_dataset
    from lotlip.data.verify.repair import repair_dataset
    from lotlip.records import write_json

    findings = verify_dataset(manifest, images or ())
    done = repair_dataset(findings) if repair else None
    if json_file is not None:
        write_json(json_file, {**findings.record(), "repair": asdict(done) if done else None})
    for line in findings.lines():
        print(line)
    for line in done.lines() if done else ():
        print(line)
    if findings.damaged and not repair:
        print("next: `dvc checkout --force` brings back what DVC's cache still holds, --repair takes out the rest")
    if findings.problems:
        raise typer.Exit(1)


@app.command()
def stats(
    layout: Annotated[str, typer.Argument(metavar="FORMAT", help=f"{', '.join(SETS)}.")],
    path: Annotated[Path, typer.Argument(help="Folder or file of the set.")],
    tokenizer: Annotated[str | None, typer.Option(help="Hub id or folder; default: params.yaml's.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="The first so many images only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Count images, texts, sub-captions a text and tokens a text, as the paper's table does."""
    from itertools import islice

    from lotlip.data.layouts import read_layout
    from lotlip.data.statistics import dataset_statistics, token_counter
    from lotlip.params import load_params

    revision = None
    if tokenizer is None:
        rules = load_params().validate_
        tokenizer, revision = rules.tokenizer, rules.tokenizer_revision
    entries = islice(read_layout(layout, path), limit)
    result = dataset_statistics((one.texts for one in entries), token_counter(tokenizer, revision))
    if as_json:
        _print_json(result)
    else:
        _print_table(str(path), result)


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="Model folder, e.g. models/lotlip.")],
    dataset: Annotated[Path, typer.Option(help="Evaluation set folder, e.g. data/evalsets/long.")],
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Measure a model on an evaluation set: recall in percent for retrieval, accuracy for classification."""
    from lotlip.evaluation.evaluate import evaluate_model
    from lotlip.records import write_json

    result = evaluate_model(model, dataset, batch_size, device)
    _print_table(f"{model} on {dataset}", result)
    if json_file is not None:
        write_json(json_file, result)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Released weights: .safetensors, .pt or .bin, or a folder with them.")],
    out: Annotated[Path, typer.Argument(help="New folder, for from_pretrained.")],
    arch: Annotated[Path | None, typer.Option(help="JSON with sizes; others are read off the weights.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder, or hub id and commit as ID@COMMIT.")] = None,
) -> None:
    """Convert released LoTLIP, CLIP and Long-CLIP weights, or a timm ViT; every missing or unknown key is named."""
    from lotlip.model.convert.command import convert as convert_weights

    _print_table(str(source), convert_weights(source, out, arch, tokenizer))


@app.command("convert-sharegpt4v")
def convert_sharegpt4v(
    llm: Annotated[Path, typer.Argument(help="Folder of language model and projector (Lin-Chen/ShareGPT4V-7B).")],
    tower: Annotated[Path, typer.Argument(help="Folder of the tuned vision tower, a release of its own.")],
    out: Annotated[Path, typer.Argument(help="New folder: a LLaVA for `captioners.sharegpt4v.checkpoint`.")],
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
) -> None:
    """Join ShareGPT4V's released language model, projector and tuned tower into one LLaVA folder."""
    from lotlip.model.convert.sharegpt4v import convert_sharegpt4v as join_parts

    if dtype not in ("float16", "bfloat16", "float32"):
        raise typer.BadParameter(f"dtype is {dtype!r}; expected float16, bfloat16 or float32")
    _print_table(str(llm), join_parts(llm, tower, out, dtype))


@app.command()
def track() -> None:
    """Log the state of dvc.lock to MLflow: parameters, curves, metrics, tables, plots, models. Twice adds nothing."""
    from lotlip.tracking import track as track_state

    print(track_state(Path()))


@app.command()
def summary() -> None:
    """Print the table of compared models and where to look further."""
    from lotlip.evaluation.tables import print_comparison
    from lotlip.records import read_json

    print_comparison()
    for failure in read_json(Path("reports/validate/summary.json"))["failed"]:
        print(f"FAILED validation: {failure['suite']}: {failure['says']} is {failure['measured']}, {failure['limit']}")
    print("Report:             open reports/report/index.html")
    print("MLflow and Prefect: make ui")
    print("Any two states:     dvc exp show, dvc metrics diff, dvc plots diff")


@app.command()
def doctor() -> None:
    """Check versions, devices, disk, ports, servers, credentials and telemetry, and say what to do."""
    from rich.console import Console
    from rich.table import Table

    from lotlip.doctor import run_checks

    checks = run_checks()
    table = Table(box=None)
    for column in ("", "check", "found", "what to do"):
        table.add_column(column, overflow="fold")
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[red]failed[/]"}
    for check in checks:
        table.add_row(marks[check.status], check.name, check.found, check.advice)
    Console().print(table)
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(1)


def _check_new(out: Path, kind: str) -> None:
    """Refuse to replace what an earlier run of the same command has not made, and a place that cannot be written."""
    from lotlip.errors import DataError
    from lotlip.records import read_json

    if out.exists():
        record = read_json(out / "manifest.json") if (out / "manifest.json").is_file() else None
        if not isinstance(record, dict) or record.get("kind") != kind:
            raise DataError(f"{out} is there already and holds no {kind} of an earlier run: name a new folder.")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be made ({error}): name another folder.") from None


def _section(section: Any, **values: Any) -> Any:
    """A section of params.yaml from options; what does not fit is the user's error."""
    from pydantic import ValidationError

    try:
        return section(**values)
    except ValidationError as error:
        problems = [f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors() if problem["loc"]]
        raise typer.BadParameter("; ".join(problems)) from None


def _column(name: str | None) -> str | int | None:
    return int(name) if name is not None and name.isdigit() else name


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_columns(title: str, columns: dict[str, dict[str, Any]], labels: dict[str, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for key, label in labels.items():
        table.add_row(label, *(_shown(values.get(key)) for values in columns.values()))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _print_table(title: str, values: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False, box=None)
    for name, value in values.items():
        table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
