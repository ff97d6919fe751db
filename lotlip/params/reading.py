"""YAML files read as sections: every key is known, every value fits, or the error says what to mend."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from lotlip.errors import ParamsError
from lotlip.params.explain import problems
from lotlip.params.section import Section

T = TypeVar("T", bound=Section)


def read_section(path: Path, section: type[T]) -> T:
    """Read a YAML file as a section.

    Raises:
        ParamsError: it is missing or not YAML, a key is unknown or missing, or a value does not fit.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        values = YAML(typ="safe", pure=True).load(path.read_text())  # YAML 1.2 as DVC reads it: `no` is a text
    except FileNotFoundError:
        raise ParamsError(f"{path} is missing: run from the project's top folder.") from None
    except IsADirectoryError:
        raise ParamsError(f"{path} is a folder: name a file in it.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from None
    return parse_section(values, section, str(path))


def parse_section(values: Any, section: type[T], where: str) -> T:
    """Check a parsed mapping; `where` names it in errors, which are as those of `read_section`."""
    if not isinstance(values, dict):
        raise ParamsError(f"{where} holds {type(values).__name__}; expected a mapping.")
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ParamsError(f"{where}: " + "; ".join(problems(error, values, section))) from None
