"""One file spells the names of parameters and answers questions about them."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from bert_jax import heads, params
from bert_jax.config import AdamW
from bert_jax.training import optimizer
from helpers.models import MODEL

PACKAGE = Path(heads.__file__).parent
CONFIG = replace(MODEL, vocab_size=11, embedding_size=4)
# Flax takes the names from the modules of the first two; the others are where the names are spelt. In config/,
# "bert" is the name of a family and of a recipe too, and "pooler" one of a way of pooling.
HOMES = {"model.py", "heads.py", "params.py", "config/model.py", "config/recipes.py", "config/vectors.py"}

NAMES = "bert|generator|embeddings|pooler|kernel|qkv|token_type|attention_norm|feed_forward|feed_forward_norm|blocks_.*"
PARTS = "bert|generator|discriminator|mlm|pair|sequence|token|span|choice|embeddings|pooler|word|attention|out|qkv"
SPELT = re.compile(rf"({NAMES})|({PARTS})/[a-z_/]*")


def spelt_names(source: str) -> list[str]:
    """Returns the strings of a file that name a parameter: by themselves, as a path, or as a key of `params`."""
    names = []
    documentation = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            documentation.add(node.value)
        keys: list[ast.expr] = []
        if isinstance(node, ast.Subscript) and "params" in ast.unparse(node.value).lower():
            keys = [node.slice]
        if isinstance(node, ast.Compare) and "params" in ast.unparse(node.comparators[0]).lower():
            keys = [node.left]
        names += [key.value for key in keys if isinstance(key, ast.Constant) and isinstance(key.value, str)]
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
            names += [node.value] * bool(SPELT.fullmatch(node.value))
    return names


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_other_file_spells_the_name_of_a_parameter(path):
    name = str(path.relative_to(PACKAGE))
    if name not in HOMES and not name.startswith("families/"):
        assert not spelt_names(path.read_text()), f"{name}: ask bert_jax/params.py"


@pytest.mark.parametrize(
    "line",
    [
        'path[0].key == "bert"',
        'f"blocks_{group}"',
        'names = {"word/embedding", "mlm/bias"}',
        'name.startswith(("bert/", "mlm/"))',
        'self.params["mlm"]',
        '"sequence" in params',
        'leaf in ("kernel", "embedding")',
        '["bert/pooler"]',
    ],
)
def test_a_name_spelt_elsewhere_is_noticed(line):
    assert spelt_names(line)


@pytest.fixture(scope="module")
def names():
    """The parameters of an encoder with every head, by name."""
    batch = {name: np.zeros((1, 1), np.int32) for name in ("input_ids", "token_type_ids", "position_ids")}
    batch |= {name: np.zeros((1, 1), np.int32) for name in ("sequence_ids", "cls_positions", "masked_positions")}
    models = [
        heads.BertForPreTraining(CONFIG),
        heads.BertForSequenceClassification(CONFIG, 3),
        heads.BertForTokenClassification(CONFIG, 3),
        heads.BertForQuestionAnswering(CONFIG),
        heads.BertForMultipleChoice(CONFIG),
    ]
    tree: dict = {}
    for model in models:
        tree = jax.eval_shape(lambda model=model: model.init(jax.random.key(0), batch))["params"] | tree
    assert params.heads(tree) == {params.MLM, params.PAIR, params.SEQUENCE, params.TOKEN, params.SPAN, params.CHOICE}
    assert params.has_pooler(tree)
    assert params.num_classes(tree, params.SEQUENCE) == 3
    return params.flatten(tree)


def test_matrices_and_tables_decay_and_vectors_do_not(names):
    for name, array in names.items():
        # Biases of queries, keys and values have three dimensions, and are biases all the same.
        assert params.is_decayed(name) == (array.ndim > 1 and not name.endswith("bias")), name


def test_what_grows_with_the_vocabulary_has_its_size(names):
    assert [name for name in names if params.grows_with_vocabulary(name)] == [
        name for name, array in names.items() if array.shape[0] == CONFIG.vocab_size
    ]


def test_each_parameter_has_a_depth(names):
    depths = {name: params.depth(name, CONFIG) for name in names}
    assert {depth for name, depth in depths.items() if name.startswith("bert/embeddings/")} == {0}
    for layer in range(CONFIG.num_layers):
        path = params.block_path(CONFIG.group(layer)) + "/"
        assert {depth for name, depth in depths.items() if name.startswith(path)} == {layer + 1}
    rest = [name for name, depth in depths.items() if depth == CONFIG.num_layers + 1]
    assert {params.part(name) for name in rest} == {params.part(name) for name in names} - {params.ENCODER}


def test_head_only_freezes_every_encoder():
    tree = {name: {"embeddings": {"norm": {"bias": np.zeros(2)}}} for name in ("bert", "generator")}
    tree |= {"sequence": {"out": {"bias": np.zeros(2)}}}
    frozen = params.flatten(optimizer.frozen(tree, AdamW(head_only=True), CONFIG))
    assert {name for name, stays in frozen.items() if not stays} == {"sequence/out/bias"}
