"""The poster's tables as they were published, in the order of ours, with what is odd about them."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lotlip.evaluation.markdown import markdown_table
from lotlip.evaluation.poster.ablations import Table
from lotlip.evaluation.poster.metrics import POSTER_SETS
from lotlip.params.reading import read_section
from lotlip.params.section import Section

_PUBLISHED = Path(__file__).parents[1] / "published"

_DATA = {
    "dci": "DCI",
    "iiw": "IIW",
    "sharegpt4v_1k": "ShareGPT4V-1k",
    "sharegpt4v_10k": "ShareGPT4V-10k",
    "urban1k": "Urban1k",
    "mscoco": "MSCOCO",
}
_TITLES = {f"{key}_{way}": f"{name} {way.upper()}" for key, name in _DATA.items() for way in ("i2t", "t2i")}
_TITLES |= {"imagenet_top1": "ImageNet top-1", "short_pairs": "short pairs", "long_pairs": "long pairs"}
_TITLES |= {"image_tower": "image tower", "num_corner_tokens": "corner tokens", "attention_mask": "mask"}
_AVERAGED = tuple(f"{name}_{way}" for name in POSTER_SETS for way in ("i2t", "t2i"))
_ROUNDING = 0.005  # of two decimals
Row = dict[str, str]


class Note(Section):
    row: dict[str, str]
    column: str
    says: str


class Notes(Section):
    main_results: list[Note]


def published_rows(file: str) -> list[dict[str, str]]:
    """The rows of published/<file>.csv."""
    with (_PUBLISHED / f"{file}.csv").open(newline="") as lines:
        return list(csv.DictReader(lines))


def wrong_averages(rows: Sequence[Row]) -> list[tuple[Row, float]]:
    """Rows whose published average is not that of their eight columns, with what it would be."""
    wrong = []
    for row in rows:
        if row["average"]:
            average = sum(float(row[column]) for column in _AVERAGED) / len(_AVERAGED)
            if abs(average - float(row["average"])) > _ROUNDING + 1e-9:
                wrong.append((row, average))
    return wrong


def main_results_published(table: Table) -> str:
    """The poster's main results in the order of our rows, then systems that we have no row of; notes below."""
    rows = published_rows("main_results")
    order = {label: place for place, label in enumerate(table.rows)}
    rows.sort(key=lambda row: order.get(row["model"], len(order)))  # stable: a system's rows stay in order
    remarks: list[str] = []
    marks: dict[tuple[int, str], list[int]] = {}

    def remark(row: Row, column: str, says: str) -> None:
        if says not in remarks:
            remarks.append(says)
        marks.setdefault((id(row), column), []).append(remarks.index(says) + 1)

    for note in read_section(_PUBLISHED / "notes.yaml", Notes).main_results:
        for row in rows:
            if note.row.items() <= row.items():
                remark(row, note.column, note.says)
    for row, average in wrong_averages(rows):
        remark(row, "average", _says_wrong(float(row["average"]), average))
    columns = [column for column in rows[0] if column != "source"]
    header = [_TITLES.get(column, column) for column in [*columns, "source"]]
    cells = [
        [_number(row[column]) + _marks(marks.get((id(row), column))) for column in columns] + [row["source"]]
        for row in rows
    ]
    text = markdown_table(header, cells, text_columns=(0, 1, 2, 3, len(columns)))
    checked = sum(bool(row["average"]) for row in rows)
    wrong = len(wrong_averages(rows))
    averages = (
        f"Of {checked} published averages, {checked - wrong} are those of their eight columns, recomputed to the "
        "second decimal."
    )
    lines = [f"<sup>{number}</sup> {says}" for number, says in enumerate(remarks, 1)]
    return "\n\n".join([text.rstrip(), *lines, averages]) + "\n"


def corner_tokens_published(table: Table) -> str:
    """The poster's ablation of corner tokens, in the order of our rows."""
    by_label = {_corner_label(row): row for row in published_rows("corner_token_ablation")}
    labels = [label for label in table.rows if label in by_label]
    labels += [label for label in by_label if label not in labels]
    columns = [column for column in next(iter(by_label.values())) if column in _TITLES and column not in _KEYS]
    header = ["corner tokens", *(_TITLES[column] for column in columns)]
    return markdown_table(header, [[label, *(by_label[label][column] for column in columns)] for label in labels])


def _says_wrong(published: float, average: float) -> str:
    # Columns are rounded as well: their mean may be off by as much again.
    why = "which rounding of the columns can explain" if abs(average - published) < 2 * _ROUNDING else "unexplained"
    return f"The eight columns average to {average:.4f}, published is {published:.2f}, {why}."


_KEYS = ("num_corner_tokens", "attention_mask")


def _corner_label(row: Row) -> str:
    mask: dict[str, Any] = {"yes": " mask", "no": " no mask", "": ""}
    return f"{row['num_corner_tokens']}{mask[row['attention_mask']]}"


def _number(text: str) -> str:
    return text or "–"


def _marks(numbers: list[int] | None) -> str:
    return f"<sup>{', '.join(map(str, numbers))}</sup>" if numbers else ""
