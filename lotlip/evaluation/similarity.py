"""How alike images and captions are under a named image-text model that these captions do not train."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.functional import normalize

from lotlip.captioning.checkpoints import COMMIT
from lotlip.errors import ModelError
from lotlip.evaluation.evaluate import open_encoder
from lotlip.model.devices import open_device
from lotlip.params import Similarity
from lotlip.records import read_json
from lotlip.storage.copies import local_path
from lotlip.text.subcaptions import split_sub_captions

if TYPE_CHECKING:
    from PIL.Image import Image


class Encoder(Protocol):
    """Unit-length embeddings, float32 [N, D], of images and texts in one space."""

    def images(self, images: "Sequence[Image]") -> Tensor: ...

    def texts(self, texts: Sequence[str]) -> Tensor: ...


def open_similarity(settings: Similarity) -> Encoder:
    """The model: a folder that this project wrote, or a hub id or folder of CLIP, SigLIP and others of their kind.

    Raises:
        ModelError: there is no such model, or it has no features of images and texts.
    """
    settings = settings.model_copy(update={"checkpoint": str(local_path(settings.checkpoint))})
    folder = Path(settings.checkpoint)
    if (folder / "config.json").is_file() and read_json(folder / "config.json").get("model_type") == "lotlip":
        return open_encoder(folder, settings.batch_size, settings.device)
    return _TransformersEncoder(settings)


class _TransformersEncoder:
    def __init__(self, settings: Similarity) -> None:
        import transformers

        name, local = settings.checkpoint, Path(settings.checkpoint).is_dir()
        if not local and (settings.revision is None or not COMMIT.match(settings.revision)):
            raise ModelError(
                f"quality.similarity.checkpoint: {name} is no folder here; a hub id needs its commit, 40 digits, as "
                f"revision, which is {settings.revision!r}."
            )
        where: dict[str, Any] = {"revision": settings.revision, "trust_remote_code": False, "local_files_only": local}
        try:
            self._model, info = transformers.AutoModel.from_pretrained(
                name, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **where
            )
            self._processor = transformers.AutoProcessor.from_pretrained(name, **where)
        except (OSError, ValueError, ImportError, KeyError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(f"quality.similarity.checkpoint: {name} cannot be opened ({reason}).") from error
        if not hasattr(self._model, "get_text_features"):
            raise ModelError(
                f"quality.similarity.checkpoint: {name} is a {type(self._model).__name__}; expected a model of images "
                "and texts such as CLIP or SigLIP."
            )
        if info["missing_keys"]:
            raise ModelError(
                f"quality.similarity.checkpoint: {name} lacks {len(info['missing_keys'])} weights, e.g. "
                f"{min(info['missing_keys'])}: config.json and weights do not belong together."
            )
        self._device = open_device(settings.device)
        self._model = self._model.to(self._device).eval()
        self._batch_size = settings.batch_size
        # SigLIP has learned from texts that fill its limit with padding.
        self._padding = "max_length" if self._model.config.model_type.startswith("siglip") else True

    def images(self, images: "Sequence[Image]") -> Tensor:
        return self._embed(images, lambda batch: self._processor(images=batch, return_tensors="pt"), "image")

    def texts(self, texts: Sequence[str]) -> Tensor:
        def process(batch: list[str]) -> Any:
            return self._processor(text=batch, padding=self._padding, truncation=True, return_tensors="pt")

        return self._embed(texts, process, "text")

    @torch.no_grad()
    def _embed(self, items: Sequence[Any], process: Any, kind: str) -> Tensor:
        parts = []
        for start in range(0, len(items), self._batch_size):
            inputs = process(list(items[start : start + self._batch_size])).to(self._device)
            features = getattr(self._model, f"get_{kind}_features")(**inputs)
            parts.append(normalize(getattr(features, "pooler_output", features).float(), dim=-1).cpu())
        return torch.cat(parts)


def caption_similarity(
    encoder: Encoder, images: Tensor, captions: Sequence[Sequence[str]]
) -> tuple[list[list[float]], list[list[float | None]]]:
    """Mean cosine of an image with the sub-captions of its captions: short enough for any model, and none outweighs.

    Args:
        images: unit-length embeddings, float [N, D].
        captions: the captions of each image; one without any sub-caption gets 0.

    Returns:
        For each caption its similarity with its own image, and with the next image (of the last one: the first), which
        says what a caption gets that fits the kind of images but not this one; None where there is one image.
    """
    pieces = sorted({piece for texts in captions for text in texts for piece in split_sub_captions(text)})
    row_of = {piece: row for row, piece in enumerate(pieces)}
    words = encoder.texts(pieces).cpu() if pieces else torch.zeros(0, images.shape[1])

    def score(image: Tensor, text: str) -> float:
        rows = [row_of[piece] for piece in split_sub_captions(text)]
        return float((words[rows] @ image).mean()) if rows else 0.0

    own = [[score(images[i], text) for text in texts] for i, texts in enumerate(captions)]
    if len(captions) < 2:
        return own, [[None] * len(texts) for texts in captions]
    after = images.roll(-1, 0)
    return own, [[score(after[i], text) for text in texts] for i, texts in enumerate(captions)]
