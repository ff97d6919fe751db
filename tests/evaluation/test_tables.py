"""The comparison: values, chance levels, bold best values, and reports that are missing."""

import csv
import io
import random
from pathlib import Path

import pytest
from rich.console import Console

from lotlip.errors import DataError
from lotlip.evaluation.losses_of_data import data_losses
from lotlip.evaluation.results import read_results
from lotlip.evaluation.tables import (
    chance_level,
    comparison,
    flat_metrics,
    half_interval,
    print_comparison,
    to_csv,
    to_markdown,
)
from tests.evaluation.made_up_reports import caption_report, download_report, evalset_reports, put, write_reports


def test_csv_has_a_row_a_method_and_one_for_chance(tmp_path: Path) -> None:
    table = comparison(read_results(write_reports(tmp_path), tmp_path))
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [row["method"] for row in rows] == ["lit", "lit_long", "lotlip", "chance"]
    assert [row["trained"] for row in rows] == ["here", "here", "here", ""]
    assert list(rows[0])[2:6] == ["long I2T R@1", "long T2I R@1", "long I2T R@5", "long T2I R@5"]
    assert len(rows[0]) == 2 + 6 + 6 + 2
    assert (rows[2]["long I2T R@1"], rows[2]["short T2I R@1"], rows[2]["classes top-1"]) == (
        "66",
        "57.5",
        "25",
    )
    assert (rows[3]["long I2T R@1"], rows[3]["classes top-5"]) == ("0.3333", "7.812")


def test_markdown_bolds_the_best_of_each_column_ties_included(tmp_path: Path) -> None:
    table = comparison(read_results(write_reports(tmp_path), tmp_path)).headline()
    lines = to_markdown(table).splitlines()
    assert lines[0] == "| method | long I2T R@1 | long T2I R@1 | short I2T R@1 | short T2I R@1 | classes top-1 |"
    assert lines[2] == "| lit | 30.0 | 26.0 | 60.0 | 56.0 | **25.0** |"
    assert lines[4] == "| lotlip | **66.0** | **62.0** | **61.5** | **57.5** | **25.0** |"
    assert lines[5] == "| *chance* | *0.3* | *0.3* | *0.3* | *0.3* | *1.6* |"


