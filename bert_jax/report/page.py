"""The report as one HTML page that loads no other file: notes, then one section per kind of task."""

import html
import importlib.metadata
import itertools
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from bert_jax.config import TASK_KINDS
from bert_jax.metrics import lower_is_better
from bert_jax.report import charts
from bert_jax.report.assets import CSS, SCRIPT
from bert_jax.report.runs import RunNotes, RunRecord, Variant, is_number
from bert_jax.report.tables import (
    REFERENCES,
    Measure,
    Table,
    by_kind,
    cell_text,
    confusion_counts,
    cost_table,
    difference_table,
    label_table,
    other_score_tables,
    run_table,
    score_table,
    shared_table,
)

_MAX_PROBLEMS = 6  # shown at first; the rest is folded
_MAX_TEXT = 700  # characters shown of a text
_MAX_PROBABILITIES = 5  # labels shown per prediction, most probable first


def render(title: str, variants: Sequence[Variant], notes: RunNotes) -> str:
    """Returns the whole page."""
    kinds = by_kind(variants)
    runs = [run for variant in variants for run in variant.runs]
    links = "".join(f'<a href="#{_anchor(kind)}">{_escape(_kind_title(kind))}</a>' for kind in kinds)
    body = [
        f"<h1>{_escape(title)}</h1>",
        f'<p class="lead">{_lead(variants, runs)}</p>' if runs else "",
        f"<nav>{links}</nav>" if len(kinds) > 1 else "",
        _problems(runs, notes),
        *(_note_table(item) for item in notes.tables),
        *(_note_text(item) for item in notes.texts),
        *(_section(kind, group) for kind, group in kinds.items()),
        f"<footer>Made by bert_jax {importlib.metadata.version('bert_jax')} on {datetime.now():%d %B %Y, %H:%M}. "
        "Everything is in this file.</footer>",
    ]
    # With this policy, a browser refuses to load anything, even if text in the data tries to.
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body>{chr(10).join(filter(None, body))}\n<script>{SCRIPT}</script></body></html>\n"
    )


def _lead(variants: Sequence[Variant], runs: Sequence[RunRecord]) -> str:
    finished = sum(run.finished for run in runs)
    counted = _plural(len(runs), "run")
    if len(runs) > len(variants):
        counted = (
            f"{_plural(len(variants), 'experiment')}, {counted}; figures are the mean ± standard deviation over seeds"
        )
    return f"{counted}." if finished == len(runs) else f"{counted}. {finished} of {len(runs)} finished so far."


def _problems(runs: Sequence[RunRecord], notes: RunNotes) -> str:
    lines = [f"<b>{_escape(run.name)}</b>: {_escape('; '.join(run.problems))}" for run in runs if run.problems]
    lines += [_escape(problem) for problem in notes.problems]
    items = [f"<li>{line}</li>" for line in lines]
    shown = f"<ul>{''.join(items[:_MAX_PROBLEMS])}</ul>"
    if more := items[_MAX_PROBLEMS:]:
        shown += f"<details><summary>and {len(more)} more</summary><ul>{''.join(more)}</ul></details>"
    return f"<aside>{shown}</aside>" if lines else ""


def _section(kind: str, variants: Sequence[Variant]) -> str:
    colours = charts.rank_colours(variants) if len(variants) > 1 else [""]
    parts = [_scores(variants, colours)]
    for scores in other_score_tables(variants):
        parts += [f"<h3>{_escape(scores.title)}</h3>", _table(scores, head=charts.figure_title)]
    differing = difference_table(variants)
    if len(variants) > 1:
        parts.append("<h3>What differs</h3>")
        parts.append(_table(differing) if len(differing.columns) > 1 else "<p>Only the workdir.</p>")
    if drawn := charts.curves(variants):
        grey = "rest" in colours
        hint = (
            f"The {charts.NUM_COLOURS} best by the first score are coloured. Point at a line or a row to highlight it."
        )
        parts += ["<h3>Curves</h3>", f'<p class="hint screen">{hint}</p>' if grey else "", drawn]
    cost = cost_table(variants)
    if len(cost.columns) > 1:
        mean = "Mean per run. " if len(cost.rows) > 1 else ""
        hint = f'<p class="hint">{mean}Tokens do not include padding. Tokens/s, padding and MFU are medians.</p>'
        parts += ["<h3>Cost</h3>", _table(cost, sums=len(cost.rows) > len(variants)), hint]
    parts += [_by_label(variants), _examples(variants)]
    if any(len(variant.runs) > 1 for variant in variants):
        parts.append(_fold("Each run", _table(run_table(variants))))
    what = "Fields that all experiments share" if len(variants) > 1 else "The experiment's fields"
    parts.append(_fold(what, _table(shared_table(variants))))
    return f'<section id="{_anchor(kind)}"><h2>{_escape(_kind_title(kind))}</h2>{"".join(parts)}</section>'


