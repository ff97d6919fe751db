"""The stages as DVC sees them."""

from pathlib import Path

import pytest

from flows.graph import GraphError, read_stages


def test_stages_come_after_what_they_need(project: Path) -> None:
    stages = read_stages(project)
    order = [stage.name for stage in stages]
    assert sorted(order) == ["download", "report", "train@lit", "train@lotlip"]
    assert (order[0], order[-1]) == ("download", "report")
    by_name = {stage.name: stage for stage in stages}
    assert by_name["report"].needs == ("train@lit", "train@lotlip")
    assert by_name["train@lit"].metrics == (project / "lit.json",)
    assert all(stage.is_changed for stage in stages)


def test_a_target_brings_only_what_it_needs(project: Path) -> None:
    assert [stage.name for stage in read_stages(project, ["train@lit"])] == ["download", "train@lit"]


def test_an_unknown_target_is_named(project: Path) -> None:
    with pytest.raises(GraphError, match="nothing"):
        read_stages(project, ["nothing"])


def test_a_broken_graph_is_said(project: Path) -> None:
    (project / "dvc.yaml").write_text("stages: [")
    with pytest.raises(GraphError, match=r"dvc\.yaml"):
        read_stages(project)
