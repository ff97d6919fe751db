"""Typed view of params.yaml: every key is named here, and an unknown one is an error with the nearest valid name."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lotlip.errors import ParamsError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0.0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_]*$")]


Device = Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")]
RESERVED_NAMES = frozenset({"image", "raw", "index"})  # what quarantine tables and Data Docs call other things


class Section(BaseModel):
    """A mapping in params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


class Download(Section):
    """How images are fetched and packed; the comments in params.yaml say what each key means."""

    shard_size: PositiveInt
    concurrency: PositiveInt
    timeout_s: PositiveFloat
    num_retries: Annotated[int, Field(ge=0)]
    max_bytes: PositiveInt
    max_pixels: PositiveInt
    allow_private_hosts: bool
    max_failed_share: Share


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


class ImageRules(Section):
    min_side: PositiveInt
    max_aspect: Annotated[float, Field(ge=1.0)]
    max_failed_share: Share
    max_duplicate_share: Share


class RawRules(Section):
    min_tokens: Annotated[int, Field(ge=0)]
    max_tokens: PositiveInt
    max_duplicate_share: Share


class LongRules(Section):
    min_tokens: Annotated[int, Field(ge=0)]
    max_tokens: PositiveInt
    max_truncated_share: Share
    max_duplicate_share: Share
    min_raw_word_recall: Share


class Validate(Section):
    """Thresholds that reject single samples, and ceilings that fail the stage."""

    tokenizer: str
    tokenizer_revision: str | None
    image: ImageRules
    raw: RawRules
    long: LongRules
    max_rejected_share: Share
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


class ScenesEvalset(Section):
    """Held-out rendered scenes with reference descriptions, five short captions, or classes."""

    kind: Literal["scenes"]
    path: Path
    texts: Literal["reference", "short", "classes"]
    num_images: PositiveInt
    seed: int


class HoldoutEvalset(Section):
    """The held-out share of a source, with its raw captions; `path` is the source's data/images/<source>."""

    kind: Literal["holdout"]
    path: Path

    @property
    def source(self) -> str:
        return self.path.name


Evalset = Annotated[ScenesEvalset | HoldoutEvalset, Field(discriminator="kind")]


class Train(Section):
    """Settings that all methods share, unless a method's own `train` says otherwise."""

    epochs: PositiveInt
    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0.0)]
    warmup_share: Share
    grad_clip: PositiveFloat
    image_tower: str
    image_tower_revision: str | None
    tokenizer: str
    tokenizer_revision: str | None
    text_tower: str | None
    text_tower_revision: str | None
    text_layers: PositiveInt
    text_width: PositiveInt
    text_heads: PositiveInt
    text_dropout: Share
    embed_dim: PositiveInt
    token_limit: Annotated[int, Field(ge=8)]
    keep_positions: Annotated[int, Field(ge=0)]
    run_length: PositiveInt
    weight_raw: Annotated[float, Field(ge=0.0)]
    weight_long: Annotated[float, Field(ge=0.0)]
    device: Device
    seed: Annotated[int, Field(ge=0)]


class Method(Section):
    """What makes a method that method: its towers, its texts, its objective; the defaults are those of LiT."""

    image_tower: Literal["locked", "unlocked"] = "locked"
    image_projection: bool = False
    text_tower: Literal["bert", "causal"] = "bert"
    corner_tokens: Annotated[int, Field(ge=0)] = 0
    corner_mask: bool = True
    short_text: Literal["raw", "raw_or_rewrite", "first_sentence"] = "raw"
    num_long: Annotated[int, Field(ge=0)] = 0
    long_text: Literal["runs", "whole"] = "runs"
    objective: Literal["softmax", "sigmoid", "late_interaction"] = "softmax"
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    short_components: PositiveInt | None = None
    train: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> "Method":
        if self.corner_tokens and self.text_tower != "bert":
            raise ValueError("corner_tokens need text_tower: bert")
        if self.objective != "softmax" and (self.label_smoothing or self.short_components):
            raise ValueError(f"label_smoothing and short_components belong to objective: softmax, not {self.objective}")
        if self.objective == "late_interaction" and (self.num_long or self.corner_tokens):
            raise ValueError("objective: late_interaction takes one text an image and no corner_tokens")
        return self


class Evaluate(Section):
    batch_size: PositiveInt
    device: Device


class Report(Section):
    title: str


class Tracking(Section):
    experiment: str
    register_model: bool


class Pipeline(Section):
    """The Prefect schedule and how often a failing stage is tried again."""

    cron: str
    timezone: str
    retries: Annotated[int, Field(ge=0)]
    retry_delay_s: Annotated[float, Field(ge=0.0)]


