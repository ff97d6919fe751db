"""Models that embed images and texts in one space: ours, and those of transformers, behind one interface."""

import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize, pad

from lotlip.errors import DataError
from lotlip.text.tokenizer import TextIds

if TYPE_CHECKING:
    from lotlip.model.modeling import LotlipModel
    from lotlip.model.processor import LotlipProcessor, Picture

PROGRESS_S = 5.0  # seconds between two lines of progress
SIGLIP = ("siglip", "siglip2")
Inputs = dict[str, Tensor]


class Encoder(Protocol):
    """Unit-length embeddings, float32 [N, D], of images and texts in one space."""

    def images(self, images: "Sequence[Picture]") -> Tensor: ...

    def texts(self, texts: Sequence[str]) -> Tensor: ...


@dataclass
class TextCounts:
    """What a model was given of its texts.

    `lengths` are ids a text after truncation, special tokens included, padding not; `num_tokens` and `num_lost` count
    all texts' ids without special tokens, before truncation and cut off by it.
    """

    lengths: list[int] = field(default_factory=list)
    num_truncated: int = 0
    num_tokens: int = 0
    num_lost: int = 0

    def add(self, encoded: TextIds) -> None:
        self.lengths += [len(ids) for ids in encoded.ids]
        self.num_truncated += encoded.num_truncated
        self.num_tokens += sum(encoded.num_tokens)
        self.num_lost += sum(encoded.num_lost)


