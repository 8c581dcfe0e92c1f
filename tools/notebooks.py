"""Runs the notebooks from top to bottom, each in an empty folder, and prints how long each took.

    python tools/notebooks.py                        # all of them
    python tools/notebooks.py --only 3 --keep DIR    # with its outputs, as DIR/3_inside_bert.ipynb

The files in the repository keep no outputs; if a cell fails, its traceback is the end.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent.parent / "notebooks"


def run(path: Path) -> nbformat.NotebookNode:
    """Executes a notebook in a new folder and returns it with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=None, resources={"metadata": {"path": folder}}).execute()
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="the beginning of a notebook's name")
    parser.add_argument("--keep", type=Path, help="folder for the notebooks with their outputs")
    arguments = parser.parse_args()
    # Cells call the command `bert_jax` of the environment that runs this tool.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for path in sorted(FOLDER.glob(f"{arguments.only}*.ipynb")):
        begin = time.monotonic()
        done = run(path)
        print(f"{path.name}: {time.monotonic() - begin:.0f} s", flush=True)
        if arguments.keep is not None:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            nbformat.write(done, arguments.keep / path.name)


if __name__ == "__main__":
    main()
