"""Sample text that every machine with this package has, for the quickstart, the notebooks and the tools.

It is the documentation inside the Python packages that bert_jax depends on and inside the standard library, read from
their source files. Nothing is downloaded. The texts depend on the versions of the packages.
"""

import ast
import hashlib
import inspect
import re
import sysconfig
import textwrap
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from bert_jax import files

# Folder of a package -> the name of the library. The standard library is read as well.
LIBRARIES = {
    "flax": "Flax",
    "jax": "JAX",
    "matplotlib": "Matplotlib",
    "numpy": "NumPy",
    "optax": "Optax",
    "orbax": "Orbax",
    "scipy": "SciPy",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "TensorFlow Datasets",
}
STANDARD_LIBRARY = "standard library"
# The classes of the labelled sets. The other libraries have too few descriptions, or nearly the same ones as JAX.
LABELS = ("JAX", "Matplotlib", "NumPy", "Orbax", "SciPy", "TensorFlow Datasets", "scikit-learn", STANDARD_LIBRARY)
# Words that name a library.
GIVEAWAYS = re.compile(
    r"\b(?:numpy|np|jnp|jax|lax|scipy|scikit-learn|scikit|sklearn|learn|matplotlib|mpl|pyplot|plt|orbax|ocp|flax|linen|"
    r"optax|tensorflow_datasets|tensorflow|tfds|tf|python|xla)\b[\w.]*",
    re.IGNORECASE,
)
READ_FOR_DESCRIPTION = 1000  # characters, which leave far more than a description has
TRAIN_PER_LABEL = 48
TEST_PER_LABEL = 150


@dataclass(frozen=True)
class Document:
    """The prose of one docstring."""

    library: str
    text: str  # one paragraph a line


def prose(docstring: str) -> str:
    """Returns the paragraphs of a docstring that are sentences, one a line, without code, tables, headings and markup.

    >>> prose("Adds `x` to it.\\n\\nUse it often,\\nor never.\\n\\n>>> add(1)\\n2\\n\\nNotes\\n-----\\n")
    'Adds x to it.\\nUse it often, or never.'
    """
    paragraphs = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(docstring)):
        lines = [line.strip() for line in block.splitlines()]
        if ">>>" in block or any(re.fullmatch(r"[-=~^*+|: ]{3,}", line) for line in lines):
            # Code, a table or a heading. Descriptions of parameters may follow a heading's line.
            lines = _descriptions(block) if ">>>" not in block else []
        text = " ".join(lines)
        text = re.sub(r":[\w:]+:`~?([^`<]*)[^`]*`", r"\1", text)
        text = re.sub(r"[`*]+|\.\. \w+::|\\\w+", "", text)
        text = re.sub(r"\s+", " ", text).strip()
        letters = sum(map(str.isalpha, text)) + text.count(" ")
        if len(text.split()) >= 3 and letters > 0.8 * len(text) and text[-1] in ".:!?":
            paragraphs.append(text)
    return "\n".join(paragraphs)


def _descriptions(block: str) -> list[str]:
    """Returns the indented lines of a parameter list: the descriptions, without names and types."""
    return [line.strip() for line in block.splitlines() if line.startswith("  ")]


def documents() -> list[Document]:
    """Reads the docstrings of the libraries' source files without importing them. Equal texts occur once."""
    paths = sysconfig.get_paths()
    folders = [(name, files.Path(paths["purelib"]) / folder) for folder, name in LIBRARIES.items()]
    folders.append((STANDARD_LIBRARY, files.Path(paths["stdlib"])))
    by_text: dict[str, Document] = {}
    for library, folder in folders:
        for docstring in _docstrings(folder):
            text = prose(docstring)
            if len(text) >= 80:
                by_text.setdefault(text, Document(library, text))
    return list(by_text.values())


def _docstrings(folder: files.Path) -> Iterator[str]:
    """Yields each docstring of the Python files in a folder, tests excepted."""
    for path in sorted(path / name for path, names in files.walk(folder) for name in names if name.endswith(".py")):
        if {"test", "tests", "site-packages", "idlelib", "lib2to3"} & set(path.relative_to(folder).parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a file that is not valid Python on purpose
            continue
        for node in _statements(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
                docstring = ast.get_docstring(node, clean=False)
                if docstring:
                    yield docstring


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yields the statements of a file in the order of `ast.walk`, without what is inside expressions."""
    queue: deque[ast.AST] = deque([tree])
    while queue:
        node = queue.popleft()
        yield node
        for block in ("body", "handlers", "orelse", "finalbody", "cases"):
            queue.extend(getattr(node, block, ()))


def labelled_sets(documents: list[Document]) -> dict[str, list[Document]]:
    """Returns labelled descriptions as {"train": ..., "test": ...}, the same number from each library.

    Names of libraries and code are removed from the texts. A hash of its text decides whether a description is drawn,
    so that the choice does not depend on the other texts.
    """
    by_text: dict[str, Document] = {}
    for document in documents:
        text = description(document.text)
        if document.library in LABELS and len(text.split()) >= 8:
            by_text.setdefault(text, Document(document.library, text))
    shuffled = sorted(by_text.values(), key=lambda d: hashlib.sha256(d.text.encode()).digest())
    sets: dict[str, list[Document]] = {"train": [], "test": []}
    for label in LABELS:
        mine = [d for d in shuffled if d.library == label]
        sets["train"] += mine[:TRAIN_PER_LABEL]
        sets["test"] += mine[TRAIN_PER_LABEL : TRAIN_PER_LABEL + TEST_PER_LABEL]
    return sets


def description(text: str) -> str:
    """Returns the beginning of a text, at most 160 characters, without code and words that name a library."""
    text = GIVEAWAYS.sub("", text[:READ_FOR_DESCRIPTION].replace("\n", " "))
    text = re.sub(r"\b\w*[_.]\w[\w.]*|\b\w+\(\)", "", text)  # identifiers
    return textwrap.shorten(text, 160, placeholder="")
