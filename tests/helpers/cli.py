"""Commands as a user types them."""

import sys

import pytest

from bert_jax import cli


def run(*args: object) -> int:
    """Runs a command in this process and returns its exit code, as `main` would."""
    sys.argv = ["bert_jax", *map(str, args)]
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return int(caught.value.code or 0)
