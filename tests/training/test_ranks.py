"""Several processes, parts of a batch, and both, against one process with the whole batch: losses and final weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lotlip.params import Method
from tests.training.tiny_training import LOTLIP, UNLOCKED, Project, run_script

ALL = {
    "clip": Method(image_tower="unlocked", image_projection=True, text_tower="causal"),
    "laclip": Method(text_tower="causal", short_text="raw_or_rewrite"),
    "siglip": Method(objective="sigmoid"),
    "filip": Method(text_tower="causal", objective="late_interaction"),
    "longclip": Method(
        text_tower="causal",
        short_text="first_sentence",
        num_long=1,
        long_text="whole",
        short_components=4,
        label_smoothing=0.1,
    ),
    "lotlip_sigmoid": LOTLIP.model_copy(update={"objective": "sigmoid"}),
    "lotlip_no_mask": LOTLIP.model_copy(update={"corner_mask": False}),
    "lotlip": LOTLIP,
    "unlocked": UNLOCKED,
}
# Dropout draws differ between processes and parts, so there is none here.
COMMON = {"text_dropout": 0.0, "epochs": 2, "learning_rate": 1e-3}
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def trained(work: Path) -> dict[str, Any]:
    """Weights and curve of the only run in a work folder, in the precision of training."""
    (file,) = work.glob("train/*/step-*.pt")
    return torch.load(file, weights_only=True)


def assert_close(found: Path, expected: Path, tolerance: float) -> None:
    a, b = trained(found), trained(expected)
    assert a["model"].keys() == b["model"].keys()
    for name, weight in b["model"].items():
        torch.testing.assert_close(a["model"][name], weight, atol=tolerance, rtol=tolerance)
    assert len(a["progress"]["curve"]) == len(b["progress"]["curve"]) == 8
    for one, other in zip(a["progress"]["curve"], b["progress"]["curve"], strict=True):
        assert one == pytest.approx(other, rel=max(tolerance, 1e-5)), "rows are rounded to 6 digits"
    assert a["progress"]["counts"] == b["progress"]["counts"]


@pytest.mark.parametrize("size", [5, 16])
@pytest.mark.parametrize("name", ALL)
def test_parts_of_a_batch_give_the_gradients_of_the_whole(project: Project, name: str, size: int) -> None:
    for work, micro_batch_size in (("whole", None), ("parts", size // 2)):
        compute = {"precision": "float64", "micro_batch_size": micro_batch_size}
        project.train(ALL[name], work=work, compute=compute, **COMMON)
    assert_close(project.folder / "parts", project.folder / "whole", TOLERANCE["float64"])


CASES = {
    **{
        f"{name}-{sharding}": (ALL[name], {"precision": "float64", "sharding": sharding})
        for sharding in ("ddp", "fsdp")
        for name in ("lotlip", "unlocked", "filip", "longclip", "siglip")
    },
    **{
        f"parts-{sharding}-{precision}": (
            UNLOCKED,
            {"precision": precision, "sharding": sharding, "micro_batch_size": 3, "gradient_checkpointing": True},
        )
        for sharding in ("ddp", "fsdp")
        for precision in ("float32", "float64")
    },
}


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All cases, trained one after the other by the same two processes."""
    folder = tmp_path_factory.mktemp("ranks")
    runs = [
        {
            "method": method.model_dump(),
            "settings": {**COMMON, "compute": {**compute, "processes": 2}},
            "work": f"work-{case}",
            "name": f"model-{case}",
        }
        for case, (method, compute) in CASES.items()
    ]
    ran = run_script(folder, runs, 2)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_one(two_processes: Path, project: Project, case: str) -> None:
    method, compute = CASES[case]
    project.train(method, compute={"precision": compute["precision"]}, **COMMON)
    assert_close(two_processes / f"work-{case}", project.folder / "work", TOLERANCE[compute["precision"]])
    published = load_file(two_processes / f"model-{case}/model.safetensors")
    expected = load_file(project.folder / "model/model.safetensors")
    assert published.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(published[name], weight, atol=1e-5, rtol=1e-5)
