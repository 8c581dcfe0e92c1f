"""`bert_jax report`: compares runs on one HTML page, as tables in the terminal, or live while they are running.

A report needs only the files in the workdirs. So it can be made on another machine, without an accelerator and without
the data. Runs that differ only in their seed are one experiment, shown with its spread.
"""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table as RichTable
from rich.text import Text

from bert_jax import files
from bert_jax.errors import InputError
from bert_jax.report.page import render
from bert_jax.report.runs import find_runs, group_seeds
from bert_jax.report.tables import (
    Measure,
    Table,
    by_kind,
    cost_table,
    difference_table,
    other_score_tables,
    score_table,
)
from bert_jax.report.watching import watch

__all__ = ["Measure", "Table", "print_summary", "report", "summary", "watch"]


def report(workdirs: Sequence[files.PathLike], out: files.PathLike) -> None:
    """Writes one HTML file that compares the runs in `workdirs` and in the folders below them.

    The page loads no other file, neither from the network nor from its folder. It names files that are missing or cut
    off. A `notes.json` in any of the folders adds tables and texts at the top.

    Raises:
      InputError: a workdir is not a folder or contains no run, `out` is a file of another kind, or cannot be written.
    """
    paths = [files.path(workdir) for workdir in workdirs]
    runs, notes = find_runs(paths)
    names = [files.resolve(path).name for path in paths]
    title = ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} more"
    out = files.path(out)
    if not out.parent.is_dir():
        raise InputError(f"{out}: cannot write the report: {out.parent} is not a folder")
    if out.is_dir():
        raise InputError(f"{out}: is a folder; give a file, such as {out / 'report.html'}")
    if out.exists() and files.size(out) and not out.read_bytes().startswith(b"<"):
        raise InputError(f"{out}: exists and is not a page; name another file")
    try:
        files.write_whole(out, render(title, group_seeds(runs), notes).encode("utf-8", "replace"))
    except OSError as error:
        raise InputError(f"{out}: could not be written: {error.strerror}") from None


def summary(workdirs: Sequence[files.PathLike]) -> list[Table]:
    """Returns tables per kind of task: final scores, scores on each other file, fields that differ, and cost.

    A score is a `Measure`: one value per run, with mean and standard deviation.

    Raises:
      InputError: a workdir is not a folder or contains no run.
    """
    runs, _ = find_runs([files.path(workdir) for workdir in workdirs])
    tables = []
    for kind, variants in by_kind(group_seeds(runs)).items():
        made = [score_table(variants), *other_score_tables(variants), difference_table(variants), cost_table(variants)]
        for table in made:
            title = table.title[0].lower() + table.title[1:]  # the rest may be the name of a file
            tables.append(Table(f"{kind}: {title}", table.columns, table.rows))
    return tables


def print_summary(workdirs: Sequence[files.PathLike], console: Console | None = None) -> None:
    """Prints the tables of `summary` that are not empty."""
    console = console or Console()
    for table in summary(workdirs):
        if len(table.columns) < 2 or not table.rows:
            continue
        texts = table.texts()
        columns = list(zip(table.columns, *texts, strict=True))
        # In a narrow terminal, names of experiments are folded. Other words stay whole.
        name_width = min(12, max(map(len, columns[0])))
        widths = [name_width] + [max(len(word) for text in column for word in text.split()) for column in columns[1:]]
        wanted = [max(map(len, column)) for column in columns]
        if sum(width + 3 for width in widths) + 2 > console.width:
            # Too narrow for columns: one paragraph per row.
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
