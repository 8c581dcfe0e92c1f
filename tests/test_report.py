"""The report: what it computes from workdirs' files, that it survives their being broken, and that it loads nothing."""

import json
import re
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from bert_jax.config import AdamW
from bert_jax.errors import InputError
from bert_jax.report import print_summary, report, summary
from bert_jax.report.charts import make_axis, tick_texts
from bert_jax.report.runs import find_runs, group_seeds
from bert_jax.report.tables import Measure, shared_table
from helpers.fake_runs import classify, pretrain, write_bare, write_lines, write_quickstart, write_run


class Page(HTMLParser):
    """A report page taken apart: its elements with their attributes, its text, and whether every tag is closed."""

    VOID = frozenset({"meta", "br", "path"})

    def __init__(self, source: str):
        super().__init__()
        self.source = source
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data + " "

    def lines(self, figure: str) -> dict[str, list[tuple[float, float]]]:
        """{name: [(step, value)]} as drawn in the first chart of `figure`, read back from the paths and the axes."""
        chart = next(c for c in self.source.split("<figure")[1:] if f"<b>{figure}</b>" in c)
        steps, low, high, logarithmic = map(float, re.search(r'data-axes="([^"]*)"', chart)[1].split())
        assert not logarithmic
        points_by_name = {}
        for name, path in re.findall(r'data-name="([^"]*)">.*?class="line" d="M([^"]*)"', chart):
            points = (map(float, point.split()) for point in path.split("L"))
            points_by_name[name] = [(x / 1000 * steps, low + (1 - y / 1000) * (high - low)) for x, y in points]
        return points_by_name


def page_of(*workdirs: Path) -> Page:
    out = workdirs[0].parent / "report.html"
    report(workdirs, out)
    page = Page(out.read_text())
    assert page.open == []
    return page


