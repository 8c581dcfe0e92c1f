"""The structure of the code: the import table of docs/architecture.md, and the length of files and functions."""

import ast
import re
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bert_jax"

TABLE = re.findall(r"(?m)^\| `([\w.]+)/?` \|.*\|([^|]*)\|$", (ROOT / "docs/architecture.md").read_text())
# Unit of the package -> units it may import; `errors` is for everyone. A unit is a module, a folder, or a module in a
# folder that has a row of its own, such as `runs.layout`, which may be imported where the rest of the folder may not.
ALLOWED = {unit: {name.strip() for name in imports.split(",") if name.strip()} for unit, imports in TABLE}
EVERYTHING = {"cli", "__init__"}

# Libraries that only one unit may import.
HOMES = {"orbax": {"runs"}, "grain": {"data"}, "tyro": {"bulk_commands", "cli", "flags"}, "tensorboardX": {"runs"}}


def unit_of(path: Path) -> str:
    return unit_named(".".join(path.relative_to(PACKAGE).with_suffix("").parts))


def unit_named(name: str) -> str:
    """The unit that holds a module, or a name in one, given as it follows `bert_jax.`."""
    parts = name.split(".")
    whole = ".".join(parts[:2])
    return whole if whole in ALLOWED else parts[0]


@cache
def nodes(source: str) -> list[ast.AST]:
    """All nodes of the syntax tree of a module: several tests read each file."""
    return list(ast.walk(ast.parse(source)))


@cache
def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, anywhere in it."""
    names = set()
    for node in nodes(path.read_text()):
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


# Files are opened, listed and replaced in files.py alone, which handles local and remote paths.
FILE_MODULES = {"pathlib", "shutil", "glob", "gzip", "zlib", "bz2", "lzma", "zstandard", "fcntl", "mmap", "tempfile"}
FILE_FUNCTIONS = {
    "os": {
        "path",
        "replace",
        "rename",
        "makedirs",
        "mkdir",
        "remove",
        "unlink",
        "listdir",
        "scandir",
        "walk",
        "stat",
        "open",
        "rmdir",
        "fsync",
    },
    "io": {"open", "FileIO", "BufferedReader", "TextIOWrapper"},  # BytesIO and StringIO do not open files
    "np": {"memmap", "load", "save", "savez", "savez_compressed", "fromfile", "loadtxt", "savetxt", "genfromtxt"},
}


def file_access(source: str) -> list[str]:
    """What in a module's source opens, lists or replaces files by itself, with line numbers."""
    lines = []
    for node in nodes(source):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] in FILE_MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = {"numpy": "np"}.get(node.module, node.module)
            taken = [alias.name for alias in node.names if alias.name in FILE_FUNCTIONS.get(module, set())]
            names = [module] if module.split(".")[0] in FILE_MODULES | {"os.path"} else taken
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names = [ast.unparse(node)] if node.attr in FILE_FUNCTIONS.get(node.value.id, set()) else []
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            names = ["open"]
        lines += [f"{node.lineno}: {name}" for name in names]
    return lines


@pytest.mark.parametrize("path", [path for path in FILES if unit_of(path) != "files"], ids=lambda path: path.name)
def test_files_are_opened_in_one_module(path):
    assert not file_access(path.read_text()), f"{path}: use bert_jax.files"


@pytest.mark.parametrize(
    "line",
    [
        "from pathlib import Path",
        "import os.path, shutil",
        "import gzip as packed",
        "from os import replace",
        "from numpy import memmap",
        "with open('a') as file: pass",
        "os.path.join('a', 'b')",
        "array = np.load('a.npy')",
        "stream = io.BufferedReader(raw)",
        "def f():\n    import tempfile",
    ],
)
def test_a_file_opened_elsewhere_is_noticed(line):
    assert file_access(line)
    assert not file_access("import io, os\nbuffer = io.BytesIO()\nos.environ['A'] = 'b'\nstore.open('a')")


def test_the_data_side_never_imports_jax():
    for path in FILES:
        if unit_of(path) in (
            "config",
            "errors",
            "data",
            "tokenizers",
            "report",
            "metrics",
            "runs.layout",
            "sources",
            "files",
            "sweeps",
        ):
            assert not {"jax", "flax"} & {name.split(".")[0] for name in imported(path)}, path


def test_the_table_lists_every_unit():
    assert set(ALLOWED) | {"errors", "__init__"} == {unit_of(path) for path in FILES}


def test_no_unit_imports_itself_through_others():
    graph = {unit: imports for unit, imports in ALLOWED.items() if unit not in EVERYTHING}
    list(TopologicalSorter(graph).static_order())  # raises CycleError


EVERY_FILE = [
    path for folder in ("bert_jax", "experiments", "tests", "tools") for path in (ROOT / folder).rglob("*.py")
]


def test_no_file_is_too_long_to_read():
    for path in EVERY_FILE:
        limit = 350 if path == PACKAGE / "model.py" else 500
        assert len(path.read_text().splitlines()) <= limit, path


def test_no_function_is_longer_than_a_screen():
    for path in EVERY_FILE:
        for node in nodes(path.read_text()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name} has more than 60 lines"


TESTS = sorted(Path(__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_no_test_module_imports_another(path):
    modules = {path.stem for path in TESTS if path.name.startswith("test_")} | {"conftest"}
    assert not modules & {part for name in imported(path) for part in name.split(".")[:2]}, "move it to tests/helpers"


def test_nothing_is_pickled():
    for path in FILES:
        assert not {name.split(".")[0] for name in imported(path)} & {"pickle", "cloudpickle", "dill", "joblib"}, path
