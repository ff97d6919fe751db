"""The scripts for GPUs, tried out on a CPU at a tiny size as real processes; what they find on one is in LOG.md."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOP = Path(__file__).parents[1]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, f"benchmarks/gpu/{script}.py", *arguments]
    return subprocess.run(command, cwd=TOP, capture_output=True, text=True, timeout=100)


def test_the_step_benchmark(tmp_path: Path) -> None:
    cases = ("--towers", "cached", "unlocked", "--long", "1", "--checkpointing", "--profile")
    done = run("bench_step", "--device", "cpu", "--tiny", "--out", str(tmp_path), *cases)
    assert done.returncode == 0, done.stderr
    for tower in ("cached", "unlocked"):
        name = f"gpu_step_{tower}_1+1_checkpointed"
        found = json.loads((tmp_path / f"{name}.json").read_text())
        assert found["loss_difference"] < 1e-2, "two ways to the same loss, in bfloat16"
        assert found["packed_pairs_per_s"] > 0
        assert found["padded_pairs_per_s"] > 0
        assert "aten::mm" in (tmp_path / f"{name}.profile.txt").read_text()


def test_the_check_of_equality(tmp_path: Path) -> None:
    done = run("check_equality", "--device", "cpu", "--tiny", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu_equality.json").read_text())
    assert found["failed"] == []
    differences = {row["check"]: row["difference"] for row in found["checks"]}
    assert differences["bert: float32, text gradients"] == 0.0
    assert 0 < differences["causal: bfloat16, text features"] < 0.03
    assert differences["deterministic, twice"] == 0.0


def test_the_benchmark_of_retrieval(tmp_path: Path) -> None:
    done = run("bench_retrieval", "--device", "cpu", "--tiny", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "gpu_retrieval.json").read_text())
    assert found["cosine_ranks_that_differ"] == found["token_ranks_that_differ"] == 0
    assert found["rounded_ranks_that_differ"] == 0
    assert found["600_blocks_s"] > 0


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", ["bench_step", "check_equality"])
def test_without_a_gpu_they_say_so(script: str) -> None:
    done = run(script)
    assert done.returncode == 2
    assert "this is for a GPU" in done.stderr
