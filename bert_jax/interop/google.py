"""TensorFlow checkpoints of Google's BERT and ALBERT, in and out, by one name table each; needs the extra `tensorflow`.

Source of the names: https://github.com/google-research/bert and https://github.com/google-research/albert.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from bert_jax import files
from bert_jax.config import BertConfig
from bert_jax.errors import InputError
from bert_jax.interop.huggingface import family, parse_config
from bert_jax.interop.table import Notes, Row, Table, expand, to_ours, to_theirs

CONFIGS = ("bert_config.json", "albert_config.json")

_EMBEDDINGS: Table = (
    ("bert/embeddings/word/embedding", "VE", "bert/embeddings/word_embeddings"),
    ("bert/embeddings/position/embedding", "TE", "bert/embeddings/position_embeddings"),
    ("bert/embeddings/token_type/embedding", "SE", "bert/embeddings/token_type_embeddings"),
    ("bert/embeddings/norm/scale", "E", "bert/embeddings/LayerNorm/gamma"),
    ("bert/embeddings/norm/bias", "E", "bert/embeddings/LayerNorm/beta"),
)

_POOLER_AND_HEADS: Table = (
    ("bert/pooler/kernel", "D>D", "bert/pooler/dense/kernel"),
    ("bert/pooler/bias", "D", "bert/pooler/dense/bias"),
    ("mlm/dense/kernel", "D>E", "cls/predictions/transform/dense/kernel"),
    ("mlm/dense/bias", "E", "cls/predictions/transform/dense/bias"),
    ("mlm/norm/scale", "E", "cls/predictions/transform/LayerNorm/gamma"),
    ("mlm/norm/bias", "E", "cls/predictions/transform/LayerNorm/beta"),
    ("mlm/bias", "V", "cls/predictions/output_bias"),
    ("pair/out/kernel", "2<D", "cls/seq_relationship/output_weights"),
    ("pair/out/bias", "2", "cls/seq_relationship/output_bias"),
    ("sequence/out/kernel", "C<D", "output_weights"),
    ("sequence/out/bias", "C", "output_bias"),
    ("span/out/kernel", "2<D", "cls/squad/output_weights"),
    ("span/out/bias", "2", "cls/squad/output_bias"),
)


def _block(attention: str, attention_norm: str, ffn_in: str, ffn_out: str, ffn_norm: str) -> Table:
    """The rows of one block, whose parts BERT and ALBERT name differently."""
    block = "bert/blocks_{group}/"
    parts = [f"{attention}/self/{name}" for name in ("query", "key", "value")]
    return (
        (block + "attention/qkv/kernel", "D>3HK", tuple(f"{name}/kernel" for name in parts)),
        (block + "attention/qkv/bias", "3HK", tuple(f"{name}/bias" for name in parts)),
        (block + "attention/out/kernel", "HK>D", f"{attention}/output/dense/kernel"),
        (block + "attention/out/bias", "D", f"{attention}/output/dense/bias"),
        (block + "attention_norm/scale", "D", f"{attention_norm}/gamma"),
        (block + "attention_norm/bias", "D", f"{attention_norm}/beta"),
        (block + "feed_forward/in/kernel", "D>F", f"{ffn_in}/kernel"),
        (block + "feed_forward/in/bias", "F", f"{ffn_in}/bias"),
        (block + "feed_forward/out/kernel", "F>D", f"{ffn_out}/kernel"),
        (block + "feed_forward/out/bias", "D", f"{ffn_out}/bias"),
        (block + "feed_forward_norm/scale", "D", f"{ffn_norm}/gamma"),
        (block + "feed_forward_norm/bias", "D", f"{ffn_norm}/beta"),
    )


_LAYER = "bert/encoder/layer_{layer}"
_GROUP = "bert/encoder/transformer/group_{group}/inner_group_0"

BERT: Table = (
    *_EMBEDDINGS,
    *_block(
        attention=f"{_LAYER}/attention",
        attention_norm=f"{_LAYER}/attention/output/LayerNorm",
        ffn_in=f"{_LAYER}/intermediate/dense",
        ffn_out=f"{_LAYER}/output/dense",
        ffn_norm=f"{_LAYER}/output/LayerNorm",
    ),
    *_POOLER_AND_HEADS,
)

ALBERT: Table = (
    *_EMBEDDINGS,
    ("bert/embeddings/projection/kernel", "E>D", "bert/encoder/embedding_hidden_mapping_in/kernel"),
    ("bert/embeddings/projection/bias", "D", "bert/encoder/embedding_hidden_mapping_in/bias"),
    *_block(
        attention=f"{_GROUP}/attention_1",
        attention_norm=f"{_GROUP}/LayerNorm",
        ffn_in=f"{_GROUP}/ffn_1/intermediate/dense",
        ffn_out=f"{_GROUP}/ffn_1/intermediate/output/dense",
        ffn_norm=f"{_GROUP}/LayerNorm_1",
    ),
    *_POOLER_AND_HEADS,
)

TABLES = {"bert": BERT, "albert": ALBERT}

# The step, and the moments of Adam and LAMB, of which each weight has its own.
OPTIMIZER_STATE = re.compile(r"^global_step$|/(adam_[mv]|(AdamWeightDecay|LAMB)Optimizer(_1)?)$")


def find(path: files.Path) -> files.Path:
    """Returns the prefix of a checkpoint's files: `path` itself, or the only or newest checkpoint in the folder `path`.

    Raises:
      InputError: there is none.
    """
    if path.with_name(path.name + ".index").exists():
        return path
    found = sorted(files.matching(path, "*.index"), key=lambda file: (files.modified(file), file.name))
    if not found:
        raise InputError(f"{path}: no TensorFlow checkpoint there; expected files such as bert_model.ckpt.index")
    return found[-1].with_suffix("")


def read_config(path: files.Path) -> BertConfig:
    """Reads bert_config.json or albert_config.json beside a checkpoint.

    The activation "gelu" is the exact one in BERT and the tanh one in ALBERT, as their weights are used everywhere.

    Raises:
      InputError: there is none, or it lacks a size, or asks for something else.
    """
    folder = find(path).parent
    for name in CONFIGS:
        if (folder / name).exists():
            try:
                found = json.loads((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise InputError(f"{folder / name}: not readable as JSON: {error}") from None
            if "embedding_size" in found and found.get("hidden_act") == "gelu":
                found["hidden_act"] = "gelu_new"
            return parse_config(found, str(folder / name))[0]
    raise InputError(f"{folder}: neither {' nor '.join(CONFIGS)} there, which says what the checkpoint's model is")


def read_params(path: files.Path, *, strict: bool = True) -> tuple[dict[str, Any], Notes]:
    """Reads all weights of a checkpoint: {"bert": ..., HEAD: ...}, float32.

    Args:
      path: the prefix of the checkpoint's files or their folder.
      strict: whether a variable nobody knows is an error; else it is left out and noted.

    Raises:
      InputError: tensorflow is not installed; files are missing, broken or cut short; names or shapes do not fit the
        config.
    """
    prefix, config = find(path), read_config(path)
    tf = _tensorflow(prefix)
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        names = sorted(reader.get_variable_to_shape_map())
        ignored = tuple(name for name in names if OPTIMIZER_STATE.search(name))
        variables = {name: np.asarray(reader.get_tensor(name)) for name in names if name not in ignored}
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{prefix}: not a TensorFlow checkpoint, or cut short: {reason}") from None
    params, left_out = to_ours(_rows(config), variables, config, str(prefix), strict)
    return params, Notes(ignored, left_out)


def write(prefix: files.Path, config: BertConfig, params: Mapping[str, Any]) -> None:
    """Writes the files of a checkpoint that Google's code reads; its config file is not written.

    Raises:
      InputError: tensorflow is not installed, or arrays are missing or left over.
    """
    variables = to_theirs(_rows(config), params, config)
    tf = _tensorflow(prefix)
    files.make_folder(prefix.parent)
    names = list(variables)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=names,
        shape_and_slices=[""] * len(names),
        tensors=[variables[name] for name in names],
    )


def _rows(config: BertConfig) -> list[Row]:
    return expand(TABLES[family(config)], config)


def _tensorflow(where: files.Path) -> Any:
    try:
        import tensorflow
    except ImportError:
        raise InputError(
            f"{where}: TensorFlow checkpoints need the extra: pip install 'bert_jax[tensorflow]'"
        ) from None
    return tensorflow
