"""Collects what sweeps found into small files, and rebuilds the table and the figures of experiments/ from those.

    python tools/results.py collect runs/freezing    # reads a sweep's workdir, writes experiments/results/freezing.json
    python tools/results.py collect runs/glue --pytorch pytorch    # and pytorch/glue-sst2.jsonl beside its run sst2
    python tools/results.py collect runs/quickstart    # which has no file in experiments/
    python tools/results.py collect --add runs/masking    # keeps the file's other runs: those of another machine
    python tools/results.py                          # what `make results` does: table and figures, no run needed

A file of results names the experiment, and holds for each finished run the score of every seed, what it cost and which
flags it was given, and where there are any, the scores of tools/compare_fine_tuning.py. Its "finding" and
"does_not_show" are written by hand, and kept when it is collected again.
"""

import argparse
import ast
import json
import re
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from bert_jax import sources
from bert_jax.config import Experiment, differences, to_json
from bert_jax.pretrained import open_source
from bert_jax.report.runs import RunRecord, find_runs
from bert_jax.runs import layout
from bert_jax.sweeps import load_experiments

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
RESULTS = EXPERIMENTS / "results"
README = EXPERIMENTS / "README.md"
BEGIN, END = "<!-- results: written by `make results` -->", "<!-- end of results -->"
# What is kept of a run's figures, by experiment or kind of task; the first that there is, is its score.
FIGURES = {
    "glue": ("accuracy", "matthews", "pearson", "spearman"),
    "Pretraining": ("mlm_accuracy", "mlm_loss", "pair_accuracy"),
    "SequenceClassification": ("accuracy", "mean_average_precision", "f1_micro"),
    "Distillation": ("accuracy",),
    "TokenClassification": ("f1",),
    "QuestionAnswering": ("f1", "exact_match"),
    "MultipleChoice": ("accuracy",),
}
# Experiments that fine-tune for one task each, in the order of their common table.
TASKS = ("glue", "named_entities", "chemprot", "film_tags", "squad", "multiple_choice")
TASKS_HEAD = """### What does fine-tuning give, task by task, here and in PyTorch?

`bert_jax train experiments/FILE.py --only RUN --workdir runs/FILE --task.folder FOLDER`, with the flags of the row. The
same in PyTorch is `tools/compare_fine_tuning.py` on the same rows, recipe and seeds. These runs had one core each.
`tools/check.py scores` gives their scores by the field's own scorers.
"""
QUICKSTART = "quickstart"  # a command of its own, with three kinds of runs
STAGES = ("pretrain", "pre-trained", "random")
QUICKSTART_HEAD = ["### What do five minutes of pre-training gain?", "", "`make quickstart`", ""]
# Flags whose values are kept where they are not the experiment file's.
FLAGS = ("epochs", "init_from", "optimizer.learning_rate", "task.eval", "task.eval_limit", "task.limit", "task.train")
# Experiments whose runs are points of curves: how a run's name gives panel, place on the x axis, and curve, if
# there are several.
CURVES = {
    "from_scratch_or_pretrained": r"(?P<panel>\w+)-(?P<x>\d+|all)-(?P<line>.+)",
    "what_the_weights_learn": r"(?P<panel>.+)-after-(?P<x>\d+)",
}
X_LABELS = {"from_scratch_or_pretrained": "labels", "what_the_weights_learn": "steps of pre-training"}


