"""Sections that say where images and raw captions come from, and how they are fetched."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from lotlip.params.section import Location, PositiveFloat, PositiveInt, Section, Share

TableFormat = Literal["tsv", "csv", "jsonl", "parquet"]
Column = str | int


class ScenesSource(Section):
    """Rendered scenes of the embedded sample."""

    kind: Literal["scenes"]
    path: Path
    num_images: PositiveInt
    seed: int
    held_out_share: Share = 0.0


class ColumnFilter(Section):
    """What a row's value in one column must be for the row to count; conditions add up.

    `min` and `max` are inclusive and read the value as a number, `in` and `not_in` as text. A missing value (empty,
    null, NaN, or for `min` and `max` no number) is left out, too, unless `missing` is `keep`.
    """

    min: float | None = None
    max: float | None = None
    in_: Annotated[tuple[str, ...] | None, Field(alias="in")] = None
    not_in: tuple[str, ...] | None = None
    missing: Literal["reject", "keep"] = "reject"

    @model_validator(mode="after")
    def _check(self) -> "ColumnFilter":
        if all(each is None for each in (self.min, self.max, self.in_, self.not_in)):
            raise ValueError("a filter needs one of min, max, in, not_in")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"nothing is at least {self.min:g} and at most {self.max:g}")
        return self


class UrlTableSource(Section):
    """A table of image URLs and captions: a file, or a folder of part files.

    `layout` names the columns of a known dataset; columns named here come before it. Columns are named, or numbered
    from 0 where there is no header.
    """

    kind: Literal["url_table"]
    path: Location
    layout: Literal["cc3m", "cc12m", "yfcc15m", "laion", "coyo", "dreamlip"] | None = None
    format: TableFormat | None = None
    url_column: Column | None = None
    caption_column: Column | None = None
    url_prefix: str = ""
    filters: Annotated[dict[Column, ColumnFilter], BeforeValidator(lambda value: value or {})] = Field(
        default_factory=dict
    )
    held_out_share: Share = 0.0

    @model_validator(mode="after")
    def _check(self) -> "UrlTableSource":
        if self.layout is None and (self.url_column is None or self.caption_column is None):
            raise ValueError("give a layout, or url_column and caption_column")
        if len({type(column) for column in self.filters}) > 1:
            raise ValueError("filters name some columns and number others: do one or the other")
        return self


class ShardsSource(Section):
    """A folder of shards in the img2dataset layout."""

    kind: Literal["shards"]
    path: Location
    held_out_share: Share = 0.0


class ImageFolderSource(Section):
    """A folder tree of images with captions beside them: `<name>.txt`, or a captions or metadata table."""

    kind: Literal["image_folder"]
    path: Location
    caption_column: str | None = None
    held_out_share: Share = 0.0


class HfDatasetSource(Section):
    """A folder that Hugging Face `datasets` wrote with `save_to_disk`, images inside."""

    kind: Literal["hf_dataset"]
    path: Location
    split: str | None = None
    image_column: str = "image"
    caption_column: str
    url_column: str | None = None
    held_out_share: Share = 0.0


Source = Annotated[
    ScenesSource | UrlTableSource | ShardsSource | ImageFolderSource | HfDatasetSource, Field(discriminator="kind")
]


class Resize(Section):
    """Images larger than this become smaller JPEGs; none is enlarged."""

    size: PositiveInt
    mode: Literal["shortest", "longest"]
    quality: Annotated[int, Field(ge=1, le=100)] = 95


class Download(Section):
    """How images are fetched and packed; the comments in params.yaml say what each key means."""

    shard_size: PositiveInt
    concurrency: PositiveInt
    workers: PositiveInt | None
    max_per_host: PositiveInt
    host_interval_s: Annotated[float, Field(ge=0.0)]
    max_connect_failures: PositiveInt
    connect_timeout_s: PositiveFloat
    read_timeout_s: PositiveFloat
    timeout_s: PositiveFloat
    num_retries: Annotated[int, Field(ge=0)]
    user_agent: Annotated[str, Field(pattern=r"^[A-Za-z_-][ -~]*$")]
    respect_robots: bool
    allow_private_hosts: bool
    max_bytes: PositiveInt
    max_pixels: PositiveInt
    resize: Resize | None
    near_duplicate_bits: Annotated[int, Field(ge=0, le=8)]
    max_failed_share: Share
