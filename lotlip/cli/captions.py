"""Commands about captions: write them, import them, plan what they will cost."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lotlip.cli.app import AsJson, TableFormat, app
from lotlip.cli.arguments import as_column, check_new, make_section
from lotlip.cli.shown import print_columns, print_json


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
    check_new(out, "captions")
    print_json(make_captions(captioner, [read_manifest(shards, "images")], out, params))


@app.command("import-captions")
def import_captions(
    table: Annotated[str, typer.Argument(help="Table of image URLs and texts, or folder of its parts; or s3://.")],
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

    settings = make_section(
        TableCaptioner,
        kind="table",
        path=table,
        layout=layout,
        format=table_format,
        url_column=as_column(url_column if layout else url_column or "url"),
        long_column=as_column(long_column),
        short_column=as_column(short_column),
        max_failed_share=max_failed_share,
    )
    check_new(out, "captions", is_changed=False)
    images = [read_manifest(shards, "images")]
    work, root = Path(".work/import-captions") / out.name, load_params().storage.root
    print_json(join_table(images, out, settings, work=work, root=root))


@app.command()
def plan(
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
        print_json(plans)
    elif plans:
        print_columns(f"{images:,} images like those of {folder} on {workers} workers like this one", plans, LABELS)