def collect(workdir: Path, pytorch: Path | None = None, add: bool = False) -> Path:
    """Writes the finished runs of the experiment in `workdir`, named as its file is, and returns the results' file.

    With `add`, the file keeps the experiment's runs that the workdir lacks.
    """
    name = workdir.name
    path = RESULTS / f"{name}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    stages: dict[str, Experiment | None] = dict.fromkeys(STAGES)
    experiments = stages if name == QUICKSTART else dict(load_experiments(EXPERIMENTS / f"{name}.py"))

    def entry_of(run: RunRecord) -> str:
        if name == QUICKSTART:
            return re.sub(r"-\d+$", "", run.path.name)
        # An experiment that is alone in its file has the workdir to itself.
        return "" if "" in experiments else run.path.relative_to(workdir.resolve()).parts[0]

    # By folder: seeds that were trained one by one may differ in their steps, which follow from the rows they draw.
    seeds: dict[str, list[RunRecord]] = defaultdict(list)
    for run in find_runs([workdir])[0]:
        if run.finished:
            seeds[entry_of(run)].append(run)
    found = {}
    for entry in experiments:
        if entry not in seeds:
            if add and (entry or name) in old.get("runs", {}):
                found[entry] = old["runs"][entry or name]
            continue
        runs = sorted(seeds[entry], key=lambda run: run.experiment["seed"])
        found[entry] = summary(runs, name, experiments[entry])
        theirs = pytorch / f"{name}-{entry or name}.jsonl" if pytorch else None
        if theirs is not None and theirs.exists():
            lines = [json.loads(line) for line in theirs.read_text().splitlines()]
            scores = [line["metrics"] for line in sorted(lines, key=lambda line: line["seed"])]
            found[entry]["pytorch"] = rounded(scores, list(found[entry]["figures"]))
    results = {
        "experiment": name,
        "finding": old.get("finding", ""),
        "does_not_show": old.get("does_not_show", ""),
        "runs": {entry or name: one for entry, one in found.items()},
    }
    RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")
    return path


def summary(runs: list[RunRecord], name: str, experiment: Experiment | None) -> dict[str, Any]:
    """The figures of each seed, in their order, the mean cost of one, and the flags that were given."""
    first = runs[0]
    scores = [run.scores for run in runs]
    names = [figure for figure in FIGURES.get(name, FIGURES[first.kind]) if figure in scores[0]]
    params, _ = open_source(first.path).read_params()
    changed = differences(to_json(experiment), first.experiment) if experiment else {}
    curve = first.figures.get(("mlm_loss", "eval"), {})
    more: dict[str, Any] = {"curve": {str(step): round(loss, 4) for step, loss in curve.items()}} if curve else {}
    found = start(first.experiment.get("init_from") or "")
    if found:
        more["start"] = found
    if experiment and sources.parse(experiment.init_from or "").kind == "run":  # which the workdir has as a path
        changed.pop("init_from", None)
    return {
        "kind": first.kind,
        "flags": {flag: changed[flag][1] for flag in FLAGS if flag in changed},
        "figures": rounded(scores, names),
        "steps": first.step,
        "tokens": round(statistics.fmean(run.result["tokens"] for run in runs)),
        "seconds": round(statistics.fmean(run.result["seconds"] for run in runs), 1),
        "parameters": count(params),
        **more,
    }


def start(source: str) -> dict[str, float]:
    """What a pre-training run that is spelt WORKDIR@STEP said of itself at that step; nothing of another source."""
    origin = sources.parse(source, lambda path: Path(path, layout.METRICS).exists())
    if origin.step is None:
        return {}
    said = find_runs([Path(origin.name)])[0][0].figures
    found = {name: said.get((name, "eval"), {}).get(origin.step) for name in FIGURES["Pretraining"]}
    return {name: round(value, 5) for name, value in found.items() if value is not None}


def rounded(scores: list[dict[str, float]], names: list[str]) -> dict[str, list[float]]:
    """Each figure over the seeds."""
    return {name: [round(score[name], 5) for score in scores] for name in names}


def count(params: Any) -> int:
    """Numbers in nested dicts of arrays."""
    return sum(map(count, params.values())) if isinstance(params, dict) else params.size


