"""Sections of captioners, and of where they work."""

from typing import Annotated, Literal

from pydantic import Field

from lotlip.params.section import Device, PositiveFloat, PositiveInt, Section, Share


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


Captioner = Annotated[TransformersCaptioner | EndpointCaptioner, Field(discriminator="kind")]


class Executor(Section):
    """Where shards are worked on; the comments in params.yaml say what each key means. It changes no result."""

    kind: Literal["local", "ray"]
    workers: PositiveInt
    num_gpus: Annotated[float, Field(ge=0.0)]
    address: str | None
    retries: Annotated[int, Field(ge=0)]
