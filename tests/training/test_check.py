"""Settings that do not fit together are told before anything is read, all at once."""

import shutil
from pathlib import Path

import pytest

from lotlip.errors import ParamsError
from lotlip.params import Method
from lotlip.training.check import check_method, require_consistent
from tests.training.tiny_training import LIT, LOTLIP, Project, with_changes


def test_settings_that_fit(project: Project) -> None:
    checked = check_method("lotlip", project.settings(cached_crops=3, augment=None), LOTLIP, 64, project.folder)
    assert (checked.problems, checked.notes) == ((), ())
    assert checked.feature_bytes == 64 * 3 * 16 * 2
    assert checked.model is not None
    assert checked.checkpoint_bytes == 3 * 12 * checked.model.num_trained  # two stay, and one is being written
    unlocked = check_method("mine", project.settings(), Method(image_tower="unlocked"), 64)
    assert (unlocked.problems, unlocked.feature_bytes) == ((), 0)


@pytest.mark.parametrize(
    ("changes", "method", "num_pairs", "message"),
    [
        ({}, LIT, 15, "15 pairs do not fill one batch of train.batch_size 16"),
        ({"warmup_share": None, "warmup_steps": 12}, LIT, 64, "the warm-up takes 12 of 12 steps"),
        ({"warmup_share": 1.0}, LIT, 64, "the warm-up takes 12 of 12 steps"),
        ({"epochs": None, "steps": 5, "warmup_share": None, "warmup_steps": 9}, LIT, None, "takes 9 of 5 steps"),
        ({"compute": {"processes": 3}}, LIT, 64, "batch_size 16 cannot be shared by 3 processes"),
        ({"embed_dim": 20}, LIT, 64, "image tower is 16 wide and embed_dim is 20"),
        ({"text_width": 30, "text_heads": 4}, LIT, 64, "text_width 30 is not a multiple of text_heads 4"),
        ({"image_tower": "nowhere"}, LIT, 64, "image tower nowhere is not a folder here"),
        ({"token_limit": 8}, Method(num_long=1, corner_tokens=6), 64, "token_limit 8 leaves no room for text"),
        ({"weight_raw": 0.0}, LIT, 64, "every text has weight 0"),
        ({}, Method(corner_tokens=2), 64, "corner_tokens 2 are read of long texts alone, and num_long is 0"),
        ({}, Method(num_long=1, short_components=16), 64, "short_components 16 of train.embed_dim 16 leave nothing"),
        ({"compute": {"sdpa": "flash"}}, LIT, 64, "sdpa flash takes 16 bits, and precision is float32"),
        ({"cached_crops": 10**12}, LIT, 64, "lower train.cached_crops"),
    ],
)
def test_each_problem_is_told(
    project: Project, changes: dict[str, object], method: Method, num_pairs: int | None, message: str
) -> None:
    (problem,) = check_method("mine", project.settings(**changes), method, num_pairs, project.folder).problems
    assert problem.startswith("methods.mine: ")
    assert message in problem


def test_all_problems_at_once(project: Project) -> None:
    settings = with_changes(project.settings(), {"weight_raw": 0.0, "embed_dim": 20})
    with pytest.raises(ParamsError) as error:
        require_consistent("lit", settings, LIT, 3, project.folder / "not/there/yet")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("methods.lit: ") for line in lines)


def test_what_an_earlier_run_left_on_the_disk_is_not_wanted_twice(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(project.folder)._replace(free=10_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    settings, work = project.settings(), project.folder / "work"
    (problem,) = check_method("lit", settings, LIT, 64, work).problems
    assert "checkpoints 0.0 GB, and the disk of" in problem
    (work / "train/run").mkdir(parents=True)
    (work / "train/run/step.pt").write_bytes(bytes(10**7))
    assert check_method("lit", settings, LIT, 64, work).problems == ()


def test_more_at_a_time_than_there_is_is_only_noted(project: Project) -> None:
    (note,) = check_method("lit", project.settings(compute={"micro_batch_size": 64}), LIT, 64).notes
    assert "micro_batch_size 64 is more than a process has (16)" in note


def test_known_hub_ids_need_no_files(tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    hub = {
        "image_tower": "google/vit-base-patch16-224-in21k",
        "text_tower": "google-bert/bert-base-uncased",
        "tokenizer": "google-bert/bert-base-uncased",
        **{f"{part}_revision": "0" * 40 for part in ("image_tower", "text_tower", "tokenizer")},
    }
    settings = project.settings(**hub, embed_dim=768, token_limit=128)
    checked = check_method("lotlip", settings, LOTLIP, 64)
    assert checked.problems == ()
    assert [note.partition(" from ")[0] for note in checked.notes] == [
        "sizes of google/vit-base-patch16-224-in21k",
        "sizes of google-bert/bert-base-uncased",
    ]
    assert checked.model is not None
    # BERT-base has 109,482,240 parameters (2 corners more here) and ViT-B/16 without a head 85,798,656.
    assert checked.model.num_trained == 109_482_240 + 2 * 768 + 768**2 + 1
    assert checked.model.num_locked == 85_798_656
    wrong = settings.model_copy(update={"tokenizer": "openai/clip-vit-base-patch16"})
    (problem,) = check_method("lotlip", wrong, LOTLIP, 64).problems
    assert "knows 30522 ids and the tokenizer openai/clip-vit-base-patch16 has 49408" in problem
    far = settings.model_copy(update={"token_limit": 600})
    assert any("has 512 positions and token_limit is 600" in note for note in check_method("x", far, LOTLIP, 64).notes)
