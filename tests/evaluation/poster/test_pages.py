"""Pages and figures: values by hand, rows that were not run, the poster's eight columns, the same bytes every time."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lotlip.errors import DataError, ParamsError
from lotlip.evaluation.poster.metrics import POSTER_SETS, columns
from lotlip.evaluation.poster.published import published_rows
from lotlip.evaluation.poster.runs import Run, read_runs
from lotlip.evaluation.poster.write import write_tables
from tests.evaluation.made_up_reports import evalset_reports, put, quality_summary
from tests.evaluation.poster.made_up_runs import retrieval, run, seeds, usual_runs, write_runs


def write(folder: Path, *names: str, runs: list[dict[str, Any]] | None = None) -> dict[str, str]:
    write_runs(folder, usual_runs() if runs is None else runs)
    put(folder / "reports/quality/summary.json", quality_summary(["llava"]))
    for name, report in evalset_reports().items():
        put(folder / f"reports/evalset/{name}.json", report)
    written = write_tables(names, folder, folder / "ablations.yaml", folder / "reports")
    return {path.name: path.read_text() for path in written if path.suffix == ".md"}


def row_of(page: str, label: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {label} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_is_mean_and_interval(tmp_path: Path) -> None:
    """LoTLIP long: 84, 86.5, 84.5 have mean 85, s 1.3229, half 4.3027 s / sqrt(3) = 3.3; I2T is 5 above."""
    page = write(tmp_path, "main_results")["main_results.md"]
    lotlip = ["LoTLIP", "**90.0** ± 3.3", "**80.0** ± 3.3", "**26.0** ± 2.5", "**16.0** ± 2.5"]
    assert row_of(page, "LoTLIP") == [*lotlip, "**53.0** ± 2.2", "**15.0** ± 0.0", "3"]
    assert row_of(page, "openai/clip")[1:3] == ["35.0", "25.0"]
    assert row_of(page, "openai/clip")[-1] == "none: a checkpoint"
    assert row_of(page, "*chance*") == ["*chance*", "*0.3*", "*0.3*", "*0.3*", "*0.3*", "*0.3*", "*1.6*", ""]
    assert "![All systems" in page
    assert "5.7 points on long, short, classes (300 images)" in page
    assert "- **Reproduced**: LoTLIP beats all other systems at long-text retrieval. LoTLIP − LiT = +44.0 ± " in page
    assert row_of(page.partition("## Made from")[2], "LoTLIP") == [
        "LoTLIP",
        "`lotlip`",
        "0, 1, 2",
        "texts-seed{0,1,2}",
        "0123456789",
    ]


def test_equal_means_are_both_bold(tmp_path: Path) -> None:
    runs = seeds("lit", (6.72, 5.78, 6.06)) + seeds("lit_long", (6.24, 5.94, 6.38))
    for one in runs:
        one["evaluate"]["long"]["i2t_r1"] -= 5  # the numbers above, whose sums are 18.56
    page = write(tmp_path, "texts", runs=runs)["texts.md"]
    assert [row_of(page, label)[1].partition(" ")[0] for label in ("raw", "raw + long")] == ["**6.2**", "**6.2**"]


def test_the_command_has_all_seeds_so_that_it_runs_what_a_row_lacks(tmp_path: Path) -> None:
    runs = [*seeds("lotlip", [84.0, 86.5, 84.5]), *seeds("lit", [40.0, 41.0]), run("clip", None, 30.0)]
    page = write(tmp_path, "main_results", runs=runs)["main_results.md"]
    assert 'make ablation NAME=main_results SEEDS="0 1 2"\n' in page


def test_rows_that_were_not_run_are_said(tmp_path: Path) -> None:
    page = write(tmp_path, "corner_tokens")["corner_tokens.md"]
    assert row_of(page, "2 no mask") == ["2 no mask", *["–"] * 6, "not run"]
    assert "Not run: 2 no mask. `make ablation NAME=corner_tokens` runs them." in page
    assert "- **Not run**: Corner tokens help long-text retrieval more with the mask" in page
    with pytest.raises(DataError, match=r"no row of table token_limit was run: `make ablation NAME=token_limit`"):
        write(tmp_path, "token_limit", runs=seeds("lit", [40.0]))


def test_flops_stand_beside_quality(tmp_path: Path) -> None:
    page = write(tmp_path, "token_limit")["token_limit.md"]
    header = next(line for line in page.splitlines() if line.startswith("| token limit"))
    assert "| long MFLOPs a text | short MFLOPs a text |" in header
    assert [row_of(page, limit)[7] for limit in ("16", "32", "128")] == ["16.0 ± 0.0", "32.0 ± 0.0", "60.0 ± 0.0"]


def test_one_seed_has_no_interval(tmp_path: Path) -> None:
    runs = [*seeds("lit", [40.0]), *seeds("lit_long", [80.0])]
    page = write(tmp_path, "texts", runs=runs)["texts.md"]
    assert row_of(page, "raw")[1:3] == ["45.0", "35.0"]
    assert "(1 seed, so no interval)" in page
    assert "Reproduced" not in page


def test_equal_runs_give_equal_bytes_and_figures_have_no_metadata(tmp_path: Path) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        folder.mkdir()
        write(folder, "all")
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} for folder in folders
    )
    assert first == second
    pages = {"main_results", "corner_tokens", "token_limit", "texts"}
    assert {name for name in first if name.endswith(".png")} == {f"{name}.png" for name in pages}
    assert {name for name in first if name.endswith(".md")} == {f"{name}.md" for name in pages} | {
        "dataset_statistics.md",
        "README.md",
    }
    for name in pages:
        with Image.open(io.BytesIO(first[f"{name}.png"])) as image:
            assert "Software" not in image.info
            assert image.width > 900


def test_index_lists_every_claim(tmp_path: Path) -> None:
    page = write(tmp_path, "texts")["README.md"]
    # main_results 1, texts 12, corner_tokens 9, token_limit 3; tables that the plan lacks have no claims.
    assert page.count("\n- **") == 25
    assert "[Kinds of texts](texts.md)" in page
    assert "### [Token limit](token_limit.md)" in page
    assert "11 reproduced, 5 not reproduced, 1 undecided, 8 not run." in page


def test_statistics_beside_the_published(tmp_path: Path) -> None:
    page = write(tmp_path, "dataset_statistics")["dataset_statistics.md"]
    assert row_of(page, "long texts by llava")[1:] == ["1,890", "1,880", "5.53", "63.40"]
    assert row_of(page, "evaluation set short")[1:] == ["300", "1,500", "1.00", "70.50"]
    assert row_of(page, "LoTLIP (training long)")[1:] == ["102,571,723", "307,715,169", "6.16", "136.14"]
    assert not (tmp_path / "dataset_statistics.png").exists()


def test_missing_reports_and_unknown_tables_write_nothing(tmp_path: Path) -> None:
    write_runs(tmp_path, usual_runs())
    with pytest.raises(DataError, match=r"quality/summary.json is missing"):
        write_tables(["all"], tmp_path, tmp_path / "ablations.yaml", tmp_path / "none")
    with pytest.raises(ParamsError, match=r"no table 'corner_token'; did you mean 'corner_tokens'"):
        write_tables(["corner_token"], tmp_path, tmp_path / "ablations.yaml", tmp_path / "none")
    assert not list(tmp_path.glob("*.md"))


def test_labels_say_what_was_run(tmp_path: Path) -> None:
    runs = usual_runs()
    for one in runs:
        if one["method"] == "corners_1_no_mask":
            one["settings"]["method"]["corner_mask"] = True
    message = r"row '1 no mask' is corners_1_no_mask, which was run with method.corner_mask True, not False"
    with pytest.raises(DataError, match=message):
        write(tmp_path, "texts", runs=runs)


def test_the_posters_average_is_of_its_eight_columns(tmp_path: Path) -> None:
    """A run with the published numbers of a row gets the published average; other sets do not enter it."""
    published = next(row for row in published_rows("main_results") if row["model"] == "LoTLIP" and row["average"])
    one = run("lotlip", 0, 80.0)
    one["evaluate"]["urban1k"] = retrieval(50.0, 300)
    for name in POSTER_SETS:
        recalls = {f"{way}_r1": float(published[f"{name}_{way}"]) for way in ("i2t", "t2i")}
        one["evaluate"][name] = retrieval(0.0, 300) | recalls
    runs = read_runs(write_runs(tmp_path, [one]))
    shown = columns(runs)
    titles = [f"{name} {way}" for name in POSTER_SETS for way in ("I2T", "T2I")]
    others = [f"{name} {way}" for name in ("long", "short", "urban1k") for way in ("I2T", "T2I")]
    assert [metric.title for metric in shown] == [*titles, "average", *others, "classes top-1"]
    (lotlip,) = runs["lotlip"]
    assert shown[8].value(lotlip) == pytest.approx(float(published["average"]), abs=0.005)
    assert shown[8].value(Run(method="x", seed=0, data={}, evaluate={"dci": {"i2t_r1": 50.0}})) is None


@pytest.mark.parametrize(("images", "is_marked"), [(100, True), (7805, False)])
def test_a_part_of_a_published_set_is_marked(tmp_path: Path, images: int, is_marked: bool) -> None:
    runs = [run("lotlip", 0, 50.0)]
    runs[0]["evaluate"]["dci"] = retrieval(40.0, images) | {"images": images}
    page = write(tmp_path, "main_results", runs=runs)["main_results.md"]
    marked = "Only parts of published sets, not to be compared with published numbers: dci (100 of 7,805 images)."
    assert (marked in page) == is_marked
