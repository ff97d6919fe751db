"""ablations.yaml: which methods stand in which table of the poster, under what label, and with which seeds."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from lotlip.errors import ParamsError
from lotlip.params.explain import nearest
from lotlip.params.reading import read_section
from lotlip.params.section import Name, Section

ABLATIONS = Path("ablations.yaml")
BARE = "no mask"
_NUMBER = r"[1-9]\d*"
_LABELS = {
    "corner_tokens": (rf"0|{_NUMBER} (no )?mask", '"0", "2 mask" or "2 no mask"'),
    "sub_captions": (_NUMBER, "a number of sub-captions"),
    "token_limit": (_NUMBER, "a number of tokens"),
}
TableName = Literal["main_results", "corner_tokens", "sub_captions", "token_limit", "texts", "captioners"]
Label = Annotated[str, BeforeValidator(str)]  # YAML reads 24 as a number


class Table(Section):
    """A table of runs: its title, and the method behind each label, from top to bottom."""

    title: str
    rows: Annotated[dict[Label, Name], Field(min_length=1)]


class Ablations(Section):
    """The file as a whole: `overlays` define the methods, each is trained once with each of the `seeds`.

    Labels of corner_tokens are `0`, `2 mask`, `2 no mask`; of sub_captions and token_limit numbers. They ascend.
    """

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    overlays: list[Path]
    tables: dict[TableName, Table]

    @model_validator(mode="after")
    def _check(self) -> "Ablations":
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds: {self.seeds} has one twice")
        for name, table in self.tables.items():
            if name in _LABELS:
                _check_labels(name, table)
        return self

    def table(self, name: str) -> Table:
        """The table of this name.

        Raises:
            ParamsError: there is none; the message lists those there are.
        """
        for known, table in self.tables.items():
            if known == name:
                return table
        raise ParamsError(f"{ABLATIONS.name} has no table {name!r}{nearest(name, self.tables)}")


def read_ablations(path: Path = ABLATIONS) -> Ablations:
    """Read ablations.yaml.

    Raises:
        ParamsError: it is missing or not YAML, or a key, label or method's name does not fit.
    """
    return read_section(path, Ablations)


def row_number(label: str) -> int:
    """The number a label of a sweep starts with: 2 of `2 no mask`."""
    return int(label.split()[0])


def _check_labels(name: str, table: Table) -> None:
    pattern, expected = _LABELS[name]
    for label in table.rows:
        if not re.fullmatch(pattern, label):
            raise ValueError(f"tables.{name}.rows: label {label!r}; expected {expected}")
    for is_bare in (False, True):
        numbers = [row_number(label) for label in table.rows if label.endswith(BARE) == is_bare]
        if any(first >= second for first, second in pairwise(numbers)):
            raise ValueError(f"tables.{name}.rows: {', '.join(map(str, numbers))} do not ascend")
