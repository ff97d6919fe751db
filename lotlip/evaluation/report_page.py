"""The report folder: the comparison as Markdown, CSV, JSON and plots, and one page that shows everything."""

from pathlib import Path

from lotlip.errors import DataError
from lotlip.evaluation.html_parts import page
from lotlip.evaluation.plots import bar_chart, curve_chart
from lotlip.evaluation.report_captions import captions_section
from lotlip.evaluation.report_sections import (
    comparison_section,
    data_section,
    settings_section,
    training_section,
    verdict_box,
)
from lotlip.evaluation.results import Results
from lotlip.evaluation.tables import Table, comparison, flat_metrics, to_csv, to_markdown
from lotlip.records import publish_folder, write_bytes, write_json, write_text


def write_report(results: Results, folder: Path) -> Table:
    """Replace `folder` by a new report and return the comparison.

    Writes `comparison.md`, `comparison.csv`, `summary.json` (first places, and counts of the data),
    `recall.png`, `training.png`, and `index.html`, which holds its plots and needs no network. Equal results
    give equal bytes. An old report stays where a new one cannot be made.

    Raises:
        DataError: a stage's report lacks a number.
    """
    try:
        return _write_report(results, folder)
    except KeyError as error:
        raise DataError(
            f"A report of an earlier stage lacks {error}: another version of the code wrote it. Run "
            "`dvc repro`, and if that runs nothing, `dvc repro -f`."
        ) from error


def _write_report(results: Results, folder: Path) -> Table:
    compared = comparison(results)
    plots = {"recall.png": bar_chart(compared), "training.png": curve_chart(results.curves)}
    with publish_folder(folder) as staging:
        tables = f"{to_markdown(compared.headline())}\nAll metrics:\n\n{to_markdown(compared)}"
        write_text(staging / "comparison.md", tables)
        write_text(staging / "comparison.csv", to_csv(compared))
        write_json(staging / "summary.json", {**flat_metrics(compared), **_counts(results)})
        for name, png in plots.items():
            write_bytes(staging / name, png)
        write_text(staging / "index.html", render_page(results, compared, plots))
    return compared


def render_page(results: Results, compared: Table, plots: dict[str, bytes]) -> str:
    """The report as one HTML document, with the plots `recall.png` and `training.png` inside."""
    counts = _counts(results)
    lead = (
        f"{_models(results)} on {_plural(len(results.evalset), 'evaluation set')}; "
        f"the data is {_plural(counts['images'], 'image')} with "
        f"{_plural(counts['raw_texts'], 'raw caption')} and "
        f"{_plural(counts['long_texts'], 'long text')} by {_plural(len(results.recaption), 'captioner')}."
    )
    alarm = [verdict_box(results.validate)] if counts["failed_expectations"] else []
    sections = {
        "comparison": comparison_section(results, compared, plots["recall.png"]),
        "training": training_section(results, plots["training.png"]),
        "captions": captions_section(results),
        "data": data_section(results),
        "settings": settings_section(results),
    }
    anchors = {name: name.capitalize() for name in sections}
    return page(results.params.report.title, lead, anchors, [*alarm, *sections.values()])


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def _models(results: Results) -> str:
    methods = _plural(len(results.params.methods), "method")
    foreign = len(results.params.checkpoints)
    return f"{methods} and {_plural(foreign, 'model')} trained elsewhere" if foreign else methods


def _counts(results: Results) -> dict[str, int]:
    validation = results.validate
    return {
        "images": validation["images"]["kept"],
        "raw_texts": validation["raw"]["kept"],
        "long_texts": sum(verdict["kept"] for verdict in validation["long"].values()),
        "failed_expectations": validation["expectations"]["failed"],
    }
