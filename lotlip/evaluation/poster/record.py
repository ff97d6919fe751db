"""Adding runs to docs/results/runs.jsonl."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lotlip.errors import DataError
from lotlip.records import write_text

Key = tuple[str, int]


def record_runs(path: Path, runs: Iterable[Mapping[str, Any]]) -> None:
    """Add runs to the file, in the place of those of the same method and seed, sorted by these two.

    Other seeds of a method stay: where their settings differ, `read_runs` says so.

    Raises:
        DataError: a line of the file is no run.
    """
    found = read_records(path) | {_key(run): run for run in runs}
    ordered = (found[key] for key in sorted(found))
    write_text(path, "".join(f"{json.dumps(run, sort_keys=True)}\n" for run in ordered))


def read_records(path: Path) -> dict[Key, Mapping[str, Any]]:
    """The runs of the file as they stand there, by method and seed; none where it is missing.

    Raises:
        DataError: a line is no run.
    """
    found = {}
    for number, line in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
        try:
            run = json.loads(line)
            found[_key(run)] = run
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{path}, line {number} is no run: take it out, and run the sweep again.") from None
    return found


def _key(run: Mapping[str, Any]) -> Key:
    """A public checkpoint has no seed, and comes first."""
    return run["method"], -1 if run["seed"] is None else run["seed"]
