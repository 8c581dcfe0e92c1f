"""The longest text that a folder allows: in transformers, and in sentence-transformers."""

from typing import Any, NamedTuple

from bert_jax import files
from bert_jax.errors import InputError

TOKENIZER_CONFIG, SENTENCE_CONFIG = "tokenizer_config.json", "sentence_bert_config.json"
SHORTEST = 3  # a token between [CLS] and [SEP]


class Lengths(NamedTuple):
    """Tokens of the longest text, special ones included."""

    task: int  # for the head of a task, as transformers cuts a text
    vectors: int  # for vectors of texts, as sentence-transformers cuts a text; otherwise the same


def read_lengths(folder: files.Path, longest: int, lowercase: bool) -> Lengths:
    """Reads the lengths that a folder's files name; without one, a text may have all positions of the model.

    Args:
      longest: number of tokens for which the model has positions.
      lowercase: whether the folder's tokenizer lowercases text.

    Raises:
      InputError: a length is not a whole number of at least 3, or sentence-transformers lowercases the text and the
        tokenizer does not.
    """
    task = _length(folder / TOKENIZER_CONFIG, "model_max_length", longest)
    path = folder / SENTENCE_CONFIG
    if path.exists() and files.read_json(path).get("do_lower_case") and not lowercase:
        raise InputError(
            f"{path}: do_lower_case is true, but the tokenizer there does not lowercase; make both the same"
        )
    return Lengths(task, _length(path, "max_seq_length", longest, task))


def _length(path: files.Path, name: str, longest: int, otherwise: int | None = None) -> int:
    """Returns the length in a file, at most `longest`; without one, `otherwise` or, if that is None, `longest`."""
    value: Any = files.read_json(path).get(name) if path.exists() else None
    if value is None:
        return longest if otherwise is None else otherwise
    # transformers writes 10^30 for "as long as you like".
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= SHORTEST:
        raise InputError(f"{path}: {name} must be a whole number of at least {SHORTEST}, got {value!r}")
    return int(min(longest, value))


def write_length(folder: files.Path, longest: int) -> None:
    """Adds the length of the longest text to the tokenizer_config.json that a tokenizer wrote."""
    path = folder / TOKENIZER_CONFIG
    files.write_json(path, files.read_json(path) | {"model_max_length": longest})
