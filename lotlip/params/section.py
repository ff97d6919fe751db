"""What all sections of params.yaml are made of."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveShare = Annotated[float, Field(gt=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]


def _s3_url(text: str) -> str:
    if not re.fullmatch(r"s3://[a-z0-9][a-z0-9.-]+[a-z0-9](/.*)?", text):
        raise ValueError("expected s3://bucket/prefix")
    return text


def _location(value: object) -> object:
    """What looks like a URL stays text: as a path it would lose a slash."""
    if not isinstance(value, str):
        return value
    if "://" not in value:
        return Path(value)
    try:
        return _s3_url(value)
    except ValueError:
        raise ValueError("expected a path, or s3://bucket/key") from None


S3Url = Annotated[str, AfterValidator(_s3_url)]
Location = Annotated[str | Path, BeforeValidator(_location)]  # text only where it is an S3Url


class Section(BaseModel):
    """A mapping in params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)
