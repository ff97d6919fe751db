"""Claims: contrasts and intervals by hand, and what makes a verdict."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lotlip.evaluation.poster.ablations import Table, read_ablations
from lotlip.evaluation.poster.claims import Claim, Finding, judge, read_claims
from lotlip.evaluation.poster.runs import read_runs
from lotlip.evaluation.poster.sentences import finding_line
from tests.evaluation.poster.made_up_runs import run, seeds, usual_runs, write_runs


def claim(kind: str, table: str = "texts", on: str = "long", **values: Any) -> Claim:
    return Claim.model_validate({"kind": kind, "table": table, "says": "It raises {on}.", "on": [on], **values})


def above(folder: Path, runs: list[dict[str, Any]], by: float = 0.0) -> Finding:
    read = read_runs(write_runs(folder, runs))
    table = Table(title="Texts", rows={"raw": "lit", "raw + long": "lit_long"})
    (finding,) = judge(claim("above", method="lit_long", than="lit", by=by), table, read)
    return finding


def test_a_difference_is_taken_seed_by_seed(tmp_path: Path) -> None:
    """40, 50, 60 and 42, 53, 64 differ by 2, 3, 4: mean 3, half 4.3027 / sqrt(3); lone seeds do not count."""
    runs = [*seeds("lit", [40.0, 50.0, 60.0, 10.0], [20.0] * 4), *seeds("lit_long", [42.0, 53.0, 64.0])]
    finding = above(tmp_path, runs)
    (part,) = finding.parts
    assert part.values == pytest.approx((2.0, 3.0, 4.0))
    assert finding.verdict == "reproduced"
    assert finding_line(finding) == (
        "- **Reproduced**: It raises long-text retrieval. “raw + long” − raw = +3.0 ± 2.5 points (3 seeds)."
    )


@pytest.mark.parametrize(
    ("differences", "by", "verdict"),
    [
        ((2.0, 3.0, 4.0), 0.0, "reproduced"),  # 0.52 to 5.48
        ((2.0, 3.0, 4.0), 1.0, "undecided"),
        ((2.0, 3.0, 4.0), 6.0, "not reproduced"),
        ((-1.0, 0.0, 4.0), 0.0, "undecided"),
        ((-2.0, -3.0, -4.0), 0.0, "not reproduced"),
        ((0.0, 0.0, 0.0), 0.0, "not reproduced"),
        ((3.0,), 0.0, "undecided"),
        ((-3.0,), 0.0, "undecided"),
    ],
)
def test_verdicts(tmp_path: Path, differences: tuple[float, ...], by: float, verdict: str) -> None:
    runs = [run("lit", seed, 50.0) for seed in range(3)]
    runs += [run("lit_long", seed, 50.0 + difference) for seed, difference in enumerate(differences)]
    assert above(tmp_path, runs, by).verdict == verdict


def test_one_seed_and_methods_that_were_not_run(tmp_path: Path) -> None:
    one = above(tmp_path, [run("lit", 0, 40.0), run("lit_long", 0, 43.0)])
    assert finding_line(one).endswith("“raw + long” − raw = +3.0 points (1 seed, so no interval).")
    absent = above(tmp_path, [run("lit", 0, 40.0)])
    assert absent.verdict == "not run"
    assert finding_line(absent).endswith("“raw + long” − raw: not run (`lit_long`).")
    apart = above(tmp_path, [run("lit", 0, 40.0), run("lit_long", 1, 43.0)])
    assert apart.verdict == "not run"
    assert finding_line(apart).endswith("no seed that all of them have.")


def test_several_parts_share_the_error_of_a_contradiction(tmp_path: Path) -> None:
    """-3 ± 2.48 lies below 0 at 95%; with two parts half is t(0.9875, 2) / sqrt(3) = 3.58: undecided."""
    runs = read_runs(
        write_runs(
            tmp_path,
            [*seeds("lotlip", [50.0, 50.0, 50.0]), *seeds("lit", [52.0, 53.0, 54.0]), *seeds("clip", [9.0, 9.0, 9.0])],
        )
    )
    beats = claim("above_others", "main_results", method="lotlip")
    (two,) = judge(beats, Table(title="", rows={"LoTLIP": "lotlip", "LiT": "lit"}), runs)
    assert two.verdict == "not reproduced"
    (three,) = judge(beats, Table(title="", rows={"LoTLIP": "lotlip", "LiT": "lit", "CLIP": "clip"}), runs)
    assert [part.contrast.label for part in three.parts] == ["LoTLIP − LiT", "LoTLIP − CLIP"]
    assert three.verdict == "undecided"


def test_sweeps(tmp_path: Path) -> None:
    """Means 51, 77, 85 at 16, 32, 128: slopes 26 / 16 and 8 / 96; FLOPs of 32 and of at most 60 tokens."""
    runs = read_runs(write_runs(tmp_path, usual_runs()))
    table = read_ablations(tmp_path / "ablations.yaml").table("token_limit")
    (rises,) = judge(claim("rises", "token_limit"), table, runs)
    assert rises.parts[0].values == pytest.approx((34.0, 34.5, 33.5))
    (flattens,) = judge(claim("flattens", "token_limit"), table, runs)
    slopes = [26 / 16 - 8 / 96, 26 / 16 - 8.5 / 96, 26 / 16 - 7.5 / 96]
    assert flattens.parts[0].values == pytest.approx((26.0, 26.0, 26.0))
    assert flattens.parts[1].values == pytest.approx(slopes)
    assert flattens.verdict == "reproduced"
    assert "32 − 16 tokens = +26.0 ± 0.0 points (3 seeds); slope" in finding_line(flattens)
    assert "slope from 16 to 32 − slope from 32 to 128 = +1.5 ± 0.0 points per token" in finding_line(flattens)
    (still,) = judge(claim("still_rises", "token_limit", on="text_flops"), table, runs)
    assert (still.verdict, still.parts[0].values) == ("not reproduced", pytest.approx(3 * (28 / 96 - 0.5,)))
    line = "slope from 32 to 128 − half the slope from 16 to 32 = −0.21 ± 0.00 MFLOPs per token (3 seeds)"
    assert line in finding_line(still)
    (short,) = judge(claim("rises", "token_limit"), Table(title="", rows={"16": "tokens_16", "32": "tokens_32"}), runs)
    assert (short.verdict, short.parts) == ("not run", ())


def test_what_falls_ever_faster_does_not_flatten(tmp_path: Path) -> None:
    """Means near 50, 49, 40 bend as a gain that flattens does, but nothing is gained."""
    falling = {"tokens_16": 50.0, "tokens_32": 49.0, "lotlip": 40.0}
    made = [one for method, mean in falling.items() for one in seeds(method, [mean, mean + 0.1, mean - 0.1])]
    runs = read_runs(write_runs(tmp_path, made))
    table = read_ablations(tmp_path / "ablations.yaml").table("token_limit")
    (finding,) = judge(claim("flattens", "token_limit"), table, runs)
    assert min(finding.parts[1].values) > 0
    assert finding.verdict == "not reproduced"


def test_the_mask_is_judged_over_all_numbers_that_have_both(tmp_path: Path) -> None:
    runs = read_runs(write_runs(tmp_path, [*usual_runs(), *seeds("corners_2_no_mask", [83.0, 84.5, 82.5])]))
    table = read_ablations(tmp_path / "ablations.yaml").table("corner_tokens")
    (finding,) = judge(claim("mask", "corner_tokens"), table, runs)
    # With 1: 2, 1.5, 2; with 2: 1, 2, 2; means of both.
    assert finding.parts[0].values == pytest.approx((1.5, 1.75, 2.0))
    assert finding.parts[0].contrast.label == "mask − no mask, mean over 1, 2 corner tokens"


def test_sets_that_were_not_evaluated(tmp_path: Path) -> None:
    runs = [run("lit", 0, 40.0), run("lit_long", 0, 43.0)]
    for one in runs:
        del one["evaluate"]["long"]
    finding = above(tmp_path, runs)
    assert finding.verdict == "not run"
    assert "No run was evaluated on a set of this kind" in finding_line(finding)


def test_every_published_set_of_long_texts_counts(tmp_path: Path) -> None:
    runs = [run("lit", 0, 40.0), run("lit_long", 0, 43.0)]
    for one in runs:
        one["evaluate"] = {"urban1k": one["evaluate"]["long"], "docci": one["evaluate"]["long"]}
    assert above(tmp_path, runs).parts[0].values == pytest.approx((3.0,))


def test_the_papers_claims_can_be_read() -> None:
    claims = read_claims()
    assert {one.table for one in claims} == {"main_results", "corner_tokens", "sub_captions", "token_limit"} | {
        "texts",
        "captioners",
    }
    assert all("{on}" in one.says for one in claims)


def test_a_claim_names_the_methods_of_its_kind() -> None:
    with pytest.raises(ValidationError, match="kind above takes method and than"):
        claim("above", method="lit")
    with pytest.raises(ValidationError, match="kind rises takes no method"):
        claim("rises", method="lit")
