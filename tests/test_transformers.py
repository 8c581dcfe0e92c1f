"""The same weights give the same numbers here and in transformers: states, logits, losses, gradients, training."""

import os
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from bert_jax import heads, losses
from bert_jax.config import AdamW, preset
from bert_jax.data.batch import make_batch
from bert_jax.errors import InputError
from bert_jax.families import FAMILIES
from bert_jax.interop import huggingface, table
from bert_jax.interop.table import SetAside
from bert_jax.losses import Outcome
from bert_jax.model import attention_probabilities
from bert_jax.params import flatten, has_pooler
from bert_jax.training import optimizer
from bert_jax.training.step import TrainState, train_step
from helpers.interop import HEADS, LIKE_ROBERTA, as_torch, assert_close, inputs, our_batch, torch_model
from helpers.weights import compiled, random_weights

CHOICES = 3
# With EVERY_FAMILY=1 in the environment, as tools/check.py families sets it, every family has what BERT has.
EVERY = bool(os.environ.get("EVERY_FAMILY"))
OFTEN = {"ForPreTraining", "ForMaskedLM", "ForSequenceClassification"}
COMPARED = [(family, head) for family, head in HEADS if EVERY or family == "bert" or head in OFTEN]
TRAINED = [
    (family, head)
    for family, head in HEADS
    if (family, head) == ("bert", "ForPreTraining") or (head == "ForMaskedLM" and (EVERY or family == "modernbert"))
]

VARIANTS = [
    ("bert", {}),
    ("bert", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5, "type_vocab_size": 3}),
    ("bert", {"hidden_act": "relu", "num_hidden_layers": 1, "num_attention_heads": 1}),
    ("albert", {"embedding_size": 10}),
    ("albert", {"embedding_size": 24, "num_hidden_groups": 3, "hidden_act": "gelu"}),
    ("albert", {"embedding_size": 7, "num_hidden_layers": 4, "num_hidden_groups": 2, "hidden_act": "relu"}),
    ("electra", {"embedding_size": 10}),
    ("electra", {"embedding_size": 24, "num_hidden_layers": 1}),
    ("modernbert", {"num_hidden_layers": 4}),
    ("modernbert", {"norm_bias": True, "attention_bias": True, "mlp_bias": True, "classifier_bias": True}),
    ("modernbert", {"layer_types": ["full_attention"] * 3, "hidden_activation": "relu", "num_attention_heads": 2}),
    ("roberta", {}),
    ("roberta", {"type_vocab_size": 2, "hidden_act": "relu", "num_hidden_layers": 1}),
    ("xlm-roberta", {}),
    ("camembert", {}),
    ("distilbert", {}),
    ("distilbert", {"activation": "relu", "sinusoidal_pos_embds": True}),
]


def saved(model: torch.nn.Module, folder):
    model.save_pretrained(folder)
    config, details = huggingface.read_config(folder)
    params, notes = huggingface.read_params(folder)
    assert notes == SetAside()
    return config, details, params


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_every_layer_agrees(tmp_path, family, changes):
    model = torch_model(family, "Model", **changes)
    config, _, params = saved(model, tmp_path)
    arrays = inputs(model.config)
    out = model(**as_torch(arrays), output_hidden_states=True, output_attentions=True)
    bert = heads.Bert(config)

    batch = our_batch(arrays, config.first_position)
    x_BTD, sown = compiled(bert, mutable="intermediates")({"params": params["bert"]}, batch)
    sown = sown["intermediates"]
    real = arrays["attention_mask"].astype(bool)
    # transformers counts the embeddings after their projection, as we do, and the last layer after the final norm.
    assert len(sown["hidden"]) == len(out.hidden_states) == config.num_layers + 1
    for ours, theirs in zip(sown["hidden"], out.hidden_states, strict=True):
        assert_close(np.asarray(ours)[real], theirs.detach().numpy()[real], 1e-5)
    assert_close(np.asarray(x_BTD)[real], out.last_hidden_state.detach().numpy()[real], 1e-4)
    if has_pooler(params):
        pooled = compiled(bert, method="pool")({"params": params["bert"]}, x_BTD, batch["cls_positions"])
        assert_close(pooled[:, 0], out.pooler_output, 1e-4)
    for ours, theirs in zip(map(np.asarray, attention_probabilities(config, sown)), out.attentions, strict=True):
        rows = real[:, None, :, None] & np.ones_like(ours, bool)
        assert_close(ours[rows], theirs.detach().numpy()[rows], 1e-5)


