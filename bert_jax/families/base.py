"""What a family of models is: plain tables, which other units read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# Rows of (our name, shape, their name or names); `interop/table.py` explains shapes and braces.
NameTable = Sequence[tuple[str, str, str | tuple[str, ...]]]


def as_it_is(hf_config: Mapping[str, Any], *_: str) -> Mapping[str, Any]:
    """Returns the content of a config.json unchanged."""
    return hf_config


@dataclass(frozen=True)
class Family:
    """One family of models: its published sizes, and how other libraries write its checkpoints."""

    name: str  # `family` of a BertConfig, and "model_type" in a config.json
    presets: Mapping[str, Mapping[str, Any]]  # name -> fields of a BertConfig
    defaults: str  # preset whose fields stand for those that a config.json lacks
    class_defaults: Mapping[str, Any] = field(
        default_factory=dict
    )  # fields of a BertConfig for which the preset does not

    # The special tokens around one text or two, as `tokenizers.Frame` has them.
    separators: int = 1  # between two texts
    segments: bool = True  # whether token_type_ids tell the second text from the first

    # Hugging Face's config.json.
    fields: Mapping[str, str] = field(default_factory=dict)  # field of config.json -> field of a BertConfig
    fallbacks: Mapping[str, str] = field(default_factory=dict)  # field that may be null -> whose value it then has
    constants: Mapping[str, Any] = field(default_factory=dict)  # fields that must have this value
    written: Mapping[str, Any] = field(default_factory=dict)  # further fields to write, which are not read
    token_ids: Mapping[str, str] = field(default_factory=dict)  # those with a token's id -> attribute of a tokenizer
    # (content of a config.json, its path) -> the content in the one spelling of `fields`, and the way back for writing.
    read_config: Callable[[Mapping[str, Any], str], Mapping[str, Any]] = as_it_is
    write_config: Callable[[Mapping[str, Any]], Mapping[str, Any]] = as_it_is
    recognised_by: str = ""  # field that only this family has, for a file without "model_type"
    requires: Mapping[str, bool] = field(default_factory=dict)  # field of a BertConfig -> must it be set, or None

    # Hugging Face's classes and tensors.
    class_prefix: str = ""  # "Bert" of BertForMaskedLM
    prefix: str = ""  # before the encoder's tensors, in classes with a head
    architectures: Mapping[frozenset[str], str] = field(default_factory=dict)  # heads -> end of the class's name
    without_pooler: frozenset[str] = frozenset()  # ends of the names of classes that have no pooler
    tensors: NameTable = ()
    class_tensors: Mapping[str, NameTable] = field(default_factory=dict)  # end of a class's name -> its own rows
    pooler_is_mlm: bool = False  # whether the pooler and the MLM head's layer have the same names
    unused: tuple[str, ...] = ()  # tensors that older files have next to those of their class
    tied: Mapping[str, str] = field(default_factory=dict)  # copy of a tensor -> the tensor

    # Google's TensorFlow checkpoints; empty where there are none.
    google_config: str = ""  # name of the file next to a checkpoint
    google_activations: Mapping[str, str] = field(default_factory=dict)  # "hidden_act" there -> in Hugging Face's files
    google_tensors: NameTable = ()
