"""Figures of the poster's tables as PNG bytes: panels of lines over a number, or of bars by row, with 95% intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Any

from lotlip.evaluation.plots import method_colours, new_figure, tidy, to_png
from lotlip.evaluation.poster.metrics import Metric
from lotlip.evaluation.poster.runs import Run

_MASKED, _BARE = "lotlip", "clip"  # whose colours lines take
_WAYS = "mean of I2T and T2I R@1 (%)"


@dataclass(frozen=True)
class Panel:
    """One metric under a title, and what its axis says."""

    title: str
    metric: Metric

    @property
    def axis(self) -> str:
        """What is measured, with its unit."""
        if self.metric.unit != "points":
            return f"{self.metric.unit} a text"
        return "top-1 (%)" if all(key == "top1" for _, key in self.metric.parts) else _WAYS


Point = tuple[int, Sequence[Run]]


def line_chart(panels: Sequence[Panel], lines: Mapping[str, Sequence[Point]], x_label: str) -> bytes:
    """A panel a metric; means over seeds as lines over a number, bars for their intervals, a dot a seed.

    Args:
        panels: at most four.
        lines: runs by number, for each line's name; a second line is dashed, and either may have no runs.
        x_label: what the numbers count.
    """
    num_columns = 2 if len(panels) in (2, 4) else min(3, len(panels))
    num_rows = -(-len(panels) // num_columns)
    figure = _roomy(3.8 * num_columns + 0.3, 3.2 * num_rows + 0.4)
    ticks = sorted({x for points in lines.values() for x, _ in points})
    apart = 0.012 * (ticks[-1] - ticks[0]) if all(lines.values()) else 0.0
    beside = 0.022 * (ticks[-1] - ticks[0])  # dots of single seeds stand beside their mean
    colours = list(method_colours((_MASKED, _BARE)).values())
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(num_rows, num_columns, i + 1)
        for number, (name, points) in enumerate(lines.items()):
            # Lines stand a little apart, so that their bars do not hide each other.
            shift = apart * (number - (len(lines) - 1) / 2)
            _line(axes, name, panel.metric, points, colours[number], ("-", "--")[number], shift, beside)
        axes.set_title(panel.title, fontsize=11, loc="left")
        axes.set_ylabel(panel.axis, fontsize=9.5)
        axes.set_xlabel(x_label, fontsize=9.5)
        axes.set_xticks(_apart(ticks))
        axes.margins(y=0.12)
        if panel.metric.unit != "points" or axes.get_ylim()[0] < 0:
            axes.set_ylim(bottom=0)
        tidy(axes)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if len(handles) > 1:
        figure.legend(handles, labels, ncols=len(lines), frameon=False, loc="outside upper left", borderaxespad=0.2)
    return to_png(figure)


def bar_chart(panels: Sequence[Panel], rows: Mapping[str, tuple[str, Sequence[Run]]]) -> bytes:
    """A panel a metric; a bar a row in its method's colour, with its interval and mean.

    Args:
        panels: at most three.
        rows: method and runs by label, from top to bottom.
    """
    figure = _roomy(2.1 + 3.1 * len(panels), 1.2 + 0.42 * len(rows))
    colours = method_colours(method for method, _ in rows.values())
    labels = list(rows)
    first: Any = None
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), i + 1, sharey=first)
        first = first or axes
        ends = [_bar(axes, y, panel.metric, runs, colours[method]) for y, (method, runs) in enumerate(rows.values())]
        axes.set_title(panel.title, fontsize=11, loc="left")
        axes.set_xlabel(panel.axis, fontsize=9.5)
        axes.set_xlim(0, 1.22 * max([*ends, 1.0]))
        tidy(axes)
        axes.grid(axis="y", visible=False)
        axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axes.tick_params(axis="y", length=0, labelleft=i == 0)
    first.set_yticks(range(len(labels)), labels)
    first.set_ylim(len(labels) - 0.4, -0.6)
    return to_png(figure)


def _roomy(width: float, height: float) -> Any:
    figure = new_figure(width, height)
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.08)  # inches around each panel
    return figure


def _line(
    axes: Any, name: str, metric: Metric, points: Sequence[Point], colour: str, style: str, shift: float, beside: float
) -> None:
    if not points:
        return
    found = [(x + shift, metric.estimate(runs), runs) for x, runs in points]
    shown = [(x, mean, runs) for x, mean, runs in found if mean is not None]
    axes.errorbar(
        [x for x, _, _ in shown],
        [one.mean for _, one, _ in shown],
        yerr=[one.half or nan for _, one, _ in shown],  # no bar where there is no interval, or none to be seen
        color=colour,
        linestyle=style,
        linewidth=1.8,
        marker="o",
        markersize=5,
        capsize=3.5,
        elinewidth=1.2,
        label=name,
    )
    for x, _, runs in shown:
        values = [value for run in runs if (value := metric.value(run)) is not None]
        axes.scatter([x + beside] * len(values), values, s=11, color=colour, alpha=0.55, linewidths=0)


def _bar(axes: Any, y: int, metric: Metric, runs: Sequence[Run], colour: str) -> float:
    """Draw a bar with its interval and number; return where it ends."""
    one = metric.estimate(runs)
    if one is None:
        axes.text(0, y, " –", va="center", fontsize=9, color="#777")
        return 0.0
    half = one.half or 0.0
    below = min(half, one.mean)
    above = min(half, 100 - one.mean) if metric.unit == "points" else half  # a share ends at 100%, its interval may not
    end = one.mean + above
    axes.barh(y, one.mean, 0.68, color=colour)
    if one.half is not None:
        axes.errorbar(one.mean, y, xerr=[[below], [above]], color="#222", capsize=3, elinewidth=1.1)
    axes.annotate(
        f"{one.mean:.1f}", (end, y), (5, 0), textcoords="offset points", va="center", fontsize=9, color="#333"
    )
    return end


def _apart(ticks: list[int]) -> list[int]:
    """The numbers without those that would stand too near their neighbour to be read."""
    least = (ticks[-1] - ticks[0]) / 14
    kept: list[int] = []
    for tick in ticks:
        if not kept or tick - kept[-1] >= least:
            kept.append(tick)
    return kept
