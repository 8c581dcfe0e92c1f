"""The tables of a report as data: final scores, fields that differ, cost, each run, and figures per label."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from bert_jax.amounts import bytes_text, count_text, flop_text, time_text
from bert_jax.metrics import lower_is_better
from bert_jax.report.runs import RunRecord, Variant, numbers


@dataclass(frozen=True)
class Measure:
    """A figure of one variant: one value per run."""

    values: tuple[float, ...]  # one per run that has the figure, in the order of the runs; never empty
    unit: str = ""  # "" a score, "count", "seconds", "flop", "bytes" or "share"

    @property
    def mean(self) -> float:
        """The mean over the runs."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over the runs (divided by n - 1); None for a single run."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def text(self, decimals: int | None = None) -> str:
        """Returns the figure as text: a score with its spread, any other figure as a mean with its unit.

        >>> Measure((0.91, 0.93)).text()
        '0.9200 ± 0.0141'
        >>> Measure((3_200_000.0,), "count").text()
        '3.2M'
        """
        if self.unit:
            return _UNITS[self.unit](self.mean)
        if self.mean >= 2 and self.mean.is_integer() and len(set(self.values)) == 1:
            return f"{self.mean:,.0f}"  # a count, the same in every run
        decimals = score_decimals([self.mean]) if decimals is None else decimals
        spread = "" if self.deviation is None else f" ± {self.deviation:.{decimals}f}"
        return f"{self.mean:.{decimals}f}{spread}"


@dataclass(frozen=True)
class Table:
    """A table with a title. A cell is text, a number, a `Measure`, or None if it is empty."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def texts(self) -> list[list[str]]:
        """Returns every cell as text. The scores of a column have the same number of decimals."""
        columns = []
        for column in zip(*self.rows, strict=True):
            scores = [cell.mean for cell in column if isinstance(cell, Measure) and not cell.unit]
            decimals = score_decimals(scores) if scores else None
            columns.append([cell_text(cell, decimals) for cell in column])
        return [list(row) for row in zip(*columns, strict=True)]


def by_kind(variants: Iterable[Variant]) -> dict[str, list[Variant]]:
    """Groups variants by kind of task, pre-training first. Only figures of the same kind can be compared."""
    kinds: dict[str, list[Variant]] = {}
    for variant in sorted(variants, key=lambda variant: variant.runs[0].kind != "Pretraining"):
        kinds.setdefault(variant.runs[0].kind, []).append(variant)
    return kinds


def score_table(variants: Sequence[Variant]) -> Table:
    """Returns the final scores: one row per variant, one column per figure, losses after scores."""
    names = figure_names([run.scores for variant in variants for run in variant.runs])
    rows = [
        (v.name, len(v.runs), *(_measure(run.scores.get(name) for run in v.runs) for name in names)) for v in variants
    ]
    return Table("Final scores", ("experiment", "runs", *names), tuple(rows))


def other_score_tables(variants: Sequence[Variant]) -> list[Table]:
    """Returns a table like `score_table` for each file that runs were scored on by `bert_jax evaluate --data`."""
    tables = []
    for data in dict.fromkeys(data for variant in variants for run in variant.runs for data in run.other_scores):
        scored = {v.name: [run.other_scores[data] for run in v.runs if data in run.other_scores] for v in variants}
        names = figure_names([scores for runs in scored.values() for scores in runs])
        rows = [
            (name, len(runs), *(_measure(scores.get(figure) for scores in runs) for figure in names))
            for name, runs in scored.items()
            if runs
        ]
        tables.append(Table(f"Scores on {data}", ("experiment", "runs", *names), tuple(rows)))
    return tables


def difference_table(variants: Sequence[Variant]) -> Table:
    """Returns the fields that differ between the experiments. The longer dimension becomes the rows."""
    paths, all_fields = _fields(variants)
    differing = [path for path in paths if _differs([fields.get(path, _ABSENT) for fields in all_fields])]
    cells = [tuple(_field_text(fields.get(path, _ABSENT)) for fields in all_fields) for path in differing]
    title = "What differs"
    if len(differing) > len(variants):
        rows = [(path, *row) for path, row in zip(differing, cells, strict=True)]
        return Table(title, ("field", *(variant.name for variant in variants)), tuple(rows))
    turned = zip(*cells, strict=True) if cells else [() for _ in variants]
    rows = [(variant.name, *row) for variant, row in zip(variants, turned, strict=True)]
    return Table(title, ("experiment", *differing), tuple(rows))


def shared_table(variants: Sequence[Variant]) -> Table:
    """Returns the fields that are the same in all experiments, in the order of the configuration."""
    paths, all_fields = _fields(variants)
    same = [path for path in paths if not _differs([fields.get(path, _ABSENT) for fields in all_fields])]
    values = [next(fields[path] for fields in all_fields if path in fields) for path in same]
    return Table("Fields", ("field", "value"), tuple(zip(same, map(_field_text, values), strict=True)))


def cost_table(variants: Sequence[Variant]) -> Table:
    """Returns the cost of one run, as the mean over a variant's runs; the last row is the sum over all runs."""
    columns = {
        "steps": ("count", lambda run: run.step),
        "tokens": ("count", lambda run: run.result.get("tokens")),
        "time": ("seconds", _seconds),
        "compute": ("flop", lambda run: run.result.get("flops")),
        "tokens/s": ("count", lambda run: _median(run, "tokens_per_second")),
        "padding": ("share", lambda run: _median(run, "padding_share")),
        "MFU": ("share", lambda run: _median(run, "mfu")),
        "memory": (
            "bytes",
            lambda run: max((line["memory_bytes"] for line in run.speed if "memory_bytes" in line), default=None),
        ),
    }
    rows = [(v.name, *(_measure(map(of, v.runs), unit) for unit, of in columns.values())) for v in variants]
    filled = [i for i in range(1, len(columns) + 1) if any(row[i] is not None for row in rows)]
    names = ["", *columns]
    rows = [(row[0], *(row[i] for i in filled)) for row in rows]
    runs = [run for variant in variants for run in variant.runs]
    if len(runs) > 1:
        totals = []
        for name in (names[i] for i in filled):
            unit, of = columns[name]
            whole = _measure(map(of, runs), unit) if name in ("tokens", "time", "compute") else None
            totals.append(whole and Measure((math.fsum(whole.values),), unit))
        rows.append((f"all {len(runs)} runs", *totals))
    return Table("Cost", ("experiment", *(names[i] for i in filled)), tuple(rows))


