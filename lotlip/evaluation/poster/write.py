"""Write the poster's tables from runs and reports: docs/results/<name>.md, <name>.png and an index."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lotlip.errors import DataError, ParamsError
from lotlip.evaluation.markdown import markdown_table
from lotlip.evaluation.poster.ablations import BARE, Ablations, read_ablations, row_number
from lotlip.evaluation.poster.claims import Finding, judge, read_claims
from lotlip.evaluation.poster.pages import KINDS, Page, statistics_page, table_page
from lotlip.evaluation.poster.runs import Runs, flat_settings, read_runs
from lotlip.evaluation.poster.sentences import RULES, counts_line, finding_line
from lotlip.evaluation.text_statistics import measured_statistics, published_statistics
from lotlip.params.explain import nearest
from lotlip.records import read_json, write_bytes, write_text

STATISTICS = "dataset_statistics"


def write_tables(names: Sequence[str], out: Path, ablations: Path, reports: Path) -> list[Path]:
    """Write the pages of some tables, and the index of all with the paper's claims; nothing if one cannot be made.

    Equal runs and reports give equal bytes.

    Args:
        names: of tables in `ablations`, `dataset_statistics`, or `all`.
        out: holds `runs.jsonl`, and takes `<name>.md`, `<name>.png` and `README.md`.
        ablations: the file that says which methods stand in which table.
        reports: of the stages, for the statistics of the data.

    Returns:
        The files written.

    Raises:
        ParamsError: a name is unknown, or `ablations` does not fit.
        DataError: runs or reports are missing or do not fit; see `read_runs`.
    """
    plan, runs = read_ablations(ablations), read_runs(out / "runs.jsonl")
    known = [STATISTICS, *plan.tables]
    for name in names:
        if name not in known and name != "all":
            raise ParamsError(f"there is no table {name!r}{nearest(name, [*known, 'all'])}")
    _check_labels(plan, runs)
    claims = [claim for claim in read_claims() if claim.table in plan.tables]
    findings = [finding for claim in claims for finding in judge(claim, plan.table(claim.table), runs)]
    pages = {
        name: _page(name, plan, runs, findings, reports) for name in (known if "all" in names else dict.fromkeys(names))
    }
    written = []
    for name, page in pages.items():
        write_text(out / f"{name}.md", page.text)
        written.append(out / f"{name}.md")
        if page.figure is not None:
            write_bytes(out / f"{name}.png", page.figure)
            written.append(out / f"{name}.png")
    write_text(out / "README.md", _index(plan, findings))
    return [*written, out / "README.md"]


def _page(name: str, plan: Ablations, runs: Runs, findings: Sequence[Finding], reports: Path) -> Page:
    if name == STATISTICS:
        return _statistics(reports)
    table = plan.table(name)
    if not any(method in runs for method in table.rows.values()):
        raise DataError(f"no row of table {name} was run: `make ablation NAME={name}` runs them.")
    return table_page(name, table, runs, [finding for finding in findings if finding.table == name])


def _statistics(reports: Path) -> Page:
    quality = read_json(reports / "quality" / "summary.json")
    evalset = {path.stem: read_json(path) for path in sorted((reports / "evalset").glob("*.json"))}
    if not evalset:
        raise DataError(f"{reports}/evalset has no reports: run `dvc repro evalset`.")
    try:
        return statistics_page(measured_statistics(quality, evalset), published_statistics())
    except KeyError as error:
        raise DataError(f"A report lacks {error}: another version of the code wrote it; run `dvc repro`.") from None


def _index(plan: Ablations, findings: Sequence[Finding]) -> str:
    shows = {STATISTICS: ("Dataset statistics", "Images, texts, sub-captions and tokens, ours and the published ones.")}
    shows |= {name: (table.title, KINDS[name].shows) for name, table in plan.tables.items()}
    rows = [[f"[{title}]({name}.md)", text, f"`lotlip table {name}`"] for name, (title, text) in shows.items()]
    parts = [
        "# Results: the poster's tables and figures",
        "Made from `runs.jsonl`, a line a trained or evaluated model. `make ablation NAME=corner_tokens` runs what a "
        "table lacks; `lotlip table all` writes all pages anew. The poster's numbers stand beside ours.",
        markdown_table(["table", "what it shows", "written by"], rows, range(3)),
        "## What the runs say about the paper's claims",
        f"{counts_line(findings)}.",
        RULES,
    ]
    for name, table in plan.tables.items():
        lines = [finding_line(finding) for finding in findings if finding.table == name]
        if lines:
            parts += [f"### [{table.title}]({name}.md)", "\n".join(lines)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _check_labels(plan: Ablations, runs: Runs) -> None:
    """A label of a sweep says what its method was run with.

    Raises:
        DataError: it does not.
    """
    for name, table in plan.tables.items():
        for label, method in table.rows.items():
            for run in runs.get(method, [])[:1]:
                for key, expected in _expected_settings(name, label).items():
                    found = flat_settings(run).get(key)
                    if found != expected:
                        raise DataError(
                            f"table {name}: row {label!r} is {method}, which was run with {key} {found}, not "
                            f"{expected}: mend the row, or run the method again."
                        )


def _expected_settings(table: str, label: str) -> dict[str, Any]:
    if table == "sub_captions":
        return {"train.run_length": row_number(label)}
    if table == "token_limit":
        return {"train.token_limit": row_number(label)}
    if table != "corner_tokens":
        return {}
    mask = {} if label == "0" else {"method.corner_mask": not label.endswith(BARE)}
    return {"method.corner_tokens": row_number(label), **mask}
