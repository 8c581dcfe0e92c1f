"""Curves and dot strips as SVG that needs no other file.

A curve is drawn in a box of 1000 x 1000, which the page stretches to the available width. Strokes keep their width. All
text is HTML next to the drawing, so it has the same size on a phone and on a laptop.
"""

import dataclasses
import html
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bert_jax.amounts import count_text
from bert_jax.metrics import lower_is_better
from bert_jax.report.runs import Variant
from bert_jax.report.tables import REFERENCES, Measure, figure_names

NUM_COLOURS = 7  # distinct for colour-blind readers; --c0 to --c6 in the style sheet
_MAX_POINTS = 160  # per curve; a screen cannot show more
_HEIGHT = 190  # pixels of a plot, as in the style sheet
_LABEL_HEIGHT = 15  # pixels between two labels
_MAX_LABEL = 22  # characters of a label that fit next to a plot
_LAST_FIGURES = ("learning_rate", "grad_norm", "skipped")  # these describe the run, not the model's quality


@dataclass(frozen=True)
class Series:
    """One line of a chart."""

    name: str  # its variant, or its split
    label: str  # its name, shortened for the end of the line
    colour: str  # a CSS class: c0 to c6, rest, or train
    variant: int | None  # index of its variant in the section, which links it to table rows; None = all variants
    points: tuple[tuple[float, float, float], ...]  # (step, mean over seeds, standard deviation over seeds)


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale from values to 0..1, with its ticks."""

    low: float
    high: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def position(self, value: float) -> float:
        """Returns the position of `value` as a share of the axis, at least 0 and at most 1."""
        low, high, value = (math.log10(max(x, 1e-300)) if self.logarithmic else x for x in (self.low, self.high, value))
        return min(1.0, max(0.0, (value - low) / (high - low)))


def curves(variants: Sequence[Variant]) -> str:
    """Returns a grid of charts, one per figure, held-out figures first. Bands are one standard deviation over seeds.

    With one variant, training and evaluation share a chart. With several, each has its own, with one line per variant.
    """
    colours = rank_colours(variants)
    keys = [key for variant in variants for run in variant.runs for key in run.figures]
    figures = [figure for figure in dict.fromkeys(figure for figure, _ in keys) if figure not in REFERENCES]
    evaluated = {figure for figure, split in keys if split == "eval"}
    figures.sort(key=lambda name: (name in _LAST_FIGURES, name not in evaluated, lower_is_better(name)))
    drawn: dict[tuple, str] = {}
    widest = 0
    for split in [None] if len(variants) == 1 else ["eval", "train"]:
        for figure in figures:
            series = _series(variants, colours, figure, split)
            points = tuple(line.points for line in series)
            # Omitted: figures measured only once, which the table shows; figures that are always zero; and a loss that
            # equals the objective and has a second name.
            measured_again = any(len(line) > 1 for line in points)
            if measured_again and any(y for line in points for _, y, _ in line) and points not in drawn:
                of = "" if split is None else {"eval": "evaluation", "train": "training"}[split]
                drawn[points] = _chart(figure, of, series)
                widest = max([widest, *(len(line.label) for line in series if line.colour != "rest")])
    # The labels have the same width in every chart, so that the plots of a column are aligned.
    style = f"--names:{widest}ch"
    return f'<div class="charts" style="{style}">{"".join(drawn.values())}</div>' if drawn else ""


def rank_colours(variants: Sequence[Variant]) -> list[str]:
    """Returns a CSS class per variant: its own colour for each of the best NUM_COLOURS, grey for the rest.

    The best are those with the best mean of the first score.
    """
    order = list(range(len(variants)))
    scores = [[run.scores for run in variant.runs] for variant in variants]
    names = figure_names([row for rows in scores for row in rows])
    if len(variants) > NUM_COLOURS and names:
        sign = 1 if lower_is_better(names[0]) else -1

        def key(i: int) -> float:
            values = [row[names[0]] for row in scores[i] if names[0] in row]
            return sign * statistics.fmean(values) if values else math.inf

        order.sort(key=key)
    coloured = sorted(order[:NUM_COLOURS])
    return [f"c{coloured.index(i)}" if i in coloured else "rest" for i in range(len(variants))]


def short_labels(names: Sequence[str]) -> list[str]:
    """Returns names that fit next to a plot: without the words that all share at the start, and cut in the middle.

    If a run is in a folder, the folder's name is cut first.

    >>> short_labels(["bert-tiny-limit100", "bert-tiny-limit1000"])
    ['limit100', 'limit1000']
    >>> short_labels(["many_words/books-then-pubmed", "masking/pubmed"])
    ['…rds/books-then-pubmed', 'masking/pubmed']
    """
    words = [re.split(r"(?<=[-_/ ])", name) for name in names]
    shared = 0
    if len(names) > 1:
        while all(len(parts) > shared + 1 and parts[shared] == words[0][shared] for parts in words):
            shared += 1
    short = ["".join(parts[shared:]) for parts in words]
    return [name if len(name) <= _MAX_LABEL else _cut(name) for name in short]


def _cut(name: str) -> str:
    half = (_MAX_LABEL - 1) // 2
    return f"…{name[1 - _MAX_LABEL :]}" if "/" in name else f"{name[:half]}…{name[-half:]}"


def strip(measure: Measure, axis: Axis, colour: str) -> str:
    """Returns a score's runs as dots and their mean as a bar, on the axis of its column."""
    dots = "".join(f"M{4 + 112 * axis.position(value):.1f} 8h0" for value in measure.values)
    mean = f'<path class="mean" d="M{4 + 112 * axis.position(measure.mean):.1f} 2v12"/>' if measure.deviation else ""
    return (
        f'<svg class="strip {colour}" viewBox="0 0 120 16" aria-hidden="true"><path class="base" d="M4 8h112"/>'
        f'<path class="dots" d="{dots}"/>{mean}</svg>'
    )