def run_table(variants: Sequence[Variant]) -> Table:
    """Returns one row per run: its seed, its last step and its scores."""
    runs = [run for variant in variants for run in variant.runs]
    names = figure_names([run.scores for run in runs])
    rows = [
        (run.name, _field_text(run.experiment.get("seed")), run.step, *(_measure([run.scores.get(n)]) for n in names))
        for run in runs
    ]
    return Table("Each run", ("run", "seed", "step", *names), tuple(rows))


def label_table(variant: Variant) -> Table | None:
    """Returns the figures per label over a variant's runs; None if no run has any."""
    tables = [run.result["tables"]["per_label"] for run in variant.runs if _has_table(run, "per_label")]
    tables = [{str(k): v if isinstance(v, dict) else {"value": v} for k, v in table.items()} for table in tables]
    labels = list(dict.fromkeys(label for table in tables for label in table))
    columns = list(dict.fromkeys(name for table in tables for row in table.values() for name in numbers(row)))
    if not labels or not columns:
        return None
    rows = [
        (label, *(_measure(numbers(table.get(label)).get(name) for table in tables) for name in columns))
        for label in labels
    ]
    return Table(f"By label: {variant.name}", ("label", *columns), tuple(rows))


def confusion_counts(variant: Variant) -> tuple[list[str], list[list[float]]] | None:
    """Returns the sum of the runs' confusion matrices as (labels, counts[true][predicted]); None if there are none."""
    labels: list[str] = []
    total: list[list[float]] = []
    for run in variant.runs:
        table = run.result["tables"]["confusion"] if _has_table(run, "confusion") else {}
        names: Any = table.get("labels")
        counts: Any = table.get("counts")
        if not isinstance(names, list) or not _is_square(counts, len(names)):
            continue
        if not total:
            labels, total = [str(name) for name in names], counts
        elif labels == [str(name) for name in names]:
            total = [[a + b for a, b in zip(*rows, strict=True)] for rows in zip(total, counts, strict=True)]
    return (labels, total) if total else None


# Baselines that depend only on the data: they are shown, but never marked as best.
REFERENCES = frozenset({"unigram_accuracy"})


def figure_names(scores: Iterable[dict[str, float]]) -> list[str]:
    """Returns the names in the order they first occur, losses last. A loss with two names is listed once."""
    rows = list(scores)
    names: dict[tuple, str] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = tuple(row.get(name) for row in rows)
        names.setdefault(values if lower_is_better(name) else (name,), name)
    return sorted(names.values(), key=lower_is_better)


def score_decimals(values: Iterable[float]) -> int:
    """Returns the number of decimals that shows the largest value in four digits; at most four."""
    largest = max(map(abs, values))
    return 4 if largest < 1 else max(0, 3 - math.floor(math.log10(largest)))


def cell_text(cell: Any, decimals: int | None = None) -> str:
    """Returns a cell as text."""
    if cell is None:
        return ""
    if isinstance(cell, Measure):
        return cell.text(decimals)
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


_ABSENT = object()  # the experiment does not have this field; it may belong to another task


def _fields(variants: Sequence[Variant]) -> tuple[list[str], list[dict[str, Any]]]:
    all_fields = [variant.fields for variant in variants]
    paths = list(dict.fromkeys(path for fields in all_fields for path in fields))
    return paths, all_fields


def _differs(values: list[Any]) -> bool:
    # Fields that only some experiments have are omitted: another field already shows why, such as a model of None.
    present = [value for value in values if value is not _ABSENT]
    return any(value != present[0] for value in present) or (None in present and len(present) < len(values))


def _field_text(value: Any) -> str:
    if value is _ABSENT:
        return "·"
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ", ".join(map(_field_text, value)) or "none"
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return str(value) if value != "" else '""'


def _measure(values: Iterable[Any], unit: str = "") -> Measure | None:
    finite = tuple(numbers(dict(enumerate(values))).values())
    return Measure(finite, unit) if finite else None


def _seconds(run: RunRecord) -> float | None:
    return run.result.get("seconds", run.speed[-1].get("seconds") if run.speed else None)


def _median(run: RunRecord, name: str) -> float | None:
    # A median, because the first lines include compilation.
    values = [line[name] for line in run.speed if name in line]
    return statistics.median(values) if values else None


def _has_table(run: RunRecord, name: str) -> bool:
    tables = run.result.get("tables")
    return isinstance(tables, dict) and isinstance(tables.get(name), dict)


def _is_square(counts: Any, size: int) -> bool:
    return (
        isinstance(counts, list)
        and len(counts) == size
        and all(isinstance(row, list) and len(row) == size == len(numbers(dict(enumerate(row)))) for row in counts)
    )


_UNITS = {
    "count": count_text,
    "seconds": time_text,
    "flop": flop_text,
    "bytes": bytes_text,
    "share": lambda value: f"{value:.1%}",
}
