"""The import table of docs/architecture.md, enforced: an arrow that is not in it is a defect."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bert_jax"

# Unit of the package (a module or a folder) -> units it may import; `errors` is for everyone.
ALLOWED = {
    "errors": set(),
    "config": set(),
    "fused": set(),
    "model": {"config", "fused"},
    "heads": {"config", "model"},
    "losses": set(),
    "metrics": set(),
    "tokenizers": set(),
    "data": {"config", "tokenizers"},
    "interop": {"config"},
    "tasks": {"config", "heads", "losses", "metrics", "model", "data", "pretrained", "tokenizers"},
    "optimizer": {"config"},
    "flops": {"config"},
    "sharding": {"losses", "flops"},
    "checkpoint": set(),
    "pretrained": {"config", "checkpoint", "interop", "tokenizers"},
    "workdir": {"config", "checkpoint", "tokenizers"},
    "progress": set(),
    "step": {"losses"},
    "evaluate": {"tasks", "sharding", "data", "losses"},
    "train": {
        "config", "optimizer", "sharding", "checkpoint", "pretrained", "tasks", "data", "evaluate", "losses",
        "tokenizers", "workdir", "progress", "flops", "step",
    },
    "predict": {
        "config", "pretrained", "tasks", "data", "evaluate", "heads", "model", "sharding", "tokenizers", "workdir",
    },
    "plan": {"config", "flops", "optimizer", "sharding", "step", "train"},
    "report": {"config"},
    "quickstart": {"config", "train", "report", "data", "predict", "tokenizers", "workdir"},
}  # fmt: skip
EVERYTHING = {"cli", "__init__"}

# Libraries that only one unit may know.
HOMES = {"orbax": {"checkpoint"}, "grain": {"data"}, "tyro": {"cli"}, "tensorboardX": {"workdir"}}


def unit_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write imports in full"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_table(path):
    unit = unit_of(path)
    if unit in EVERYTHING:
        return
    ours = {name.split(".")[1] for name in imported(path) if name.startswith("bert_jax.")}
    assert ours - {unit, "errors"} <= ALLOWED[unit]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_library_stays_in_its_home(path):
    roots = {name.split(".")[0] for name in imported(path)}
    for library, homes in HOMES.items():
        assert library not in roots or unit_of(path) in homes


def test_the_data_side_never_imports_jax():
    for path in FILES:
        if unit_of(path) in ("config", "errors", "data", "tokenizers", "report"):
            assert not {"jax", "flax"} & {name.split(".")[0] for name in imported(path)}, path


def test_the_architecture_page_has_the_same_table():
    page = (PACKAGE.parent / "docs/architecture.md").read_text()
    rows = re.findall(r"(?m)^\| `(\w+)/?` \|.*\|([^|]*)\|$", page)
    told = {unit: {name.strip() for name in imports.split(",") if name.strip()} for unit, imports in rows}
    assert told.pop("cli") == {"everything"}
    assert told == {unit: imports for unit, imports in ALLOWED.items() if unit != "errors"}


def test_no_file_is_too_long_to_read():
    for path in FILES:
        limit = 400 if path.name == "model.py" else 500
        assert len(path.read_text().splitlines()) <= limit, path


def test_nothing_is_pickled():
    for path in FILES:
        assert not {name.split(".")[0] for name in imported(path)} & {"pickle", "cloudpickle", "dill", "joblib"}, path
