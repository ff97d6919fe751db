"""The stages of dvc.yaml, as DVC itself sees them. DVC's own graph is the only one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotlip.errors import LotlipError


class GraphError(LotlipError):
    """dvc.yaml cannot be read, or has no such stage."""


@dataclass(frozen=True)
class Stage:
    """A stage: its name, the stages it waits for, the JSON metrics files it writes, whether it has to run."""

    name: str
    needs: tuple[str, ...]
    metrics: tuple[Path, ...]
    is_changed: bool


def read_stages(root: Path, targets: Sequence[str] = (), force: bool = False) -> list[Stage]:
    """The stages that `targets` need (all by default), each after those it needs.

    Args:
        root: the DVC project.
        targets: names of stages (`train@lotlip`, or `train` for all its instances).
        force: treat every stage as changed.

    Raises:
        GraphError: there is no DVC project, dvc.yaml has an error, or a target is unknown.
    """
    from dvc.repo import Repo
    from dvc.repo.reproduce import plan_repro

    with _dvc_errors(), Repo(str(root)) as repo:
        graph = repo.index.graph
        wanted = [stage for target in targets for stage in repo.stage.collect(target)]
        planned = plan_repro(graph, wanted or None)
        changed = set() if force else set(repo.status())
        return [
            Stage(
                stage.addressing,
                tuple(sorted(needed.addressing for needed in graph.successors(stage))),
                _metrics_files(stage),
                force or stage.addressing in changed,
            )
            for stage in planned
            if not stage.is_data_source
        ]


def _metrics_files(stage: Any) -> tuple[Path, ...]:
    return tuple(Path(out.fs_path) for out in stage.outs if out.metric and out.fs_path.endswith(".json"))


@contextmanager
def _dvc_errors() -> Iterator[None]:
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        raise GraphError(f"DVC cannot plan the pipeline: {error}") from error