def problem(architecture: str, config, real: np.ndarray, seed: int = 2):
    """Labels for transformers, our model, and its losses as functions of the logits."""
    rng = np.random.default_rng(seed)
    rows, length = real.shape
    ones = np.ones((rows, 1), np.float32)
    pair, classes = rng.integers(0, 2, rows), rng.integers(0, 5, rows)
    tokens = rng.integers(0, 5, (rows, length))
    pieces = rng.integers(1, config.vocab_size, (rows, length))
    chosen = real & (rng.random((rows, length)) < 0.5)
    ends = rng.integers(0, length, (2, rows))
    masked = np.where(chosen, pieces, -100)

    def mlm_loss(logits):
        return losses.cross_entropy(logits["mlm"], pieces, chosen)

    def pair_loss(logits):
        return losses.cross_entropy(logits["pair"], pair[:, None], ones)

    def span_loss(logits):
        start, end = (losses.cross_entropy(logits[..., i], ends[i], ones[:, 0]) for i in (0, 1))
        return losses.Mean((start.sum + end.sum) / 2, start.count)

    replaced = rng.integers(0, 2, (rows, length))

    def discriminator_loss(scores):
        return losses.binary_cross_entropy(scores, replaced.astype(np.float32), real.astype(np.float32))

    second = "next_sentence_label" if config.embedding_size is None else "sentence_order_label"
    pretraining = heads.BertForPreTraining(config)
    if architecture == "ForPreTraining" and config.family == "electra":
        return {"labels": replaced}, heads.BertForReplacedTokenDetection(config), [discriminator_loss]
    return {
        "ForPreTraining": ({"labels": masked, second: pair}, pretraining, [mlm_loss, pair_loss]),
        "ForMaskedLM": ({"labels": masked}, heads.BertForPreTraining(config, pairs=False), [mlm_loss]),
        "ForNextSentencePrediction": ({"labels": pair}, pretraining, [pair_loss]),
        "ForSequenceClassification": (
            {"labels": classes},
            heads.BertForSequenceClassification(config, 5),
            [lambda logits: losses.cross_entropy(logits, classes[:, None], ones)],
        ),
        "ForTokenClassification": (
            {"labels": np.where(chosen, tokens, -100)},
            heads.BertForTokenClassification(config, 5),
            [lambda logits: losses.cross_entropy(logits, tokens, chosen)],
        ),
        "ForQuestionAnswering": (
            {"start_positions": ends[0], "end_positions": ends[1]},
            heads.BertForQuestionAnswering(config),
            [span_loss],
        ),
    }[architecture]


def their_logits(out) -> list[torch.Tensor]:
    names = ("prediction_logits", "seq_relationship_logits", "sop_logits", "logits", "start_logits", "end_logits")
    return [out[name] for name in names if name in out]


def our_logits(logits, architecture: str) -> list[jax.Array]:
    if architecture == "ForQuestionAnswering":
        return [logits[..., 0], logits[..., 1]]
    if architecture == "ForNextSentencePrediction":
        return [logits["pair"][:, 0]]
    if isinstance(logits, dict):
        return [logits["mlm"]] + ([logits["pair"][:, 0]] if "pair" in logits else [])
    return [logits[:, 0] if architecture == "ForSequenceClassification" else logits]


def gradients(model: torch.nn.Module, family: str, architecture: str, config):
    """The gradients in a torch model as a tree like our parameters: through the same table."""
    spec = FAMILIES[family]
    original = {copy: tensor.format(p=spec.prefix) for copy, tensor in spec.tied.items()}
    named = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    grads = {original.get(name, name): grad.numpy() for name, grad in named}
    rows = huggingface.name_mappings(config, architecture, spec.prefix)
    return table.to_ours(rows, grads, config, "gradients", strict=True)[0]


def assert_gradients_agree(ours, theirs):
    """To 1e-4 of the largest element of each parameter, or of a hundredth of the largest of all.

    The floor is for gradients that are 0 but for rounding, such as that of a bias which moves all scores of a softmax.
    """
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    largest = max(np.abs(leaf).max() for leaf in theirs.values())
    for name, leaf in theirs.items():
        assert_close(ours[name], leaf, 1e-4 * max(np.abs(leaf).max(), 1e-2 * largest))


