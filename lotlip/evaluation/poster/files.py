"""YAML files of the poster's tables, checked when they are read."""

from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from lotlip.errors import ParamsError
from lotlip.params.explain import problems
from lotlip.params.section import Section

PUBLISHED = Path(__file__).parents[1] / "published"

T = TypeVar("T", bound=Section)


def read_section(path: Path, section: type[T]) -> T:
    """Read a YAML file as a section.

    Raises:
        ParamsError: it is missing or not YAML, a key is unknown or missing, or a value does not fit.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(path.read_text())
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing: run from the project's top folder.") from None
    except YAMLError as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ParamsError(f"{path} holds {type(values).__name__}; expected a mapping.")
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ParamsError(f"{path}: " + "; ".join(problems(error, values, section))) from None