def _scores(variants: Sequence[Variant], colours: Sequence[str]) -> str:
    table = score_table(variants)
    if len(table.columns) == 2:
        return "<h3>Final scores</h3><p>Not evaluated yet.</p>"
    columns = list(zip(*table.rows, strict=True))
    best: dict[int, float] = {}
    axes: dict[int, charts.Axis] = {}
    for i, name in enumerate(table.columns):
        measures = [cell for cell in columns[i] if isinstance(cell, Measure)]
        means = {measure.mean for measure in measures}
        if axis := charts.strip_axis(measures):
            axes[i] = axis
        if len(means) > 1 and name not in REFERENCES:
            best[i] = (min if lower_is_better(name) else max)(means)
    rows = []
    for number, (row, texts, colour) in enumerate(zip(table.rows, table.texts(), colours, strict=True)):
        chip = f'<span class="chip {colour}"></span>' if colour else ""
        cells = [f"<th>{chip}{_escape(texts[0])}</th>"]
        for i in range(1, len(row)):
            scored = isinstance(row[i], Measure)
            drawn = charts.strip(row[i], axes[i], colour or "c0") if scored and i in axes else ""
            marked = " best" if scored and best.get(i) == row[i].mean else ""
            mean, plus_minus, spread = texts[i].partition(" ± ")
            cells.append(f'<td class="n{marked}">{mean}<small>{plus_minus}{spread}</small>{drawn}</td>')
        rows.append(f'<tr data-v="{number}">{"".join(cells)}</tr>')
    head = [table.columns[0], table.columns[1], *map(charts.figure_title, table.columns[2:])]
    hint = '<p class="hint">Each dot is a run, each bar a mean; a column has one scale. The best mean is bold.</p>'
    drawn_hint = hint if len(variants) > 1 and axes else ""
    look = "inline" if len(head) <= 5 else ""  # few columns: strips fit on the line of their figures
    return f"<h3>Final scores</h3>{_wrap(head, rows, numeric=range(1, len(head)), look=look)}{drawn_hint}"


def _by_label(variants: Sequence[Variant]) -> str:
    blocks = []
    for variant in variants:
        counted, by_label = confusion_counts(variant), label_table(variant)
        block = _confusion(*counted) if counted else ""
        block += _table(by_label, head=charts.figure_title) if by_label else ""
        if block:
            blocks.append((variant.name, block))
    return _unfold_first("By label", blocks)


def _confusion(labels: list[str], counts: list[list[float]]) -> str:
    rows = []
    for i, (label, row) in enumerate(zip(labels, counts, strict=True)):
        total = sum(row) or 1
        cells = "".join(
            f'<td{" class=diagonal" if i == j else ""} style="--a:{0.75 * count / total:.3f}">{count:,.0f}</td>'
            for j, count in enumerate(row)
        )
        rows.append(f"<tr><th>{_escape(label)}</th>{cells}</tr>")
    tall = " tall" if max(map(len, labels)) > 7 or len(labels) > 8 else ""
    head = "".join(f"<th>{_escape(label)}</th>" for label in labels)
    return (
        f'<div class="scroll"><table class="heat{tall}"><thead><tr><th></th>{head}</tr></thead>'
        f'<tbody>{"".join(rows)}</tbody></table></div><p class="hint">Rows are true labels, columns predicted labels. '
        "Counts are over all runs, shaded by their share of the row.</p>"
    )


def _examples(variants: Sequence[Variant]) -> str:
    blocks = []
    for variant in variants:
        run = next((run for run in variant.runs if isinstance(run.result.get("examples"), list)), None)
        examples = [item for item in run.result["examples"] if isinstance(item, dict)] if run else []
        if run and examples:
            task = run.experiment.get("task")
            truth = task.get("label") if isinstance(task, dict) else None
            cards = "".join(_card(example, truth) for example in examples[:10])
            blocks.append((run.name, f'<div class="cards">{cards}</div>'))
    return _unfold_first("Example predictions", blocks)


def _card(example: dict[str, Any], truth: Any) -> str:
    """Returns one prediction: the input, then the answer, with the true label if the input has it."""
    inputs = example.get("input")
    inputs = inputs if isinstance(inputs, dict) else {"input": inputs} if inputs is not None else {}
    words = inputs.get("tokens")
    texts = [f"<p>{_tagged(words, example)}</p>"] if isinstance(words, list) else []
    texts += [
        f"<p>{_escape(_cut(value))}</p>" for value in inputs.values() if isinstance(value, str) and " " in value.strip()
    ]
    answered = {key: value for key, value in example.items() if key != "input"}
    rows = []
    if isinstance(truth, str) and truth in inputs:
        rows.append(("true label", _escape(cell_text(inputs[truth]))))
    for key, value in answered.items():
        shown = _value(value)
        if key == "label" and isinstance(truth, str) and truth in inputs and str(inputs[truth]) != str(value):
            shown = f'<span class="wrong">{shown}</span>'
        rows.append((charts.figure_title(str(key)), shown))
    listed = "".join(f"<dt>{_escape(key)}</dt><dd>{value}</dd>" for key, value in rows)
    return f'<div class="card">{"".join(texts)}<dl>{listed}</dl></div>'


