"""Plots of the comparison as PNG bytes: equal inputs give equal bytes, and no display is needed."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

from lotlip.evaluation.results import Curve
from lotlip.evaluation.tables import Table

# One colour a method, the same in every plot and run.
_COLOURS = {
    "lotlip": "#d1495b",
    "lit_long": "#2e6f95",
    "lit": "#8fb8cf",
    "longclip": "#3f9c77",
    "laclip": "#a3c76d",
    "clip": "#8a8f98",
    "siglip": "#8064a2",
    "filip": "#c99a3f",
}
_SPARE = ("#5b8e7d", "#bc6c25", "#6a4c93", "#457b9d", "#9c6644", "#7f5539")
_MAX_LABELS = 30  # more numbers over the bars would run into each other
_CURVES = {
    "loss_raw": "loss on raw captions (nats)",
    "loss_long": "loss on long texts (nats)",
    "logit_scale": "logit scale",
}


def method_colours(methods: Iterable[str]) -> dict[str, str]:
    """A hex colour for each method; unknown names take spare ones in order."""
    names = list(methods)
    unknown = [name for name in names if name not in _COLOURS]
    return {name: _COLOURS.get(name) or _SPARE[unknown.index(name) % len(_SPARE)] for name in names}


def bar_chart(table: Table) -> bytes:
    """First places (R@1, top-1) by column, a bar a method, a dashed line where chance is."""
    head = table.headline()
    colours = method_colours(head.rows)
    width = 0.8 / len(head.rows)
    num_bars = len(head.columns) * len(head.rows)
    # Wider figures are shrunk by the page, and their words with them.
    figure = new_figure(min(11.0, max(8.0, 1.4 + 0.5 * num_bars)), 3.9)
    axes = figure.add_subplot()
    for i, (name, row) in enumerate(head.rows.items()):
        places = [j - 0.4 + width * (i + 0.5) for j in range(len(row))]
        bars = axes.bar(places, row, width * 0.92, color=colours[name], label=head.shown(name))
        if num_bars <= _MAX_LABELS:
            axes.bar_label(bars, fmt="%.1f", fontsize=8.5, padding=1.5, color="#444")
    for j, chance in enumerate(head.chance):
        label = "chance" if j == 0 else None
        axes.hlines(chance, j - 0.44, j + 0.44, color="#222", linestyle=(0, (3, 2)), linewidth=1.1, label=label)
    axes.set_xticks(range(len(head.columns)), ["\n".join(column.title.split(" ", 1)) for column in head.columns])
    axes.set_ylabel("right at first place (%)")
    axes.set_ylim(0, min(108.0, 1.25 * max(5.0, *head.best())))
    tidy(axes)
    axes.legend(ncols=5, frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), borderaxespad=0.2)
    return to_png(figure)


def curve_chart(curves: Mapping[str, Curve]) -> bytes:
    """Losses and logit scale against optimizer steps, a line a method."""
    colours = method_colours(curves)
    shown = {key: says for key, says in _CURVES.items() if any(key in row for c in curves.values() for row in c)}
    figure = new_figure(max(8.0, 3.7 * len(shown)), 3.5)
    for i, (key, says) in enumerate(shown.items()):
        axes = figure.add_subplot(1, len(shown), i + 1)
        for name, curve in curves.items():
            points = [(row["step"], row[key]) for row in curve if key in row]
            if points:
                axes.plot(*zip(*points, strict=True), color=colours[name], linewidth=1.8, label=name)
        axes.set_title(says, fontsize=11, loc="left")
        axes.set_xlabel("optimizer step")
        if key.startswith("loss"):
            axes.set_ylim(bottom=0)
        tidy(axes)
    figure.legend(*_one_handle_a_method(figure), ncols=5, frameon=False, loc="outside lower left", borderaxespad=0.2)
    return to_png(figure)


def _one_handle_a_method(figure: Any) -> tuple[list[Any], list[str]]:
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return list(handles.values()), list(handles)


def new_figure(width: float, height: float) -> Any:
    """An empty figure, sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Any) -> None:
    """The look of all plots: two thin axes and faint lines across."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999")
    axes.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors="#333", labelsize=10)


def to_png(figure: Any) -> bytes:
    """PNG bytes; equal figures give equal bytes."""
    buffer = io.BytesIO()
    # Without metadata: matplotlib would name its version, and equal plots would differ.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
