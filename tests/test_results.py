"""The table of results and its figures come from the files beside them, and from nothing else."""

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("results", ROOT / "tools/results.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_says_what_the_files_say(tool):
    text = tool.README.read_text()
    assert text.partition(tool.BEGIN)[2].partition(tool.END)[0] == tool.part()


def test_no_figure_stands_without_its_file_of_results(tool):
    figures, files = ({path.stem for path in tool.RESULTS.glob(f"*.{ending}")} for ending in ("svg", "json"))
    assert figures == files


@pytest.mark.parametrize(
    ("experiment", "runs"),
    [
        ("from_scratch_or_pretrained", ["sst2-100-random", "sst2-100-imdb", "sst2-all-random"]),
        ("freezing", ["sst2-none", "sst2-all-layers"]),
    ],
)
def test_a_figure_and_a_table_are_made_of_a_file_alone(tool, tmp_path, experiment, runs):
    one = {"kind": "Sequences", "steps": 9, "tokens": 5000, "seconds": 2.5, "parameters": 1234}
    found = {run: {"figures": {"accuracy": [0.5, 0.7]}, **one} for run in runs}
    results = {"experiment": experiment, "finding": "Found.", "does_not_show": "", "runs": found}
    tool.draw(json.loads(json.dumps(results)), tmp_path / "a.svg")
    tool.draw(results, tmp_path / "b.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    lines = tool.section(results).splitlines()
    assert f"| {runs[0]} | accuracy 60.0 ± 14.1 % | 2 | 1,234 | 9 | 5,000 | 2 |" in lines
    assert "**Found.**" in lines
