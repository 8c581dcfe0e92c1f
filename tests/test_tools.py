"""Tools: each is listed, starts, and a check fails where it should."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parent.parent / "tools"
INDEX = (TOOLS / "README.md").read_text()
CHECKS = sorted(path.stem for path in (TOOLS / "checks").glob("[!_]*.py"))
BENCHMARKS = sorted(path.stem for path in (TOOLS / "benchmarks").glob("[!_]*.py") if path.stem != "timing")


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=TOOLS.parent, capture_output=True, text=True, check=False)


def test_each_tool_has_a_line_in_the_index():
    listed = set(re.findall(r"(?m)^\| `(\w+)[ .`]", INDEX)) | set(re.findall(r"`(\w+)\.py`", INDEX))
    assert {path.stem for path in TOOLS.glob("*.py")} | set(CHECKS) | set(BENCHMARKS) <= listed


def test_make_checks_runs_every_check():
    makefile = (TOOLS.parent / "Makefile").read_text()
    assert sorted(re.findall(r"\$\(CHECK\) (\w+)", makefile)) == CHECKS
    (listed,) = re.findall(r"(?s)^CHECKS = (\(.*?\))$", (TOOLS / "check.py").read_text(), re.MULTILINE)
    assert list(ast.literal_eval(listed)) == CHECKS


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_states_when_it_fails(name):
    source = (TOOLS / "checks" / f"{name}.py").read_text()
    text = ast.get_docstring(ast.parse(source)) or ""
    assert f"python tools/check.py {name}" in text
    assert "xits with 1" in text
    assert "sys.exit(" in source or "raise SystemExit(" in source or "assert_equal" in source


def test_a_check_that_does_not_exist_is_an_error():
    result = call("tools/check.py", "nothing")
    assert result.returncode == 1
    assert ", ".join(CHECKS) in result.stderr
