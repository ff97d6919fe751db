"""Sections that judge images and captions: validation and quality."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lotlip.params.section import Device, Name, PositiveInt, Section, Share


class ImageRules(Section):
    min_side: PositiveInt
    max_aspect: Annotated[float, Field(ge=1.0)]
    formats: Annotated[list[Literal["jpg", "png", "webp"]], Field(min_length=1)]
    max_failed_share: Share
    max_undecodable_share: Share
    max_duplicate_share: Share


class RawRules(Section):
    min_tokens: Annotated[int, Field(ge=0)]
    max_tokens: PositiveInt
    allow_markup: bool
    languages: Annotated[list[Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]], Field(min_length=1)] | None
    min_language_probability: Share
    max_repeats: PositiveInt | None
    max_duplicate_share: Share


class LongRules(Section):
    min_tokens: Annotated[int, Field(ge=0)]
    max_tokens: PositiveInt
    max_truncated_share: Share
    max_duplicate_share: Share
    min_raw_word_recall: Share


class JoinRules(Section):
    max_without_long_share: Share
    max_incomplete_share: Share


class LeakRules(Section):
    max_distance: Annotated[int, Field(ge=0, le=16)]
    max_share: Share


class Validate(Section):
    """Thresholds that reject single samples, and ceilings that fail the stage."""

    tokenizer: str
    tokenizer_revision: str | None
    image: ImageRules
    raw: RawRules
    long: LongRules
    joins: JoinRules
    leaks: LeakRules
    max_rejected_share: Share
    baseline: Name | None
    max_drift: Share
    on_breach: Literal["fail", "report"]


class Similarity(Section):
    """The image-text model that compares captions with images; it is to be none that these captions train."""

    checkpoint: str
    revision: str | None = None
    batch_size: PositiveInt = 64
    device: Device = "auto"


class Quality(Section):
    """How captions are measured against each other and the images; the comments in params.yaml say what a key means."""

    objects: Path
    max_images: PositiveInt
    similarity: Similarity
