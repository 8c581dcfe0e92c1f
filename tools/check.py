"""Runs a check that takes more time, data or packages than a test may.

    python tools/check.py NAME [options]      NAME --help shows its options

A check prints what it measured, and exits with 1 if that is out of its bounds. `make checks` runs all of them.
"""

import importlib
import sys

CHECKS = (
    "bulk",
    "dtypes",
    "embedding",
    "export",
    "families",
    "folders",
    "interruptions",
    "likelihoods",
    "minilm",
    "properties",
    "scores",
    "tokenizers",
    "torture",
    "tpu",
    "vectors",
)


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in CHECKS:
        sys.exit(f"{__doc__}\nNAME is one of {', '.join(CHECKS)}.")
    check = importlib.import_module(f"checks.{sys.argv[1]}")
    sys.argv[:2] = [" ".join(sys.argv[:2])]
    check.main()


if __name__ == "__main__":
    main()
