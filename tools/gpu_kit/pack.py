"""Fills .gpu/ with what tools/gpu.sh needs on a machine without a network: packages, a token store, minimal pairs.

    tools/gpu.sh pack [--corpus FILE ...] [--pairs FILE]

It prints the size of each part and fails above 60 MB. The corpus and the pairs are needed by the section `pretrain`
alone.
"""

import argparse
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from bert_jax import tokenizers
from bert_jax.data import corpus as corpora
from bert_jax.data.prepare import prepare

FOLDER = Path(__file__).parent.parent.parent / ".gpu"
STORE, PAIRS = "store.tar.gz", "pairs.jsonl.gz"
MOST_BYTES = 60e6
# Packages that a machine with JAX and PyTorch may lack; their own requirements are there.
PACKAGES = ("grain", "array-record", "portpicker", "tensorboardX", "zstandard")
PLATFORMS = ("2_28", "2_27", "2_24", "2_17", "2014", "1")
VOCABULARY = 16384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="*", default=[], help="text, as for `bert_jax prepare`")
    parser.add_argument("--pairs", type=Path, help="rows with good, bad and group, as JSON lines, gzip")
    parser.add_argument("--python", default="3.12", help="the version of Python on the other machine")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    download(options.python)
    if options.corpus:
        pack_store(options.corpus)
    if options.pairs:
        shutil.copyfile(options.pairs, FOLDER / PAIRS)
    total = 0
    for path in sorted(path for path in FOLDER.rglob("*") if path.is_file()):
        total += path.stat().st_size
        print(f"{path.stat().st_size / 1e6:6.1f} MB  {path.relative_to(FOLDER)}")
    print(f"{total / 1e6:6.1f} MB in all")
    sys.exit(total > MOST_BYTES)


def download(python: str) -> None:
    """Downloads PACKAGES for Linux on x86-64."""
    platforms = [f"manylinux{version if len(version) != 4 else '_' + version}_x86_64" for version in PLATFORMS]
    shutil.rmtree(FOLDER / "wheels", ignore_errors=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(FOLDER / "wheels")]
    command += [f"--platform={name}" for name in platforms]
    subprocess.run([*command, *PACKAGES], check=True)


def pack_store(corpus: list[str]) -> None:
    """Trains a vocabulary on the corpus, prepares a token store and compresses it."""
    with tempfile.TemporaryDirectory() as temporary:
        tokenizer, store = Path(temporary) / "tokenizer", Path(temporary) / "store"
        texts = corpora.sample(corpora.documents(corpus), int(30e6), seed=0)
        tokenizers.train("wordpiece", texts, VOCABULARY).save(tokenizer)
        header = prepare(corpus, tokenizer, store, workers=2)
        print(header["summary"])
        with tarfile.open(FOLDER / STORE, "w:gz", compresslevel=6) as archive:
            archive.add(store, "store")


if __name__ == "__main__":
    main()
