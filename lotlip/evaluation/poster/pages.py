"""The page of a table: our numbers, the published ones, the figure, the claims, and where it all comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Any

from lotlip.evaluation.markdown import markdown_table
from lotlip.evaluation.poster import published
from lotlip.evaluation.poster.ablations import BARE, Table, row_number
from lotlip.evaluation.poster.charts import Panel, Point, bar_chart, line_chart
from lotlip.evaluation.poster.claims import Finding
from lotlip.evaluation.poster.estimates import Estimate
from lotlip.evaluation.poster.metrics import Metric, columns, flops_columns, group_metric, set_metrics
from lotlip.evaluation.poster.runs import Run, Runs, flat_settings
from lotlip.evaluation.poster.sentences import finding_line, intervals_note, parts_note
from lotlip.evaluation.tables import CHANCE
from lotlip.evaluation.text_statistics import TextStatistics

_PANELS = {"long": "Long-text retrieval", "short": "Short-text retrieval", "classes": "Zero-shot classification"}
_FLOPS_PANEL = {"text_flops": "Cost of a long text"}


@dataclass(frozen=True)
class Kind:
    """What is particular about a table: what it shows, the header of its labels, and the number it sweeps."""

    shows: str
    header: str
    x_label: str | None = None
    has_flops: bool = False
    has_checkpoints: bool = False


KINDS = {
    "main_results": Kind(
        "Every system of the poster, trained here on the same images. Public checkpoints, where there are any, were "
        "only evaluated and take no part in the claims.",
        "system",
        has_checkpoints=True,
    ),
    "corner_tokens": Kind(
        "LoTLIP with 0 to 4 corner tokens, with the attention mask that hides them from the text and without it. "
        "0 corner tokens are LiT trained on raw and long texts.",
        "corner tokens",
        x_label="corner tokens",
    ),
    "sub_captions": Kind(
        "LoTLIP trained on long texts that are runs of so many consecutive sub-captions.",
        "sub-captions",
        x_label="sub-captions in a training text",
    ),
    "token_limit": Kind(
        "LoTLIP trained and evaluated with texts cut off after so many tokens, and the floating-point operations that "
        "the text tower spends on a text.",
        "token limit",
        x_label="token limit",
        has_flops=True,
    ),
    "texts": Kind(
        "The same model trained on raw captions, on long texts, and on both, the last two with corner tokens, too.",
        "trained on",
    ),
    "captioners": Kind("LoTLIP trained on the long texts of one captioner, and on those of all three.", "captioners"),
}


@dataclass(frozen=True)
class Page:
    """A table's files, without their folder: Markdown and, where there is one, its figure."""

    text: str
    figure: bytes | None = None


def table_page(name: str, table: Table, runs: Runs, findings: Sequence[Finding]) -> Page:
    """The page `<name>.md` of a table made of runs, and `<name>.png`.

    Raises:
        DataError: no run has a metric to show.
    """
    kind = KINDS[name]
    rows = {label: (method, runs.get(method, [])) for label, method in table.rows.items()}
    if kind.has_checkpoints:
        rows |= {method: (method, group) for method, group in runs.items() if group[0].seed is None}
    shown = {label: row for label, row in rows.items() if row[1]}
    used = dict(shown.values())
    figure = _figure(kind, shown, used)
    parts = [
        f"# {table.title}",
        kind.shows,
        _our_table(name, kind, rows, used),
        parts_note(set_metrics(used), used),
        intervals_note(set_metrics(used), used),
        f"![{table.title}: the numbers of the table above as a figure, with 95% intervals]({name}.png)"
        if figure
        else "",
        "Small dots in the figure are single seeds." if figure and kind.x_label else "",
        "## Published",
        _published(name, table),
        "## The paper's claims",
        "\n".join(finding_line(finding) for finding in findings) or "None belongs to this table.",
        "## Made from",
        _sources(name, shown),
    ]
    return Page("\n\n".join(part.strip() for part in parts if part) + "\n", figure)


def statistics_page(ours: Sequence[TextStatistics], theirs: Sequence[TextStatistics]) -> Page:
    """The page `dataset_statistics.md`."""

    def rows(group: Sequence[TextStatistics]) -> str:
        header = ["texts of", "images", "texts", "sub-captions a text", "tokens a text"]
        cells = [
            [one.texts_of, f"{one.images:,}", f"{one.texts:,}", f"{one.sub_captions:.2f}", f"{one.tokens:.2f}"]
            for one in group
        ]
        return markdown_table(header, cells)

    parts = [
        "# Dataset statistics",
        "Images, texts, sub-captions (non-empty pieces between full stops and line ends) and tokens (WordPieces "
        "without special tokens) of the texts for training and for evaluation.",
        rows(ours),
        "## Published",
        rows(theirs),
        "## Made from",
        "`reports/quality/summary.json` and `reports/evalset/*.json`, the data of params.yaml as it stands: counts, "
        "without a seed or an interval. The other tables' runs may have more of the same (their `overlays`).",
        "```\ndvc repro quality evalset\nlotlip table dataset_statistics\n```",
    ]
    return Page("\n\n".join(part.strip() for part in parts) + "\n")