def strip_axis(measures: Sequence[Measure]) -> Axis | None:
    """Returns the axis that a column of scores shares; None if all values are equal."""
    values = [value for measure in measures for value in measure.values]
    if len(values) < 2 or min(values) == max(values):
        return None
    return Axis(min(values), max(values), ())


def figure_title(name: str) -> str:
    """Returns a figure's name for readers.

    >>> figure_title("mlm_accuracy")
    'MLM accuracy'
    """
    words = [word.upper() if word in ("mlm", "nsp", "sop", "mrr", "f1", "em") else word for word in name.split("_")]
    return " ".join(words)


def make_axis(values: Sequence[float], logarithmic: bool = False) -> Axis:
    """Returns an axis that contains all `values`, from one round number to another, with 3 to 6 ticks."""
    low, high = min(values), max(values)
    if logarithmic:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        every = max(1, math.ceil((last - first) / 5))
        return Axis(10.0**first, 10.0**last, tuple(10.0**power for power in range(first, last + 1, every)), True)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    unit = next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / unit + 1e-9), math.ceil(high / unit - 1e-9)
    return Axis(first * unit, last * unit, tuple(n * unit for n in range(first, last + 1)))


def _series(variants: Sequence[Variant], colours: Sequence[str], figure: str, split: str | None) -> list[Series]:
    series = []
    labels = short_labels([variant.name for variant in variants])
    for number, (variant, colour) in enumerate(zip(variants, colours, strict=True)):
        for part in ("train", "eval") if split is None else (split,):
            by_step: dict[int, list[float]] = {}
            for run in variant.runs:
                for step, value in run.figures.get((figure, part), {}).items():
                    by_step.setdefault(step, []).append(value)
            points = [
                (float(step), statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
                for step, values in sorted(by_step.items())
            ]
            whole = {"train": "training", "eval": "evaluation"}[part]
            name, label = (variant.name, labels[number]) if split else (whole, whole)
            shade = "train" if split is None and part == "train" else colour
            if points:
                series.append(Series(name, label, shade, number, tuple(_thin(points))))
    if split and len(series) > 1 and len({line.points for line in series}) == 1:
        every = f"all {len(series)}"
        return [dataclasses.replace(series[0], name=every, label=every, colour="train", variant=None)]
    # Grey lines first, so that coloured lines are drawn over them.
    return sorted(series, key=lambda line: line.colour not in ("rest", "train"))


def _thin(points: list[tuple[float, float, float]]) -> list[tuple[float, float, float]]:
    """Averages neighbouring points if a curve has more points than a screen can show."""
    size = math.ceil(len(points) / _MAX_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [tuple(map(statistics.fmean, zip(*group, strict=True))) for group in groups]  # type: ignore[misc]


def _chart(figure: str, of: str, series: Sequence[Series]) -> str:
    means = [y for line in series for _, y, _ in line.points]
    ends = [y + side * spread for line in series for _, y, spread in line.points for side in (-1, 1)]
    # On a linear axis, one diverged run or a spike would make all other lines look flat.
    logarithmic = min(ends) > 0 and max(ends) > 30 * statistics.median(means)
    y_axis = make_axis(ends, logarithmic)
    last_step = max(x for line in series for x, _, _ in line.points)
    x_axis = Axis(0, last_step or 1, tuple(t for t in make_axis([0, last_step or 1]).ticks if t <= (last_step or 1)))

    grid = "".join(f'<path class="grid" d="M0 {1000 - 1000 * y_axis.position(t):.1f}h1000"/>' for t in y_axis.ticks)
    lines = "".join(_line(line, x_axis, y_axis) for line in series)
    title = f"<b>{html.escape(figure_title(figure))}</b> {of}{', logarithmic' if logarithmic else ''}"
    axes = f"{x_axis.high:g} {y_axis.low:g} {y_axis.high:g} {int(logarithmic)}"
    spoken = f'role="img" aria-label="{_spoken(figure, of, series)}"'
    return (
        f"<figure><figcaption>{title}</figcaption>"
        f'<div class="plot" data-axes="{axes}"><div class="y">{_ticks(y_axis, "top")}</div>'
        f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none" {spoken}>'
        f'{grid}{lines}<path class="cross" d=""/></svg>'
        f'<div class="names">{_names(series, y_axis)}</div><div class="x">{_ticks(x_axis, "left")}<em>steps</em></div>'
        '<div class="tip" hidden></div></div></figure>'
    )


def _line(line: Series, x_axis: Axis, y_axis: Axis) -> str:
    def at(x: float, y: float) -> str:
        return f"{1000 * x_axis.position(x):.1f} {1000 - 1000 * y_axis.position(y):.1f}"

    path = "M" + "L".join(at(x, y) for x, y, _ in line.points)
    drawn = f'<path class="line" d="{path}"/>'
    if any(spread for _, _, spread in line.points) and line.colour != "rest":
        upper = [at(x, y + spread) for x, y, spread in line.points]
        lower = [at(x, y - spread) for x, y, spread in reversed(line.points)]
        drawn = f'<path class="band" d="M{"L".join(upper + lower)}Z"/>' + drawn
    if len(line.points) == 1 or (len(line.points) <= 12 and line.colour != "rest"):
        drawn += f'<path class="dots" d="{"".join(f"M{at(x, y)}h0" for x, y, _ in line.points)}"/>'
    return f'<g class="{line.colour}"{_link(line)} data-name="{html.escape(line.name)}">{drawn}</g>'


def _names(series: Sequence[Series], y_axis: Axis) -> str:
    """Returns the labels at the ends of the lines, moved apart if they would overlap."""
    ends = [(_HEIGHT * (1 - y_axis.position(line.points[-1][1])), line) for line in series if line.colour != "rest"]
    ends.sort(key=lambda end: end[0])
    tops: list[float] = []
    for end, _ in ends:
        tops.append(max(end, tops[-1] + _LABEL_HEIGHT if tops else end))
    limit = _HEIGHT - 4.0  # above the word "steps"
    for i in reversed(range(len(tops))):
        tops[i] = min(tops[i], limit)
        limit = tops[i] - _LABEL_HEIGHT
    return "".join(
        f'<span class="{line.colour}"{_link(line)} style="top:{top:.0f}px" title="{html.escape(line.name)}">'
        f"{html.escape(line.label)}</span>"
        for top, (_, line) in zip(tops, ends, strict=True)
    )


def _link(line: Series) -> str:
    return "" if line.variant is None else f' data-v="{line.variant}"'


def tick_texts(ticks: Sequence[float]) -> list[str]:
    """Returns ticks as text, with enough decimals to distinguish them.

    >>> tick_texts([0, 0.25, 0.5]), tick_texts([0, 2.5e-5, 5e-5]), tick_texts([0, 1000, 2000])
    (['0', '0.25', '0.5'], ['0', '2.5e-5', '5e-5'], ['0', '1k', '2k'])
    """
    largest = max(map(abs, ticks))
    if largest >= 1000:
        texts = [count_text(tick) for tick in ticks]
    elif largest < 0.005:
        texts = [re.sub(r"\.?0*e([-+])0?", r"e\1", f"{tick:.2e}") for tick in ticks]
    else:
        texts = [f"{tick:.6g}" for tick in ticks]
    return ["0" if abs(tick) < 1e-9 * largest else text for tick, text in zip(ticks, texts, strict=True)]


def _ticks(axis: Axis, side: str) -> str:
    placed = (100 * axis.position(tick) if side == "left" else 100 - 100 * axis.position(tick) for tick in axis.ticks)
    texts = tick_texts(axis.ticks)
    return "".join(f'<i style="{side}:{at:.2f}%">{text}</i>' for at, text in zip(placed, texts, strict=True))


def _spoken(figure: str, of: str, series: Sequence[Series]) -> str:
    ends = ", ".join(f"{line.name} ends at {line.points[-1][1]:.4g}" for line in series)
    return html.escape(f"{figure_title(figure)} {of}: {ends}")
