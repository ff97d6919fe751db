"""Commands about images and raw captions: download, verify, stats, baseline."""

from pathlib import Path
from typing import Annotated, Any

import typer

from lotlip.cli.app import AsJson, JsonFile, TableFormat, app
from lotlip.cli.arguments import as_column, check_new, make_section
from lotlip.cli.shown import print_json, print_table

SETS = ("manifest", "jsonl", "csv", "iiw", "dci", "sharegpt4v", "urban1k", "docci", "coco", "flickr30k", "imagenet")


@app.command()
def download(
    table: Annotated[str, typer.Argument(help="Table of image URLs and captions, or folder of its parts; or s3://.")],
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

    check_new(out, "images", is_changed=bool(retry))
    params = load_params()
    settings = params.download
    updates: dict[str, Any] = {"allow_private_hosts": allow_private_hosts or settings.allow_private_hosts}
    updates |= {"concurrency": concurrency or settings.concurrency, "workers": workers or settings.workers}
    columns = (url_column, caption_column) if layout else (url_column or "url", caption_column or "caption")
    source = make_section(
        UrlTableSource,
        kind="url_table",
        path=table,
        layout=layout,
        format=table_format,
        url_column=as_column(columns[0]),
        caption_column=as_column(columns[1]),
        url_prefix=url_prefix,
    )
    work, root = Path(".work/download") / out.name, params.storage.root
    settings = settings.model_copy(update=updates)
    print_json(download_source(source, out.name, settings, out, work, root, retry or ()))


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
    as_json: AsJson = False,
) -> None:
    """Count images, texts, sub-captions a text and tokens a text, as the paper's table does."""
    from itertools import islice

    from lotlip.data.layouts.readers import read_layout
    from lotlip.data.statistics import dataset_statistics, token_counter
    from lotlip.params import load_params

    revision = None
    if tokenizer is None:
        rules = load_params().validate_
        tokenizer, revision = rules.tokenizer, rules.tokenizer_revision
    entries = islice(read_layout(layout, path), limit)
    result = dataset_statistics((one.texts for one in entries), token_counter(tokenizer, revision))
    if as_json:
        print_json(result)
    else:
        print_table(str(path), result)


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
