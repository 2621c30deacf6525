"""Curves of runs (matplotlib, imported when a curve is drawn; its global state stays as it is)."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from textwrap import wrap
from typing import Any

from evokern.comparison import Group, X, median_curve
from evokern.errors import ArgumentError, message
from evokern.files import make_folder, replace_file
from evokern.metrics import read_metrics, step_of

# Okabe and Ito's palette, told apart with any colour vision, without its yellow (too pale on
# white); black is for reference lines. More curves than colours change the dashes.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("-", "--", ":", "-.")

_NAMES = {
    "fitness/best": "best fitness",
    "fitness/median": "median fitness",
    "batch_accuracy/best": "accuracy of the best on its batch",
    "holdout_accuracy/best": "accuracy of the best on the hold-out part",
    "loss": "loss on the batch",
    "sigma/mean": "mean mutation strength",
}
_OWN_CURVES = (("batch_accuracy/best", "holdout_accuracy/best"), ("fitness/best",), ("loss",))
_WIDTH, _HEIGHT = 7.5, 4.5  # inches
_PLOT_WIDTH, _PLOT_HEIGHT = 2.5, 2.4  # of a plot in a grid
# More or longer entries of the legend would cover the curves.
_MOST_INSIDE, _LONGEST_INSIDE = 6, 40
_SUFFIXES = (".png", ".pdf", ".svg", ".jpg", ".jpeg")

_LINE, _LINES = 60, 4  # characters and lines of a label; more are cut
_LEGEND_CHARACTERS = 96  # that fit below the axes, where 8 are taken by a line and its margins
_LEGEND_LINE = 0.17  # inches


def plot_curve(metrics: Path, picture: Path, *, test_accuracy: float | None = None) -> None:
    """Draws the accuracies of one run over generations; without any its best fitness, or its loss.

    ``picture`` is PNG, PDF or SVG by its suffix.
    """
    records = read_metrics(metrics)
    figure, axes = _figure()
    there = {name for record in records for name in record if record[name] is not None}
    names = next((names for names in _OWN_CURVES if there & set(names)), _OWN_CURVES[0])
    for name, colour in zip(names, COLOURS, strict=False):
        points = [(step_of(r), r[name]) for r in records if r.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), label=_NAMES[name], color=colour)
    _label_x(axes, "iteration" if "iteration" in there else "generation")
    if names == _OWN_CURVES[0]:
        _label_y(axes, "accuracy")
        axes.set_ylim(0, 1)
        if test_accuracy is not None:
            label = f"chosen network on the test set: {test_accuracy:.2%}"
            axes.axhline(test_accuracy, color="black", linestyle="--", linewidth=1, label=label)
    else:
        _label_y(axes, names[0])
    if axes.lines:
        axes.legend(loc="lower right", frameon=False)
    _save(figure, picture)


def plot_groups(
    groups: Sequence[Group],
    picture: Path,
    *,
    metric: str = "holdout_accuracy/best",
    x: X = "generation",
    y_range: tuple[float, float] | None = None,
) -> None:
    """Draws a metric of every group: median line and inter-quartile band over its runs.

    ``comparison.median_curve`` says which places a curve has. ``picture`` is PNG, PDF or SVG by
    its suffix. Raises ArgumentError for a metric that a run lacks.
    """
    if y_range is not None and not (y_range[0] < y_range[1] and all(map(math.isfinite, y_range))):
        wanted = "two finite numbers, the lower one first"
        raise ArgumentError(message("y_range", wanted, str(list(y_range))))
    curves = [median_curve(group, metric, x) for group in groups]
    figure, axes = _figure()
    unit, divisor = x.replace("generation", _step_name(groups)), 1.0
    if x in ("seconds", "cpu_seconds"):
        unit, divisor = _time_unit(max(curve.x[-1] for curve in curves))
        unit = unit if x == "seconds" else f"CPU {unit}"
    for i, (group, curve) in enumerate(zip(groups, curves, strict=True)):
        colour = COLOURS[i % len(COLOURS)]
        dashes = DASHES[i // len(COLOURS) % len(DASHES)]
        many = curve.runs > 1
        label = _wrapped(group.label) + (f" ({curve.runs} runs)" if many else "")
        # A single record is a point, which a line does not show.
        marker = "o" if len(curve.x) == 1 else None
        axes.plot(curve.x / divisor, curve.median, dashes, color=colour, label=label, marker=marker)
        if many:
            axes.fill_between(
                curve.x / divisor, curve.q1, curve.q3, color=colour, alpha=0.2, linewidth=0
            )
    _label_x(axes, unit)
    _label_y(axes, metric)
    if y_range is not None:
        axes.set_ylim(*y_range)
    title = "median, quartiles" if any(curve.runs > 1 for curve in curves) else None
    labels = [line.get_label() for line in axes.lines]
    longest = max((len(text) for label in labels for text in label.split("\n")), default=0)
    if len(labels) <= _MOST_INSIDE and longest <= _LONGEST_INSIDE:
        axes.legend(loc="best", title=title, framealpha=0.85, edgecolor="none")
    else:
        _legend_below(figure, labels, longest, title)
    _save(figure, picture)


def plot_boxes(
    boxes: Mapping[tuple[str, str, str], Sequence[float]],
    picture: Path,
    *,
    metric: str = "holdout_accuracy/best",
    x: str = "",
) -> None:
    """Draws a grid of plots with a box for every (row, column, x), in the order they come in.

    A box has the quartiles and the median; its whiskers are the range. ``picture`` is PNG, PDF or
    SVG by its suffix.
    """
    rows, columns, names = (list(dict.fromkeys(place)) for place in zip(*boxes, strict=True))
    size = max(_WIDTH, _PLOT_WIDTH * len(columns)), _PLOT_HEIGHT * len(rows)
    figure, grid = _grid(len(rows), len(columns), size)
    for (i, row), (j, column) in product(enumerate(rows), enumerate(columns)):
        axes = grid[i][j]
        there = [name for name in names if (row, column, name) in boxes]
        axes.boxplot(
            [boxes[row, column, name] for name in there],
            tick_labels=there,
            whis=(0, 100),
            widths=0.6,
            boxprops={"color": COLOURS[0]},
            whiskerprops={"color": COLOURS[0]},
            capprops={"color": COLOURS[0]},
            medianprops={"color": COLOURS[1]},
        )
        _label_y(axes, metric)
        axes.set_ylabel("")
        axes.set_title(", ".join(part for part in (row, column) if part), fontsize="medium")
    figure.supxlabel(x, fontsize="medium")
    figure.supylabel(_NAMES.get(metric, metric), fontsize="medium")
    _save(figure, picture)


def _wrapped(label: str) -> str:
    """On several lines, and cut, where it is long."""
    lines = wrap(label, _LINE, max_lines=_LINES, placeholder=" ...", break_on_hyphens=False)
    return "\n".join(lines).replace("$", r"\$")  # no formula


def _legend_below(figure: Any, labels: Sequence[str], longest: int, title: str | None) -> None:
    """The legend under the axes, which keep their size: the picture grows."""
    columns = max(1, _LEGEND_CHARACTERS // (longest + 8))
    lines = max(label.count("\n") + 1 for label in labels) * math.ceil(len(labels) / columns)
    figure.set_size_inches(_WIDTH, _HEIGHT + _LEGEND_LINE * (lines + (title is not None)))
    figure.legend(
        loc="outside lower center", ncols=columns, title=title, frameon=False, fontsize="small"
    )


def _figure() -> tuple[Any, Any]:
    figure, grid = _grid(1, 1, (_WIDTH, _HEIGHT))
    grid[0][0].margins(x=0.01)
    return figure, grid[0][0]


def _grid(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, Any]:
    # Without pyplot: a run that is started in a notebook must not change its back end.
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    grid = figure.subplots(rows, columns, sharey="row", squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3, linewidth=0.7)
    return figure, grid


def _label_x(axes: Any, name: str) -> None:
    axes.set_xlabel({"samples": "training samples"}.get(name, name))
    if not name.startswith("time"):
        from matplotlib.ticker import MaxNLocator, StrMethodFormatter

        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _label_y(axes: Any, metric: str) -> None:
    axes.set_ylabel(_NAMES.get(metric, metric))
    if "accuracy" in metric:
        from matplotlib.ticker import PercentFormatter

        axes.yaxis.set_major_formatter(PercentFormatter(1))


def _step_name(groups: Sequence[Group]) -> str:
    records = [record for group in groups for run in group.runs for record in run.records[:1]]
    names = [name for name in ("generation", "iteration") if any(name in r for r in records)]
    return " or ".join(names) or "generation"


def _time_unit(seconds: float) -> tuple[str, float]:
    if seconds < 300:
        return "time [s]", 1.0
    return ("time [min]", 60.0) if seconds < 3 * 3600 else ("time [h]", 3600.0)


def _save(figure: Any, picture: Path) -> None:
    if picture.suffix.lower() not in _SUFFIXES:
        wanted = f"a file name that ends in {', '.join(_SUFFIXES)}"
        raise ArgumentError(message("picture", wanted, repr(str(picture))))
    content = io.BytesIO()
    figure.savefig(content, dpi=150, format=picture.suffix[1:].lower())
    make_folder(picture.parent)
    replace_file(picture, content.getvalue())