def shown(values: list[float], name: str) -> str:
    """A figure over seeds, as mean and standard deviation; shares in per cent."""
    scale, unit = (1, "") if name.endswith("loss") else (100, " %")
    mean = f"{scale * statistics.fmean(values):.{2 if scale == 1 else 1}f}"
    return f"{mean} ± {scale * statistics.stdev(values):.1f}{unit}" if len(values) > 1 else mean + unit


def row(cells: list[str]) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def figures(found: dict[str, list[float]]) -> str:
    """All figures of a run, as means with spreads."""
    return ", ".join(f"{name.replace('_', ' ')} {shown(values, name)}" for name, values in found.items())


def section(results: dict[str, Any]) -> str:
    """One experiment's part of the README."""
    name = results["experiment"]
    figure = [f"![{name}](results/{name}.svg)", ""]
    if name == QUICKSTART:
        return "\n".join([*QUICKSTART_HEAD, *said(results), *figure, *table(results["runs"]), ""])
    docstring = ast.get_docstring(ast.parse((EXPERIMENTS / f"{name}.py").read_text())) or name
    lines = [f"### {docstring.splitlines()[0]}", ""]
    lines += [f"`bert_jax train experiments/{name}.py --workdir runs/{name}`", "", *said(results)]
    lines += [*figure, *table(results["runs"]), ""]
    return "\n".join(lines)


def tasks_section(every: list[dict[str, Any]]) -> str:
    """The part of the README for the experiments that fine-tune for one task each: a table for all of them."""
    lines = [TASKS_HEAD]
    for results in every:
        lines += said(results)
    runs = {}
    for results in every:
        for run, found in results["runs"].items():
            runs[f"{results['experiment']} {run}" if run != results["experiment"] else run] = found
    return "\n".join([*lines, *table(runs), ""])


def said(results: dict[str, Any]) -> list[str]:
    """What was written by hand about an experiment."""
    lines = [f"**{results['finding']}**", ""] if results["finding"] else []
    return lines + ([f"It does not show {results['does_not_show']}", ""] if results["does_not_show"] else [])


