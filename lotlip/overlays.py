"""Overlays: merge `conf/*.yaml` into params.yaml, so that params.yaml always says what runs.

An overlay has the shape of params.yaml; mappings are merged key by key, anything else replaces what was there,
and null removes an entry of a named section (a source, captioner, evaluation set, method or checkpoint).
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lotlip.errors import ParamsError
from lotlip.params import parse_params
from lotlip.records import write_text

NAMED_SECTIONS = ("sources", "captioners", "evalsets", "methods", "checkpoints")


def merge(base: Any, overlay: Any, path: tuple[str, ...] = ()) -> None:
    """Merge `overlay` into the mapping `base` in place."""
    from ruamel.yaml.comments import CommentedMap

    for key, value in overlay.items():
        if value is None and len(path) == 1 and path[0] in NAMED_SECTIONS:
            base.pop(key, None)
        elif isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value, (*path, str(key)))
        else:
            base[key] = value
    if isinstance(base, CommentedMap) and not base:
        base.fa.set_flow_style()  # else its comments would come between the key and `{}`


def apply_overlays(
    overlays: Sequence[Path],
    settings: Sequence[str],
    target: Path = Path("params.yaml"),
    only: Sequence[str] = (),
) -> None:
    """Merge overlay files and `section.key=value` settings into `target`; its comments stay.

    Nothing is written unless the result is a valid params.yaml. With `only`, of the named sections of the overlays
    nothing but the entries of these names is taken.

    Raises:
        ParamsError: a file is missing or no mapping, no overlay has an entry of a name in `only`, a setting has no
            `=`, or the result is not valid.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.width = 120
    yaml.preserve_quotes = True
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml.indent(mapping=2, sequence=4, offset=2)
    base = _read(yaml, target)
    wanted = [_read(yaml, overlay) for overlay in overlays]
    if only:
        _pick(wanted, only)
    for overlay in wanted:
        merge(base, overlay)
    for setting in settings:
        merge(base, _parse_setting(yaml, setting))
    buffer = io.StringIO()
    yaml.dump(base, buffer)
    parse_params(YAML(typ="safe", pure=True).load(buffer.getvalue()), " + ".join(map(str, [target, *overlays])))
    write_text(target, buffer.getvalue())


def _pick(overlays: Sequence[Any], names: Sequence[str]) -> None:
    """Take other entries than those named out of the named sections, in place."""
    sections = [overlay[name] for overlay in overlays for name in NAMED_SECTIONS if overlay.get(name)]
    known = {entry for section in sections for entry in section}
    if unknown := [name for name in names if name not in known]:
        there = ", ".join(sorted(known)) or "none"
        raise ParamsError(f"--only {unknown[0]}: the overlays have no such entry, they have {there}.")
    for section in sections:
        for entry in [entry for entry in section if entry not in names]:
            del section[entry]


def _read(yaml: Any, path: Path) -> Any:
    from ruamel.yaml.error import YAMLError

    try:
        values = yaml.load(path.read_text())
    except FileNotFoundError:
        known = ", ".join(sorted(str(file) for file in Path("conf").glob("*.yaml")))
        raise ParamsError(f"{path} is missing; the overlays here are {known or 'none'}.") from None
    except IsADirectoryError:
        raise ParamsError(f"{path} is a folder: name a file in it.") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        what = "a list" if isinstance(values, list) else type(values).__name__
        raise ParamsError(f"{path} holds {what}; expected a mapping of sections.")
    return values


def _parse_setting(yaml: Any, setting: str) -> dict[str, Any]:
    dotted, equals, value = setting.partition("=")
    if not equals:
        raise ParamsError(f"--set {setting}: expected section.key=value, e.g. --set train.epochs=2.")
    from ruamel.yaml.error import YAMLError

    try:
        nested: Any = yaml.load(value)
    except YAMLError as error:
        raise ParamsError(f"--set {setting}: the value is not valid YAML ({error}); quote it.") from None
    for key in reversed(dotted.split(".")):
        nested = {key: nested}
    result: dict[str, Any] = nested
    return result
