"""For folders with random options the answers are those of transformers, or an error names the option."""

import pytest

from helpers.folders import compare, make


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(4))
def test_a_folder_with_random_options_gives_the_answers_of_transformers(tmp_path, seed):
    assert compare(make(tmp_path / "folder", seed))
