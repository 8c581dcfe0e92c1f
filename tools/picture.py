"""Draws the README's picture, docs/quickstart.svg, from experiments/results/quickstart.json; `make results` runs it.

Left: the held-out MLM loss of the quickstart's pre-training. Right: the accuracy of each fine-tuning seed, from the
pre-trained weights and from random ones.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "experiments" / "results" / "quickstart.json"
PICTURE = ROOT / "docs" / "quickstart.svg"
STARTS = ("pre-trained", "random")
CHANCE = 1 / 8  # accuracy with eight labels, each with as many descriptions


def spread(scores: list[float]) -> str:
    """Returns the mean and the standard deviation of shares, in percent.

    >>> spread([0.4, 0.5])
    '45.0 % ± 7.1'
    """
    return f"{statistics.mean(scores):.1%}".replace("%", " %") + f" ± {100 * statistics.stdev(scores):.1f}"


def draw(results: dict[str, Any]) -> plt.Figure:
    """Returns the picture of the quickstart's results."""
    runs = results["runs"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 2.9), layout="constrained")
    curve = runs["pretrain"]["curve"]
    left.plot([int(step) for step in curve], list(curve.values()), marker="o")
    accuracy = runs["pretrain"]["figures"]["mlm_accuracy"][0]
    left.set(title=f"Pre-training: MLM accuracy {accuracy:.1%} at the end", xlabel="step", ylabel="held-out MLM loss")
    left.set_ylim(0)
    for row, start in enumerate(STARTS):
        scores = runs[start]["figures"]["accuracy"]
        right.plot(scores, [row] * len(scores), "o", color=f"C{row}", alpha=0.5)
        right.plot([statistics.mean(scores)], [row], "|", color=f"C{row}", markersize=24, markeredgewidth=2)
        right.annotate(spread(scores), (statistics.mean(scores), row - 0.32), ha="center", color=f"C{row}")
    right.axvline(CHANCE, linestyle="--", color="gray")
    right.annotate("chance", (CHANCE + 0.01, 0.5), color="gray", va="center")
    right.set(title="Fine-tuning: five seeds from each start", xlabel="test accuracy", xlim=(0, 0.6), ylim=(1.6, -0.6))
    right.set(yticks=range(len(STARTS)), yticklabels=STARTS)
    return figure


def main() -> None:
    plt.rcParams["svg.hashsalt"] = "bert_jax"
    plt.rcParams["svg.fonttype"] = "none"  # text stays text: small, sharp, and tests can read the figures
    plt.rcParams["font.family"] = "sans-serif"
    figure = draw(json.loads(RESULTS.read_text()))
    figure.savefig(PICTURE, metadata={"Date": None})
    plt.close(figure)
    print(f"wrote {PICTURE}")


if __name__ == "__main__":
    main()
