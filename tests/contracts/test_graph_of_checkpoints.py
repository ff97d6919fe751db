"""DVC takes the empty section `checkpoints`, and makes a stage of each entry that the report waits for."""

import shutil
from pathlib import Path

from dvc.repo import Repo

from lotlip.overlays import apply_overlays

TOP = Path(__file__).parents[2]


def checkpoint_stages(folder: Path) -> dict[str, set[str]]:
    """The stages of checkpoints, and what each is needed by."""
    with Repo(str(folder)) as repo:
        graph = repo.index.graph
        named = {stage.name: stage for stage in graph if stage.name.startswith("evaluate_checkpoint@")}
        return {name: {user.name for user in graph.predecessors(stage)} for name, stage in named.items()}


def test_each_entry_is_a_stage_that_the_report_needs(tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(TOP / name, tmp_path)
    Repo.init(str(tmp_path), no_scm=True).close()
    assert checkpoint_stages(tmp_path) == {}
    apply_overlays([TOP / "conf/checkpoints.yaml"], [], tmp_path / "params.yaml")
    assert checkpoint_stages(tmp_path) == {
        f"evaluate_checkpoint@{name}": {"report"} for name in ("clip_b16", "clip_b32", "siglip_b16", "align_base")
    }