def test_what_was_only_evaluated_is_marked_everywhere(tmp_path: Path) -> None:
    table = comparison(read_results(write_reports(tmp_path, checkpoints={"clip_b16": 70.0}), tmp_path))
    rows = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [(row["method"], row["trained"]) for row in rows[2:]] == [
        ("lotlip", "here"), ("clip_b16", "elsewhere"), ("chance", ""),
    ]  # fmt: skip
    lines = to_markdown(table.headline()).splitlines()
    assert lines[4] == "| lotlip | 66.0 | 62.0 | **61.5** | **57.5** | **25.0** |"
    assert lines[5] == "| clip_b16† | **70.0** | **66.0** | 40.0 | 36.0 | 20.0 |"
    assert lines[-1] == "† trained elsewhere, and only evaluated here"
    assert flat_metrics(table)["clip_b16/long/i2t_r1"] == 70.0
    (tmp_path / "comparison.csv").write_text(to_csv(table))
    console = Console(file=io.StringIO(), width=80)
    print_comparison(tmp_path / "comparison.csv", console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "│ clip_b16† │" in shown
    assert "│ lotlip    │" in shown
    assert "† trained elsewhere" in shown


def test_flat_metrics(tmp_path: Path) -> None:
    metrics = flat_metrics(comparison(read_results(write_reports(tmp_path), tmp_path)))
    assert len(metrics) == 15
    assert metrics["lit_long/short/t2i_r1"] == 54.0


def test_chance_equals_drawing_at_random() -> None:
    # 6 images with 5 texts each: the share of random orders that put one of the first image's texts into 5.
    rng = random.Random(0)
    hits = sum(min(rng.sample(range(30), 5)) < 5 for _ in range(20_000))
    counts = {"images": 6, "texts": 30}
    assert chance_level("i2t_r5", counts) == pytest.approx(100 * hits / 20_000, abs=1)
    assert chance_level("t2i_r5", counts) == pytest.approx(500 / 6)
    assert chance_level("t2i_r10", counts) == 100
    assert chance_level("i2t_r1", {"images": 300, "texts": 300}) == pytest.approx(1 / 3)
    assert chance_level("i2t_r10", {"images": 4, "texts": 4}) == 100
    assert chance_level("top5", {"classes": 64}) == 7.8125


def test_half_interval_is_the_normal_approximation() -> None:
    assert half_interval(100) == pytest.approx(9.8)


def test_terminal_table_shows_first_places_only(tmp_path: Path) -> None:
    path = tmp_path / "comparison.csv"
    path.write_text(to_csv(comparison(read_results(write_reports(tmp_path), tmp_path))))
    console = Console(file=io.StringIO(), width=80)
    print_comparison(path, console)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "long I2T" in shown
    assert "R@5" not in shown
    row = next(line for line in shown.splitlines() if "lotlip" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "lotlip",
        "66.0",
        "62.0",
        "61.5",
        "57.5",
        "25.0",
    ]
    with pytest.raises(DataError, match="dvc repro report"):
        print_comparison(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("path", "stage"),
    [
        ("download/scenes.json", "download@scenes"),
        ("recaption/llava.json", "recaption@llava"),
        ("validate/summary.json", "validate"),
        ("evalset/short.json", "evalset@short"),
        ("train/lit.json", "train@lit"),
        ("train/lit.csv", "train@lit"),
        ("evaluate/lotlip.json", "evaluate@lotlip"),
    ],
)
def test_missing_report_names_its_stage(tmp_path: Path, path: str, stage: str) -> None:
    params = write_reports(tmp_path)
    (tmp_path / path).unlink()
    with pytest.raises(DataError, match=rf"{path} is missing: run `dvc repro {stage}`"):
        read_results(params, tmp_path)


def test_missing_report_of_a_checkpoint_names_its_stage(tmp_path: Path) -> None:
    params = write_reports(tmp_path, checkpoints={"clip_b16": 70.0})
    put(tmp_path / "evaluate" / "clip_b16.json", {"long": {}, "short": {}})
    with pytest.raises(DataError, match=r"no results on classes.*dvc repro evaluate_checkpoint@clip_b16"):
        read_results(params, tmp_path)
    (tmp_path / "evaluate" / "clip_b16.json").unlink()
    with pytest.raises(DataError, match=r"clip_b16\.json is missing: run `dvc repro evaluate_checkpoint@clip_b16`"):
        read_results(params, tmp_path)


def test_report_on_other_sets_names_its_stage(tmp_path: Path) -> None:
    params = write_reports(tmp_path)
    put(tmp_path / "evaluate" / "lit.json", {"short": {}})
    with pytest.raises(DataError, match=r"no results on long, classes.*dvc repro evaluate@lit"):
        read_results(params, tmp_path)


def test_every_loss_is_counted(tmp_path: Path) -> None:
    losses = {(loss.where, loss.what): loss for loss in data_losses(read_results(write_reports(tmp_path), tmp_path))}
    fetched = losses["download@scenes", "images not fetched"]
    assert (fetched.count, fetched.total, fetched.share) == (110, 2000, 0.055)
    assert fetched.why == "HTTP 404: 90, timeout: 10, truncated image: 8, too large: 2"
    assert losses["recaption@llava", "long texts cut at the length limit"].count == 40
    assert losses["validate", "long texts by llava rejected"].why == "broken off: 40"
    assert losses["train@lotlip", "pairs that fill no batch"].count == 1600
    assert losses["train@lotlip", "samples without a long text"].count == 30
    assert ("train@lit", "samples without a long text") not in losses


def test_what_a_published_set_lacks_is_a_loss(tmp_path: Path) -> None:
    params = write_reports(tmp_path)
    counts = {"num_images": 7800, "num_texts": 7800, "num_skipped_without_text": 2, "num_missing_images": 3}
    put(tmp_path / "evalset" / "long.json", {**evalset_reports()["long"], **counts, "num_empty_texts": 4})
    losses = {(loss.where, loss.what): loss for loss in data_losses(read_results(params, tmp_path))}
    found = {what: (loss.count, loss.total) for (where, what), loss in losses.items() if where == "evalset@long"}
    assert found == {
        "images without a text": (2, 7805),
        "images that its folder lacks": (3, 7805),
        "empty texts": (4, 7804),
    }


def test_filters_and_imported_tables_have_lines_of_their_own(tmp_path: Path) -> None:
    params = write_reports(tmp_path)
    errors = {"filtered: punsafe": 700, "HTTP 404": 90, "timeout": 10}
    counts = {"requested": 2000, "success": 1200, "rejected": 700, "filtered": 700, "errors": errors}
    put(tmp_path / "download" / "scenes.json", {**download_report("scenes"), **counts})
    table = {"sha256": "0", "rows": 50, "matched": 30, "repeated": 4, "without_image": 15, "unreadable": 1}
    put(tmp_path / "recaption" / "llava.json", {**caption_report(), "table": table})
    losses = {(loss.where, loss.what): loss for loss in data_losses(read_results(params, tmp_path))}
    fetched = losses["download@scenes", "images not fetched"]
    assert (fetched.count, fetched.total, fetched.why) == (100, 1300, "HTTP 404: 90, timeout: 10")
    filtered = losses["download@scenes", "rows left out by filters"]
    assert (filtered.count, filtered.total, filtered.why) == (700, 2000, "filtered: punsafe: 700")
    unused = losses["recaption@llava", "rows of the table not used"]
    assert (unused.count, unused.total, unused.why) == (20, 50, "without_image: 15, repeated: 4, unreadable: 1")
