"""kill -9 of training in the middle of an epoch, and of the workers that decode for it: nothing lost, nothing twice."""

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import Loader
from lotlip.data.loading.order import EpochOrder
from lotlip.data.loading.pixels import PixelSource
from lotlip.errors import ExecutorError
from lotlip.params import Method
from tests.training import tiny_training
from tests.training.tiny_training import LOTLIP, UNLOCKED, KillAt, Project


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("method", "changes", "resumes_after"),
    [
        (LOTLIP, {}, 4),
        (LOTLIP, {"checkpoints": {"every_steps": 1}}, 5),
        (UNLOCKED, {"checkpoints": {"every_steps": 2}, "num_workers": 2, "order": "shards", "window_shards": 1}, 4),
        (UNLOCKED, {"checkpoints": {"every_steps": 5}, "num_workers": 2}, 5),
    ],
)
def test_training_killed_at_step_6_ends_with_bit_identical_weights(
    method: Method, changes: dict[str, object], resumes_after: int, tmp_path: Path
) -> None:
    (tmp_path / "killed").mkdir()
    command = [sys.executable, tiny_training.__file__, tmp_path / "killed", "6"]
    arguments = [method.model_dump_json(), json.dumps(changes)]
    killed = subprocess.run([*command, *arguments], check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "killed/model").exists()
    project = Project(tmp_path / "killed")
    watcher = KillAt(step=10**9)
    project.train(method, callbacks=(watcher,), **changes)
    assert watcher.started_at == resumes_after
    changes.update(num_workers=0, checkpoints={"every_steps": None})
    project.train(method, name="whole", work="fresh", **changes)
    weights = [(project.folder / name / "model.safetensors").read_bytes() for name in ("model", "whole")]
    assert weights[0] == weights[1]


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
    weights = [(project.folder / name / "model.safetensors").read_bytes() for name in ("model", "whole")]
    assert weights[0] == weights[1]


def first_value(data: bytes, rng: random.Random) -> torch.Tensor:
    """The image's number, made by hand of its bytes, in place of pixels."""
    return torch.tensor([float(sum(data)), rng.random()])


def die(data: bytes, rng: random.Random) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def open_loader(project: Project, transform, num_workers: int) -> Loader:
    source = PixelSource(ImageReader([project.images], project.folder / "spans"), transform, seed=0)
    order = EpochOrder([sample.shard for sample in project.samples], seed=0)
    return Loader(project.samples, order, batch_size=4, num_epochs=2, pixels=source, num_workers=num_workers)


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
        assert torch.equal(a.pixels, b.pixels)
    for epoch in range(2):
        seen = np.concatenate([batch.indices for batch in found if batch.epoch == epoch])
        assert sorted(seen) == list(range(64))


def test_workers_that_die_again_and_again_end_the_run_with_a_message(tmp_path: Path) -> None:
    loader = open_loader(Project(tmp_path), die, 1)
    with pytest.raises(ExecutorError, match=r"died 3 times in a row before batch 1 of epoch 1.*train\.num_workers"):
        next(iter(loader))
