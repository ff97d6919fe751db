"""What training does about numbers that are not finite, and its alarm at a jump of the loss: by hand, in whole runs."""

import statistics

import pytest
import torch

from lotlip.data.loading.loader import Loader
from lotlip.data.loading.order import EpochOrder
from lotlip.errors import ModelError
from lotlip.params import Guards
from lotlip.training.guards import MIN_WINDOW, WINDOW, Watch
from lotlip.training.objective import compute_loss
from lotlip.training.step import StepResult
from lotlip.training.texts import TextSource
from tests.training.tiny_training import KillAt, Project

GUARDS = Guards(max_skipped_steps=3, max_rollbacks=2, spike_deviations=4.0)


def step(loss: float) -> StepResult:
    return StepResult(loss, (loss,), 1.0, skipped=loss != loss)


def test_the_alarm_by_hand() -> None:
    watch = Watch()
    losses = [1.0, 3.0] * (MIN_WINDOW // 2)
    assert [watch.see(step(loss), GUARDS) for loss in [*losses[:-1], 100.0]] == [None] * MIN_WINDOW, "too few before"
    watch = Watch()
    for loss in losses:
        watch.see(step(loss), GUARDS)
    limit = 2.0 + 4.0 * statistics.stdev(losses)
    assert watch.see(step(limit), GUARDS) is None
    limit = statistics.fmean([*losses, limit]) + 4.0 * statistics.stdev([*losses, limit])
    assert watch.see(step(limit + 1e-6), GUARDS).startswith(f"loss {limit:.3f} is far above the 2.")
    assert watch.spikes == 1
    for _ in range(2 * WINDOW):
        assert watch.see(step(5.0), GUARDS) is None, "one level is no jump, even where nothing deviates"
    assert len(watch.losses) == WINDOW


def test_skipped_steps_in_a_row_by_hand() -> None:
    watch, nan = Watch(), float("nan")
    for loss in (1.0, nan, nan, 1.0, nan, nan):
        watch.see(step(loss), GUARDS)
        assert not watch.must_roll_back(GUARDS)
    watch.see(step(nan), GUARDS)
    assert watch.must_roll_back(GUARDS)
    watch.rolled_back(7, 2, GUARDS)
    assert (watch.skipped, watch.skipped_in_row, watch.rollbacks) == (5, 0, 1)
    assert watch.lost_steps == 2, "steps 3 and 4, which were taken"
    watch.rolled_back(9, 7, GUARDS)
    with pytest.raises(ModelError, match=r"after 2 returns to earlier checkpoints: lower train\.learning_rate"):
        watch.rolled_back(12, 9, GUARDS)


def poison(monkeypatch: pytest.MonkeyPatch, project: Project, bad: set[int]) -> None:
    """Losses of batches `bad` (from 0, of all epochs) become NaN, each time these batches come."""
    shown = {}

    def remember(source: TextSource, samples, visits):
        shown["keys"] = [(sample.key, visit) for sample, visit in zip(samples, visits, strict=True)]
        return batch(source, samples, visits)

    def spoil(output, *settings):
        loss, slots = compute_loss(output, *settings)
        return (loss * float("nan"), slots) if order.index(shown["keys"]) in bad else (loss, slots)

    batch, order = TextSource.batch, batches_of(project)
    monkeypatch.setattr(TextSource, "batch", remember)
    monkeypatch.setattr("lotlip.training.step.compute_loss", spoil)


def batches_of(project: Project) -> list[list[tuple[str, int]]]:
    """Key and visit of each pair of each batch of a run."""
    order = EpochOrder(project.samples.shards, project.settings().seed)
    loader = Loader(project.samples, order, batch_size=16, num_epochs=3)
    return [
        [(project.samples[i].key, visit) for i, visit in zip(batch.indices, batch.visits, strict=True)]
        for batch in loader
    ]


def checkpoint(project: Project, killed_at: int, step: int) -> dict:
    (path,) = project.folder.glob(f"work{killed_at}/train/*/step-{step:09d}.pt")
    return torch.load(path, weights_only=True)


def test_a_step_that_is_not_finite_is_skipped_and_counted(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, project, {2, 6})
    watcher = KillAt(step=10**9)
    metrics = project.train(callbacks=(watcher,)).metrics
    assert (metrics["skipped_steps"], metrics["rollbacks"], metrics["steps"]) == (2, 0, 12)
    assert [text == "not finite (loss nan, gradient nan): the step is skipped" for text in watcher.warnings] == [
        True,
        True,
    ]


def test_too_many_in_a_row_lead_back_to_the_last_checkpoint_and_past_the_data(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"guards": {"max_skipped_steps": 3}, "checkpoints": {"every_steps": 2, "keep": 9}}
    poison(monkeypatch, project, {5, 6, 7, 9})
    watcher = KillAt(step=10**9)
    whole = project.train(callbacks=(watcher,), name="whole", **changes).metrics
    assert (whole["skipped_steps"], whole["rollbacks"], whole["rolled_back_steps"]) == (4, 1, 1)
    assert "3 steps in a row were skipped: back to the weights of step 4, past these data" in watcher.warnings
    assert whole["pairs_seen"] == 12 * 16

    # Killed at any time around it, the run ends the same.
    for step in (4, 6, 8, 9, 11):
        with pytest.raises(KeyboardInterrupt):
            project.train(callbacks=(KillAt(step),), work=f"work{step}", **changes)
        # Step 5 was taken and is lost; the poisoned steps 6 to 8 have no checkpoint but the one after it all.
        if step == 11:
            for name, weight in checkpoint(project, step, 4)["model"].items():
                assert torch.equal(weight, checkpoint(project, step, 8)["model"][name]), name
        assert project.train(work=f"work{step}", **changes).metrics == whole
        weights = [(project.folder / name / "model.safetensors").read_bytes() for name in ("model", "whole")]
        assert weights[0] == weights[1]


def test_a_run_that_cannot_be_saved_says_so(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, project, set(range(1, 12)))
    guards = {"max_skipped_steps": 2, "max_rollbacks": 1}
    with pytest.raises(ModelError, match="2 steps in a row, up to step 5, were not finite, after 1 return"):
        project.train(guards=guards, epochs=3)


def test_an_epoch_without_a_finite_step_is_one_of_the_guards_business(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, project, {4, 5, 6, 7})
    result = project.train()
    assert (result.metrics["skipped_steps"], result.metrics["steps"]) == (4, 12)
    alone = project.train(epochs=None, steps=5, work="short")
    assert (alone.metrics["skipped_steps"], alone.metrics["steps"]) == (1, 5)
    first_epoch = statistics.fmean(row["loss"] for row in alone.curve)
    assert [row["step"] for row in alone.curve] == [1, 2, 3, 4]
    assert alone.metrics["loss"] == pytest.approx(first_epoch, rel=1e-5), "of the last epoch that had a step"


def test_a_run_without_a_finite_step_is_an_error(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, project, set(range(12)))
    with pytest.raises(ModelError, match="all 12 steps were not finite"):
        project.train(guards={"max_skipped_steps": 20})
    assert not (project.folder / "model").exists()