def score_rows(workdir: Path) -> dict[str, dict]:
    table = next(table for table in summary([workdir]) if "scores" in table.title)
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_scores_on_another_file_are_shown_under_its_name_and_apart_from_final_scores(tmp_path):
    for seed, accuracy in ((0, 0.5), (1, 0.7)):
        write_bare(tmp_path / f"run{seed}", classify(seed), accuracy=accuracy)
    (tmp_path / "run0/results").mkdir()
    other = {"data": "data/easy.jsonl", "rows": 3, "metrics": {"accuracy": 0.875}}
    (tmp_path / "run0/results/easy.jsonl.json").write_text(json.dumps(other))
    final, easy, *_ = summary([tmp_path])
    assert final.rows[0][2].values == (0.5, 0.7)
    assert easy.title.endswith("scores on data/easy.jsonl")
    assert easy.rows[0][1:] == (1, Measure((0.875,)))
    report([tmp_path], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "Scores on data/easy.jsonl" in page
    assert "0.8750" in page


def test_runs_that_differ_only_in_the_seed_are_one_experiment_with_its_spread(tmp_path):
    for seed, accuracy in enumerate((0.80, 0.84, 0.88)):
        write_bare(tmp_path / f"sweep/wide/seed{seed}", classify(seed, model="bert-mini"), accuracy=accuracy)
        write_bare(tmp_path / f"sweep/narrow-{seed}", classify(seed), accuracy=accuracy / 2)
    rows = score_rows(tmp_path / "sweep")
    assert list(rows) == ["narrow", "wide"]
    assert rows["wide"]["runs"] == 3
    assert rows["wide"]["accuracy"].values == (0.80, 0.84, 0.88)
    assert rows["wide"]["accuracy"].mean == pytest.approx(0.84)
    assert rows["wide"]["accuracy"].deviation == pytest.approx(0.04)  # the sample's, divided by n - 1
    assert rows["wide"]["accuracy"].text() == "0.8400 ± 0.0400"


def test_a_seed_that_was_run_twice_does_not_count_as_two_seeds(tmp_path):
    for copy in ("first", "second"):
        for seed in (0, 1):
            write_bare(tmp_path / copy / f"seed{seed}", classify(seed), accuracy=0.8 + seed / 10)
    rows = score_rows(tmp_path)
    assert {name: row["runs"] for name, row in rows.items()} == {"first": 2, "second": 2}


def test_every_field_occurs_once_as_shared_or_as_differing(tmp_path):
    write_bare(tmp_path / "a", classify(0, model="bert-tiny"), accuracy=0.5)
    write_bare(tmp_path / "b", classify(1, model="bert-mini", batch_size=64), accuracy=0.5)
    differing = next(table for table in summary([tmp_path]) if "differs" in table.title)
    rows = {row[0]: row[1:] for row in differing.rows}
    shape = ("hidden_size", "num_layers", "num_heads", "intermediate_size")
    assert set(rows) == {"batch_size", *(f"model.{field}" for field in shape)}
    assert rows["batch_size"] == ("32", "64")
    assert rows["model.num_layers"] == ("2", "4")
    variants = group_seeds(find_runs([tmp_path])[0])
    shared = {row[0] for row in shared_table(variants).rows}
    assert not shared & set(rows)
    assert shared | set(rows) == set(variants[0].fields)


def test_experiments_come_in_the_order_of_the_numbers_in_their_names(tmp_path):
    names = ["limit30", "limit200", "lr3e-5", "lr0.0001", "lr1e-3"]
    for size, name in enumerate(reversed(names), 1):
        write_bare(tmp_path / name, classify(limit=size), accuracy=0.5)
    assert list(score_rows(tmp_path)) == names


def test_cost_is_the_mean_of_one_run_and_the_sum_of_all(tmp_path):
    for name, count in (("few", 2), ("many", 3)):
        for seed in range(count):
            write_run(tmp_path / f"{name}{seed}", classify(seed, batch_size=count), 0.8)
    table = next(table for table in summary([tmp_path]) if "cost" in table.title)
    tokens = {row[0]: row[table.columns.index("tokens")].mean for row in table.rows}
    assert tokens == {"few": 400 * 1024, "many": 400 * 1024, "all 5 runs": 5 * 400 * 1024}


def test_curves_show_what_the_files_hold(tmp_path):
    folder = write_run(tmp_path / "run", pretrain(), 0.9)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    drawn = page_of(folder).lines("MLM loss")
    for name, split in (("training", "train"), ("evaluation", "eval")):
        wanted = [(line["step"], line["mlm_loss"]) for line in lines if line["split"] == split]
        assert [step for step, _ in drawn[name]] == pytest.approx([step for step, _ in wanted], abs=1)
        assert [value for _, value in drawn[name]] == pytest.approx([value for _, value in wanted], abs=2e-3)


def test_a_figure_measured_once_has_no_curve(tmp_path):
    folder = write_bare(tmp_path / "run", classify(), accuracy=0.5)
    training = [{"step": step, "split": "train", "accuracy": 0.1 + step / 1000} for step in (100, 200, 400)]
    write_lines(folder / "metrics.jsonl", [*training, {"step": 400, "split": "eval", "accuracy": 0.5, "f1": 0.4}])
    page = page_of(folder)
    assert page.source.count("<figure") == 1
    assert set(page.lines("accuracy")) == {"training", "evaluation"}


def test_a_curve_over_seeds_is_their_mean_and_its_band_one_standard_deviation(tmp_path):
    for seed, value in enumerate((0.2, 0.4, 0.6)):
        for name, size in (("a", 8), ("b", 16)):
            folder = write_bare(tmp_path / f"{name}{seed}", classify(seed, batch_size=size), accuracy=value)
            line = {"split": "eval", "accuracy": value * (1 if size == 8 else 1.5)}
            write_lines(folder / "metrics.jsonl", [{"step": 1, **line}, {"step": 400, **line}])
    page = page_of(tmp_path)
    assert [value for _, value in page.lines("accuracy")["a"]] == pytest.approx([0.4, 0.4], abs=1e-3)
    low, high = map(float, re.search(r'data-axes="([^"]*)"', page.source)[1].split()[1:3])
    band = re.search(r'class="band" d="M([^"]*)Z"', page.source)[1]
    edges = {round(low + (1 - float(point.split()[1]) / 1000) * (high - low), 3) for point in band.split("L")}
    assert edges == {0.2, 0.6}


def test_a_long_run_makes_a_small_page(tmp_path):
    folder = write_bare(tmp_path / "long", pretrain(steps=1_000_000), mlm_loss=2.0)
    lines = [{"step": 100 * i, "split": "train", "mlm_loss": 9.0 - i / 2000} for i in range(1, 10_001)]
    write_lines(folder / "metrics.jsonl", lines)
    page = page_of(folder)
    points = page.lines("MLM loss")["training"]
    assert 80 <= len(points) <= 160
    assert all(value == pytest.approx(9.0 - step / 200_000, abs=0.01) for step, value in points)
    assert len(page.source) < 60_000


@pytest.mark.parametrize(
    "values", [(0, 1), (4.6, 9.7), (-3, 0.2), (7, 7), (0, 0), (1e-5, 3e-4), (12, 48_000), (0.6931, 0.6936)]
)
def test_an_axis_holds_its_values_between_a_few_round_ticks(values):
    axis = make_axis(values)
    assert axis.low <= min(values) <= max(values) <= axis.high
    assert 3 <= len(axis.ticks) <= 7
    assert len(set(tick_texts(axis.ticks))) == len(axis.ticks)
    assert max(map(len, tick_texts(axis.ticks))) <= 6
    assert axis.position(axis.low) == 0
    assert axis.position(axis.high) == 1


def test_a_diverged_run_leaves_the_others_readable(tmp_path):
    for name, last in (("good", 0.5), ("bad", 1e7)):
        folder = write_bare(tmp_path / name, classify(batch_size=len(name)), loss=last)
        lines = [{"step": s, "split": "train", "loss": 2.0 if s < 9 else last} for s in range(1, 10)]
        write_lines(folder / "metrics.jsonl", lines)
    assert "training, logarithmic" in page_of(tmp_path).text


def test_the_page_loads_nothing(tmp_path):
    page = page_of(write_quickstart(tmp_path / "quickstart"))
    for tag, attributes in page.elements:
        assert tag not in ("link", "img", "iframe", "object", "embed", "video", "audio", "base", "form")
        assert not attributes.keys() & {"src", "srcset", "action", "background", "data", "poster", "xlink:href"}
        assert (attributes.get("href") or "#").startswith("#")
    assert not re.search(r"url\(|@import|//|fetch|XMLHttpRequest|import\(", page.source.replace("<!doctype html>", ""))
    policies = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"]


def test_text_from_the_data_stays_text(tmp_path):
    bad = "<script>alert(1)</script> \"' &amp; [MASK]"
    folder = write_run(tmp_path / "a<b>&", classify(init_from=bad), 0.8)
    result = json.loads((folder / "result.json").read_text())
    result["examples"] = [{"input": {"text": bad, "label": bad}, "label": bad, "probabilities": {bad: 0.5}}]
    result["tables"] = {"confusion": {"labels": [bad, "b"], "counts": [[1, 0], [0, 1]]}, "per_label": {bad: {bad: 1.0}}}
    result["metrics"][bad] = 1.0
    (folder / "result.json").write_text(json.dumps(result))
    note = {"title": bad, "columns": [bad], "rows": [[bad]]}
    (folder / "notes.json").write_text(json.dumps({"tables": [note], "texts": [{"title": bad, "lines": [bad]}]}))
    write_run(tmp_path / "other", classify(), 0.8)
    page = page_of(tmp_path)
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert page.text.count("<script>alert(1)</script>") >= 10


def test_notes_are_at_the_top(tmp_path):
    page = page_of(write_quickstart(tmp_path / "quickstart", seeds=2))
    positions = [page.text.index(word) for word in ("Against what costs nothing", "Filling masks", "Final scores")]
    assert positions == sorted(positions)
    assert "sentence-pair accuracy" in page.text


def test_tables_by_label_are_added_up_over_seeds(tmp_path):
    for seed in (0, 1):
        folder = write_run(tmp_path / f"run{seed}", classify(seed), 0.8)
        result = json.loads((folder / "result.json").read_text())
        result["tables"]["confusion"] = {"labels": ["yes", "no"], "counts": [[700 + seed, 20], [30, 40]]}
        (folder / "result.json").write_text(json.dumps(result))
    assert re.search(r"yes\s+1,401\s+40", page_of(tmp_path).text)


def test_a_wrong_prediction_is_marked(tmp_path):
    page = page_of(write_run(tmp_path / "run", classify(), 0.8))
    assert [a.get("class") for _, a in page.elements].count("wrong") == 1  # the fourth text has another true label


def test_an_interrupted_run_is_marked_and_shows_its_last_evaluation(tmp_path):
    folder = write_run(tmp_path / "run", classify(), 0.8, stop_at=0.5)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 201, "split": "train", "loss": NaN}\n{"step": 202, "spl')
    last = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()[:-2]]
    last = next(line for line in reversed(last) if line["split"] == "eval")
    assert last["step"] == 160
    row = score_rows(folder)["run"]
    assert row["accuracy"].mean == last["accuracy"]
    assert "grad_norm" not in row
    text = page_of(folder).text
    for problem in (
        "at step 200 of 400",
        "loss was not a finite number at step 201",
        "metrics.jsonl: its last line is cut",
    ):
        assert problem in text


