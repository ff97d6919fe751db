"""Data Docs: Great Expectations' own rendering of each suite's result on pages that need no network.

GX's page template loads its styles and scripts from the web and prints values unescaped and run times;
here its content blocks are set into our own page (templates/), values are escaped first, and nothing that
differs between two runs is printed.
"""

import copy
import html
from pathlib import Path
from typing import Any

from lotlip.records import publish_folder, write_text
from lotlip.validation.offenders import Offence
from lotlip.validation.suites import SuiteResult
from lotlip.validation.summary import FUNNEL

TEMPLATES = Path(__file__).parent / "templates"


def write_docs(
    results: list[SuiteResult], summary: dict[str, Any], offences: list[Offence], max_drift: float, folder: Path
) -> None:
    """Write `summary.html`, `index.html` and one page a suite into `folder`, replacing it."""
    from great_expectations.render.view import DefaultJinjaPageView
    from jinja2 import Environment, FileSystemLoader

    view = DefaultJinjaPageView(custom_views_directory=str(TEMPLATES))
    # GX's own environment escapes only templates named .html.
    ours = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True)
    with publish_folder(folder) as staging:
        index = ours.get_template("docs_index.j2").render(results=results, summary=summary)
        write_text(staging / "index.html", index)
        first_look = ours.get_template("summary.j2").render(
            summary=summary, offences=offences, max_drift=max_drift, labels=FUNNEL
        )
        write_text(staging / "summary.html", first_look)
        for result in results:
            page = view.render(_document(result), template="docs_suite.j2", result=result)
            write_text(staging / f"{result.name}.html", page)


def _document(result: SuiteResult) -> Any:
    """GX's content blocks of one result, without its header (it links to missing pages) and run info."""
    from great_expectations.render.renderer import ValidationResultsPageRenderer

    plain = copy.deepcopy(result.gx_result)
    plain.meta = {}
    for one in plain.results:
        one.result = _plain(one.result)
    document = ValidationResultsPageRenderer(run_info_at_end=True).render(plain)
    document.sections.pop()
    document.sections[0].content_blocks.pop(0)
    return document


def _plain(value: Any) -> Any:
    """Built-in numbers (GX can't print numpy's) and escaped strings."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, str):
        return html.escape(value)
    return value.item() if hasattr(value, "item") else value
