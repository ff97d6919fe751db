"""Training as a whole: it learns, repeats itself exactly, resumes exactly, and counts what it loses."""

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from lotlip.data.manifest import describe_file
from lotlip.data.shards import ShardReader
from lotlip.errors import DataError, ModelError, ParamsError
from lotlip.model.modeling import LotlipModel
from lotlip.model.processor import LotlipProcessor
from lotlip.params import Method
from lotlip.text.subcaptions import normalize_long
from lotlip.training.curve import slot_names, write_curve
from tests.training.tiny_training import LIT, LOTLIP, UNLOCKED, KillAt, Project, pixels_of


def weights(project: Project, name: str = "model") -> bytes:
    return (project.folder / name / "model.safetensors").read_bytes()


def recall_at_1(project: Project, name: str) -> float:
    """Share of images whose own long text is the nearest of all, by the published folder alone."""
    model = LotlipModel.from_pretrained(project.folder / name).eval()
    processor = LotlipProcessor.from_pretrained(project.folder / name)
    pixels = pixels_of(project.images, project.samples, processor.image_settings, project.folder / "shards")
    texts = processor(text=[normalize_long(sample.long[0]) for sample in project.samples])
    with torch.no_grad():
        similarity = model.get_image_features(pixels) @ model.get_text_features(**texts).T
    return (similarity.argmax(dim=1) == torch.arange(len(project.samples))).float().mean().item()


def test_training_learns(project: Project) -> None:
    project.train(name="start", epochs=1, learning_rate=1e-9)
    result = project.train(epochs=50, run_length=4, text_dropout=0.0)
    assert result.metrics["loss_long"] < 0.5 * result.curve[0]["loss_long"]
    assert result.metrics["loss_raw"] < 0.9 * result.curve[0]["loss_raw"]
    assert recall_at_1(project, "start") < 0.1
    assert recall_at_1(project, "model") > 0.3


def test_equal_seeds_give_equal_bytes_and_other_seeds_do_not(project: Project) -> None:
    first = project.train(work="work1")
    expected = weights(project)
    assert project.train(work="work2") == first
    assert weights(project) == expected
    project.train(work="work3", seed=1)
    assert weights(project) != expected


@pytest.mark.parametrize("method", [LOTLIP, UNLOCKED])
def test_other_images_under_the_same_keys_are_trained_on_anew(project: Project, method: Method) -> None:
    project.train(method)
    first = weights(project)
    project.repaint()
    project.train(method)
    again = weights(project)
    project.train(method, work="fresh")
    assert again == weights(project) != first


@pytest.mark.parametrize("every", [None, 1, 3])
@pytest.mark.parametrize("step", [1, 4, 5, 11])  # 4 steps an epoch; a step is logged before its checkpoint
def test_a_stopped_run_resumes_at_its_checkpoint_with_equal_results(
    project: Project, step: int, every: int | None
) -> None:
    expected_result, expected = project.train(work="whole"), weights(project)
    with pytest.raises(KeyboardInterrupt):
        project.train(name="other", callbacks=(KillAt(step),), checkpoints={"every_steps": every})
    assert not (project.folder / "other").exists()
    watcher = KillAt(step=10**9)
    assert project.train(name="other", callbacks=(watcher,), checkpoints={"every_steps": every}) == expected_result
    saved = [done for done in range(step) if done % 4 == 0 or (every and done % every == 0)]
    assert watcher.started_at == saved[-1]
    assert weights(project, "other") == expected


@pytest.mark.parametrize("interruptions", [1, 3])
def test_a_run_stopped_again_and_again_reads_each_batch_as_often_as_it_must(
    project: Project, interruptions: int
) -> None:
    changes = {"order": "shards", "window_shards": 1, "source_weights": {"tiny": 2.0}, "text_dropout": 0.3}
    expected = project.train(UNLOCKED, name="whole", work="whole", **changes)
    for step in (3, 6, 10)[:interruptions]:
        with pytest.raises(KeyboardInterrupt):
            project.train(UNLOCKED, callbacks=(KillAt(step),), checkpoints={"every_steps": 1}, **changes)
    assert project.train(UNLOCKED, num_workers=2, **changes) == expected
    assert weights(project) == weights(project, "whole")


