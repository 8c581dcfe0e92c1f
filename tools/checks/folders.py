"""Makes Hugging Face folders with random options, and compares the answers of bert_jax and transformers.

    python tools/check.py folders [--folders 200] [--seed 0]

The models are tiny BERTs and ALBERTs with every head; activation, epsilon, segments, labels, problem type, case,
accents, added tokens, maximum length and other options are drawn at random. `encode`, `fill_mask` and `predict` must
give the answers of transformers, to 1e-4, or an error that names an option of the folder.

Prints each error that folders were refused with, and how often. Exits with 1 where an answer differs or an error names
no option. About ten minutes for 200 folders on one core.
"""

import argparse
import re
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from helpers.folders import compare, make


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folders", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0, help="of the first folder")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    results: Counter[str] = Counter()
    wrong = []
    for seed in range(options.seed, options.seed + options.folders):
        with tempfile.TemporaryDirectory() as folder:
            try:
                result = compare(make(Path(folder) / "folder", seed))
            except Exception:
                wrong.append(seed)
                result = f"wrong: {traceback.format_exc().strip().splitlines()[-1][:300]}"
                print(f"seed {seed}: {traceback.format_exc()}")
        results[re.sub(r"\S*/folder/?", "", result)[:150]] += 1
    for result, count in results.most_common():
        print(f"{count:5}  {result}")
    if wrong:
        sys.exit(f"{len(wrong)} of {options.folders} folders are wrong: seeds {wrong}")
