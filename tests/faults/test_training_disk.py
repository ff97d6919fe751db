"""A disk that fills up while a checkpoint is written: a message, and the checkpoints before it stay good."""

from pathlib import Path

from tests.training.tiny_training import KillAt, Project, run_script

SETTINGS = {"checkpoints": {"every_steps": 2, "keep": 9}}


def weights(folder: Path, name: str = "model") -> bytes:
    return (folder / name / "model.safetensors").read_bytes()


def test_a_full_disk_stops_training_with_a_message_and_costs_what_was_not_saved(tmp_path: Path) -> None:
    killed = run_script(tmp_path, [{"settings": SETTINGS, "step": 5, "signal": "SIGKILL"}])
    assert killed.returncode < 0
    (first, *_) = saved = sorted(tmp_path.glob("work/train/*/step-*.pt"))
    assert [path.name for path in saved] == ["step-000000000.pt", "step-000000002.pt", "step-000000004.pt"]

    full = run_script(tmp_path, [{"settings": SETTINGS}], most_bytes=first.stat().st_size // 2)
    assert full.returncode == 1
    assert "No space left on the disk" in full.stderr
    assert sorted(tmp_path.glob("work/train/*/step-*.pt")) == saved
    assert not list(tmp_path.glob("work/train/**/*.tmp"))

    project, watcher = Project(tmp_path), KillAt(step=10**9)
    project.train(callbacks=(watcher,), **SETTINGS)
    assert watcher.started_at == 4
    project.train(name="whole", work="fresh")
    assert weights(tmp_path) == weights(tmp_path, "whole")


def test_a_disk_that_is_full_from_the_start_shows_before_the_first_step(tmp_path: Path) -> None:
    full = run_script(tmp_path, [{}], most_bytes=20_000)
    assert full.returncode == 1
    assert "No space left on the disk" in full.stderr
    assert "work/train keeps what is finished" in full.stderr
    assert not list(tmp_path.glob("work/train/*/step-*"))


def test_a_disk_that_is_full_when_the_model_is_written(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.train(name="whole")
    full = run_script(tmp_path, [{}], most_bytes=20_000)  # all steps are done
    assert full.returncode == 1
    assert "No space left on the disk" in full.stderr
    assert full.stderr.splitlines()[-1].startswith("lotlip.errors.DataError: No space left on the disk")
    assert not (tmp_path / "model").exists()
    project.train()
    assert weights(tmp_path) == weights(tmp_path, "whole")
