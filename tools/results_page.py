"""The page experiments/README.md, built from the experiment files and their files of results.

An experiment file may define REPORT, a dict literal, to say how its results are shown:

    picture    False for none
    figures    the figures that are kept of a run, where they are not those of its task; the first one is its score
    columns    more columns of the full table: "parameters", "steps", "tokens", "seconds"
    curves     a pattern for the names of runs that are points of curves, with the groups panel, x and perhaps line
    x          the label of the x axis of these curves
"""

import ast
import inspect
import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import results_pictures
from scipy import stats

Results = dict[str, Any]  # a file of results, or one of its runs

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
RESULTS = EXPERIMENTS / "results"
README = EXPERIMENTS / "README.md"
BEGIN, END = "<!-- written by `make results` -->", "<!-- end -->"
QUICKSTART = "quickstart"  # a command of its own, without an experiment file
QUICKSTART_DOCSTRING = """What do two minutes of pre-training gain?

Expected: nothing was written down before the run.

    make quickstart
"""
SHARED = ("common",)  # files that experiments import
# The order on the page. Others follow in the order of their names.
ORDER = (
    QUICKSTART,
    "from_scratch_or_pretrained",
    "what_the_weights_learn",
    "ten_million_words",
    "in_domain_or_general",
    "masking",
    "albert_choices",
    "since_2018",
    "long_context",
    "compact_models",
    "freezing",
    "glue",
    "named_entities",
    "chemprot",
    "film_tags",
    "beside_pytorch",
    "squad",
    "multiple_choice",
    "sentence_embedding",
)
DEFAULTS: dict[str, Any] = {"picture": True, "figures": None, "columns": (), "curves": None, "x": ""}
VERDICTS = ("confirmed", "refuted", "undecided", "measured")  # measured: nothing was expected
MOST_WORDS = {"answer": 20, "found": 40, "limits": 25}
PARAGRAPH_WORDS = 40


def docstring_of(name: str) -> str:
    """Returns the docstring of an experiment file."""
    if name == QUICKSTART:
        return inspect.cleandoc(QUICKSTART_DOCSTRING)
    return ast.get_docstring(ast.parse((EXPERIMENTS / f"{name}.py").read_text())) or name


def report_of(name: str) -> dict[str, Any]:
    """Returns the experiment file's REPORT with defaults; exits where it has an unknown key."""
    path = EXPERIMENTS / f"{name}.py"
    report: dict[str, Any] = {}
    for node in ast.parse(path.read_text()).body if path.exists() else ():
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "REPORT":
            report = ast.literal_eval(node.value)
    if unknown := sorted(set(report) - set(DEFAULTS)):
        raise SystemExit(f"{path}: REPORT has unknown keys {unknown}; expected {sorted(DEFAULTS)}")
    return DEFAULTS | report


def words(text: str) -> int:
    """Returns the number of words in a text; numbers count."""
    return sum(any(map(str.isalnum, word)) for word in text.split())


