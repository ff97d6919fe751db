"""Tables in GitHub's Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: Sequence[int] = (0,)) -> str:
    """A table of cells that are Markdown already; columns are set right but for `text_columns`."""
    lines = [_line(header), "|" + "".join("---|" if i in text_columns else "---:|" for i in range(len(header)))]
    lines += [_line(row) for row in rows]
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