class Params(Section):
    """The whole of params.yaml."""

    sources: Annotated[dict[Name, Source], Field(min_length=1)]
    download: Download
    captioners: Annotated[dict[Name, Captioner], Field(min_length=1)]
    executor: Executor
    validate_: Annotated[Validate, Field(alias="validate")]
    quality: Quality
    evalsets: Annotated[dict[Name, Evalset], Field(min_length=1)]
    train: Train
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    evaluate: Evaluate
    report: Report
    tracking: Tracking
    pipeline: Pipeline

    def train_settings(self, method: str) -> Train:
        """The section `train` with what the method of this name sets otherwise.

        Raises:
            ParamsError: the method's `train` has an unknown key or a value that does not fit.
        """
        return _override(self.train, self.methods[method].train, f"methods.{method}.train")


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: the file is missing or not YAML, a key is unknown or missing, or a value does not fit.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing: run from the project's top folder.") from None
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from None
    return parse_params(values, str(path))


def parse_params(values: Any, where: str) -> Params:
    """Check a parsed mapping; `where` names it in errors."""
    if not isinstance(values, dict):
        raise ParamsError(f"{where} holds {type(values).__name__}; expected a mapping of sections.")
    try:
        params = Params.model_validate(values)
    except ValidationError as error:
        raise ParamsError(_explain(error, values, where)) from None
    for name in RESERVED_NAMES & params.captioners.keys():
        raise ParamsError(f"{where}: captioners.{name}: this name is taken, call the captioner something else.")
    for name in params.methods:
        params.train_settings(name)
    for name, evalset in params.evalsets.items():
        if isinstance(evalset, HoldoutEvalset):
            _check_holdout(name, evalset, params)
    return params


T = TypeVar("T")


def entry(section: dict[str, T], what: str, name: str) -> T:
    """The entry `name` of a named section.

    Raises:
        ParamsError: there is none; the message lists those there are.
    """
    if name not in section:
        near = difflib.get_close_matches(name, section, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ParamsError(f"params.yaml has no {what} {name!r}, it has {', '.join(section)}{hint}")
    return section[name]


def _override(settings: Train, changes: dict[str, Any], where: str) -> Train:
    try:
        return Train.model_validate({**settings.model_dump(), **changes})
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            key = str(problem["loc"][0])
            if problem["type"] == "extra_forbidden":
                near = difflib.get_close_matches(key, Train.model_fields, n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(Train.model_fields)}"
                problems.append(f"{where}.{key}: unknown key{hint}")
            else:
                problems.append(f"{where}.{key}: {problem['msg']}, got {problem['input']!r}")
        raise ParamsError("; ".join(problems)) from None


def _check_holdout(name: str, evalset: HoldoutEvalset, params: Params) -> None:
    if evalset.path.parent != Path("data/images") or evalset.source not in params.sources:
        folders = ", ".join(f"data/images/{source}" for source in params.sources)
        raise ParamsError(f"evalsets.{name}.path is {str(evalset.path)!r}; a source's images lie in {folders}.")
    if params.sources[evalset.source].held_out_share == 0:
        raise ParamsError(f"evalsets.{name} needs sources.{evalset.source}.held_out_share above 0.")


def _explain(error: ValidationError, values: dict[str, Any], where: str) -> str:
    lines = []
    for problem in error.errors():
        # A discriminated union puts its tag (`url_table`) into the location: it is no key of the file.
        path = _file_path(problem["loc"], values)
        dotted = ".".join(path)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{dotted}: unknown key{_nearest(path, problem['loc'])}")
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"{dotted}.kind: missing")
        elif problem["type"] == "missing":
            lines.append(f"{dotted}: missing")
        else:
            lines.append(f"{dotted}: {problem['msg']}, got {problem['input']!r}")
    return f"{where}: " + "; ".join(lines)


def _file_path(location: tuple[int | str, ...], values: Any) -> list[str]:
    path: list[str] = []
    for i, part in enumerate(location):
        is_last = i == len(location) - 1
        if isinstance(values, dict) and (part in values or is_last):
            path.append(str(part))
            values = values.get(part)
    return path


def _nearest(path: list[str], location: tuple[int | str, ...]) -> str:
    section: Any = Params
    for part in location[:-1]:
        section = _descend(section, str(part))
    if section is None:
        return ""
    names = [field.alias or name for name, field in section.model_fields.items()]
    near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(names)}"


def _descend(section: Any, part: str) -> Any:
    """The section class under `part`: a field, an entry of a named mapping, or the variant a tag names."""
    if isinstance(section, type) and issubclass(section, Section):
        for name, field in section.model_fields.items():
            if part == (field.alias or name):
                return field.annotation
        return None
    arguments: tuple[Any, ...] = get_args(section)
    if get_origin(section) is dict:
        return arguments[1]
    for variant in get_args(arguments[0]) if arguments else ():
        if part in get_args(variant.model_fields["kind"].annotation):
            return variant
    return None
