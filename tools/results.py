"""Collects the scores of sweeps into small files, and builds experiments/README.md and its pictures from those.

    python tools/results.py collect runs/freezing    # reads a sweep's workdir, writes experiments/results/freezing.json
    python tools/results.py collect runs/glue --pytorch pytorch    # and pytorch/glue-sst2.jsonl next to its run sst2
    python tools/results.py collect runs/quickstart    # which has no file in experiments/
    python tools/results.py collect runs/ten_million_words --pairs pairs    # and pairs/335.json for checkpoint 335
    python tools/results.py collect --add runs/masking    # keeps the file's other runs, those of another machine
    python tools/results.py                          # what `make results` does: page and pictures, without any run

A workdir has the name of its experiment file. A file of results holds, for each finished run, the score of every seed,
what it cost and which flags were changed, the scores of tools/compare_fine_tuning.py if there are any, and what
`bert_jax score` printed for minimal pairs and the checkpoint that the run starts from. What is written in it by hand
(see HAND_WRITTEN) is kept when it is collected again.
"""

import argparse
import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import results_page as page
from results_page import QUICKSTART, Results

from bert_jax import sources
from bert_jax.config import TASK_KINDS, Experiment, Pretraining, differences, to_json
from bert_jax.pretrained import open_source
from bert_jax.report.runs import RunRecord, find_runs
from bert_jax.runs import layout
from bert_jax.sweeps import load_experiments

# Flags that say what a run was, as opposed to how it was computed; kept where they differ from the experiment file.
FLAGS = ("epochs", "init_from", "optimizer.learning_rate", "task.eval", "task.eval_limit", "task.limit", "task.train")
STAGES = ("pretrain", "pre-trained", "random")  # the runs of the quickstart
# answer: at most 20 words. compared: run -> label, for the table on top. found: verdict -> text, 40 words in all.
# limits: at most 25 words. other_figures: what was measured otherwise, name -> value.
HAND_WRITTEN = ("answer", "compared", "found", "limits", "other_figures")


def experiment_file(workdir: Path) -> Path:
    """Returns the file of the experiment that was run in `workdir`; exits where there is no such file."""
    path = page.EXPERIMENTS / f"{workdir.name}.py"
    if not path.is_file():
        raise SystemExit(f"{workdir}: expected a workdir with the name of its experiment file, but {path} is missing")
    return path


def collect(workdir: Path, pytorch: Path | None = None, add: bool = False, pairs: Path | None = None) -> Path:
    """Writes the finished runs in `workdir` into the experiment's file of results, and returns its path.

    Args:
      pytorch: folder of compare_fine_tuning.py's EXPERIMENT-RUN.jsonl.
      add: keep the file's runs that the workdir lacks.
      pairs: folder of what `bert_jax score` printed for the pairs and each checkpoint, STEP.json.
    """
    name = workdir.name
    path = page.RESULTS / f"{name}.json"
    old = json.loads(path.read_text()) if path.exists() else {}
    experiments: dict[str, Experiment | None] = dict.fromkeys(STAGES)
    figures = None
    if name != QUICKSTART:
        experiments = dict(load_experiments(experiment_file(workdir)))
        figures = page.report_of(name)["figures"]
    finished = finished_runs(workdir, list(experiments))
    runs: dict[str, Results] = {}
    for entry, experiment in experiments.items():
        label = entry or name
        if entry in finished:
            runs[label] = summary(finished[entry], experiment, figures, pairs)
            if pytorch is not None and (theirs := pytorch / f"{name}-{label}.jsonl").exists():
                lines = [json.loads(line) for line in theirs.read_text().splitlines()]
                scores = [line["metrics"] for line in sorted(lines, key=lambda line: line["seed"])]
                runs[label]["pytorch"] = rounded(scores, list(runs[label]["figures"]))
        elif add and label in old.get("runs", {}):
            runs[label] = old["runs"][label]
    by_hand = {key: old[key] for key in HAND_WRITTEN if key in old}
    page.RESULTS.mkdir(exist_ok=True)
    path.write_text(json.dumps({"experiment": name} | by_hand | {"runs": runs}, indent=1, ensure_ascii=False) + "\n")
    return path


