"""Commands about captions: write them, import them."""

from pathlib import Path
from typing import Annotated

import typer

from lotlip.cli.app import TableFormat, app
from lotlip.cli.arguments import as_column, check_new, make_section
from lotlip.cli.shown import print_json


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
