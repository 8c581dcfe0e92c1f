"""The notebooks as files: openable in Colab, installing first, without outputs. `make notebooks` runs them."""

import ast
import json
import re
from pathlib import Path
from types import ModuleType

import pytest

import bert_jax

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def cells(path: Path, kind: str) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(path.read_text())["cells"] if c["cell_type"] == kind]


def test_a_public_name_is_no_module_whatever_was_imported_before():
    import bert_jax.quickstart

    for _ in range(2):
        assert not [name for name in bert_jax.__all__ if isinstance(getattr(bert_jax, name), ModuleType)]


def test_there_are_four():
    assert [path.stem[0] for path in NOTEBOOKS] == ["1", "2", "3", "4"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_opens_in_colab_installs_first_and_keeps_no_output(path):
    assert (
        f"colab-badge.svg)](https://colab.research.google.com/github/OWNER/bert_jax/blob/main/notebooks/{path.name})"
        in (cells(path, "markdown")[0])
    )
    assert "%pip install" in cells(path, "code")[0]
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_uses_public_names_alone(path):
    source = re.sub(r"(?m)^( *)[!%].*$", r"\1pass", "\n".join(cells(path, "code")))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "bert_jax":
            assert node.attr in bert_jax.__all__
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("bert_jax"):
            assert node.module == "bert_jax"
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")
