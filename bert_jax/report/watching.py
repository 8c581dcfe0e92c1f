"""`bert_jax report --watch`: a table in the terminal that follows a run while it is training."""

import time

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bert_jax import files
from bert_jax.amounts import time_text
from bert_jax.report.runs import RunRecord, find_folders, read_run
from bert_jax.report.tables import Measure
from bert_jax.runs import layout

_BARS = "▁▂▃▄▅▆▇█"
_SPEED = {"tokens_per_second": ("tokens/s", "count"), "padding_share": ("padding", "share"), "mfu": ("MFU", "share")}


def watch(
    workdir: files.PathLike, *, interval: float = 2.0, patience: float = 900.0, console: Console | None = None
) -> None:
    """Shows the run in `workdir` until it ends: step, time left, figures with their curves, speed and memory.

    In a folder of several runs, it follows the one that was written to last. It ends when that run's last step is
    evaluated (in a folder of runs, also no other run may have begun), when nothing was written for `patience` seconds,
    or on Ctrl-C, which does not stop the run itself.

    Args:
      interval: seconds between two reads of the files.
      patience: seconds without a new line after which a run counts as stopped.

    Raises:
      InputError: `workdir` is not a folder or contains no run.
    """
    workdir = files.path(workdir)
    _newest(workdir)  # a wrong path is an error before the display starts
    with Live(console=console or Console(), auto_refresh=False) as live:
        try:
            while True:
                path = _newest(workdir)
                run = read_run(path, path.name)
                quiet = time.time() - _written(path)
                live.update(_view(run), refresh=True)
                if run.finished and (path == files.resolve(workdir) or quiet > patience):
                    break
                if quiet > patience:
                    since = f"{path}: nothing was written for {time_text(quiet)}"
                    live.console.print(f"{since}; the run stopped or hangs at step {run.step:,}")
                    break
                time.sleep(interval)
        except KeyboardInterrupt:
            live.console.print("Stopped watching; the run continues")


def _newest(workdir: files.Path) -> files.Path:
    return max(find_folders([workdir])[0], key=_written, default=files.resolve(workdir))


def _written(path: files.Path) -> float:
    times = [0.0]
    for name in (layout.EXPERIMENT, layout.METRICS, layout.SPEED, layout.RESULT):
        file = path / name
        times += [files.modified(file)] if file.exists() else []
    return max(times)


def _view(run: RunRecord) -> Group:
    head = Table.grid(padding=(0, 2))
    planned = run.planned_steps
    step = f"step {run.step:,}" + (f" of {planned:,}" if planned else "")
    state = "finished" if run.finished else _time_left(run)
    bar = ProgressBar(total=planned or 1, completed=run.step if planned else 0, width=32)
    head.add_row(Text(run.name, style="bold"), step, bar, state)

    figures = Table(box=None, padding=(0, 2, 0, 0))
    for title in ("", "training", "", "evaluation", ""):
        figures.add_column(title, justify="right" if title else "left", header_style="dim")
    for figure in dict.fromkeys(figure for figure, _ in run.figures):
        if figure == "skipped" and not any(run.figures.get((figure, "train"), {}).values()):
            continue
        cells = [figure]
        for split in ("train", "eval"):
            curve = [value for _, value in sorted(run.figures.get((figure, split), {}).items())]
            cells += [f"{curve[-1]:.4g}", _spark(curve)] if curve else ["", ""]
        figures.add_row(*cells)
    return Group(head, figures, Text(_speed(run), style="dim"))


def _speed(run: RunRecord) -> str:
    last = run.speed[-1] if run.speed else {}
    texts = [f"{name} {Measure((last[key],), unit).text()}" for key, (name, unit) in _SPEED.items() if key in last]
    if "memory_bytes" in last:
        texts.append(f"memory {Measure((last['memory_bytes'],), 'bytes').text()}")
    if "seconds" in last:
        texts.append(f"training for {time_text(last['seconds'])}")
    return " · ".join(texts)


def _time_left(run: RunRecord) -> str:
    recent = [line for line in run.speed if "step" in line and "seconds" in line][-10:]
    if len(recent) < 2 or not run.planned_steps:
        return ""
    steps, seconds = (recent[-1][key] - recent[0][key] for key in ("step", "seconds"))
    if steps <= 0 or seconds <= 0:
        return ""
    return f"{time_text(seconds / steps * max(0, run.planned_steps - run.step))} left"


def _spark(curve: list[float], width: int = 24) -> str:
    """Returns a curve as one line of block characters.

    >>> _spark([1.0, 2.0, 3.0])
    '▁▅█'
    """
    size = -(-len(curve) // width)
    means = [sum(part) / len(part) for part in (curve[i : i + size] for i in range(0, len(curve), size))]
    low, high = min(means), max(means)
    if high == low:
        return _BARS[0] * len(means)
    return "".join(_BARS[round((value - low) / (high - low) * (len(_BARS) - 1))] for value in means)
