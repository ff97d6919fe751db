"""Sections of captioners, and of where they work."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from lotlip.params.data import Column, TableFormat
from lotlip.params.section import Device, Location, PositiveFloat, PositiveInt, Section, Share


class CaptionerSettings(Section):
    """What every captioner is asked, and how its texts are drawn."""

    prompt: str = "Describe the image in detail"
    max_new_tokens: PositiveInt = 256
    short_prompt: str | None = None
    short_max_new_tokens: PositiveInt = 40
    batch_size: PositiveInt = 32
    max_failed_share: Share = 0.2
    do_sample: bool = False
    temperature: PositiveFloat = 1.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    seed: int = 0
    retry_temperature: PositiveFloat | None = 0.7


class TransformersCaptioner(CaptionerSettings):
    """An image-text-to-text model of `transformers`, run in the stage's own processes."""

    kind: Literal["transformers"]
    checkpoint: str
    revision: str | None = None
    template: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    device: Device = "auto"


class EndpointCaptioner(CaptionerSettings):
    """A model behind any OpenAI-compatible server; `revision` says which weights it serves, for the captions' key."""

    kind: Literal["endpoint"]
    url: Annotated[str, Field(pattern=r"^https?://")]
    model: str
    revision: str
    api_key_env: str | None = None
    concurrency: PositiveInt = 32
    timeout_s: PositiveFloat = 120.0
    num_retries: Annotated[int, Field(ge=0)] = 5


class TableCaptioner(Section):
    """A published table of captions that others wrote, joined with the images by URL.

    `layout` names the format and the URL column of a known table; what is named here comes before it. `sha256` pins
    the table's bytes.
    """

    kind: Literal["table"]
    path: Location
    layout: Literal["dreamlip", "recap_long"] | None = None
    format: TableFormat | None = None
    url_column: Column | None = None
    long_column: Column
    short_column: Column | None = None
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    max_failed_share: Share = 0.2

    @model_validator(mode="after")
    def _check(self) -> "TableCaptioner":
        if self.layout is None and self.url_column is None:
            raise ValueError("give a layout, or url_column")
        return self


WritingCaptioner = TransformersCaptioner | EndpointCaptioner
Captioner = Annotated[TransformersCaptioner | EndpointCaptioner | TableCaptioner, Field(discriminator="kind")]


class Executor(Section):
    """Where shards are worked on; the comments in params.yaml say what each key means. It changes no result."""

    kind: Literal["local", "ray"]
    workers: PositiveInt
    num_gpus: Annotated[float, Field(ge=0.0)]
    address: str | None
    retries: Annotated[int, Field(ge=0)]
