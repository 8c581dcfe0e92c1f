"""Sample text that every machine with this package has, for the quickstart, the notebooks and the tools.

It is the documentation inside the Python packages that bert_jax depends on and inside the standard library, read from
their source files. Nothing is downloaded. The texts depend on the versions of the packages.
"""

import ast
import concurrent.futures
import gc
import hashlib
import inspect
import itertools
import multiprocessing
import re
import sysconfig
import textwrap
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

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
SHORTEST = 80  # characters of a text
READ_FOR_DESCRIPTION = 1000  # characters, which leave far more than a description has
TRAIN_PER_LABEL = 48
TEST_PER_LABEL = 150


@dataclass(frozen=True)
class Document:
    """The prose of one docstring."""

    library: str
    text: str  # one paragraph a line
    name: str = ""  # of the function, class or module

    @cached_property
    def description(self) -> str:
        """The beginning of the text, as in the labelled sets."""
        return description(self.text)


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


def documents(workers: int = 1) -> list[Document]:
    """Reads the docstrings of the libraries' source files without importing them. Equal texts occur once.

    Args:
      workers: processes that parse files. With several, a script must call this below `if __name__ == "__main__"`.
    """
    paths = sysconfig.get_paths()
    folders = [(name, files.Path(paths["purelib"]) / folder) for folder, name in LIBRARIES.items()]
    folders.append((STANDARD_LIBRARY, files.Path(paths["stdlib"])))
    named = [(library, path) for library, folder in folders for path in _python_files(folder)]
    if workers == 1:
        files_read = list(map(_of_file, *zip(*named, strict=True)))
    else:
        spawn = multiprocessing.get_context("spawn")  # a fork of a process with threads, as of JAX, can hang
        with concurrent.futures.ProcessPoolExecutor(workers, spawn) as pool:
            files_read = list(pool.map(_of_file, *zip(*named, strict=True), chunksize=64))
    by_text: dict[str, Document] = {}
    for document in itertools.chain.from_iterable(files_read):
        by_text.setdefault(document.text, document)
    return list(by_text.values())


def _python_files(folder: files.Path) -> list[files.Path]:
    """Returns the Python files in a folder, tests excepted."""
    others = {"test", "tests", "site-packages", "idlelib", "lib2to3"}
    walked = files.walk(folder, skip=others.__contains__)
    return sorted(path / name for path, names in walked for name in names if name.endswith(".py"))


def _of_file(library: str, path: files.Path) -> list[Document]:
    """Returns the prose of each docstring of a Python file, where there is enough of it."""
    documents = [Document(library, prose(docstring), name) for name, docstring in _docstrings(path)]
    documents = [document for document in documents if len(document.text) >= SHORTEST]
    for document in documents:
        _ = document.description  # a property that is kept: so a worker computes it
    return documents


def _docstrings(path: files.Path) -> list[tuple[str, str]]:
    with _without_garbage_collection():
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # a file that is not valid Python on purpose
            return []
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)
        nodes = [node for node in _statements(tree) if isinstance(node, kinds)]
        module = path.parent.name if path.stem == "__init__" else path.stem
        docstrings = [(getattr(node, "name", module), ast.get_docstring(node, clean=False)) for node in nodes]
        return [(name, docstring) for name, docstring in docstrings if docstring]


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    # Syntax trees have no cycles. Looking for some took 40 % of the time to parse a file.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """Yields the statements of a file in the order of `ast.walk`, without what is inside expressions."""
    queue: deque[ast.AST] = deque([tree])
    while queue:
        node = queue.popleft()
        yield node
        for block in ("body", "handlers", "orelse", "finalbody", "cases"):
            queue.extend(getattr(node, block, ()))


def labelled_sets(documents: list[Document], train: int = TRAIN_PER_LABEL) -> dict[str, list[Document]]:
    """Returns labelled descriptions as {"train": ..., "test": ...}, the same number from each library.

    Names of libraries and code are removed from the texts. A hash of its text decides whether a description is drawn,
    so that the choice does not depend on the other texts.

    Args:
      train: descriptions of each library to learn from, at most TRAIN_PER_LABEL. It does not change the other set.
    """
    by_text: dict[str, Document] = {}
    for document in documents:
        text = document.description
        if document.library in LABELS and len(text.split()) >= 8:
            by_text.setdefault(text, Document(document.library, text))
    shuffled = sorted(by_text.values(), key=lambda d: hashlib.sha256(d.text.encode()).digest())
    sets: dict[str, list[Document]] = {"train": [], "test": []}
    for label in LABELS:
        mine = [d for d in shuffled if d.library == label]
        sets["train"] += mine[: min(train, TRAIN_PER_LABEL)]
        sets["test"] += mine[TRAIN_PER_LABEL : TRAIN_PER_LABEL + TEST_PER_LABEL]
    return sets


def description(text: str) -> str:
    """Returns the beginning of a text, at most 160 characters, without code and words that name a library."""
    text = GIVEAWAYS.sub("", text[:READ_FOR_DESCRIPTION].replace("\n", " "))
    text = re.sub(r"\b\w*[_.]\w[\w.]*|\b\w+\(\)", "", text)  # identifiers
    return textwrap.shorten(text, 160, placeholder="")
