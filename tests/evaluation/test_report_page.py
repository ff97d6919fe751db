"""The report folder: complete, well formed, offline, the same bytes every time."""

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from lotlip.errors import DataError
from lotlip.evaluation.html_parts import cell, percent, table
from lotlip.evaluation.plots import method_colours
from lotlip.evaluation.report_page import write_report
from lotlip.evaluation.results import read_results
from tests.evaluation.made_up_reports import put, write_reports

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that tags close in order; keeps links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def make(tmp_path: Path, failed: bool = False) -> Path:
    params = write_reports(tmp_path, failed)
    write_report(read_results(params, tmp_path), tmp_path / "report")
    return tmp_path / "report"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("reports"))


def test_folder_is_complete_and_equal_every_time(folder: Path, tmp_path: Path) -> None:
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = {"comparison.md", "comparison.csv", "summary.json", "index.html", "recall.png", "training.png"}
    assert set(first) == names
    again = {path.name: path.read_bytes() for path in make(tmp_path).iterdir()}
    assert first == again
    assert all(isinstance(value, int | float) for value in json.loads(first["summary.json"]).values())


def test_models_trained_elsewhere_are_marked_and_have_no_curve(tmp_path: Path) -> None:
    params = write_reports(tmp_path, checkpoints={"clip_b16": 70.0, "my_model": 10.0})
    write_report(read_results(params, tmp_path), tmp_path / "report")
    words = Page((tmp_path / "report/index.html").read_text()).words
    text = " ".join(words)
    assert "3 methods and 2 models trained elsewhere on 3 evaluation sets" in text
    assert words.count("clip_b16†") == 2, "headline and all metrics"
    assert "† trained elsewhere, and only evaluated here" in words
    assert "checkpoints.clip_b16" in words, "among the settings"
    assert json.loads((tmp_path / "report/summary.json").read_text())["my_model/long/i2t_r1"] == 10.0


def test_page_is_well_formed_and_needs_no_network(folder: Path) -> None:
    text = (folder / "index.html").read_text()
    page = Page(text)
    pictures = [link for link in page.links if link.startswith("data:image/png;base64,")]
    assert set(page.links) - set(pictures) == {
        "#comparison",
        "#training",
        "#captions",
        "#data",
        "#settings",
        "../validate/docs/summary.html",
    }
    inside = [base64.b64decode(link.partition(",")[2]) for link in pictures]
    assert inside == [(folder / name).read_bytes() for name in ("recall.png", "training.png")]
    assert not re.search(r"https?://|@import|url\(", text)
    assert "All 22 expectations of validation hold" in text


def test_plots_have_no_date_or_version(folder: Path) -> None:
    for name in ("recall.png", "training.png"):
        with Image.open(io.BytesIO((folder / name).read_bytes())) as image:
            assert set(image.info) <= {"dpi"}
            assert image.width >= 1000


def test_failed_expectations_stand_above_the_results(tmp_path: Path) -> None:
    text = (make(tmp_path, failed=True) / "index.html").read_text()
    words = " ".join(Page(text).words)
    alarm = words.index("1 of 22 expectations of validation FAILED")
    assert alarm < words.index("Comparison of models")
    assert "mean raw-word recall is 0.0712, at least 0.3 is allowed" in words
    # A captioner's words come from the web's pictures: they are shown, never run.
    assert "&lt;b&gt;image&lt;/b&gt;" in text
    assert json.loads((tmp_path / "report" / "summary.json").read_text())["failed_expectations"] == 1


def test_old_report_stays_when_a_new_one_cannot_be_made(folder: Path, tmp_path: Path) -> None:
    before = (folder / "index.html").read_bytes()
    params = write_reports(tmp_path)
    put(tmp_path / "download" / "scenes.json", {})
    with pytest.raises(DataError, match=r"lacks 'requested'.*dvc repro"):
        write_report(read_results(params, tmp_path), folder)
    assert (folder / "index.html").read_bytes() == before
    assert len(list(folder.parent.glob("*report*"))) == 1


def test_cells() -> None:
    assert [cell(v) for v in (None, True, 1234, 5.0, 0.123456, 1234.56, "<i>")] == [
        "–",
        "yes",
        "1,234",
        "5",
        "0.1235",
        "1,234.6",
        "&lt;i&gt;",
    ]
    assert (percent(0.0213), percent(None)) == ("2.1 %", "–")
    assert "<td>&amp;</td>" in table(["a"], [["&"]])


def test_colours_differ_and_stay() -> None:
    everyone = ["clip", "siglip", "filip", "laclip", "lit", "lit_long", "longclip", "lotlip", "mine", "yours"]
    colours = method_colours(everyone)
    assert len(set(colours.values())) == 10
    assert method_colours(["lotlip"])["lotlip"] == colours["lotlip"]
