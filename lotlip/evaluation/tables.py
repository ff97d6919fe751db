"""The comparison as one table: a row a method or checkpoint, a column a metric of an evaluation set."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb, sqrt
from pathlib import Path
from typing import Any

from lotlip.errors import DataError
from lotlip.evaluation.markdown import markdown_table
from lotlip.evaluation.results import Results

CHANCE = "chance"
_MARK = "†"  # behind the names of models that ELSEWHERE is about
ELSEWHERE = f"{_MARK} trained elsewhere, and only evaluated here"
_RETRIEVAL = {f"{way}_r{k}": f"{way.upper()} R@{k}" for k in (1, 5, 10) for way in ("i2t", "t2i")}
_CLASSIFICATION = {"top1": "top-1", "top5": "top-5"}
_HEADLINE = ("i2t_r1", "t2i_r1", "top1")


@dataclass(frozen=True)
class Column:
    """One metric in percent, higher is better: `long I2T R@1` is `i2t_r1` on the set `long`."""

    evalset: str
    metric: str
    label: str

    @property
    def title(self) -> str:
        return f"{self.evalset} {self.label}"

    @property
    def is_headline(self) -> bool:
        """Whether it counts only first places."""
        return self.metric in _HEADLINE


@dataclass(frozen=True)
class Table:
    """Values in percent, a row a model, and what guessing would reach; `foreign` rows were trained elsewhere."""

    columns: tuple[Column, ...]
    rows: dict[str, tuple[float, ...]]
    chance: tuple[float, ...]
    foreign: frozenset[str] = frozenset()

    def headline(self) -> "Table":
        """The table of first places alone."""
        keep = [i for i, column in enumerate(self.columns) if column.is_headline]
        return Table(
            tuple(self.columns[i] for i in keep),
            {name: tuple(row[i] for i in keep) for name, row in self.rows.items()},
            tuple(self.chance[i] for i in keep),
            self.foreign,
        )

    def shown(self, name: str) -> str:
        """The row's name, marked where the model was trained elsewhere."""
        return f"{name}{_MARK}" if name in self.foreign else name

    def best(self) -> tuple[float, ...]:
        """The best value of each column."""
        return tuple(max(values) for values in zip(*self.rows.values(), strict=True))


def comparison(results: Results) -> Table:
    """Gather all models' metrics, sets, methods and checkpoints in the order of params.yaml."""
    first = next(iter(results.evaluate.values()))
    columns = [
        Column(evalset, metric, label)
        for evalset in results.params.evalsets
        for metric, label in (_RETRIEVAL | _CLASSIFICATION).items()
        if metric in first[evalset]
    ]
    return Table(
        tuple(columns),
        {
            name: tuple(float(by_set[column.evalset][column.metric]) for column in columns)
            for name, by_set in results.evaluate.items()
        },
        tuple(chance_level(column.metric, first[column.evalset]) for column in columns),
        frozenset(results.params.checkpoints),
    )


def chance_level(metric: str, counts: Mapping[str, Any]) -> float:
    """Percent that a random order reaches.

    Of T texts, T / I belong to an image: I2T R@k is the chance that a draw of k texts holds one of them,
    such as 1 in 300 for `i2t_r1` with one text an image. T2I R@k is k / I, top-k is k / C.

    Args:
        metric: `i2t_r<k>`, `t2i_r<k>` or `top<k>`.
        counts: holds `images` and `texts`, or `classes`.
    """
    if metric.startswith("top"):
        return 100 * min(1.0, int(metric.removeprefix("top")) / int(counts["classes"]))
    way, k = metric.split("_r")
    num_images, num_texts = int(counts["images"]), int(counts["texts"])
    if way == "t2i":
        return 100 * min(1.0, int(k) / num_images)
    own, drawn = round(num_texts / num_images), min(int(k), num_texts)
    return 100 * (1 - comb(num_texts - own, drawn) / comb(num_texts, drawn))


def half_interval(num_queries: int) -> float:
    """Half the width, in points, of the 95% interval of a share of `num_queries` answers; widest, at 50%."""
    return 100 * 1.96 * 0.5 / sqrt(num_queries)


def to_csv(table: Table) -> str:
    """`method`, `trained` (here or elsewhere) and the columns' titles; a row a model, then chance."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["method", "trained", *(column.title for column in table.columns)])
    for name, row in [*table.rows.items(), (CHANCE, table.chance)]:
        trained = "" if name == CHANCE else "elsewhere" if name in table.foreign else "here"
        writer.writerow([name, trained, *(f"{value:.4g}" for value in row)])
    return buffer.getvalue()


def to_markdown(table: Table) -> str:
    """A Markdown table, best values bold, chance last, and a line on models trained elsewhere, if any."""
    best = table.best()
    rows = [
        [table.shown(name), *(f"**{v:.1f}**" if v == top else f"{v:.1f}" for v, top in zip(row, best, strict=True))]
        for name, row in table.rows.items()
    ]
    rows.append([f"*{CHANCE}*", *(f"*{value:.1f}*" for value in table.chance)])
    shown = markdown_table(["method", *(column.title for column in table.columns)], rows)
    return f"{shown}\n{ELSEWHERE}\n" if table.foreign else shown


def flat_metrics(table: Table) -> dict[str, float]:
    """First places as `<method>/<set>/<metric>`, in percent."""
    head = table.headline()
    return {
        f"{name}/{column.evalset}/{column.metric}": round(value, 4)
        for name, row in head.rows.items()
        for column, value in zip(head.columns, row, strict=True)
    }


def print_comparison(path: Path = Path("reports/report/comparison.csv"), console: Any = None) -> None:
    """Show the first places of `comparison.csv` in the terminal, best values bold.

    Raises:
        DataError: the file is missing.
    """
    from rich.console import Console
    from rich.table import Table as RichTable

    header, *rows = _read_csv(path)
    shown = [i for i, title in enumerate(header) if i and title.endswith(("R@1", "top-1"))]
    note = ELSEWHERE if any(row[1] == "elsewhere" for row in rows) else None
    title = "Percent of queries answered right at first place"
    table = RichTable(title=title, title_justify="left", caption=note, caption_justify="left")
    table.add_column("method", no_wrap=True)
    for i in shown:
        table.add_column(header[i].replace(" R@1", ""), justify="right")
    best = {i: max(float(row[i]) for row in rows if row[0] != CHANCE) for i in shown}
    for row in rows:
        cells = [f"{float(row[i]):.1f}" for i in shown]
        if row[0] != CHANCE:
            cells = [_bold(cell, float(row[i]) == best[i]) for cell, i in zip(cells, shown, strict=True)]
        name = f"{row[0]}{_MARK}" if row[1] == "elsewhere" else row[0]
        table.add_row(name, *cells, style="dim" if row[0] == CHANCE else None)
    (console or Console()).print(table)


def _bold(cell: str, is_bold: bool) -> str:
    return f"[bold green]{cell}[/]" if is_bold else cell


def _read_csv(path: Path) -> Sequence[Sequence[str]]:
    if not path.is_file():
        raise DataError(f"{path} is missing: run `dvc repro report`.")
    with path.open(newline="") as file:
        return list(csv.reader(file))