def shallow_model(family: str, architecture: str, **changes) -> torch.nn.Module:
    """A model of one layer, or of two where layers differ or share weights: what is in a layer is compared above."""
    layers = next(theirs for theirs, ours in FAMILIES[family].fields.items() if ours == "num_layers")
    return torch_model(family, architecture, **{layers: 2 if family in ("albert", "modernbert") else 1}, **changes)


@pytest.mark.parametrize(("family", "architecture"), COMPARED)
def test_heads_agree_in_logits_loss_and_gradients(tmp_path, family, architecture):
    labelled = architecture in ("ForSequenceClassification", "ForTokenClassification")
    model = shallow_model(family, architecture, **({"num_labels": 5} if labelled else {}))
    config, _, params = saved(model, tmp_path)
    # In transformers an answer may begin on padding, whose states mean nothing: compared without padding.
    arrays = inputs(model.config, padded=architecture != "ForQuestionAnswering")
    batch = our_batch(arrays, config.first_position)
    real = arrays["attention_mask"].astype(bool)
    labels, ours, loss_fns = problem(architecture, config, real)
    fixed = {}
    if architecture == "ForNextSentencePrediction":  # our model that judges pairs has an MLM head besides
        fixed = {"mlm": random_weights(ours, batch)["mlm"]}

    def objective(params):
        logits = ours.apply({"params": params | fixed}, batch)
        means = [fn(logits) for fn in loss_fns]
        return sum(mean.sum / mean.count for mean in means), logits

    (loss, logits), grads = jax.value_and_grad(objective, has_aux=True)(params)
    out = model(**as_torch(arrays), **as_torch(labels))
    out.loss.backward()
    for mine, theirs in zip(our_logits(logits, architecture), their_logits(out), strict=True):
        mine, theirs = np.asarray(mine), theirs.detach().numpy()
        per_token = mine.shape[:2] == real.shape
        assert_close(mine[real] if per_token else mine, theirs[real] if per_token else theirs, 1e-4)
    assert abs(float(loss) - out.loss.item()) <= 1e-5
    assert_gradients_agree(grads, gradients(model, family, architecture, config))


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in LIKE_ROBERTA])
def test_choices_in_one_row_agree_with_choices_in_rows_of_their_own(tmp_path, family):
    model = shallow_model(family, "ForMultipleChoice")
    config, _, params = saved(model, tmp_path)
    examples, length = 2, 11
    arrays = inputs(model.config, rows=examples * CHOICES, length=length)
    labels = np.array([2, 0])
    encoder = ("input_ids", "token_type_ids", "position_ids", "sequence_ids")
    apart = our_batch(arrays, config.first_position)
    in_one_row = {name: apart[name].reshape(examples, CHOICES * length) for name in encoder}
    in_one_row["sequence_ids"] *= np.repeat(np.arange(1, CHOICES + 1, dtype=np.int32), length)
    batch = make_batch(**in_one_row)
    ours = heads.BertForMultipleChoice(config)

    def objective(params):
        logits = ours.apply({"params": params}, batch)
        mean = losses.cross_entropy(logits, labels, np.ones(examples))
        return mean.sum / mean.count, logits

    (loss, logits), grads = jax.jit(jax.value_and_grad(objective, has_aux=True))(params)
    theirs = {name: array.reshape(examples, CHOICES, length) for name, array in arrays.items()}
    out = model(**as_torch(theirs), labels=torch.tensor(labels))
    out.loss.backward()
    assert_close(logits, out.logits, 1e-4)
    assert abs(float(loss) - out.loss.item()) <= 1e-5
    assert_gradients_agree(grads, gradients(model, family, "ForMultipleChoice", config))


@pytest.mark.parametrize("kind", ["regression", "multi_label_classification"])
def test_regression_and_several_labels_agree_in_loss(tmp_path, kind):
    classes = 1 if kind == "regression" else 5
    model = shallow_model("bert", "ForSequenceClassification", num_labels=classes, problem_type=kind)
    config, details, params = saved(model, tmp_path)
    assert details.problem_type == kind
    arrays = inputs(model.config)
    rng = np.random.default_rng(3)
    targets = rng.normal(size=4) if kind == "regression" else rng.integers(0, 2, (4, classes))
    out = model(**as_torch(arrays), labels=torch.tensor(targets, dtype=torch.float32))
    logits_BNC = compiled(heads.BertForSequenceClassification(config, classes))({"params": params}, our_batch(arrays))
    if kind == "regression":
        mean = losses.squared_error(logits_BNC[:, :, 0], targets[:, None].astype(np.float32), np.ones((4, 1)))
    else:
        mean = losses.binary_cross_entropy(logits_BNC, targets[:, None], np.ones((4, 1, classes)))
    assert abs(float(mean.sum / mean.count) - out.loss.item()) <= 1e-5


