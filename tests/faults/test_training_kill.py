"""kill -9 of training in the middle of an epoch, and of the workers that decode for it: nothing lost, nothing twice."""

import multiprocessing
import os
import random
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import Loader
from lotlip.data.loading.order import EpochOrder
from lotlip.data.loading.pixels import PixelSource, SamplePixels
from lotlip.errors import ExecutorError
from lotlip.params import Method
from tests.training.tiny_training import LOTLIP, UNLOCKED, KillAt, Project, run_script


def saved_steps(folder: Path) -> list[int]:
    return sorted(int(path.stem.partition("-")[2]) for path in folder.glob("work/train/*/step-*.pt"))


def weights(folder: Path, name: str = "model") -> bytes:
    return (folder / name / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("method", "changes", "resumes_after"),
    [
        (LOTLIP, {}, 4),
        (LOTLIP, {"checkpoints": {"every_steps": 1}}, 5),
        (UNLOCKED, {"checkpoints": {"every_steps": 2}, "num_workers": 2, "order": "shards", "window_shards": 1}, 4),
        (UNLOCKED, {"checkpoints": {"every_steps": 5}, "num_workers": 2}, 5),
        (LOTLIP, {"compute": {"micro_batch_size": 6, "gradient_checkpointing": True}}, 4),
    ],
)
def test_training_killed_at_step_6_ends_with_bit_identical_weights(
    method: Method, changes: dict[str, Any], resumes_after: int, tmp_path: Path
) -> None:
    run = {"method": method.model_dump(), "settings": changes}
    killed = run_script(tmp_path, [{**run, "step": 6, "signal": "SIGKILL"}])
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "model").exists()
    project, watcher = Project(tmp_path), KillAt(step=10**9)
    project.train(method, callbacks=(watcher,), **changes)
    assert watcher.started_at == resumes_after
    project.train(method, name="whole", work="fresh", **{**changes, "num_workers": 0, "checkpoints": {}})
    assert weights(tmp_path) == weights(tmp_path, "whole")


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_killed_at_random_steps_end_with_bit_identical_weights(sharding: str, tmp_path: Path) -> None:
    settings = {"checkpoints": {"every_steps": 2}, "compute": {"processes": 2, "sharding": sharding}}
    steps = sorted(random.Random(sharding).sample(range(1, 12), 2))
    for step in steps:
        killed = run_script(tmp_path, [{"settings": settings, "step": step, "signal": "SIGKILL"}], 2)
        assert killed.returncode != 0
        assert not (tmp_path / "model").exists(), steps
        assert saved_steps(tmp_path)[-1] == (step - 1) // 2 * 2, steps
    runs = [{"settings": settings}, {"settings": settings, "name": "whole", "work": "fresh"}]
    finished = run_script(tmp_path, runs, 2)
    assert finished.returncode == 0, finished.stderr
    assert weights(tmp_path) == weights(tmp_path, "whole"), steps


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    common = {"text_dropout": 0.0, "learning_rate": 1e-3, "checkpoints": {"every_steps": 1}}
    two = {**common, "compute": {"processes": 2, "sharding": "fsdp"}}
    stopped = run_script(tmp_path, [{"settings": two, "step": 5, "signal": "SIGTERM"}], 2)
    assert stopped.returncode != 0
    assert saved_steps(tmp_path) == [4, 5]
    project, watcher = Project(tmp_path), KillAt(step=10**9)
    resumed = project.train(callbacks=(watcher,), **common)
    assert watcher.started_at == 5
    whole = project.train(name="whole", work="fresh", **common)
    assert resumed.metrics == pytest.approx(whole.metrics, rel=1e-5)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_training_after_the_step_with_a_checkpoint(name: str, tmp_path: Path) -> None:
    run = {"method": UNLOCKED.model_dump(), "settings": {"num_workers": 2}}
    stopped = run_script(tmp_path, [{**run, "step": 6, "signal": name}])
    if name == "SIGTERM":
        assert stopped.returncode == 128 + signal.SIGTERM, stopped.stderr
    else:
        assert stopped.stderr.endswith("\nKeyboardInterrupt\n")
    assert "warning at step 6: stopped by a signal; the same command goes on after step 6" in stopped.stdout
    project, watcher = Project(tmp_path), KillAt(step=10**9)
    project.train(UNLOCKED, callbacks=(watcher,))
    assert watcher.started_at == 6
    project.train(UNLOCKED, name="whole", work="fresh")
    assert weights(tmp_path) == weights(tmp_path, "whole")


class KillWorker(KillAt):
    """Kills a worker while the training process is at a step."""

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        if step == self.step:
            worker = multiprocessing.active_children()[0]
            worker.kill()
            worker.join()


def test_a_worker_killed_during_a_step_changes_no_result(tmp_path: Path) -> None:
    project = Project(tmp_path)
    expected = project.train(UNLOCKED, name="whole", work="whole")
    assert project.train(UNLOCKED, callbacks=(KillWorker(3),), num_workers=2) == expected
    assert weights(tmp_path) == weights(tmp_path, "whole")


def first_value(data: bytes, rng: random.Random) -> torch.Tensor:
    """The image's number, made by hand of its bytes, in place of pixels."""
    return torch.tensor([float(sum(data)), rng.random()])


def die(data: bytes, rng: random.Random) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def open_loader(project: Project, transform, num_workers: int) -> Loader:
    pixels = PixelSource(ImageReader([project.images], project.folder / "spans"), transform, seed=0)
    source = SamplePixels(project.samples, pixels)
    order = EpochOrder(project.samples.shards, seed=0)
    return Loader(project.samples, order, batch_size=4, num_epochs=2, source=source, num_workers=num_workers)


def test_a_killed_worker_is_replaced_without_losing_or_repeating_a_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = Project(tmp_path)
    expected = list(open_loader(project, first_value, 0))
    found = []
    for batch in open_loader(project, first_value, 2):
        found.append(batch)
        if len(found) == 5:
            workers = [child for child in multiprocessing.active_children() if child.pid]
            assert len(workers) == 2
            os.kill(workers[0].pid, signal.SIGKILL)
            workers[0].join()
    assert "before batch" in capsys.readouterr().out
    assert len(found) == 2 * 16
    for a, b in zip(expected, found, strict=True):
        assert (a.epoch, a.number) == (b.epoch, b.number)
        np.testing.assert_array_equal(a.indices, b.indices)
        assert torch.equal(a.content, b.content)
    for epoch in range(2):
        seen = np.concatenate([batch.indices for batch in found if batch.epoch == epoch])
        assert sorted(seen) == list(range(64))


def test_workers_that_die_again_and_again_end_the_run_with_a_message(tmp_path: Path) -> None:
    loader = open_loader(Project(tmp_path), die, 1)
    with pytest.raises(ExecutorError, match=r"died 3 times in a row before batch 1 of epoch 1.*train\.num_workers"):
        next(iter(loader))
