"""Sections that say where images and raw captions come from, and how they are fetched."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from lotlip.params.section import PositiveFloat, PositiveInt, Section, Share


class ScenesSource(Section):
    """Rendered scenes of the embedded sample."""

    kind: Literal["scenes"]
    path: Path
    num_images: PositiveInt
    seed: int
    held_out_share: Share = 0.0


class UrlTableSource(Section):
    """A table of image URLs and captions. Columns are named, or numbered from 0 where there is no header."""

    kind: Literal["url_table"]
    path: Path
    format: Literal["tsv", "csv", "parquet"]
    url_column: str | int
    caption_column: str | int
    url_prefix: str = ""
    held_out_share: Share = 0.0


class ShardsSource(Section):
    """A folder of shards in the img2dataset layout."""

    kind: Literal["shards"]
    path: Path
    held_out_share: Share = 0.0


Source = Annotated[ScenesSource | UrlTableSource | ShardsSource, Field(discriminator="kind")]


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
