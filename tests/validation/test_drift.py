"""Drift from a baseline: distances by hand and against SciPy, and the suite on both sides of its limit."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy.stats import ks_2samp

from lotlip.errors import CeilingError, DataError
from lotlip.overlays import merge
from lotlip.params import Params, parse_params
from lotlip.validation import validate as validation
from lotlip.validation.drift import drift, histograms, read_baseline, write_baseline
from lotlip.validation.summary import check_summary
from lotlip.validation.validate import judge_rows
from tests.validation.builders import Dataset, long

TOP = Path(__file__).parents[2]


def test_numbers_by_hand() -> None:
    assert drift("width", {"96": 5}, {"96": 7}) == 0
    assert drift("width", {"96": 5}, {"128": 7}) == drift("width", {"128": 5}, {"96": 7}) == 1
    # Shares below: 9 -> 1/2 and 1/4, 10 -> 1 and 1/2, 100 -> 1 and 1. As text "10" and "100" would come before "9".
    assert drift("width", {"9": 2, "10": 2}, {"9": 1, "10": 1, "100": 2}) == pytest.approx(0.5)


def test_names_by_hand() -> None:
    assert drift("status", {"success": 3}, {"success": 9}) == 0
    assert drift("format", {"jpg": 3}, {"png": 9}) == 1
    # (|0.75 - 0.5| + |0.25 - 0.25| + |0 - 0.25|) / 2
    assert drift("format", {"jpg": 3, "png": 1}, {"jpg": 2, "png": 1, "webp": 1}) == pytest.approx(0.25)


@pytest.mark.parametrize("seed", range(5))
def test_numbers_against_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.poisson(20, 300), rng.poisson(20 + seed, 500)
    counts: list[dict[str, int]] = [
        {str(value): int(number) for value, number in zip(*np.unique(values, return_counts=True), strict=True)}
        for values in (one, other)
    ]
    assert drift("raw_tokens", *counts) == pytest.approx(ks_2samp(one, other).statistic, abs=1e-12)


@pytest.fixture
def baseline(dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the good dataset, chosen by the rules."""
    monkeypatch.setattr(validation, "BASELINES", tmp_path / "baselines")
    tables, _ = judge_rows(Dataset(tmp_path / "good", dataset.rules).write(), dataset.rules)
    path = tmp_path / "baselines" / "good.json"
    write_baseline(path, tables)
    dataset.rules = dataset.rules.model_copy(update={"baseline": "good"})
    return path


def test_what_a_baseline_holds(dataset: Dataset, baseline: Path) -> None:
    found = read_baseline(baseline)
    assert found == {
        "status": {"success": 20},
        "format": {"png": 20},
        "width": {"96": 20},
        "height": {"96": 20},
        "aspect": {"1": 20},
        "raw_tokens": {"3": 20},
        "long_tokens_llava": {"23": 20},  # 19 of LONG, then k ##0 ##0 and the full stop
    }
    tables, _ = judge_rows(dataset.write(), dataset.rules)
    assert histograms(tables) == found


def test_the_same_data_has_not_drifted(dataset: Dataset, baseline: Path) -> None:
    summary = dataset.judge()
    assert summary["failed"] == []
    assert set(summary["drift"]["distances"].values()) == {0.0}
    assert summary["drift"]["unmatched"] == {}


def test_the_limit(dataset: Dataset, baseline: Path) -> None:
    for row in dataset.images[:4]:  # 0.2 of the widths, as much as is allowed
        row["width"] = 120
    assert dataset.judge()["failed"] == []
    further = Dataset(dataset.folder / "further", dataset.rules)
    for row in further.images[:5]:
        row["width"] = 120
    summary = further.judge()
    assert summary["drift"]["distances"] == {
        **dict.fromkeys(("status", "format", "height", "raw_tokens", "long_tokens_llava"), 0.0),
        **dict.fromkeys(("width", "aspect"), 0.25),
    }
    with pytest.raises(CeilingError) as error:
        check_summary(summary, "fail")
    assert "drift: largest drift from the baseline is 0.25, at most 0.2 is allowed" in str(error.value)
    assert "change validate.max_drift" in str(error.value)
    assert "'width' of baseline good: distance 0.25" in str(error.value)


def test_what_only_one_side_has_is_named(dataset: Dataset, baseline: Path) -> None:
    record = json.loads(baseline.read_text())
    record["histograms"]["long_tokens_gone"] = record["histograms"].pop("long_tokens_llava")
    baseline.write_text(json.dumps(record))
    summary = dataset.run()
    unmatched = {"long_tokens_llava": "not in the baseline", "long_tokens_gone": "not in the data"}
    assert summary["drift"]["unmatched"] == unmatched
    page = (dataset.folder / "docs/summary.html").read_text()
    for name, note in unmatched.items():
        assert name in page
        assert note in page


def test_a_baseline_of_nothing_known_fails(dataset: Dataset, baseline: Path) -> None:
    baseline.write_text(json.dumps({"format": "lotlip-baseline-1", "histograms": {"other": {"1": 1}}}))
    [failure] = dataset.judge()["failed"]
    assert (failure["suite"], failure["measured"]) == ("drift", None)


def test_no_file_and_no_baseline(dataset: Dataset, baseline: Path) -> None:
    baseline.write_text('{"some": "thing"}')
    with pytest.raises(DataError, match=r"good\.json is no baseline of format lotlip-baseline-1"):
        dataset.judge()
    baseline.unlink()
    with pytest.raises(DataError, match=r"good\.json is missing: `lotlip baseline good` writes it"):
        Dataset(dataset.folder / "again", dataset.rules).judge()


def test_texts_that_are_missing_are_no_values(dataset: Dataset, baseline: Path) -> None:
    dataset.longs[0] = long("k00", text="")
    tables, _ = judge_rows(dataset.write(), dataset.rules)
    counts: dict[str, Any] = histograms(tables)
    assert sum(counts["long_tokens_llava"].values()) == 19


@pytest.mark.parametrize("overlay", sorted((TOP / "conf").glob("*.yaml")), ids=lambda path: path.name)
def test_overlays_of_other_data_are_not_held_against_the_sample(overlay: Path) -> None:
    sample = yaml.safe_load((TOP / "params.yaml").read_text())
    values = copy.deepcopy(sample)
    merge(values, yaml.safe_load(overlay.read_text()))
    base, other = parse_params(sample, "params.yaml"), parse_params(values, overlay.name)

    def writers(params: Params) -> list[tuple[str, object]]:
        return [(name, getattr(captioner, "checkpoint", None)) for name, captioner in params.captioners.items()]

    is_other = other.sources.keys() != base.sources.keys() or writers(other) != writers(base)
    is_other |= other.validate_.tokenizer != base.validate_.tokenizer
    assert other.validate_.baseline == (None if is_other else "sample")
