"""Runs the properties of tests/test_properties.py on many more random files than the tests do.

    python tools/check.py properties [--examples 50000] [--seed N]

Tables, CoNLL files, SQuAD files, configs and vocabularies are made up; half of them are valid and must be read as they
were written, and half are damaged and must be read or refused with an InputError. Prints the smallest example for which
a property does not hold, and exits with 1. About five minutes for 50,000 examples on one core.
"""

import argparse
import os
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2] / "tests"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=50_000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["PROPERTY_EXAMPLES"] = str(options.examples)
    file = str(TESTS / "test_properties.py")
    code = pytest.main(["-q", "-p", "no:cacheprovider", f"--hypothesis-seed={options.seed}", file])
    print(
        f"{options.examples} examples, seed {options.seed}: {'no exception' if code == 0 else 'a property is broken'}"
    )
    sys.exit(int(code != 0))