def _tagged(words: list[Any], example: dict[str, Any]) -> str:
    """Returns words with their tags above them, if a prediction has one tag per word."""
    tags = next((v for v in example.values() if isinstance(v, list) and len(v) == len(words)), [])
    return "".join(
        f"<ruby>{_escape(str(word))}{'' if tag == 'O' else f'<rt>{_escape(str(tag))}</rt>'}</ruby> "
        for word, tag in itertools.zip_longest(words, tags, fillvalue="O")
    )


def _value(value: Any) -> str:
    if isinstance(value, dict) and value and all(map(is_number, value.values())):
        top = sorted(value.items(), key=lambda item: -item[1])[:_MAX_PROBABILITIES]
        if all(0 <= share <= 1 for _, share in top):
            return "".join(
                f'<span class="bar"><u>{_escape(str(name))}</u><s style="--p:{share:.3f}"></s>{share:.2f}</span>'
                for name, share in top
            )
        return ", ".join(f"{_escape(str(name))} {number:.4g}" for name, number in top)
    if isinstance(value, dict):
        return "; ".join(f"{_escape(str(key))}: {_value(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(_value(item) for item in value) or "none"
    return _escape(_cut(cell_text(value))) or "none"


def _note_table(item: dict[str, Any]) -> str:
    rows = [tuple(row) for row in item["rows"] if isinstance(row, list)]
    width = max((len(row) for row in rows), default=0)
    columns = item.get("columns")
    columns = tuple(map(str, columns)) if isinstance(columns, list) else ()
    width = max(width, len(columns))
    filled = tuple(row + (None,) * (width - len(row)) for row in rows)
    return f"<h3>{_escape(str(item.get('title', '')))}</h3>" + _table(
        Table("", columns + ("",) * (width - len(columns)), filled)
    )


def _note_text(item: dict[str, Any]) -> str:
    lines = "\n".join(_escape(str(line)) for line in item["lines"])
    return f'<h3>{_escape(str(item.get("title", "")))}</h3><div class="lines">{lines}</div>'


def _table(table: Table, sums: bool = False, head: Any = None) -> str:
    """Returns a table whose first column names the row. Columns that hold only numbers are aligned right."""
    columns = list(zip(*table.rows, strict=True))
    numeric = [
        i
        for i, cells in enumerate(columns)
        if i and all(c is None or is_number(c) or isinstance(c, Measure) for c in cells)
    ]
    rows = []
    for number, texts in enumerate(table.texts()):
        cells = "".join(
            f'<td class="{"n" if i in numeric else "long" if len(text) > 28 else ""}">{_escape(text)}</td>'
            for i, text in enumerate(texts)
            if i
        )
        last = ' class="sum"' if sums and number == len(table.rows) - 1 else f' data-v="{number}"'
        last = last if table.columns[0] == "experiment" else ""
        rows.append(f"<tr{last}><th>{_escape(texts[0])}</th>{cells}</tr>")
    return _wrap([head(name) if head and i else name for i, name in enumerate(table.columns)], rows, numeric)


def _wrap(head: Sequence[str], rows: Iterable[str], numeric: Iterable[int], look: str = "") -> str:
    numeric = set(numeric)
    cells = "".join(f"<th{' class=n' if i in numeric else ''}>{_path(name)}</th>" for i, name in enumerate(head))
    return (
        f'<div class="scroll"><table class="{look}"><thead><tr>{cells}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _path(name: str) -> str:
    # A field's path takes two lines, so that its name does not make a column wider than the values need.
    folder, dot, last = name.rpartition(".")
    return f"<small>{_escape(folder)}</small>{_escape(last)}" if dot and " " not in name else _escape(name)


def _fold(title: str, content: str, is_open: bool = False) -> str:
    return f'<details class="fold"{" open" if is_open else ""}><summary>{_escape(title)}</summary>{content}</details>'


def _unfold_first(title: str, blocks: Sequence[tuple[str, str]]) -> str:
    """Returns the blocks: a single one unfolded, several ones folded except for the first."""
    if not blocks:
        return ""
    if len(blocks) == 1:
        return f"<h3>{title}</h3>{blocks[0][1]}"
    folded = "".join(_fold(name, content, is_open=i == 0) for i, (name, content) in enumerate(blocks))
    return f"<h3>{title}</h3>{folded}"


def _kind_title(kind: str) -> str:
    return TASK_KINDS[kind].title if kind in TASK_KINDS else kind


def _anchor(kind: str) -> str:
    return "".join(letter for letter in kind.lower() if letter.isalnum())


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _cut(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT].rstrip() + " …"


def _escape(text: str) -> str:
    return html.escape(text)
