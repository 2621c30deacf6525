"""Curves of runs (matplotlib, imported when a curve is drawn)."""

from __future__ import annotations

from pathlib import Path

from evokern.metrics import read_metrics


def plot_curve(metrics: Path, picture: Path, *, test_accuracy: float | None = None) -> None:
    """Draws accuracy over generations of one run into ``picture`` (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import PercentFormatter

    records = read_metrics(metrics)
    generations = [record["generation"] for record in records]
    figure, axes = pyplot.subplots(figsize=(7, 4.2), layout="constrained")
    for name, label in (
        ("batch_accuracy/best", "best of the batch, on the batch"),
        ("holdout_accuracy/best", "best of the batch, on the hold-out part"),
    ):
        axes.plot(generations, [record[name] for record in records], label=label, linewidth=1.2)
    if test_accuracy is not None:
        label = f"chosen network, on the test set: {test_accuracy:.2%}"
        axes.axhline(test_accuracy, color="black", linestyle="--", linewidth=1, label=label)
    axes.set(xlabel="generation", ylabel="accuracy", ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.savefig(picture, dpi=140)
    pyplot.close(figure)
