"""Commands about models: evaluate one, convert released ones."""

from pathlib import Path
from typing import Annotated

import typer

from lotlip.cli.app import Device, JsonFile, app
from lotlip.cli.shown import print_table


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
    print_table(f"{model} on {dataset}", result)
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
