"""Results on a terminal: JSON and tables."""

import json
from typing import Any


def print_json(value: Any) -> None:
    """Print a value as indented JSON."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(title: str, values: dict[str, Any]) -> None:
    """Print names and values in two columns."""
    from rich.console import Console
    from rich.table import Table

    print(title)  # in a table it would be broken to the width of its columns
    table = Table(show_header=False, box=None)
    for name, value in values.items():
        table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    Console().print(table)


def print_columns(title: str, columns: dict[str, dict[str, Any]], labels: dict[str, str]) -> None:
    """Print several results side by side, a row a label."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    for key, label in labels.items():
        table.add_row(label, *(_shown(values.get(key)) for values in columns.values()))
    Console().print(table)


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
