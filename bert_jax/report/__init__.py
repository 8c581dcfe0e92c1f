"""`bert_jax report`: runs put side by side, as one HTML page, as tables in the terminal, or while they are running.

Everything comes from the files in the workdirs, so a report can be made anywhere the folders were copied to, without an
accelerator and without the data. Runs that differ only in their seed are one experiment, shown with its spread.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from bert_jax.errors import InputError
from bert_jax.report.page import render
from bert_jax.report.runs import find_runs, group_seeds
from bert_jax.report.tables import Measure, Table, by_kind, cost_table, difference_table, score_table
from bert_jax.report.watching import watch

__all__ = ["Measure", "Table", "print_summary", "report", "summary", "watch"]


def report(workdirs: Sequence[str | Path], out: str | Path) -> None:
    """Writes one HTML file that shows the runs in `workdirs`, and in the folders below them, side by side.

    The page loads nothing, from the network or from beside it. A file that is missing or half-written is named on the
    page. A `notes.json` in any of the folders adds tables and texts at the top.

    Raises:
      InputError: a workdir is no folder or holds no run, or `out` cannot be written.
    """
    paths = [Path(workdir) for workdir in workdirs]
    runs, notes = find_runs(paths)
    names = [path.resolve().name for path in paths]
    title = ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
    out = Path(out)
    if not out.parent.is_dir():
        raise InputError(f"{out}: there is no folder {out.parent} to write the report into")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; name a file, such as {out / 'report.html'}")
    partial = out.with_name(out.name + ".partial")
    try:
        partial.write_text(render(title, group_seeds(runs), notes), encoding="utf-8", errors="replace")
        os.replace(partial, out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{out}: could not be written: {error.strerror}") from None


def summary(workdirs: Sequence[str | Path]) -> list[Table]:
    """Returns the tables of final scores, differing fields and cost, three for each kind of task.

    A score is a `Measure`: its values, a run each, with their mean and standard deviation.

    Raises:
      InputError: a workdir is no folder or holds no run.
    """
    runs, _ = find_runs([Path(workdir) for workdir in workdirs])
    tables = []
    for kind, variants in by_kind(group_seeds(runs)).items():
        for make in (score_table, difference_table, cost_table):
            table = make(variants)
            tables.append(Table(f"{kind}: {table.title.lower()}", table.columns, table.rows))
    return tables


def print_summary(workdirs: Sequence[str | Path], console: Console | None = None) -> None:
    """Prints what `summary` returns; tables that have nothing to tell are left out."""
    console = console or Console()
    for table in summary(workdirs):
        if len(table.columns) < 2 or not table.rows:
            continue
        texts = table.texts()
        columns = list(zip(table.columns, *texts, strict=True))
        # Names of experiments may be folded in a narrow terminal; other words stay whole.
        name_width = min(12, max(map(len, columns[0])))
        widths = [name_width] + [max(len(word) for text in column for word in text.split()) for column in columns[1:]]
        wanted = [max(map(len, column)) for column in columns]
        if sum(width + 3 for width in widths) + 2 > console.width:
            # No room for columns that can be read: a paragraph for each row.
            console.print(Text(table.title, style="bold"))
            for first, *rest in texts:
                named = (f"{name} {text}" for name, text in zip(table.columns[1:], rest, strict=True) if text)
                console.print(Padding(Text.assemble((first, "bold"), ": ", ", ".join(named)), (0, 0, 0, 2)))
            console.print()
            continue
        shown = RichTable(title=table.title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
        if sum(width + 3 for width in wanted) + 2 <= console.width:
            widths = wanted
        for number, (name, width) in enumerate(zip(table.columns, widths, strict=True)):
            shown.add_column(Text(name), justify="right" if number else "left", overflow="fold", width=width)
        for row in texts:
            shown.add_row(*map(Text, row))
        console.print(shown)