class BatchEncoder(ABC):
    """Embeds in batches, texts of similar length together and images as they come, and counts the texts."""

    def __init__(self, model: Any, batch_size: int, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.batch_size = batch_size
        self.device = device
        self.counts = TextCounts()

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Unit-length embeddings, float32 [T, D], in the order of `texts`."""
        return self._embed_texts(texts, lambda inputs: normalize(self._text_features(inputs).float(), dim=-1))

    def images(self, images: "Sequence[Picture]") -> Tensor:
        """Unit-length embeddings, float32 [N, D], of image files or Pillow images in order.

        Raises:
            DataError: an image is missing or cannot be decoded; the message names it.
        """
        return self._embed_images(images, self._image_features)

    @abstractmethod
    def _encode(self, texts: Sequence[str]) -> TextIds: ...

    @abstractmethod
    def _pad(self, ids: list[list[int]]) -> Inputs: ...

    @abstractmethod
    def _text_features(self, inputs: Inputs) -> Tensor: ...

    @abstractmethod
    def _prepare(self, picture: "Picture") -> Inputs:
        """The model's inputs for one image, each [1, ...]; runs in a thread."""

    @abstractmethod
    def _image_features(self, inputs: Inputs) -> Tensor: ...

    @torch.no_grad()
    def _embed_texts(self, texts: Sequence[str], embed: Callable[[Inputs], Tensor]) -> Tensor:
        encoded = self._encode(texts)
        self.counts.add(encoded)
        order = sorted(range(len(texts)), key=lambda i: len(encoded.ids[i]))
        batches = (self._pad([encoded.ids[i] for i in rows]) for rows in _split(order, self.batch_size))
        embeddings = torch.cat(
            [embed(self._to_device(batch)) for batch in self._with_progress(batches, order, "texts")]
        )
        return torch.empty_like(embeddings).index_copy_(0, torch.tensor(order, device=self.device), embeddings)

    @torch.no_grad()
    def _embed_images(self, images: "Sequence[Picture]", embed: Callable[[Inputs], Tensor]) -> Tensor:
        batches = self._with_progress(self._prepared(images), images, "images")
        return normalize(torch.cat([embed(self._to_device(batch)).float() for batch in batches]), dim=-1)

    def _prepared(self, images: "Sequence[Picture]") -> Iterator[Inputs]:
        """Batches of inputs; while the model works on one, threads decode the next."""
        pool = ThreadPoolExecutor(os.cpu_count() or 1)
        try:
            waiting = deque[list[Any]]()
            for batch in _split(images, self.batch_size):
                waiting.append([pool.submit(self._prepare, picture) for picture in batch])
                if len(waiting) > 1:
                    yield _stack([one.result() for one in waiting.popleft()])
            while waiting:
                yield _stack([one.result() for one in waiting.popleft()])
        finally:
            pool.shutdown(cancel_futures=True)

    def _to_device(self, inputs: Inputs) -> Inputs:
        return {name: tensor.to(self.device) for name, tensor in inputs.items()}

    def _with_progress(self, batches: Iterator[Inputs], items: Sequence[Any], what: str) -> Iterator[Inputs]:
        last, done = time.monotonic(), 0
        for batch in batches:
            yield batch
            done = min(done + self.batch_size, len(items))
            if time.monotonic() - last > PROGRESS_S:
                last = time.monotonic()
                print(f"  {what}: {done}/{len(items)}", flush=True)


class LotlipEncoder(BatchEncoder):
    """A `LotlipModel` with its processor."""

    def __init__(
        self, model: "LotlipModel", processor: "LotlipProcessor", batch_size: int, device: torch.device
    ) -> None:
        super().__init__(model, batch_size, device)
        self.processor = processor
        self.compares_tokens = bool(model.config.token_features)

    def text_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Unit-length token embeddings, float32 [T, L, D], and where there is a token, bool [T, L]."""
        length = self.model.config.token_limit

        def embed(inputs: Inputs) -> Tensor:
            tokens, keep = self.model.get_text_token_features(**inputs)
            with_mask = torch.cat([tokens.float(), keep[..., None].float()], dim=-1)
            return pad(with_mask, (0, 0, 0, length - tokens.shape[1]))

        both = self._embed_texts(texts, embed)
        return both[..., :-1], both[..., -1] > 0

    def image_tokens(self, images: "Sequence[Picture]") -> Tensor:
        """Unit-length patch embeddings, float32 [N, P, D]; order and errors as `images`."""
        return self._embed_images(images, lambda inputs: self.model.get_image_token_features(**inputs))

    def _encode(self, texts: Sequence[str]) -> TextIds:
        return self.processor.tokenizer.encode(texts)

    def _pad(self, ids: list[list[int]]) -> Inputs:
        input_ids, mask = (torch.from_numpy(array) for array in self.processor.tokenizer.pad(ids))
        return {"input_ids": input_ids, "attention_mask": mask}

    def _text_features(self, inputs: Inputs) -> Tensor:
        return self.model.get_text_features(**inputs)  # type: ignore[no-any-return]

    def _prepare(self, picture: "Picture") -> Inputs:
        return {"pixel_values": self.processor.transform(picture)[None]}

    def _image_features(self, inputs: Inputs) -> Tensor:
        return self.model.get_image_features(**inputs)  # type: ignore[no-any-return]


class TransformersEncoder(BatchEncoder):
    """CLIP, SigLIP or ALIGN of transformers with its own tokenizer and image processor.

    SigLIP has learned from lower-case texts that fill its limit, with padding that it attends to: its second version's
    tokenizer is often saved without the first, and others with a mask that it must not get.
    """

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any, batch_size: int, device: torch.device) -> None:
        super().__init__(model, batch_size, device)
        self._tokenizer, self._image_processor = tokenizer, image_processor
        self._is_siglip = model.config.model_type in SIGLIP
        # A tokenizer's own limit may be missing, which reads as 1e30.
        self.token_limit = int(min(tokenizer.model_max_length, model.config.text_config.max_position_embeddings))

    def _encode(self, texts: Sequence[str]) -> TextIds:
        given = [text.lower() for text in texts] if self._is_siglip else list(texts)
        whole = self._tokenizer(given, padding=False, truncation=False, verbose=False)["input_ids"]
        long = [i for i, ids in enumerate(whole) if len(ids) > self.token_limit]
        ids = list(whole)
        if long:
            settings = {"padding": False, "truncation": True, "max_length": self.token_limit}
            cut = self._tokenizer([given[i] for i in long], **settings)["input_ids"]
            for i, shorter in zip(long, cut, strict=True):
                ids[i] = shorter
        num_special = self._tokenizer.num_special_tokens_to_add()
        lost = [len(before) - len(after) for before, after in zip(whole, ids, strict=True)]
        return TextIds(ids, [len(one) - num_special for one in whole], lost)

    def _pad(self, ids: list[list[int]]) -> Inputs:
        how = {"padding": "max_length", "max_length": self.token_limit} if self._is_siglip else {"padding": True}
        padded = self._tokenizer.pad({"input_ids": ids}, return_attention_mask=True, return_tensors="pt", **how)
        names = ["input_ids"] if self._is_siglip else ["input_ids", "attention_mask"]
        return {name: padded[name] for name in names}

    def _text_features(self, inputs: Inputs) -> Tensor:
        return self.model.get_text_features(**inputs).pooler_output  # type: ignore[no-any-return]

    def _prepare(self, picture: "Picture") -> Inputs:
        from lotlip.model.processor import open_picture

        image = open_picture(picture)
        try:
            return dict(self._image_processor(images=[image], return_tensors="pt"))
        except ValueError as error:
            name = picture if isinstance(picture, str | Path) else "an image"
            raise DataError(f"{name}, {image.width} x {image.height} pixels, cannot be prepared: {error}") from error

    def _image_features(self, inputs: Inputs) -> Tensor:
        return self.model.get_image_features(**inputs).pooler_output  # type: ignore[no-any-return]


def _split(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _stack(rows: list[Inputs]) -> Inputs:
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