@pytest.mark.parametrize(("family", "architecture"), TRAINED)
def test_ten_training_steps_agree(tmp_path, family, architecture):
    """AdamW with decay mask, clipping that bites, warmup and linear decay; the same rows each side, no dropout."""
    steps, warmup, rate, decay, clip = 10, 3, 3e-3, 0.1, 0.5
    model = shallow_model(family, architecture)
    config, _, params = saved(model, tmp_path)
    fields = AdamW(learning_rate=rate, warmup_share=warmup / steps, weight_decay=decay, max_grad_norm=clip)
    transformation = optimizer.make(fields, steps)
    params = jax.tree.map(jnp.asarray, params)
    state = TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=transformation.init(params),
        key=jax.random.key(0),
        optimizer=transformation,
    )
    pairs = architecture == "ForPreTraining"
    ours = heads.BertForPreTraining(config, pairs)

    def loss_fn(params, batch, keys):
        logits = ours.apply({"params": params}, batch)
        means = {"mlm_loss": losses.cross_entropy(logits["mlm"], batch["masked_labels"], batch["masked_weights"])}
        if pairs:
            means["pair_loss"] = losses.cross_entropy(logits["pair"], batch["pair_labels"], jnp.ones((4, 1)))
        return Outcome(means, {}, {})

    def counts(batch):
        weights = {"mlm_loss": batch["masked_weights"]} | ({"pair_loss": jnp.ones((4, 1))} if pairs else {})
        return losses.counts_of(weights)

    step_fn = jax.jit(lambda state, batch: train_step(state, batch, loss_fn=loss_fn, counts=counts))
    exempt = [p for name, p in model.named_parameters() if name.endswith("bias") or "norm" in name.lower()]
    decayed = [p for p in model.parameters() if all(p is not other for other in exempt)]
    groups = [{"params": decayed, "weight_decay": decay}, {"params": exempt, "weight_decay": 0.0}]
    adam = torch.optim.AdamW(groups, lr=rate, betas=(fields.b1, fields.b2), eps=fields.epsilon)
    schedule = transformers.get_linear_schedule_with_warmup(adam, warmup, steps)
    for number in range(steps):
        arrays = inputs(model.config, seed=number)
        labels, _, _ = problem(architecture, config, arrays["attention_mask"].astype(bool), seed=number)
        masked = labels["labels"]
        batch = our_batch(arrays, config.first_position) | {
            "masked_labels": np.maximum(masked, 0),
            "masked_weights": (masked >= 0).astype(np.float32),
        }
        if pairs:
            batch["pair_labels"] = labels["next_sentence_label"][:, None]
        state, sums = step_fn(state, batch)
        loss = sum(float(mean.sum / mean.count) for mean in sums["losses"].values())
        out = model(**as_torch(arrays), **as_torch(labels))
        assert abs(loss - out.loss.item()) <= 1e-4
        adam.zero_grad()
        out.loss.backward()
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), clip) > clip
        adam.step()
        schedule.step()
    model.save_pretrained(tmp_path / "after")
    theirs = flatten(huggingface.read_params(tmp_path / "after")[0])
    for name, leaf in flatten(state.params).items():
        assert_close(leaf, theirs[name], 1e-4)


def test_a_modernbert_without_gates_is_written_with_gates_of_one(tmp_path):
    sizes = {"vocab_size": 61, "hidden_size": 24, "num_layers": 2, "num_heads": 4, "intermediate_size": 40}
    config = preset("modernbert-tiny", **sizes, feed_forward="mlp", linear_bias=True, norm_bias=True, global_every=1)
    ids = np.random.default_rng(0).integers(5, 61, (2, 9), dtype=np.int32)
    model = heads.BertForPreTraining(config, pairs=False)
    batch = our_batch({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    params = random_weights(model, batch)
    (note,) = huggingface.write(tmp_path, config, params)
    assert "always 1" in note
    with torch.no_grad():
        theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path)(torch.as_tensor(ids).long()).logits
    ours = compiled(model)({"params": params}, batch)["mlm"]
    assert np.abs(ours).max() > 0.01
    assert_close(ours, theirs.numpy(), 1e-4)
    with pytest.raises(InputError, match=r"model.feed_forward: is 'mlp'"):
        huggingface.write(tmp_path, replace(config, linear_bias=False), params)