@pytest.mark.parametrize("name", ["experiment.json", "metrics.jsonl", "speed.jsonl", "result.json", "notes.json"])
def test_a_file_cut_off_anywhere_costs_only_itself(tmp_path, name):
    sweep = tmp_path / "sweep"
    for seed in (0, 1):
        write_run(sweep / f"run{seed}", classify(seed), 0.8)
    notes = {"texts": [{"title": "Told in the notes", "lines": ["a"]}]}
    (sweep / "run0/notes.json").write_text(json.dumps(notes))
    path = sweep / "run0" / name
    whole = path.read_bytes()
    for size in range(0, len(whole) - 1, max(1, len(whole) // 12)):
        path.write_bytes(whole[:size])
        text = page_of(sweep).text
        assert "run1" in text
        whole_lines = name.endswith("l") and whole[:size][-1:] in (b"\n", b"}", b"")
        assert name in text or whole_lines
    path.unlink()
    assert "run1" in page_of(sweep).text


@pytest.mark.parametrize("broken", [[], 3, None, "text", {"a": [None]}, [[1], {"b": {}}], {"kind": 1, "counts": [[]]}])
@pytest.mark.parametrize("name", ["experiment.json", "metrics.jsonl", "speed.jsonl", "result.json", "notes.json"])
def test_a_file_of_another_shape_costs_only_itself(tmp_path, name, broken):
    for seed in (0, 1):
        write_run(tmp_path / f"run{seed}", classify(seed), 0.8)
    path = tmp_path / "run0" / name
    fields = ("task", "step", "metrics", "tokens", "examples", "tables", "texts", "label", "seconds", "seed", "steps")
    nested = {"metrics": {"accuracy": broken}, "examples": [broken, {"input": broken, "label": broken}]}
    inner = {"tables": {"confusion": {"labels": broken, "counts": broken}, "per_label": {"a": broken}}}
    for content in (broken, dict.fromkeys(fields, broken), nested | inner, {"tables": {"confusion": broken}}):
        path.write_text(json.dumps(content))
        assert "run1" in page_of(tmp_path).text
        summary([tmp_path])


def test_a_path_that_is_not_a_workdir_is_an_error_with_its_name(tmp_path):
    empty, file, good = tmp_path / "empty", tmp_path / "file", write_run(tmp_path / "run", classify(), 0.8)
    empty.mkdir()
    file.write_text("text")
    out = tmp_path / "out.html"
    for path, why in ((empty, "contains no run"), (file, "is a file"), (tmp_path / "none", "does not exist")):
        with pytest.raises(InputError, match=f"{re.escape(str(path))}: {why}"):
            report([good, path], out)
    assert not out.exists()


def test_an_output_that_cannot_be_written_is_an_error_with_its_name(tmp_path):
    run = write_run(tmp_path / "run", classify(), 0.8)
    with pytest.raises(InputError, match="is a folder"):
        report([run], tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        report([run], tmp_path / "nowhere/report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_runs_are_found_below_a_folder_and_named_once(tmp_path):
    sweep = tmp_path / "sweep"
    write_bare(sweep / "deep/er/a", classify(limit=1), accuracy=0.5)
    write_bare(sweep / "b", classify(limit=2), accuracy=0.5)
    write_bare(sweep / "b/checkpoints/400", classify(limit=3), accuracy=0.5)
    runs, _ = find_runs([sweep, sweep / "b", sweep / "deep/../b"])
    assert [run.name for run in runs] == ["b", "deep/er/a"]


def test_thirty_experiments_make_a_page_with_seven_colours(tmp_path):
    for size in range(30):
        write_run(tmp_path / f"size{size}", classify(batch_size=size + 1), 0.5 + size / 100)
    page = page_of(tmp_path)
    chart = page.source.split("<figure")[1]
    named = re.findall(r'title="([^"]*)"', chart.split('class="names"')[1])
    assert len(named) == 7
    assert set(named) <= {f"size{size}" for size in range(20, 30)}  # the best ones
    assert len(page.lines("accuracy")) == 30
    assert len(page.source) < 400_000


def test_the_summary_can_be_printed(tmp_path):
    write_quickstart(tmp_path / "quickstart", seeds=2)
    console = Console(file=StringIO(), width=120)
    print_summary([tmp_path / "quickstart"], console)
    printed = console.file.getvalue()
    assert "Pretraining: final scores" in printed
    assert re.search(r"from-pretrained\s+2\s+0\.8\d+ ± 0\.0", printed)


def test_a_narrow_terminal_prints_many_experiments_in_words_that_stay_whole(tmp_path):
    names = ("steps", "log_every", "eval_every", "checkpoint_every", "keep_checkpoints", "batch_size", "max_skipped")
    for number in range(12):
        rate = AdamW(learning_rate=1e-3 * (number + 1), weight_decay=0.01 * number, b1=0.9 + 0.001 * number)
        experiment = pretrain(optimizer=rate, init_from=f"from{number}", **dict.fromkeys(names, 9 + number))
        write_bare(tmp_path / f"run{number}", experiment, mlm_accuracy=0.5)
    console = Console(file=StringIO(), width=80)
    print_summary([tmp_path], console)
    printed = " ".join(console.file.getvalue().split())
    assert printed.count("optimizer.learning_rate 0.0") == 12


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_name_of_a_figure_is_cut_in_a_terminal(tmp_path, width):
    scores = {"mean_average_precision": 0.59, "f1_micro": 0.82, "f1_macro": 0.27, "exact": 0.56}
    scores |= {f"{name}_at_{k}": 0.5 for k in (1, 3, 5) for name in ("precision", "recall")}
    write_run(tmp_path / "run", classify(), 0.8)
    for seed in (0, 1):
        write_bare(tmp_path / f"other/seed{seed}", classify(seed, batch_size=9), **scores)
    console = Console(file=StringIO(), width=width)
    print_summary([tmp_path], console)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= width
    assert all(name in printed for name in (*scores, "compute", "memory", "MiB"))


def test_a_baseline_is_shown_and_never_marked_as_best(tmp_path):
    for name, chance in (("a", 0.05), ("b", 0.07)):
        write_bare(
            tmp_path / name, pretrain(steps=10 if name == "a" else 20), mlm_accuracy=0.3, unigram_accuracy=chance
        )
    report([tmp_path], tmp_path / "out.html")
    page = (tmp_path / "out.html").read_text()
    assert "0.0700" in page
    assert not re.search(r'class="n best">0\.07', page)