def test_a_damaged_image_names_its_shard_and_key(project: Project) -> None:
    tar = project.folder / "images/tiny-00001.tar"
    with ShardReader(tar) as reader:
        offset, _ = reader.image_span("1007")
    data = bytearray(tar.read_bytes())
    data[offset : offset + 8] = b"no image"
    tar.write_bytes(data)
    shard = replace(project.images.shards[1], files={"tar": describe_file(tar.parent, tar.name)})
    project.images = replace(project.images, shards=(project.images.shards[0], shard))
    for num_workers in (0, 2):
        with pytest.raises(DataError, match=r"^Image 1007 of .*tiny-00001.tar: not an image.*Run `dvc repro validate`"):
            project.train(UNLOCKED, num_workers=num_workers)


def cut(data: bytes) -> bytes:
    return data[:1000]


def flip(data: bytes) -> bytes:
    """One bit in the middle of the weights."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flip])
def test_of_a_damaged_checkpoint_the_one_before_is_taken(
    project: Project, capsys: pytest.CaptureFixture[str], damage: Callable[[bytes], bytes]
) -> None:
    expected = project.train(name="whole", work="whole")
    with pytest.raises(KeyboardInterrupt):
        project.train(callbacks=(KillAt(10),), checkpoints={"every_steps": 3})
    newest = max(project.folder.glob("work/train/*/step-*.pt"))
    newest.write_bytes(damage(newest.read_bytes()))
    watcher = KillAt(step=10**9)
    assert project.train(callbacks=(watcher,)) == expected
    assert watcher.started_at == 8
    assert re.search(r"step-000000009.pt is cut off or damaged: the one before is taken", capsys.readouterr().out)
    assert weights(project) == weights(project, "whole")


def test_checkpoints_that_are_all_damaged_say_what_to_do(project: Project) -> None:
    project.train()
    (checkpoint,) = project.folder.glob("work/train/*/step-*.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ModelError, match="all 1 are damaged: remove the folder to train from the start"):
        project.train()


def test_old_checkpoints_go_and_the_newest_stays(project: Project) -> None:
    def steps() -> list[int]:
        return sorted(int(path.stem[5:]) for path in project.folder.glob("work/train/*/step-*.pt"))

    with pytest.raises(KeyboardInterrupt):
        project.train(callbacks=(KillAt(11),), checkpoints={"every_steps": 1, "keep": 3})
    assert steps() == [8, 9, 10]
    project.train(checkpoints={"keep": 3})
    assert steps() == [12]


def test_minutes_ask_for_a_checkpoint(project: Project) -> None:
    with pytest.raises(KeyboardInterrupt):
        project.train(callbacks=(KillAt(6),), checkpoints={"every_minutes": 1e-9, "keep": 9})
    assert len(list(project.folder.glob("work/train/*/step-*.pt"))) == 6
    with pytest.raises(KeyboardInterrupt):
        project.train(callbacks=(KillAt(6),), checkpoints={"every_minutes": 60, "keep": 9}, work="other")
    assert len(list(project.folder.glob("other/train/*/step-*.pt"))) == 2


def test_a_checkpoint_of_other_settings_says_what_differs(project: Project) -> None:
    project.train()
    with pytest.raises(KeyboardInterrupt):
        project.train(callbacks=(KillAt(6),), learning_rate=1e-3)
    (done,) = project.folder.glob("work/train/*/step-000000012.pt")
    (other,) = project.folder.glob("work/train/*/step-000000004.pt")
    done.rename(other.parent / done.name)
    with pytest.raises(ModelError, match=r"other settings: train.learning_rate 0.005, now 0.001\. Remove it, or set"):
        project.train(learning_rate=1e-3)


def test_an_unfinished_run_with_other_settings_is_named(project: Project) -> None:
    with pytest.raises(KeyboardInterrupt):
        project.train(callbacks=(KillAt(6),))
    watcher = KillAt(step=10**9)
    project.train(LIT, callbacks=(watcher,), compute={"precision": "float64"}, epochs=1)
    assert watcher.started_at == 0
    (warning,) = watcher.warnings
    assert "an unfinished run stands at step 4 in " in warning
    assert "method.corner_tokens 2, now 0; method.num_long 1, now 0; " in warning
    assert "train.compute.precision float32, now float64; train.epochs 3, now 1" in warning
    watcher = KillAt(step=10**9)
    project.train(callbacks=(watcher,), num_workers=1, compute={"micro_batch_size": 4}, checkpoints={"keep": 1})
    assert (watcher.started_at, watcher.warnings) == (4, [])


@pytest.mark.parametrize("length", [{"epochs": None, "steps": 6}, {"epochs": None, "samples": 6 * 16 + 5}])
def test_a_run_ends_in_the_middle_of_an_epoch(project: Project, length: dict[str, int | None]) -> None:
    result = project.train(**length, warmup_share=None, warmup_steps=2)
    assert (result.metrics["steps"], result.metrics["epochs"], result.metrics["pairs_seen"]) == (6, 1.5, 96)
    assert [row["learning_rate"] for row in result.curve[:3]] == [2.5e-3, 5e-3, 5e-3]
    assert result.curve[-1]["step"] == 6
    project.train(**length, warmup_share=None, warmup_samples=2 * 16, work="other", name="other")
    assert weights(project) == weights(project, "other")


def test_computing_otherwise_changes_a_result_by_rounding_alone(project: Project) -> None:
    plain = project.train(UNLOCKED, name="plain", text_dropout=0.0).metrics
    for number, compute in enumerate(
        [{"sdpa": "math"}, {"deterministic": True}, {"gradient_checkpointing": True}, {"tf32": False}]
    ):
        found = project.train(UNLOCKED, work=f"work{number}", compute=compute, text_dropout=0.0).metrics
        assert found == pytest.approx(plain, rel=1e-5), compute
    half = project.train(UNLOCKED, work="half", compute={"precision": "bfloat16"}, text_dropout=0.0).metrics
    assert half["loss"] == pytest.approx(plain["loss"], rel=0.05)
    assert half["loss"] != plain["loss"]
    with pytest.raises(ParamsError, match="sdpa is 'cudnn', a kernel for GPUs; a CPU has auto, flash and math"):
        project.train(compute={"sdpa": "cudnn"}, work="none")


def test_locked_towers_stay_and_unlocked_ones_move(project: Project) -> None:
    before = load_file(project.folder / "vit/model.safetensors")
    for method, moves in ((LOTLIP, False), (UNLOCKED, True)):
        project.train(method, epochs=1)
        after = LotlipModel.from_pretrained(project.folder / "model").image_tower
        after.save_pretrained(project.folder / "after")
        found = load_file(project.folder / "after/model.safetensors")
        assert found.keys() == before.keys()
        changed = any(not torch.equal(found[name], before[name]) for name in before)
        assert changed == moves


def test_metrics_name_every_slot_and_count_losses(project: Project) -> None:
    result = project.train(batch_size=24, token_limit=8, epochs=2)
    metrics = result.metrics
    assert slot_names(1, 2) == ["raw", "long0_cls", "long0_corner0", "long0_corner1"]
    parts = [metrics[f"loss_{name}"] for name in slot_names(1, 2)]
    assert metrics["loss"] == pytest.approx(sum(parts) / 4, rel=1e-4)
    assert metrics["loss_long"] == pytest.approx(sum(parts[1:]) / 3, rel=1e-4)
    assert (metrics["num_samples"], metrics["steps"], metrics["pairs_seen"]) == (64, 4, 96)
    assert metrics["dropped_pairs"] == 2 * (64 - 48)
    # 8 ids leave 4 for text. Raw: 2 words. Long: 2 sub-captions of 2 words and their separator, 5 ids.
    assert metrics["truncated_text_share"] == pytest.approx(0.5)
    assert metrics["truncated_token_share"] == pytest.approx(1 / 7, rel=1e-5)
    assert metrics["without_long"] == metrics["skipped_steps"] == 0
    assert not any("time" in name or "_s" in name[-2:] for name in metrics)


def test_raw_captions_alone(project: Project) -> None:
    result = project.train(LIT, epochs=1)
    assert result.metrics["loss"] == result.metrics["loss_raw"]
    assert "loss_long" not in result.curve[0]


def test_curve_as_csv(project: Project) -> None:
    result = project.train()
    write_curve(project.folder / "curve.csv", result.curve)
    lines = (project.folder / "curve.csv").read_text().splitlines()
    slots = ",".join(f"loss_{name}" for name in ("long0_cls", "long0_corner0", "long0_corner1"))
    tail = "logit_scale,learning_rate,grad_norm,truncated_text_share,skipped_steps"
    assert lines[0] == f"step,epoch,loss,loss_raw,loss_long,{slots},{tail}"
    assert len(lines) == 1 + 12
    assert lines[-1].startswith("12,3,")


def test_the_published_folder_names_no_other_folder(project: Project) -> None:
    project.train(epochs=1)
    for file in (project.folder / "model").glob("*.json"):
        assert str(project.folder) not in file.read_text(), file.name
    assert json.loads((project.folder / "model/config.json").read_text())["num_corner_tokens"] == 2


def test_too_little_data_says_so(project: Project) -> None:
    with pytest.raises(DataError, match=r"64 samples and train\.batch_size is 65"):
        project.train(batch_size=65)