def percent(values: list[float]) -> str:
    """Returns a share over seeds as mean and standard deviation, in percent."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def shown(values: list[float], name: str) -> str:
    """Returns a figure over seeds as mean and standard deviation; shares have a percent sign."""
    if not name.endswith("loss"):
        return f"{percent(values)} %"
    return f"{statistics.fmean(values):.2f}" + (f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else "")


def figures(values: dict[str, list[float]]) -> str:
    """Returns all figures of a run as means with spreads."""
    return ", ".join(f"{results_pictures.label(name)} {shown(seeds, name)}" for name, seeds in values.items())


def differences(run: Results) -> dict[str, tuple[float, float, float]]:
    """Returns how much higher each share is here than in PyTorch: the mean, and the ends of its 95 % interval, x 100.

    A seed has the same rows in the same order in both, so it is the mean over seeds of their differences.
    """
    points = {}
    for name, theirs in run.get("pytorch", {}).items():
        ours = run["figures"].get(name, [])
        if len(ours) == len(theirs) > 1 and not name.endswith("loss"):
            each = 100 * (np.array(ours) - np.array(theirs))
            low, high = stats.ttest_1samp(each, 0).confidence_interval(0.95)
            points[name] = (float(each.mean()), float(low), float(high))
    return points


def row(cells: list[str]) -> str:
    """Returns a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def problems(results: Results) -> list[str]:
    """Returns what is wrong with the hand-written parts of a file of results."""
    name = results["experiment"]
    texts = {key: results.get(key, "") for key in ("answer", "limits")}
    texts["found"] = " ".join(results.get("found", {}).values())
    wrong = [f"{name}: {key} is missing" for key, text in texts.items() if not text]
    wrong += [
        f"{name}: {key} has {words(text)} words, expected at most {MOST_WORDS[key]}"
        for key, text in texts.items()
        if words(text) > MOST_WORDS[key]
    ]
    unknown = sorted(set(results.get("found", {})) - set(VERDICTS))
    wrong += [f"{name}: found has the verdict {verdict!r}, expected one of {VERDICTS}" for verdict in unknown]
    wrong += [f"{name}: compared has the unknown run {run}" for run in unknown_runs(results)]
    measured = measurements(results)
    for key in ("answer", "found"):
        for quoted in re.findall(r"\d+\.\d+(?: ± \d+\.\d+)?", texts[key]):
            if quoted not in measured:
                wrong.append(f"{name}: {key} quotes {quoted}, which is not in the results")
    return wrong


def unknown_runs(results: Results) -> list[str]:
    """Returns the names in `compared` that are not runs."""
    return [run for run in results.get("compared", {}) if run.removesuffix("/pytorch") not in results["runs"]]


def measurements(results: Results) -> set[str]:
    """Returns every figure of a file of results as it is shown, means alone included."""
    texts = {str(value) for value in results.get("other_figures", {}).values()}
    for run in results["runs"].values():
        start = {name: [value] for name, value in run.get("start", {}).items()}
        for some in (run["figures"], run.get("pytorch", {}), start):
            texts |= {shown(values, name).removesuffix(" %") for name, values in some.items()}
        texts |= {f"{abs(value):.1f}" for three in differences(run).values() for value in three}
    return texts | {text.partition(" ± ")[0] for text in texts}


def compared(results: Results) -> tuple[str, str]:
    """Returns the compared runs' scores, each figure named once, and their number of seeds."""
    parts: dict[str, list[str]] = {}
    seeds = set()
    for run, label in results.get("compared", {}).items():
        scores = results["runs"][run.removesuffix("/pytorch")]
        name, values = next(iter(scores["pytorch" if run.endswith("/pytorch") else "figures"].items()))
        parts.setdefault(name, []).append(f"{label} {percent(values)}")
        seeds.add(len(values))
    text = "; ".join(f"{results_pictures.label(name)}: {', '.join(some)}" for name, some in parts.items())
    return text, " to ".join(str(number) for number in sorted({min(seeds), max(seeds)})) if seeds else ""


def questions(every: list[Results]) -> list[str]:
    """Returns the table on top of the page: a row for each question."""
    lines = [row(["question", "answer", "scores in percent", "seeds", ""]), row(["---"] * 5)]
    for results in every:
        name = results["experiment"]
        question = docstring_of(name).splitlines()[0]
        lines.append(row([question, results["answer"], *compared(results), f"[more](#{name})"]))
    return lines


def expectation(docstring: str) -> list[str]:
    """Returns the paragraphs of what was expected, split at sentences so that none is too long."""
    match = re.search(r"(?ms)^Expected: (.*?)(?:\n\n|\Z)", docstring)
    sentences = re.split(r"(?<=[.?]) (?=[A-Z\d`])", " ".join(match[1].split())) if match else []
    paragraphs = [""]
    for sentence in sentences:
        longer = f"{paragraphs[-1]} {sentence}".strip()
        paragraphs[-1:] = [longer] if words(longer) < PARAGRAPH_WORDS else [paragraphs[-1], sentence]
    return [paragraph for paragraph in paragraphs if paragraph]


