"""How a text becomes one vector."""

from dataclasses import dataclass
from typing import Literal

from bert_jax.errors import InputError

# Names of prompts, each list in the order in which they are looked up, as in sentence-transformers.
QUERY_PROMPTS, PASSAGE_PROMPTS = ("query",), ("document", "passage", "corpus")


BY_POOLER: Literal["pooler"] = "pooler"  # a way of pooling


@dataclass(frozen=True)
class TextVectors:
    """How the states of a text's tokens become the text's vector, and what is put before a text."""

    pooling: Literal["mean", "cls", "pooler"] = "mean"  # of a text's states: their mean, the first, or by the pooler
    normalized: bool = False  # whether vectors have length 1
    prompts: tuple[tuple[str, str], ...] = ()  # (name, text put before a text), such as ("query", "query: ")
    default_prompt: str | None = None  # name of the prompt for texts without another one; None = no prompt

    def prompt(self, name: str | None = None) -> str:
        """Returns the text of the prompt `name` or, if that is None, of the default.

        Raises:
          InputError: there is no prompt of this name.
        """
        name = self.default_prompt if name is None else name
        if name is None:
            return ""
        texts = dict(self.prompts)
        if name not in texts:
            known = ", ".join(texts) or "none"
            raise InputError(f"prompt: no prompt is named {name!r}; the model's prompts: {known}")
        return texts[name]

    def prompt_of(self, names: tuple[str, ...]) -> str:
        """Returns the text of the first of these prompts that there is; without one, that of the default."""
        return self.prompt(next((name for name in names if name in dict(self.prompts)), None))
