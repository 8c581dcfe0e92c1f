"""What a Hugging Face folder defines about its tokenizer beyond the vocabulary, and which of it is supported."""

from typing import Any

from bert_jax import files
from bert_jax.errors import InputError
from bert_jax.tokenizers import base

# The names of "tokenizer_class" that split text as our tokenizers do, without "Fast" at the end.
_GENERIC = {"PreTrainedTokenizer", "TokenizersBackend"}
CLASSES = {
    "wordpiece": _GENERIC
    | {f"{name}Tokenizer" for name in ("Bert", "ConvBert", "DistilBert", "Electra", "LayoutLM", "Lxmert")}
    | {f"{name}Tokenizer" for name in ("MobileBert", "RetriBert", "SqueezeBert")},
    "sentencepiece": _GENERIC | {"AlbertTokenizer"},
    "bytelevel": _GENERIC | {"RobertaTokenizer"},
    "bpe": _GENERIC | {"GemmaTokenizer"},
    "unigram": _GENERIC | {"CamembertTokenizer", "XLMRobertaTokenizer"},
}
# Options and their values that are supported; a folder need not have them.
OPTIONS: dict[str, tuple[Any, ...]] = {
    "do_lower_case": (True, False, None),
    "strip_accents": (True, False, None),
    "keep_accents": (True, False, None),
    "tokenize_chinese_chars": (True, False),
    "do_basic_tokenize": (True,),
    "clean_text": (True,),
    "wordpieces_prefix": ("##",),
    "word_tokenizer_type": ("basic", None),
    "subword_tokenizer_type": ("wordpiece", None),
    "remove_space": (True,),
    "add_prefix_space": (True,),
    "sp_model_kwargs": ({}, None),
    "auto_map": ({}, None),
}
OPTIONS_OF_KINDS: dict[str, dict[str, tuple[Any, ...]]] = {"bytelevel": {"add_prefix_space": (True, False)}}


def check(folder: files.Path, kind: str) -> None:
    """Checks that a tokenizer of ours splits text as the files of a folder define it.

    Args:
      folder: may contain tokenizer_config.json, config.json and the like.
      kind: see `base.Tokenizer.kind`.

    Raises:
      InputError: the class, an option or an added token is not supported; it is named.
    """
    path = folder / "tokenizer_config.json"
    config = _content(path)
    # Older folders have the class in config.json.
    for file, content in ((path, config), (folder / "config.json", _content(folder / "config.json"))):
        name = content.get("tokenizer_class")
        if name is not None:
            if str(name).removesuffix("Fast") not in CLASSES[kind]:
                raise InputError(
                    f"{file}: tokenizer_class {name!r} is not supported with the vocabulary of this folder; supported: "
                    f"{', '.join(sorted(CLASSES[kind]))}"
                )
            break
    for option, supported in (OPTIONS | OPTIONS_OF_KINDS.get(kind, {})).items():
        # By type too: 1 is equal to True.
        if option in config and not any(type(config[option]) is type(v) and config[option] == v for v in supported):
            raise InputError(f"{path}: {option} is {config[option]!r}; supported: {', '.join(map(repr, supported))}")
    defaults = base.SPECIAL_NAMES if kind == "wordpiece" else {}
    special = {*base.special_names(folder, config, defaults).values(), *base.SPECIAL_NAMES.values(), "<pad>", "<unk>"}
    if kind in ("bytelevel", "bpe", "unigram"):  # these read the tokens that a tokenizer.json adds
        special |= set(_contents(_content(folder / "tokenizer.json").get("added_tokens")))
    if split := [word for word in _contents(config.get("never_split")) if word not in special]:
        raise InputError(f"{path}: never_split has {split[0]!r}; only special tokens are supported there")
    for where, tokens in _added(folder, config):
        if added := [token for token in tokens if token not in special]:
            raise InputError(
                f"{where}: {len(added)} tokens were added (the first is {added[0]!r}); "
                "only pieces of the vocabulary itself are supported"
            )


def _added(folder: files.Path, config: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Returns the tokens that each option of each file adds: they are one token wherever a text has them."""
    library, older, separate = (
        folder / name for name in ("tokenizer.json", "special_tokens_map.json", "added_tokens.json")
    )
    names = ("additional_special_tokens", "extra_special_tokens")
    options = [(library, _content(library), "added_tokens")]
    options += [(folder / "tokenizer_config.json", config, name) for name in ("added_tokens_decoder", *names)]
    options += [(older, _content(older), name) for name in names]
    listed = [(f"{path}: {name}", _contents(content.get(name))) for path, content, name in options]
    return [*listed, (str(separate), list(_content(separate)))]


def _contents(tokens: Any) -> list[str]:
    """Returns the texts of a list or an object of tokens, each a text or an object with "content"."""
    values = list(tokens.values()) if isinstance(tokens, dict) else tokens if isinstance(tokens, list) else []
    return [str(value.get("content")) if isinstance(value, dict) else str(value) for value in values]


def _content(path: files.Path) -> dict[str, Any]:
    return files.read_json(path) if path.exists() else {}
