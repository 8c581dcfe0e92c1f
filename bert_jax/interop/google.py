"""TensorFlow checkpoints of Google's BERT and ALBERT: reads and writes them; needs the extra `tensorflow`."""

import json
import re
from typing import Any

import numpy as np

from bert_jax import files, storage
from bert_jax.config import BertConfig
from bert_jax.errors import InputError
from bert_jax.families import FAMILIES
from bert_jax.interop.huggingface import family_of, parse_config
from bert_jax.interop.table import NameMapping, SetAside, expand, to_ours

# The step, and the moments of Adam and LAMB for each weight.
OPTIMIZER_STATE = re.compile(r"^global_step$|/(adam_[mv]|(AdamWeightDecay|LAMB)Optimizer(_1)?)$")

TENSORFLOW_2 = "_CHECKPOINTABLE_OBJECT_GRAPH"  # only TensorFlow 2 stores this next to the weights


def find(path: files.Path) -> files.Path:
    """Returns the prefix of a checkpoint's files: `path` itself, or the only or newest checkpoint in the folder `path`.

    Raises:
      InputError: there is none.
    """
    if path.with_name(path.name + ".index").exists():
        return path
    indexes = sorted(files.matching(path, "*.index"), key=lambda file: (files.modified(file), file.name))
    if not indexes:
        raise InputError(f"{path}: no TensorFlow checkpoint there; expected files such as bert_model.ckpt.index")
    return indexes[-1].with_suffix("")


def read_config(path: files.Path) -> BertConfig:
    """Reads bert_config.json or albert_config.json next to a checkpoint.

    The activation "gelu" is the exact one in BERT and the tanh one in ALBERT, as other libraries use their weights.

    Raises:
      InputError: there is no such file, it lacks a size, or it describes a model that is not supported.
    """
    folder = find(path).parent
    names = [family.google_config for family in FAMILIES.values() if family.google_config]
    for path in (folder / name for name in names):
        if path.exists():
            try:
                hf_config = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise InputError(f"{path}: not readable as JSON: {error}") from None
            activations = family_of(hf_config, str(path)).google_activations
            if hf_config.get("hidden_act") in activations:
                hf_config["hidden_act"] = activations[hf_config["hidden_act"]]
            return parse_config(hf_config, str(path))[0]
    raise InputError(f"{folder}: expected {' or '.join(names)} there, which describes the checkpoint's model")


def read_params(path: files.Path, *, strict: bool = True) -> tuple[dict[str, Any], SetAside]:
    """Reads all weights of a checkpoint: {"bert": ..., HEAD: ...}, float32.

    Args:
      path: the prefix of the checkpoint's files or their folder.
      strict: whether a variable that is not in the table is an error; if not, it is left out and listed.

    Raises:
      InputError: tensorflow is not installed; files are missing, broken or truncated; names or shapes do not fit the
        config.
    """
    prefix, config = find(path), read_config(path)
    tf = _tensorflow(prefix)
    try:
        reader = tf.train.load_checkpoint(str(storage.local_copy(prefix.parent) / prefix.name))
        names = sorted(reader.get_variable_to_shape_map())
        if TENSORFLOW_2 in names:
            raise InputError(
                f"{prefix}: is in TensorFlow 2's layout (it has {TENSORFLOW_2}); only checkpoints of Google's BERT and "
                "ALBERT code are read, such as bert_model.ckpt; save the model as a Hugging Face folder instead"
            )
        ignored = tuple(name for name in names if OPTIMIZER_STATE.search(name))
        variables = {name: np.asarray(reader.get_tensor(name)) for name in names if name not in ignored}
    except (tf.errors.OpError, ValueError, RuntimeError, IndexError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"{prefix}: not a TensorFlow checkpoint, or truncated: {reason}") from None
    params, left_out = to_ours(_mappings(config), variables, config, str(prefix), strict)
    return params, SetAside(ignored, left_out)


def _mappings(config: BertConfig) -> list[NameMapping]:
    return expand(FAMILIES[config.family].google_tensors, config)


def _tensorflow(where: files.Path) -> Any:
    try:
        import tensorflow
    except ImportError:
        raise InputError(
            f"{where}: TensorFlow checkpoints need the extra: pip install 'bert_jax[tensorflow]'"
        ) from None
    return tensorflow
