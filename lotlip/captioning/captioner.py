"""What a captioner is: images in, a caption or a reason each out, under an identity that names its bytes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lotlip.params import CaptionerSettings
from lotlip.records import content_key, sha256_file

if TYPE_CHECKING:
    from PIL.Image import Image

CODE_VERSION = 2
"""Raise by one when a change of the code changes captions; tests/golden watches over it. It is part of every
identity, so that results of older code are never mixed with new ones."""

FinishReason = Literal["stop", "length", "error"]
Kind = Literal["long", "short"]

# Files of a checkpoint folder that can change what it writes; a model card or a training log cannot.
CHECKPOINT_SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True)
class Caption:
    """What a captioner wrote about one image.

    `num_tokens` counts generated tokens without the end token; None where a server does not say. `finish_reason` is
    `stop` (the model ended), `length` (cut at max_new_tokens) or `error`; then `failure` says why, the text is empty.
    """

    text: str
    num_tokens: int | None
    finish_reason: FinishReason
    failure: str | None = None


class Captioner(Protocol):
    """Anything that captions images.

    `identity` is 16 hex digits: a key of all that determines captions. Equal identities give equal captions for equal
    images, however they are batched; in half precision and on servers up to near-ties between two tokens. `kinds` are
    those that it writes for every
    image; `retries` says whether an attempt after the first is another draw.
    """

    @property
    def identity(self) -> str: ...

    @property
    def kinds(self) -> tuple[Kind, ...]: ...

    @property
    def retries(self) -> bool: ...

    def prompt_length(self, size: tuple[int, int]) -> int:
        """Tokens of the prompt with an image of (width, height); a batch of equal lengths needs no padding."""
        ...

    def prepare(self, images: "Sequence[Image]", kind: Kind) -> Any:
        """What a batch needs before the model, for `caption`; called ahead, in another thread."""
        ...

    def caption(
        self, images: "Sequence[Image]", kind: Kind = "long", attempt: int = 0, prepared: Any = None
    ) -> list[Caption]:
        """One caption an RGB image, in order; where there can be none a `failed` one, never a gap."""
        ...


class Asked:
    """What a captioner's settings say of every kind: the part of `Captioner` that all backends share."""

    def __init__(self, params: CaptionerSettings) -> None:
        self.asked: dict[Kind, tuple[str, int]] = {"long": (params.prompt, params.max_new_tokens)}
        if params.short_prompt:
            self.asked["short"] = (params.short_prompt, params.short_max_new_tokens)
        self._retry_temperature = params.retry_temperature

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return tuple(self.asked)

    @property
    def retries(self) -> bool:
        return self._retry_temperature is not None


def failed(reason: str) -> Caption:
    """The record of an image without a caption; what stands before a colon is the class of the failure."""
    return Caption("", 0, "error", reason)


EMPTY = "empty generation"
# Failures of a server or of memory, not of the image: a later run tries these images again.
PASSING = ("HTTP ", "no answer", "no connection", "senseless answer", "out of memory")


def is_passing(failure: str | None) -> bool:
    """Whether a failure may be gone the next time."""
    return failure is not None and failure.startswith(PASSING)


def make_identity(settings: dict[str, Any]) -> str:
    """16 hex digits from JSON-able settings and the code's version."""
    return content_key({"code_version": CODE_VERSION, **settings})[:16]


def folder_fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight, config and tokenizer file under a checkpoint folder, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in CHECKPOINT_SUFFIXES and path.is_file())
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
