"""params.yaml as a whole: read, checked, an unknown key an error."""

import difflib
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, ValidationError

from lotlip.errors import ParamsError
from lotlip.params.captioning import Captioner, Executor
from lotlip.params.data import Download, Source
from lotlip.params.explain import problems
from lotlip.params.reading import parse_section, read_section
from lotlip.params.section import Name, S3Url, Section
from lotlip.params.training import Checkpoint, Evalset, Evaluate, HoldoutEvalset, Method, Train
from lotlip.params.validation import Quality, Validate

RESERVED_NAMES = frozenset(
    {"image", "raw", "joins", "drift", "index", "summary"}
)  # what quarantine tables and Data Docs call other things


RESERVED_ROWS = frozenset({"chance"})  # of the comparison


class Report(Section):
    title: str


class Tracking(Section):
    experiment: str
    register_model: bool


class Storage(Section):
    """Where files of shards and sidecars lie: beside their manifests, or below `root` in S3."""

    root: S3Url | None


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
    storage: Storage
    captioners: Annotated[dict[Name, Captioner], Field(min_length=1)]
    executor: Executor
    validate_: Annotated[Validate, Field(alias="validate")]
    quality: Quality
    evalsets: Annotated[dict[Name, Evalset], Field(min_length=1)]
    train: Train
    methods: Annotated[dict[Name, Method], Field(min_length=1)]
    checkpoints: dict[Name, Checkpoint]
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

    def captioners_of(self, method: str) -> list[str]:
        """Whose texts the method of this name sees, in the order of the section `captioners`.

        Raises:
            ParamsError: it names a captioner that there is not.
        """
        wanted = self.methods[method].captioners
        for name in wanted or ():
            if name not in self.captioners:
                there = ", ".join(self.captioners)
                raise ParamsError(f"methods.{method}.captioners: there is no captioner {name!r}; there is {there}.")
        return [name for name in self.captioners if wanted is None or name in wanted]


def load_params(path: Path = Path("params.yaml")) -> Params:
    """Read and check params.yaml.

    Raises:
        ParamsError: the file is missing or not YAML, a key is unknown or missing, or a value does not fit.
    """
    return _checked(read_section(path, Params), str(path))


def parse_params(values: Any, where: str) -> Params:
    """Check a parsed mapping; `where` names it in errors, which are as those of `load_params`."""
    return _checked(parse_section(values, Params, where), where)


def _checked(params: Params, where: str) -> Params:
    """The same, once its sections fit each other."""
    for name in RESERVED_NAMES & params.captioners.keys():
        raise ParamsError(f"{where}: captioners.{name}: this name is taken, call the captioner something else.")
    for name in params.methods:
        params.captioners_of(name)
        _check_crops(name, params)
        _check_weights(name, params)
    for name in sorted(params.checkpoints.keys() & {*params.methods, *RESERVED_ROWS}):
        taken = "a method" if name in params.methods else "a row of the comparison"
        raise ParamsError(f"{where}: checkpoints.{name}: {taken} has this name, call the checkpoint something else.")
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
    values = _merged(settings.model_dump(), changes)
    try:
        return Train.model_validate(values)
    except ValidationError as error:
        raise ParamsError("; ".join(f"{where}.{problem}" for problem in problems(error, values, Train))) from None


def _merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The values with changes to some of them, in subsections, too."""
    merged = dict(values)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _check_crops(method: str, params: Params) -> None:
    settings = params.train_settings(method)
    if params.methods[method].image_tower == "locked" and settings.augment is None and settings.cached_crops > 1:
        raise ParamsError(
            f"methods.{method}: cached_crops {settings.cached_crops} needs train.augment: without it an image has one "
            "crop, the one of evaluation. Set cached_crops to 1."
        )


def _check_weights(method: str, params: Params) -> None:
    weights = params.train_settings(method).source_weights
    if weights and weights.keys() != params.sources.keys():
        raise ParamsError(
            f"train.source_weights of method {method} has {', '.join(weights)}, and the sources are "
            f"{', '.join(params.sources)}: give a weight to each of these, and to no other."
        )


def _check_holdout(name: str, evalset: HoldoutEvalset, params: Params) -> None:
    if evalset.path.parent != Path("data/images") or evalset.source not in params.sources:
        folders = ", ".join(f"data/images/{source}" for source in params.sources)
        raise ParamsError(f"evalsets.{name}.path is {str(evalset.path)!r}; a source's images lie in {folders}.")
    if params.sources[evalset.source].held_out_share == 0:
        raise ParamsError(f"evalsets.{name} needs sources.{evalset.source}.held_out_share above 0.")
