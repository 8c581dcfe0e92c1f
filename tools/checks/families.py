"""Compares every family and head with transformers: the tests of `tests/test_transformers.py` and more of them.

    python tools/check.py families [PYTEST OPTIONS]

Hidden states agree to 1e-5 a layer, logits to 1e-4, losses to 1e-5, gradients to 1e-4 of the largest, and parameters
after ten steps of AdamW to 1e-4. The test suite has all of this for BERT, and a part of it for the other families.
Exits with 1 where they do not agree.
"""

import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parents[2] / "tests" / "test_transformers.py"


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        sys.exit(__doc__)
    command = [sys.executable, "-m", "pytest", "-q", str(TESTS), *sys.argv[1:]]
    sys.exit(subprocess.run(command, env=os.environ | {"EVERY_FAMILY": "1"}).returncode)