def _our_table(name: str, kind: Kind, rows: Mapping[str, tuple[str, Sequence[Run]]], used: Runs) -> str:
    metrics = columns(used) + (flops_columns(used) if kind.has_flops else [])
    estimates = {label: [metric.estimate(runs) for metric in metrics] for label, (_, runs) in rows.items()}
    best = [
        max((one.mean for one in column if one is not None), default=None)
        for column in zip(*estimates.values(), strict=True)
    ]
    cells = []
    for label, (_, runs) in rows.items():
        values = [_shown(one, metric, top) for one, metric, top in zip(estimates[label], metrics, best, strict=True)]
        cells.append([label, *values, _seeds(runs)])
    guesses = [
        next((guess for group in used.values() for run in group if (guess := metric.chance(run)) is not None), None)
        for metric in metrics
    ]
    cells.append([f"*{CHANCE}*", *("–" if guess is None else f"*{guess:.1f}*" for guess in guesses), ""])
    text = markdown_table([kind.header, *(metric.title for metric in metrics), "seeds"], cells)
    absent = [label for label, (_, runs) in rows.items() if not runs]
    if absent:
        text += f"\nNot run: {', '.join(absent)}. `make ablation NAME={name}` runs them.\n"
    return text


def _shown(one: Estimate | None, metric: Metric, top: float | None) -> str:
    if one is None:
        return "–"
    mean = f"{one.mean:.1f}"
    if metric.unit == "points" and top is not None and isclose(one.mean, top):  # equal but for the order of a sum
        mean = f"**{mean}**"
    return mean if one.half is None else f"{mean} ± {one.half:.1f}"


def _seeds(runs: Sequence[Run]) -> str:
    if not runs:
        return "not run"
    return "none: a checkpoint" if runs[0].seed is None else str(len(runs))


def _published(name: str, table: Table) -> str:
    if name == "main_results":
        return published.main_results_published(table)
    if name == "corner_tokens":
        return published.corner_tokens_published(table)
    return "None of the published tables that are carried here has this comparison."


def _figure(kind: Kind, shown: Mapping[str, tuple[str, Sequence[Run]]], used: Runs) -> bytes | None:
    titles = _PANELS | (_FLOPS_PANEL if kind.has_flops else {})
    panels = [
        Panel(title, metric) for group, title in titles.items() if (metric := group_metric(group, used)) is not None
    ]
    if not panels:
        return None
    if kind.x_label is None:
        return bar_chart(panels, shown)
    lines: dict[str, list[Point]] = {"with the mask": [], "without the mask": []}
    for label, (_, runs) in shown.items():
        lines["without the mask" if label.endswith(BARE) else "with the mask"].append((row_number(label), runs))
    return line_chart(panels, lines, kind.x_label)


def _sources(name: str, shown: Mapping[str, tuple[str, Sequence[Run]]]) -> str:
    cells = [
        [
            label,
            f"`{method}`",
            _listed(str(run.seed) for run in runs if run.seed is not None),
            _experiments(runs),
            _listed(run.commit[:10] if run.commit else None for run in runs),
        ]
        for label, (method, runs) in shown.items()
    ]
    table = markdown_table(["row", "method", "seeds", "experiments", "commits"], cells, range(5))
    seeds = " ".join(map(str, sorted({run.seed for _, runs in shown.values() for run in runs if run.seed is not None})))
    with_seeds = f' SEEDS="{seeds}"' if seeds else ""
    return (
        "The first command runs what is missing, the second writes this page and its figure:\n\n"
        f"```\nmake ablation NAME={name}{with_seeds}\nlotlip table {name}\n```\n\n"
        f"{table}\nData of all rows, by DVC's hashes: {_data(shown)}.\n\n{_differences(shown)}"
    )


def _data(shown: Mapping[str, tuple[str, Sequence[Run]]]) -> str:
    hashes = {where: found for _, runs in shown.values() for run in runs for where, found in run.data.items()}
    return ", ".join(f"`{where}` {hashes[where][:10]}" for where in sorted(hashes))


def _experiments(runs: Sequence[Run]) -> str:
    """Their names, those of one table in one: `texts-seed{3,4}`."""
    names: dict[str, list[str]] = {}
    for run in runs:
        if run.experiment:
            table, _, seed = run.experiment.rpartition("-seed")
            names.setdefault(table, []).append(seed)
    return _listed(
        f"{table}-seed{seeds[0] if len(seeds) == 1 else '{' + ','.join(seeds) + '}'}" for table, seeds in names.items()
    )


def _differences(shown: Mapping[str, tuple[str, Sequence[Run]]]) -> str:
    """The settings in which the rows differ, folded up."""
    settings = {label: flat_settings(runs[0]) for label, (_, runs) in shown.items() if runs[0].settings}
    keys = dict.fromkeys(key for flat in settings.values() for key in flat)
    different = [key for key in keys if len({repr(flat.get(key)) for flat in settings.values()}) > 1]
    if not different:
        return ""
    cells = [[label, *(_setting(flat.get(key)) for key in different)] for label, flat in settings.items()]
    table = markdown_table(["row", *(f"`{key}`" for key in different)], cells, range(len(different) + 1))
    return f"<details><summary>Settings in which the rows differ; all others are equal</summary>\n\n{table}\n</details>"


def _setting(value: Any) -> str:
    return "–" if value is None else f"{value}"


def _listed(values: Any) -> str:
    return ", ".join(dict.fromkeys(value for value in values if value)) or "–"
