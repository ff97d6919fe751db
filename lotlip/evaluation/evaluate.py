"""Evaluate a model on an evaluation set: embed images and texts, then retrieval or zero-shot metrics."""

from collections.abc import Iterable
from pathlib import Path

import torch

from lotlip.evaluation.encoders import BatchEncoder, LotlipEncoder, TextCounts
from lotlip.evaluation.opening import open_encoder
from lotlip.evaluation.retrieval import retrieval_metrics
from lotlip.evaluation.sets import EvalSet, read_evalset
from lotlip.evaluation.zero_shot import class_embeddings, zero_shot_metrics, zero_shot_token_metrics
from lotlip.params import Evaluate

Metrics = dict[str, float | int]


def evaluate_on_sets(
    name: str, model: str | Path, evalsets: Iterable[Path], settings: Evaluate, revision: str | None = None
) -> dict[str, Metrics]:
    """Metrics of one model on several sets, by the set's name, each printed as it is found.

    Args:
        name: what the model is called in the lines printed.
        model: see `open_encoder`, as `revision`.
        evalsets: folders; all are read before the model is opened.

    Raises:
        ModelError, DataError: as `evaluate_model`.
    """
    sets = [read_evalset(folder) for folder in evalsets]
    encoder = open_encoder(model, settings.batch_size, settings.device, revision)
    report = {}
    for evalset in sets:
        report[evalset.name] = evaluate_on(encoder, evalset)
        shown = ", ".join(f"{key} {value:g}" for key, value in report[evalset.name].items())
        print(f"evaluate {name} on {evalset.name}: {shown}", flush=True)
    return report


def evaluate_model(
    model: str | Path, evalset: Path, batch_size: int, device: str, revision: str | None = None
) -> Metrics:
    """Metrics of one model on one evaluation set.

    Args:
        model: a folder or a hub id, see `open_encoder`.
        evalset: a folder with `set.json`, `samples.jsonl` and images.
        batch_size: images or texts embedded at once.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        revision: commit of a hub id.

    Returns:
        For retrieval what `retrieval_metrics` returns, for classification what `zero_shot_metrics` returns, and what
        became of the texts (or prompts):
        `truncated_text_share`, the share of those longer than the model's token limit;
        `truncated_token_share`, the share of all their tokens that was cut off;
        `tokens_per_text`, the mean of the ids that the model was given, special tokens included, padding not;
        and of our models `text_flops_per_text`, the text tower's mean useful FLOPs, see `lotlip.model.flops`.

    Raises:
        ModelError: the model is missing, unreadable, or gives embeddings that are not finite.
        DataError: the set is missing, empty or damaged, or an image cannot be decoded.
    """
    return evaluate_on(open_encoder(model, batch_size, device, revision), read_evalset(evalset))


def evaluate_on(encoder: BatchEncoder, evalset: EvalSet) -> Metrics:
    """As `evaluate_model`, with an open model and a read set."""
    encoder.counts = TextCounts()
    metrics = _classify(encoder, evalset) if evalset.task == "classification" else _retrieve(encoder, evalset)
    return {name: round(value, 6) for name, value in {**metrics, **_text_metrics(encoder)}.items()}


def _text_metrics(encoder: BatchEncoder) -> Metrics:
    counts = encoder.counts
    num_texts = len(counts.lengths)
    metrics: Metrics = {
        "truncated_text_share": counts.num_truncated / num_texts,
        "truncated_token_share": counts.num_lost / max(1, counts.num_tokens),
        "tokens_per_text": sum(counts.lengths) / num_texts,
    }
    if isinstance(encoder, LotlipEncoder):
        from lotlip.model.flops import text_flops

        metrics["text_flops_per_text"] = round(text_flops(encoder.model.config, counts.lengths) / num_texts)
    return metrics


def _retrieve(encoder: BatchEncoder, evalset: EvalSet) -> Metrics:
    owners = torch.tensor(evalset.image_of_text, device=encoder.device)
    if isinstance(encoder, LotlipEncoder) and encoder.compares_tokens:
        text, keep = encoder.text_tokens(evalset.texts)
        return retrieval_metrics(encoder.image_tokens(evalset.images), text, owners, keep)
    texts = encoder.texts(evalset.texts)
    return retrieval_metrics(encoder.images(evalset.images), texts, owners)


def _classify(encoder: BatchEncoder, evalset: EvalSet) -> Metrics:
    labels = torch.tensor(evalset.labels)
    if isinstance(encoder, LotlipEncoder) and encoder.compares_tokens:
        images = encoder.image_tokens(evalset.images)
        return zero_shot_token_metrics(images, encoder.text_tokens, evalset.classes, evalset.templates, labels)
    classes = class_embeddings(encoder.texts, evalset.classes, evalset.templates)
    return zero_shot_metrics(encoder.images(evalset.images), classes, labels)