def table(runs: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each run; a column for PyTorch where it was asked about any."""
    beside = any("pytorch" in found for found in runs.values())
    columns = ["run", "figures", *(["the same in PyTorch"] if beside else []), "seeds", "parameters", "steps", "tokens"]
    columns.append("seconds")
    lines = [row(columns), row(["---"] * len(columns))]
    for run, found in runs.items():
        flags = "".join(f" `--{flag.replace('_', '-')} {value}`" for flag, value in found.get("flags", {}).items())
        before = {name: [value] for name, value in found.get("start", {}).items()}
        cells = [run + flags, figures(found["figures"]) + (f"; before: {figures(before)}" if before else "")]
        cells += [figures(found.get("pytorch", {}))] if beside else []
        cells.append(str(len(next(iter(found["figures"].values())))))
        cells += [f"{found[name]:,}" for name in ("parameters", "steps", "tokens")]
        lines.append(row([*cells, f"{found['seconds']:,.0f}"]))
    return lines


def score(found: dict[str, Any]) -> tuple[float, float]:
    """Mean and standard deviation of a run's score."""
    values = next(iter(found["figures"].values()))
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def draw_curves(results: dict[str, Any], pattern: str) -> plt.Figure:
    """Scores over what the runs' names say, a panel for each task and a line for each start.

    What the pre-training they all start from said of itself has panels of its own.
    """
    panels: dict[str, dict[str, dict[str, tuple[float, float]]]] = defaultdict(lambda: defaultdict(dict))
    units = {}
    for run, found in results["runs"].items():
        match = re.fullmatch(pattern, run)
        if match:
            parts = match.groupdict()
            units[parts["panel"]] = next(iter(found["figures"]))
            panels[parts["panel"]][parts.get("line", "")][parts["x"]] = score(found)
            for name, value in found.get("start", {}).items():
                panels[name.replace("_", " ")][""][parts["x"]] = value, 0.0
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(5.5 * min(columns, 2), 3.2 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(panels) :]:
        axis.remove()
    tasks_first = sorted(panels.items(), key=lambda item: item[0] not in units)
    for axis, (panel, lines) in zip(axes.flat, tasks_first, strict=False):
        order = sorted({x for points in lines.values() for x in points}, key=lambda x: (x == "all", len(x), x))
        for line, points in lines.items():
            shared = [x for x in order if x in points]
            means, spreads = zip(*(points[x] for x in shared), strict=True)
            axis.errorbar([order.index(x) for x in shared], means, spreads, marker="o", capsize=3, label=line)
        axis.set(xticks=range(len(order)), xticklabels=order, title=panel)
        axis.set(xlabel=X_LABELS[results["experiment"]], ylabel=units.get(panel, "").replace("_", " "))
        if len(lines) > 1:
            axis.legend()
    return figure


def draw_dots(results: dict[str, Any]) -> plt.Figure:
    """A point with its spread for each run, one panel for pre-training and one for what was fine-tuned."""
    groups: dict[str, list[str]] = defaultdict(list)
    for run, found in results["runs"].items():
        groups[next(iter(found["figures"]))].append(run)
    curves = {run: found["curve"] for run, found in results["runs"].items() if len(found.get("curve", ())) > 1}
    heights = [0.7 + 0.3 * len(runs) for runs in groups.values()] + [3.0] * (len(curves) > 1)
    figure, axes = plt.subplots(
        len(heights), 1, figsize=(7, sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    if len(curves) > 1:
        for run, curve in curves.items():
            axes[-1, 0].plot([int(step) for step in curve], list(curve.values()), marker=".", label=run)
        axes[-1, 0].set(xlabel="step of pre-training", ylabel="MLM loss")
        axes[-1, 0].legend(fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    for axis, (name, runs) in zip(axes[:, 0], groups.items(), strict=False):
        for place, run in enumerate(runs):
            mean, spread = score(results["runs"][run])
            axis.errorbar(mean, place, xerr=spread, marker="o", capsize=3, color="C0")
        axis.set(yticks=range(len(runs)), yticklabels=runs, xlabel=name.replace("_", " "))
        axis.set_ylim(len(runs) - 0.5, -0.5)
        axis.grid(axis="x", alpha=0.3)
    return figure


def draw(results: dict[str, Any], path: Path) -> None:
    """Writes an experiment's figure: the same file for the same results."""
    plt.rcParams["svg.hashsalt"] = "bert_jax"
    pattern = CURVES.get(results["experiment"])
    figure = draw_curves(results, pattern) if pattern else draw_dots(results)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def part() -> str:
    """What stands in the README between the markers."""
    every = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    every = [results for results in every if results["runs"]]
    tasks = [results for name in TASKS for results in every if results["experiment"] == name]
    questions = [results for results in every if results["experiment"] not in TASKS]
    sections = ([tasks_section(tasks)] if tasks else []) + [section(results) for results in questions]
    return "\n".join(["", "", *sections, ""])


def rebuild() -> None:
    """Writes the README's part between the markers, and a figure beside the results of each question."""
    for path in sorted(RESULTS.glob("*.json")):
        results = json.loads(path.read_text())
        if results["runs"] and results["experiment"] not in TASKS:
            draw(results, path.with_suffix(".svg"))
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + part() + END + rest.partition(END)[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="?", choices=["collect"], help="read sweeps' workdirs first")
    parser.add_argument("workdirs", nargs="*", type=Path)
    parser.add_argument("--pytorch", type=Path, help="the folder of compare_fine_tuning.py's EXPERIMENT-RUN.jsonl")
    parser.add_argument("--add", action="store_true", help="keep the file's runs that the workdir lacks")
    arguments = parser.parse_intermixed_args()
    for workdir in arguments.workdirs:
        print(f"wrote {collect(workdir, arguments.pytorch, arguments.add)}")
    rebuild()


if __name__ == "__main__":
    main()
