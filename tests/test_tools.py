"""Tools: each is listed, starts, and a check fails where it should."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

TOOLS = Path(__file__).parent.parent / "tools"
sys.path.insert(0, str(TOOLS))
learning, tpu = import_module("benchmarks.learning"), import_module("tpu")
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


class FakeLoop:
    """What the hook reads of a loop; steps take the seconds given, the first two those of compiling too."""

    def __init__(self, steps: int):
        self.steps, self.stopped = steps, False
        self.seed_runs = [SimpleNamespace(meta={"seconds": 0.0, "tokens": 0})]

    def take(self, seconds: float) -> None:
        meta = self.seed_runs[0].meta
        self.seed_runs[0].meta = {"seconds": meta["seconds"] + seconds, "tokens": meta["tokens"] + 100}

    def due(self, every: int, step: int) -> bool:
        return step == self.steps or step % every == 0

    def collect(self) -> None:
        pass

    def stop(self) -> None:
        self.stopped = True


def test_a_turn_ends_after_its_steps_and_leaves_compiling_out(tmp_path):
    loop = FakeLoop(steps=7)
    for turn in ((1, 2, 3), (4, 5, 6), (7,)):
        hook, loop.stopped = learning.Turn(tmp_path, 3), False
        hook.begin(loop, turn[0] - 1)
        for step in turn:
            assert not loop.stopped
            loop.take(50.0 if step in turn[:2] else 2.0)
            hook(loop, step)
        assert loop.stopped
    assert [tuple(point.values()) for point in learning.curve(tmp_path)] == [
        (3, 300, 6.0),
        (6, 600, 12.0),
        (7, 700, 62.0),
    ]


def test_the_soonest_is_on_a_straight_line_between_two_points(tmp_path):
    points = [
        {"step": 1, "mlm_accuracy": 0.2, "seconds": 60.0, "tokens": 10},
        {"step": 2, "mlm_accuracy": 0.4, "seconds": 120.0, "tokens": 20},
    ]
    assert learning.soonest(points, 0.3) == {"minutes": 1.5, "tokens": 15}
    assert learning.soonest(points, 0.5) is None
    results = [
        {"work": work, "reached": {"0.3": [{"minutes": minutes, "tokens": 15e6}]}, "runs": [points]}
        for work, minutes in (("bert", 3.0), ("fast", 1.0))
    ]
    assert learning.table(results)[-1] == "| fast | 30% | 1.0 | 15.00 | 3.0 times |"
    for name in ("a.svg", "b.svg"):
        learning.draw(results, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


GCLOUD = """#!/bin/sh
echo "$@" | tr '\\n' ' ' >> {log}; echo >> {log}
case "$*" in
    *describe*) test -e {machine} && echo ACTIVE ;;
    *create*) touch {machine} ;;
    *delete*) rm {machine} ;;
    *ssh*) test -e {lost} && exit 0; touch {lost}; exit {code} ;;
    storage*) cat > /dev/null ;;
esac
"""


@pytest.mark.parametrize("code", [143, 2])
def test_a_new_tpu_is_made_when_one_is_taken_away(tmp_path, monkeypatch, code):
    paths = {name: tmp_path / name for name in ("log", "machine", "lost")}
    (tmp_path / "gcloud").write_text(GCLOUD.format(**paths, code=code))
    (tmp_path / "gcloud").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(tpu, "POLL_SECONDS", 0.0)
    command = ["--zone", "z", "--type", "v5litepod-8", "--bucket", "gs://b", "bert_jax", "train", "a file.py"]
    monkeypatch.setattr(sys, "argv", ["tpu.py", "--name", "small", *command])
    with pytest.raises(SystemExit) as ended:
        tpu.main()
    lines = (tmp_path / "log").read_text().splitlines()
    calls = re.findall(r"(?m)^storage| create | ssh | delete ", "\n".join(lines))
    once = [" create ", " ssh "]
    assert calls == ["storage", *once, *([" delete ", *once, " delete "] if code == 143 else [])]
    assert ended.value.code == (0 if code == 143 else 2)
    assert "bert_jax train 'a file.py'" in next(line for line in lines if " ssh " in line)
