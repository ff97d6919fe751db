"""The published tables: carried whole, their averages recomputed, in the order of ours."""

import pytest

from lotlip.evaluation.poster.ablations import Table
from lotlip.evaluation.poster.published import (
    corner_tokens_published,
    main_results_published,
    published_rows,
    wrong_averages,
)
from lotlip.evaluation.text_statistics import published_statistics


def test_tables_are_whole() -> None:
    assert [len(published_rows(name)) for name in ("main_results", "corner_token_ablation")] == [16, 6]
    assert len(published_statistics()) == 12


def test_averages_that_do_not_come_out() -> None:
    """By hand: LiT 3M sums to 355.11, LoTLIP 100M to 669.83; an eighth is 44.38875 and 83.72875."""
    wrong = [
        (row["model"], row["short_pairs"], average) for row, average in wrong_averages(published_rows("main_results"))
    ]
    assert wrong == [("LiT", "3M", pytest.approx(44.38875)), ("LoTLIP", "100M", pytest.approx(83.72875))]


def test_an_average_off_by_more_than_rounding_is_found() -> None:
    row = next(row for row in published_rows("main_results") if row["average"])
    assert wrong_averages([row]) == []
    assert wrong_averages([row | {"average": "19.22"}]) == [(row | {"average": "19.22"}, pytest.approx(19.21375))]


def test_main_results_in_our_order_with_notes() -> None:
    shown = main_results_published(Table(title="", rows={"LoTLIP": "lotlip", "SigLIP": "siglip"}))
    lines = shown.splitlines()
    models = [line.split(" | ")[0].removeprefix("| ") for line in lines[2:18]]
    assert models[:6] == ["LoTLIP"] * 4 + ["SigLIP"] * 2
    assert models[6:9] == ["FILIP", "LaCLIP", "LiT"]
    siglip = next(line for line in lines if "| 12B |" in line)
    assert "| 83.40 | 83.40<sup>1</sup> | 63.08 |" in siglip
    assert any(line.startswith("<sup>1</sup> Equal to its own ShareGPT4V-1k T2I") for line in lines)
    assert "44.38<sup>" in shown
    assert (
        "The eight columns average to 44.3888, published is 44.38, which rounding of the columns can explain." in shown
    )
    assert "Of 11 published averages, 9 are those of their eight columns" in shown


def test_corner_tokens_in_our_order() -> None:
    lines = corner_tokens_published(Table(title="", rows={"2 mask": "a", "0": "b"})).splitlines()
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines[2:5]] == ["2 mask", "0", "1 mask"]
    assert lines[2].endswith("| 50.34 |")