def section(results: Results) -> list[str]:
    """Returns one experiment's part of the page."""
    name = results["experiment"]
    docstring = docstring_of(name)
    lines = [f'<a id="{name}"></a>', "", f"### {docstring.splitlines()[0]}", ""]
    if name != QUICKSTART:
        lines += [f"[{name}.py]({name}.py) has the commands.", ""]
    else:
        lines += ["`make quickstart` runs it.", ""]
    first, *rest = expectation(docstring)
    lines += [f"**Expected:** {first[0].upper()}{first[1:]}", ""]
    for paragraph in rest:
        lines += [paragraph, ""]
    parts = [text if verdict == "measured" else f"*{verdict}*. {text}" for verdict, text in results["found"].items()]
    lines += [f"**Found:** {' '.join(parts)}", ""]
    lines += [f"**Limits:** {results['limits']}", ""]
    if report_of(name)["picture"]:
        lines += [f"![{docstring.splitlines()[0]}](results/{name}.svg)", ""]
    lines += ["<details><summary>All figures</summary>", "", *table(results, report_of(name)["columns"]), ""]
    for what, value in results.get("other_figures", {}).items():
        lines += [f"- {what}: {value}", ""]
    return [*lines, "</details>", ""]


def table(results: Results, more: tuple[str, ...] = ()) -> list[str]:
    """Returns a row for each run, with columns for flags and for PyTorch where any run has them."""
    runs = results["runs"]
    columns = ["run", "figures", "seeds", *more]
    with_flags = any(run.get("flags") for run in runs.values())
    with_pytorch = any("pytorch" in run for run in runs.values())
    columns += ["the same in PyTorch", "higher here by (95 % interval)"] * with_pytorch
    columns += ["changed flags"] * with_flags
    lines = [row(columns), row(["---"] * len(columns))]
    for name, run in runs.items():
        start = {figure: [value] for figure, value in run.get("start", {}).items()}
        cells = [name, figures(run["figures"]) + (f"; before fine-tuning: {figures(start)}" if start else "")]
        cells += [str(len(next(iter(run["figures"].values())))), *(f"{run[column]:,.0f}" for column in more)]
        gaps = [f"{mean:.1f} ({low:.1f} to {high:.1f})" for mean, low, high in differences(run).values()]
        cells += [figures(run.get("pytorch", {})), ", ".join(gaps)] if with_pytorch else []
        flags = " ".join(f"`--{flag.replace('_', '-')} {value}`" for flag, value in run.get("flags", {}).items())
        lines.append(row([*cells, *[flags] * with_flags]))
    return lines


def index(every: list[Results]) -> list[str]:
    """Returns the table of experiment files that have no results."""
    with_results = {results["experiment"] for results in every}
    names = sorted({path.stem for path in EXPERIMENTS.glob("*.py")} - with_results - set(SHARED))
    rows = [row([f"[{name}.py]({name}.py)", docstring_of(name).splitlines()[0]]) for name in names]
    return [row(["file", "what it is for"]), row(["---"] * 2), *rows]


def load() -> list[Results]:
    """Returns all files of results in the order of the page; exits where one has a defect."""
    every = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    every = [results for results in every if results["runs"]]
    if wrong := [problem for results in every for problem in problems(results)]:
        raise SystemExit("\n".join(wrong))
    order = {name: number for number, name in enumerate(ORDER)}
    return sorted(every, key=lambda results: order.get(results["experiment"], len(ORDER)))


def page(every: list[Results]) -> str:
    """Returns what is between the page's markers."""
    sections = [line for results in every for line in section(results)]
    lines = [*questions(every), "", "## Files without results", "", *index(every), "", "## Question by question", ""]
    return "\n".join(["", "", *lines, *sections, ""])


def rebuild() -> None:
    """Writes the page's part between the markers, and a picture next to each file of results that has one."""
    every = load()
    for results in every:
        report = report_of(results["experiment"])
        if report["picture"]:
            path = RESULTS / f"{results['experiment']}.svg"
            results_pictures.draw(results, path, pattern=report["curves"], x_label=report["x"])
    before, _, rest = README.read_text().partition(BEGIN)
    README.write_text(before + BEGIN + page(every) + END + rest.partition(END)[2])
