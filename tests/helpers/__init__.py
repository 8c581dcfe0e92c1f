"""What several test modules share: no test module imports another one."""

import pytest

pytest.register_assert_rewrite("helpers.interop", "helpers.models", "helpers.tokenization")
