"""Adding runs to docs/results/runs.jsonl."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lotlip.records import write_text


def record_runs(path: Path, runs: Iterable[Mapping[str, Any]]) -> None:
    """Add runs to the file, in the place of those of the same method and seed, sorted by these two.

    Other seeds of a method stay: where their settings differ, `read_runs` says so.
    """
    lines = path.read_text().splitlines() if path.is_file() else []
    found = {_key(run): run for run in [*map(json.loads, lines), *runs]}
    ordered = (found[key] for key in sorted(found))
    write_text(path, "".join(f"{json.dumps(run, sort_keys=True)}\n" for run in ordered))


def _key(run: Mapping[str, Any]) -> tuple[str, int]:
    """A public checkpoint has no seed, and comes first."""
    return run["method"], -1 if run["seed"] is None else run["seed"]