def finished_runs(workdir: Path, experiments: list[str]) -> dict[str, list[RunRecord]]:
    """Returns the finished runs of each experiment, sorted by seed.

    Runs are grouped by folder. Seeds that were trained one by one may differ in their number of steps.
    """
    seeds: dict[str, list[RunRecord]] = defaultdict(list)
    for run in find_runs([workdir])[0]:
        if workdir.name == QUICKSTART:
            entry = run.path.name if run.path.name in experiments else run.path.parent.name
        elif "" in experiments:  # a single experiment uses the whole workdir
            entry = ""
        else:
            entry = run.path.relative_to(workdir.resolve()).parts[0]
        if run.finished:
            seeds[entry].append(run)
    return {entry: sorted(runs, key=lambda run: run.experiment["seed"]) for entry, runs in seeds.items()}


def summary(
    runs: list[RunRecord],
    experiment: Experiment | None,
    figures: tuple[str, ...] | None,
    pairs: Path | None = None,
) -> Results:
    """Returns the figures of each seed in order of the seeds, the mean cost of a seed, and the changed flags."""
    first = runs[0]
    scores = [run.scores for run in runs]
    names = [figure for figure in figures or TASK_KINDS[first.kind].primary_figures if figure in scores[0]]
    params, _ = open_source(first.path).read_params()
    changed = differences(to_json(experiment), first.experiment) if experiment else {}
    if experiment and sources.parse(experiment.init_from or "").kind == "run":  # a path in the workdir
        changed.pop("init_from", None)
    more: Results = {}
    if curve := first.figures.get(("mlm_loss", "eval"), {}):
        more["curve"] = {str(step): round(loss, 4) for step, loss in curve.items()}
    if start_figures := start(first.experiment.get("init_from") or "", pairs):
        more["start"] = start_figures
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


def start(source: str, pairs: Path | None = None) -> dict[str, float]:
    """Returns the figures of a pre-training run WORKDIR@STEP at that step; nothing for any other source.

    Args:
      pairs: see `collect`.
    """
    origin = sources.parse(source, lambda path: Path(path, layout.METRICS).exists())
    if origin.step is None:
        return {}
    curves = find_runs([Path(origin.name)])[0][0].figures
    figures = {name: curves.get((name, "eval"), {}).get(origin.step) for name in Pretraining.primary_figures}
    if pairs is not None and (scores := pairs / f"{origin.step}.json").exists():
        figures["pairs_preferred"] = json.loads(scores.read_text())["accuracy"]
    return {name: round(value, 5) for name, value in figures.items() if value is not None}


def rounded(scores: list[dict[str, float]], names: list[str]) -> dict[str, list[float]]:
    """Returns each figure over the seeds."""
    return {name: [round(score[name], 5) for score in scores] for name in names}


def count(params: Any) -> int:
    """Returns the number of parameters in nested dicts of arrays."""
    return sum(map(count, params.values())) if isinstance(params, dict) else params.size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", nargs="?", choices=["collect"], help="read the workdirs of sweeps first")
    parser.add_argument("workdirs", nargs="*", type=Path)
    parser.add_argument("--pytorch", type=Path, help="the folder of compare_fine_tuning.py's EXPERIMENT-RUN.jsonl")
    parser.add_argument("--pairs", type=Path, help="the folder of what `bert_jax score` printed, STEP.json")
    parser.add_argument("--add", action="store_true", help="keep the file's runs that the workdir lacks")
    arguments = parser.parse_intermixed_args()
    for workdir in arguments.workdirs:
        print(f"wrote {collect(workdir, arguments.pytorch, arguments.add, arguments.pairs)}")
    page.rebuild()


if __name__ == "__main__":
    main()
