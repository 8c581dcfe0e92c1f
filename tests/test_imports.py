"""The import table of docs/architecture.md, enforced: an arrow that is not in it is a defect."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "bert_jax"

TABLE = re.findall(r"(?m)^\| `([\w.]+)/?` \|.*\|([^|]*)\|$", (PACKAGE.parent / "docs/architecture.md").read_text())
# Unit of the package -> units it may import; `errors` is for everyone. A unit is a module, a folder, or a module in a
# folder that has a row of its own, such as `runs.layout`, which may be imported where the rest of the folder may not.
ALLOWED = {unit: {name.strip() for name in imports.split(",") if name.strip()} for unit, imports in TABLE}
EVERYTHING = {"cli", "__init__"}

# Libraries that only one unit may know.
HOMES = {"orbax": {"runs"}, "grain": {"data"}, "tyro": {"cli"}, "tensorboardX": {"runs"}}


def unit_of(path: Path) -> str:
    return unit_named(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def unit_named(name: str) -> str:
    """The unit that holds a module, or a name in one, given as it follows `bert_jax.`."""
    parts = name.split(".")
    whole = ".".join(parts[:2])
    return whole if whole in ALLOWED else parts[0]


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
    if unit in EVERYTHING | {"errors"}:
        return
    ours = {unit_named(name.removeprefix("bert_jax.")) for name in imported(path) if name.startswith("bert_jax.")}
    assert ours - {unit, "errors"} <= ALLOWED[unit], f"{unit}: mend the import, or the table in docs/architecture.md"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_library_stays_in_its_home(path):
    roots = {name.split(".")[0] for name in imported(path)}
    for library, homes in HOMES.items():
        assert library not in roots or unit_of(path) in homes


def test_the_data_side_never_imports_jax():
    for path in FILES:
        if unit_of(path) in ("config", "errors", "data", "tokenizers", "report", "metrics", "runs.layout", "sources"):
            assert not {"jax", "flax"} & {name.split(".")[0] for name in imported(path)}, path


def test_the_table_lists_every_unit():
    assert set(ALLOWED) | {"errors", "__init__"} == {unit_of(path) for path in FILES}


def test_no_unit_imports_itself_through_others():
    graph = {unit: imports for unit, imports in ALLOWED.items() if unit not in EVERYTHING}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_no_file_is_too_long_to_read():
    for path in FILES:
        limit = 400 if path.name == "model.py" else 500
        assert len(path.read_text().splitlines()) <= limit, path


TESTS = sorted(Path(__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_no_test_module_imports_another(path):
    modules = {path.stem for path in TESTS if path.name.startswith("test_")} | {"conftest"}
    assert not modules & {part for name in imported(path) for part in name.split(".")[:2]}, "move it to tests/helpers"


def test_nothing_is_pickled():
    for path in FILES:
        assert not {name.split(".")[0] for name in imported(path)} & {"pickle", "cloudpickle", "dill", "joblib"}, path
