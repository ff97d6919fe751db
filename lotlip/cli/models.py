"""Commands about models: evaluate one, convert released ones."""

from pathlib import Path
from typing import Annotated

import typer

from lotlip.cli.app import Device, JsonFile, app
from lotlip.cli.shown import print_table

Root = Annotated[Path | None, typer.Option(help="Folder of a published set, or its annotation file.")]
Images = Annotated[Path | None, typer.Option(help="What image names are relative to; default: ROOT.")]
Normalize = Annotated[
    bool | None,
    typer.Option(help="Split texts into sub-captions and join them by '. '; default: as the set's texts are, long."),
]


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="Model folder, e.g. models/lotlip, or hub id.")],
    dataset: Annotated[
        str, typer.Option(help="Published set with --root (`lotlip check-set`), or a folder like data/evalsets/long.")
    ],
    root: Root = None,
    images: Images = None,
    allow_missing: Annotated[bool, typer.Option(help="Leave missing images out, and count them.")] = False,
    normalize_long: Normalize = None,
    revision: Annotated[str | None, typer.Option(help="Commit of a hub id.")] = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 128,
    device: Device = "auto",
    json_file: JsonFile = None,
) -> None:
    """Measure a model on an evaluation set: recall in percent for retrieval, accuracy for classification."""
    from lotlip.errors import DataError
    from lotlip.evaluation.evaluate import evaluate_model, evaluate_on
    from lotlip.evaluation.folder_check import check_folder, open_public_set
    from lotlip.evaluation.opening import open_encoder
    from lotlip.evaluation.public_sets import PUBLIC_SETS
    from lotlip.records import write_json

    if root is None:
        if dataset in PUBLIC_SETS:
            raise typer.BadParameter(f"--dataset {dataset} needs --root, where it lies; `lotlip check-set` says how.")
        if images or allow_missing or normalize_long is not None:
            raise typer.BadParameter("--images, --allow-missing and --normalize-long need --root.")
        if not (Path(dataset) / "set.json").exists():
            raise DataError(
                f"--dataset {dataset} is neither a set ({', '.join(PUBLIC_SETS)}), nor a folder with set.json, "
                "as `dvc repro` makes them in data/evalsets. For texts of your own: --dataset jsonl or csv, and --root."
            )
        _hide_progress()
        result = evaluate_model(model, Path(dataset), batch_size, device, revision)
    else:
        check = check_folder(dataset, root, images, normalize_long)
        evalset = open_public_set(check, allow_missing)
        print(*check.lines(), sep="\n", flush=True)
        _hide_progress()
        result = evaluate_on(open_encoder(model, batch_size, device, revision), evalset) | check.counts()
    print_table(f"{model} on {dataset}", result)
    if json_file is not None:
        where = {"model": model, "revision": revision, "dataset": dataset, "root": None if root is None else str(root)}
        write_json(json_file, where | result)


def _hide_progress() -> None:
    """No bar for the weights, which are read in a moment."""
    import transformers

    transformers.utils.logging.disable_progress_bar()


@app.command("check-set")
def check_set(
    name: Annotated[str | None, typer.Argument(help="Published set; without one all are listed.")] = None,
    root: Root = None,
    images: Images = None,
    decode: Annotated[bool, typer.Option("--decode", help="Also decode every image.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Say which files of a published set are missing and where they belong; status 1 if it is not whole."""
    from lotlip.evaluation.folder_check import check_folder
    from lotlip.evaluation.public_sets import PUBLIC_SETS, public_set
    from lotlip.records import write_json

    if name is None or root is None:
        if root or images or decode or json_file:
            raise typer.BadParameter("a check needs the name of a set and --root, the folder that it lies in.")
        for one in [name] if name else PUBLIC_SETS:
            spec = public_set(one)
            size = f"{spec.num_images:,} images, " if spec.num_images else ""
            print(f"{one}: {size}{spec.origin}", *spec.files, sep="\n  ")
        return
    check = check_folder(name, root, images)
    damaged = []
    if decode:
        from lotlip.evaluation.damaged_images import damaged_images  # imports torch

        damaged = damaged_images(check)
    print(*check.lines(), *(f"damaged: {what}" for what in damaged), sep="\n")
    if json_file is not None:
        write_json(json_file, {**check.record(), "damaged": damaged})
    if not check.is_whole or not check.samples or damaged:
        raise typer.Exit(1)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="Released weights: .safetensors, .pt or .bin, or a folder with them.")],
    out: Annotated[Path, typer.Argument(help="New folder, for from_pretrained.")],
    arch: Annotated[Path | None, typer.Option(help="JSON with sizes; others are read off the weights.")] = None,
    tokenizer: Annotated[str | None, typer.Option(help="Folder, or hub id and commit as ID@COMMIT.")] = None,
) -> None:
    """Convert released LoTLIP, CLIP and Long-CLIP weights, or a timm ViT; every missing or unknown key is named."""
    from lotlip.model.convert.command import convert as convert_weights

    print_table(str(source), convert_weights(source, out, arch, tokenizer))


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
    print_table(str(llm), join_parts(llm, tower, out, dtype))
