"""Errors of params.yaml in words: where, what arrived, and the nearest valid name."""

import difflib
from collections.abc import Iterable
from types import NoneType
from typing import Any, get_args, get_origin

from pydantic import ValidationError

from lotlip.params.section import Section


def nearest(key: str, names: Iterable[str]) -> str:
    """A hint at the valid name that `key` may be a slip of, or at all of them."""
    known = list(names)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(known)}"


def problems(error: ValidationError, values: dict[str, Any], top: type[Section]) -> list[str]:
    """A line for each problem, its key first; `values` is what was read, `top` the class that refused it."""
    lines = []
    for problem in error.errors():
        # A discriminated union puts its tag (`url_table`) into the location: it is no key of the file.
        path = _file_path(problem["loc"], values)
        dotted = ".".join(path)
        if problem["type"] == "extra_forbidden":
            lines.append(f"{dotted}: unknown key{_hint(path[-1], problem['loc'], top)}")
        elif problem["type"] == "union_tag_not_found":
            lines.append(f"{dotted}.kind: missing")
        elif problem["type"] == "missing":
            lines.append(f"{dotted}: missing")
        else:
            message = problem["msg"].removeprefix("Value error, ")
            is_section = isinstance(problem["input"], dict | Section)  # whose message names what is wrong in it
            lines.append(f"{dotted}: {message}" + ("" if is_section else f", got {problem['input']!r}"))
    return lines


def _file_path(location: tuple[int | str, ...], values: Any) -> list[str]:
    path: list[str] = []
    for i, part in enumerate(location):
        is_last = i == len(location) - 1
        if isinstance(values, dict) and (part in values or is_last):
            path.append(str(part))
            values = values.get(part)
    return path


def _hint(key: str, location: tuple[int | str, ...], top: type[Section]) -> str:
    section: Any = top
    for part in location[:-1]:
        section = _descend(section, str(part))
    if section is None:
        return ""
    return nearest(key, [field.alias or name for name, field in section.model_fields.items()])


def _present(annotation: Any) -> Any:
    """What an optional section is when it is there."""
    variants = [variant for variant in get_args(annotation) if variant is not NoneType]
    return variants[0] if NoneType in get_args(annotation) and len(variants) == 1 else annotation


def _descend(section: Any, part: str) -> Any:
    """The section class under `part`: a field, an entry of a named mapping, or the variant a tag names."""
    if isinstance(section, type) and issubclass(section, Section):
        for name, field in section.model_fields.items():
            if part == (field.alias or name):
                return _present(field.annotation)
        return None
    arguments: tuple[Any, ...] = get_args(section)
    if get_origin(section) is dict:
        return arguments[1]
    for variant in get_args(arguments[0]) if arguments else ():
        if part in get_args(variant.model_fields["kind"].annotation):
            return variant
    return None
