"""The pictures of experiments/results/: points with their spread, or curves."""

import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

LABELS = {"f1": "F1", "f1_micro": "micro F1", "exact_match": "exact match"}
LABELS |= {"matthews": "Matthews", "pearson": "Pearson", "spearman": "Spearman"}
LABELS |= {"mean_spearman": "Spearman", "ndcg_at_10": "nDCG@10", "pairs_preferred": "minimal pairs"}


def label(figure: str) -> str:
    """Returns the name of a figure in plain English."""
    return LABELS.get(figure, figure.replace("_", " ").replace("mlm", "MLM"))


def score(run: dict[str, Any]) -> tuple[float, float]:
    """Returns mean and standard deviation of a run's score; shares are in percent."""
    name, values = next(iter(run["figures"].items()))
    scale = 1 if name.endswith("loss") else 100
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    return scale * statistics.fmean(values), scale * spread


def axis_label(figure: str) -> str:
    """Returns the label of an axis that shows a figure."""
    return label(figure) + ("" if figure.endswith("loss") or not figure else " (%)")


def draw_curves(results: dict[str, Any], pattern: str, x_label: str) -> plt.Figure:
    """Draws scores against the x in the runs' names: a panel for each task and a line for each start.

    The figures of the pre-training that the runs start from have panels of their own.
    """
    panels: dict[str, dict[str, dict[str, tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    units = {}
    for name, run in results["runs"].items():
        if match := re.fullmatch(pattern, name):
            parts = match.groupdict()
            units[parts["panel"]] = next(iter(run["figures"]))
            panels[parts["panel"]][parts.get("line", "")][parts["x"]] = score(run)
            for figure, value in run.get("start", {}).items():
                panels[figure][""][parts["x"]] = value * (1 if figure.endswith("loss") else 100), 0.0
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    size = (5.5 * min(columns, 2), 3.2 * rows)
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    tasks_first = sorted(panels.items(), key=lambda item: item[0] not in units)
    for axis, (panel, lines) in zip(axes.flat, tasks_first, strict=False):
        draw_panel(axis, lines)
        title = panel.replace("-", " ") if panel in units else "the pre-training"
        axis.set(title=title, xlabel=x_label, ylabel=axis_label(units.get(panel, panel)))
    return figure


def draw_panel(axis: plt.Axes, lines: dict[str, dict[str, tuple[float, float]]]) -> None:
    """Draws the lines of one panel with their spreads, at equal distances."""
    order = sorted({x for points in lines.values() for x in points}, key=lambda x: (x == "all", len(x), x))
    for line, points in lines.items():
        shared = [x for x in order if x in points]
        means, spreads = zip(*(points[x] for x in shared), strict=True)
        positions = [order.index(x) for x in shared]
        axis.errorbar(positions, means, spreads, marker="o", capsize=3, label=line.replace("-", " "))
    ticks = [x if x == "all" else f"{int(x):,}" for x in order]
    axis.set(xticks=range(len(order)), xticklabels=ticks)
    if len(lines) > 1:
        axis.legend()


def draw_points(results: dict[str, Any]) -> plt.Figure:
    """Draws a point with its spread for each run: a panel for each figure, and one for the curves of pre-trainings."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, run in results["runs"].items():
        groups[next(iter(run["figures"]))].append(name)
    curves = {name: run["curve"] for name, run in results["runs"].items() if len(run.get("curve", ())) > 1}
    heights = [0.7 + 0.3 * len(names) for names in groups.values()] + [3.0] * (len(curves) > 1)
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(7, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    if len(curves) > 1:
        for name, curve in curves.items():
            steps = [int(step) for step in curve]
            axes[-1, 0].plot(steps, list(curve.values()), marker=".", label=name.replace("-", " "))
        axes[-1, 0].set(xlabel="step of pre-training", ylabel="MLM loss")
        axes[-1, 0].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    for axis, (name, runs) in zip(axes[:, 0], groups.items(), strict=False):
        for position, run in enumerate(runs):
            mean, spread = score(results["runs"][run])
            axis.errorbar(mean, position, xerr=spread, marker="o", capsize=3, color="C0")
        labels = [run.replace("-", " ") for run in runs]
        axis.set(yticks=range(len(runs)), yticklabels=labels, xlabel=axis_label(name))
        axis.set_ylim(len(runs) - 0.5, -0.5)
        axis.grid(axis="x", alpha=0.3)
    return figure


def draw(results: dict[str, Any], path: Path, pattern: str | None = None, x_label: str = "") -> None:
    """Writes an experiment's picture. The same results give the same file."""
    plt.rcParams["svg.hashsalt"] = "bert_jax"
    figure = draw_curves(results, pattern, x_label) if pattern else draw_points(results)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)
