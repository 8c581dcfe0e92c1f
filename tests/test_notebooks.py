"""The notebooks as files: they install the package first and hold no outputs. `make notebooks` runs them."""

import ast
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import bert_jax

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
assert NOTEBOOKS


def cells(path: Path, kind: str) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def test_a_public_name_is_not_a_module():
    import bert_jax.quickstart

    for _ in range(2):
        assert not [name for name in bert_jax.__all__ if isinstance(getattr(bert_jax, name), ModuleType)]


def test_the_repository_address_is_in_pyproject_alone():
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    host, owner = address.split("/")[2:4]
    for path in [*NOTEBOOKS, *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("bert_jax/**/*.py")]:
        assert f"{host}/{owner}/" not in path.read_text(), path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_first_and_keeps_no_output(path):
    assert "%pip install" in cells(path, "code")[0]
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_only(path):
    source = re.sub(r"(?m)^( *)[!%].*$", r"\1pass", "\n".join(cells(path, "code")))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bert_jax":
            assert node.attr in bert_jax.__all__
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bert_jax"):
            assert node.module == "bert_jax"
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")
