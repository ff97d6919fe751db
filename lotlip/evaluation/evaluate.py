"""Evaluate a model on an evaluation set: embed images and texts, then retrieval or zero-shot metrics."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from lotlip.errors import ModelError
from lotlip.evaluation.retrieval import retrieval_metrics
from lotlip.evaluation.sets import EvalSet, read_evalset
from lotlip.evaluation.zero_shot import class_embeddings, make_prompts, zero_shot_metrics, zero_shot_token_metrics
from lotlip.records import read_json

if TYPE_CHECKING:
    from lotlip.model.modeling import LotlipModel
    from lotlip.model.processor import LotlipProcessor, Picture

PROGRESS_S = 5.0  # seconds between two lines of progress


class Encoder:
    """A model that embeds texts and images, and counts what truncation took from the texts."""

    def __init__(
        self, model: "LotlipModel", processor: "LotlipProcessor", batch_size: int, device: torch.device
    ) -> None:
        self.model = model.to(device).eval()
        self.processor = processor
        self.batch_size = batch_size
        self.device = device
        self.num_texts = self.num_truncated = self.num_tokens = self.num_lost = 0

    @torch.no_grad()
    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-length embeddings, float32 [T, D], in the order of `texts`.

        Texts of similar length go into one batch, so little is padded.
        """
        return self._in_order(
            texts, lambda ids, mask: normalize(self.model.get_text_features(ids, mask).float(), dim=-1)
        )

    @torch.no_grad()
    def text_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Unit-length token embeddings, float32 [T, L, D], and where there is a token, bool [T, L]."""
        length = self.model.config.token_limit

        def embed(ids: Tensor, mask: Tensor) -> Tensor:
            tokens, keep = self.model.get_text_token_features(ids, mask)
            missing = length - tokens.shape[1]
            with_mask = torch.cat([tokens.float(), keep[..., None].float()], dim=-1)
            return pad(with_mask, (0, 0, 0, missing))

        both = self._in_order(texts, embed)
        return both[..., :-1], both[..., -1] > 0

    @torch.no_grad()
    def images(self, images: "Sequence[Picture]") -> Tensor:
        """Unit-length embeddings, float32 [N, D], of image files or Pillow images in order.

        Raises:
            DataError: an image is missing or cannot be decoded; the message names it.
        """
        return self._embed_images(images, self.model.get_image_features)

    @torch.no_grad()
    def image_tokens(self, files: Sequence[Path]) -> Tensor:
        """Unit-length patch embeddings, float32 [N, P, D], of image files in order; errors as `images`."""
        return self._embed_images(files, self.model.get_image_token_features)

    def _in_order(self, texts: Sequence[str], embed: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        tokenizer = self.processor.tokenizer
        encoded = tokenizer.encode(texts)
        self.num_texts += len(texts)
        self.num_truncated += encoded.num_truncated
        self.num_tokens += sum(encoded.num_tokens)
        self.num_lost += sum(encoded.num_lost)
        order = sorted(range(len(texts)), key=lambda i: len(encoded.ids[i]))
        parts = []
        for batch in self._batches(order, "texts"):
            ids, mask = (torch.from_numpy(array) for array in tokenizer.pad([encoded.ids[i] for i in batch]))
            parts.append(embed(ids.to(self.device), mask.to(self.device)))
        embeddings = torch.cat(parts)
        return torch.empty_like(embeddings).index_copy_(0, torch.tensor(order, device=self.device), embeddings)

    def _embed_images(self, images: "Sequence[Picture]", embed: Callable[[Tensor], Tensor]) -> Tensor:
        parts = []
        for batch in self._batches(range(len(images)), "images"):
            pixels = self.processor(images=[images[i] for i in batch])["pixel_values"]
            parts.append(embed(pixels.to(self.device)))
        return normalize(torch.cat(parts).float(), dim=-1)

    def _batches(self, items: Sequence[int], what: str) -> Iterator[Sequence[int]]:
        last = time.monotonic()
        for start in range(0, len(items), self.batch_size):
            batch = items[start : start + self.batch_size]
            yield batch
            if time.monotonic() - last > PROGRESS_S:
                last = time.monotonic()
                print(f"  {what}: {start + len(batch)}/{len(items)}", flush=True)


def open_encoder(model: Path, batch_size: int, device: str) -> Encoder:
    """Load a model folder and its processor.

    Args:
        model: a folder that `LotlipModel.save_pretrained` and `LotlipProcessor.save_pretrained` wrote.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ModelError: the folder is missing, or holds no such model.
    """
    # Imported here: transformers takes seconds, and a missing folder should be said at once.
    if not (model / "config.json").is_file():
        raise ModelError(
            f"{model} holds no trained model (no config.json): run `dvc repro train@{model.name}`, or "
            "give the folder of a saved model."
        )
    found = read_json(model / "config.json").get("model_type")
    if found != "lotlip":
        raise ModelError(f"{model} holds a checkpoint of type {found!r}; expected 'lotlip', as training writes it.")
    from safetensors import SafetensorError

    from lotlip.model.devices import open_device
    from lotlip.model.modeling import LotlipModel
    from lotlip.model.processor import LotlipProcessor

    again = f"train it again with `dvc repro -f train@{model.name}`."
    try:
        loaded, info = LotlipModel.from_pretrained(
            model, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        reason = str(error).partition("\n")[0]
        raise ModelError(f"{model} cannot be opened as a LoTLIP model ({reason}): {again}") from error
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise ModelError(f"{model} lacks {len(missing)} weights ({', '.join(missing[:3])}): {again}")
    return Encoder(loaded, LotlipProcessor.from_pretrained(model), batch_size, open_device(device))


def evaluate_model(model: Path, evalset: Path, batch_size: int, device: str) -> dict[str, float | int]:
    """Metrics of one model folder on one evaluation set folder.

    Args:
        model: see `open_encoder`.
        evalset: a folder with `set.json`, `samples.jsonl` and images.
        batch_size: images or texts embedded at once.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.

    Returns:
        For retrieval what `retrieval_metrics` returns, for classification what `zero_shot_metrics` returns;
        both with `truncated_text_share`, the share of texts (or prompts) longer than the model's token limit, and
        `truncated_token_share`, the share of all their tokens that was cut off.

    Raises:
        ModelError: the model is missing, unreadable, or gives embeddings that are not finite.
        DataError: the set is missing, empty or damaged, or an image cannot be decoded.
    """
    return evaluate_on(open_encoder(model, batch_size, device), read_evalset(evalset))


def evaluate_on(encoder: Encoder, evalset: EvalSet) -> dict[str, float | int]:
    """As `evaluate_model`, with an open model and a read set."""
    encoder.num_texts = encoder.num_truncated = encoder.num_tokens = encoder.num_lost = 0
    tokens = encoder.model.config.token_features
    metrics = (
        _classify(encoder, evalset, tokens) if evalset.task == "classification" else _retrieve(encoder, evalset, tokens)
    )
    lost = {
        "truncated_text_share": encoder.num_truncated / encoder.num_texts,
        "truncated_token_share": encoder.num_lost / max(1, encoder.num_tokens),
    }
    return {name: round(value, 6) for name, value in {**metrics, **lost}.items()}


def _retrieve(encoder: Encoder, evalset: EvalSet, tokens: bool) -> dict[str, float | int]:
    owners = torch.tensor(evalset.image_of_text, device=encoder.device)
    if tokens:
        text, keep = encoder.text_tokens(evalset.texts)
        return retrieval_metrics(encoder.image_tokens(evalset.images), text, owners, keep)
    texts = encoder.texts(evalset.texts)
    return retrieval_metrics(encoder.images(evalset.images), texts, owners)


def _classify(encoder: Encoder, evalset: EvalSet, tokens: bool) -> dict[str, float | int]:
    labels = torch.tensor(evalset.labels)
    if tokens:
        text, keep = encoder.text_tokens(make_prompts(evalset.classes, evalset.templates))
        images = encoder.image_tokens(evalset.images)
        return zero_shot_token_metrics(images, text, keep, labels, len(evalset.classes))
    classes = class_embeddings(encoder.texts, evalset.classes, evalset.templates)
    return zero_shot_metrics(encoder.images(evalset.images), classes, labels)
