"""The planned cost of a run is its real cost."""

from dataclasses import replace
from unittest.mock import ANY, MagicMock

import jax
import jax.extend
import numpy as np
import pytest

from bert_jax import flops, heads, plan, topologies
from bert_jax.activations import Kept
from bert_jax.config import (
    AdamW,
    BertConfig,
    Compute,
    MultipleChoice,
    Pretraining,
    SentenceEmbedding,
    SequenceClassification,
    TextVectors,
    TokenClassification,
    preset,
)
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.tasks.pretraining import PretrainingTask
from bert_jax.training import optimizer
from bert_jax.training.run import Run
from bert_jax.training.step import train_step
from helpers.experiments import fine_tuning, pretraining
from helpers.losses import NO_DROPOUT
from helpers.models import MODEL, QUIET
from helpers.steps import FEW_PARAMETERS, KEEP_GRADIENT, ROWS, NoTokenizer, make_state, uneven_batch

SMALL = preset("bert-tiny", vocab_size=56, hidden_dropout=0.0, attention_dropout=0.0)


def products(jaxpr) -> int:
    """Operations of all matrix products in a jaxpr, from the shapes that they have in it."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * int(np.prod(equation.outvars[0].aval.shape)) * int(np.prod([left[i] for i in contracted]))
        inner = [products(jaxpr) for jaxpr in jax.extend.core.jaxprs_in_params(equation.params)]
        # A branch for each platform: the gradient of the segment embeddings is a product on GPUs only.
        total += min(inner) if equation.primitive.name == "cond" else sum(inner)
    return total


@pytest.mark.parametrize(
    ("name", "length"), [("bert-base", 12), ("bert-tiny", 12), ("albert-base", 12), ("modernbert-tiny", 60)]
)
def test_operations_are_those_of_the_matrix_products(name, length):
    config = preset(name, num_layers=2, hidden_dropout=0.0, attention_dropout=0.0)
    task = PretrainingTask(Pretraining(pairs="none"), config, NoTokenizer())
    batch = uneven_batch(length)
    params = jax.eval_shape(lambda: task.model.init(jax.random.key(0), batch)["params"])

    def loss(params):
        return task.loss_fn(params, batch, NO_DROPOUT).losses["mlm_loss"].sum

    rows, length = batch["input_ids"].shape
    predictions = batch["masked_positions"].shape[1]
    forward = flops.forward(config, rows, length, predictions, read=predictions)
    # The MLM head adds its bias, and sums the bias's gradient, by a product of width 1: elementwise work, not counted.
    bias = 2 * rows * predictions * config.vocab_size
    assert products(jax.make_jaxpr(loss)(params).jaxpr) == forward + bias
    both = products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
    assert both - 2 * bias == 3 * forward
    assert 3 * forward == flops.training_step(config, batch, read=task.fields.read(config))


@pytest.mark.parametrize(
    ("fields", "model"),
    [
        (SequenceClassification(), heads.BertForSequenceClassification(SMALL, 3)),
        (MultipleChoice(), heads.BertForMultipleChoice(SMALL)),
        (SentenceEmbedding(pooling="cls"), heads.BertForTextVectors(SMALL, TextVectors("cls"))),
        (SentenceEmbedding(pooling="pooler"), heads.BertForTextVectors(SMALL, TextVectors("pooler"))),
        (SentenceEmbedding(pooling="mean"), heads.BertForTextVectors(SMALL, TextVectors("mean"))),
        (TokenClassification(), heads.BertForTokenClassification(SMALL, 3)),
        (Pretraining(), heads.BertForPreTraining(SMALL)),
        (Pretraining(objective="rtd", pairs="none"), heads.BertForReplacedTokenDetection(SMALL)),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_last_layer_is_computed_and_counted_where_heads_read_it(fields, model):
    """What a head multiplies itself, for one token, is a small part."""
    batch = uneven_batch()
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), batch))
    computed = products(jax.make_jaxpr(model.apply)(params, batch).jaxpr)
    rows, length = batch["input_ids"].shape
    read = sum(batch[name].shape[1] for name in fields.read(SMALL)) or None
    predictions = batch["masked_positions"].shape[1] if "mlm" in params["params"] else 0
    counted = flops.forward(SMALL, rows, length, predictions, read)
    assert counted <= computed < 1.1 * counted
    assert flops.training_step(SMALL, batch, read=fields.read(SMALL)) == 3 * flops.forward(SMALL, rows, length, 4, read)


def activations(config: BertConfig, compute: Compute) -> int:
    """Bytes that the compiled step needs in addition to its state and batch."""
    task = PretrainingTask(Pretraining(), config, NoTokenizer(), compute)
    devices = Devices("single", ROWS)
    state = devices.shapes(jax.eval_shape(lambda: make_state(task, KEEP_GRADIENT)))
    step = devices.wrap(train_step, loss_fn=task.loss_fn, counts=task.counts)
    return step.trace(state, uneven_batch(24)).lower().compile(plan.KEEP_REMAT).memory_analysis().temp_size_in_bytes


def test_remat_takes_less_memory():
    fields = {"vocab_size": 64, "hidden_dropout": 0.0, "attention_dropout": 0.0, **FEW_PARAMETERS}
    config = preset("bert-tiny", num_layers=3, **fields)
    assert activations(config, Compute(remat=True)) < 0.8 * activations(config, Compute())


def test_the_plan_agrees_with_the_compiled_step_and_the_model(data):
    devices = 2
    sizes = {"vocab_size": 0, "num_layers": 1, "max_position_embeddings": 32}
    few = FEW_PARAMETERS | {
        "type_vocab_size": 2
    }  # a compiled step leaves out a part of the batch that it does not read
    model = preset("bert-tiny", hidden_dropout=0.0, attention_dropout=0.0, **few | sizes)
    experiment = pretraining(data, model=model, batch_size=16, steps=100)
    experiment = replace(experiment, task=replace(experiment.task, pairs="none"))
    planned = plan.plan(experiment, "cpu", devices=devices, mfu=0.5)
    run = plan.resolve(experiment)
    params = jax.eval_shape(lambda: run.task.model.init(jax.random.key(0), uneven_batch())["params"])
    assert planned.parameters == sum(x.size for x in jax.tree.leaves(params))
    batch = run.task.train_batches(batch_size=16, steps=100, seed=0)(0)
    assert planned.operations == 100 * flops.training_step(run.task.config, batch, read=["masked_positions"])
    assert planned.hours == pytest.approx(planned.operations / (devices * planned.device.flops * 0.5) / 3600)
    ways = [(1, False), (1, True), (devices, False), (devices, True)]
    assert [(layout.fsdp, layout.remat) for layout in planned.layouts] == ways
    whole, _, split, _ = planned.layouts
    assert whole.parameters == 4 * planned.parameters
    assert split.parameters == pytest.approx(whole.parameters / devices, rel=0.01)
    assert split.optimizer == pytest.approx(whole.optimizer / devices, rel=0.01)
    assert_as_compiled(run, batch, split, devices)
    assert plan.COMPILED in str(planned)
    assert f"{planned.parameters:,}" in str(planned)
    assert planned.fits(whole)


def assert_as_compiled(run: Run, batch: dict[str, np.ndarray], layout: plan.Memory, count: int):
    """The step that a run would take, compiled from its real state and batch, has the arguments and needs planned."""
    devices = Devices("mesh", len(batch["input_ids"]), layout.fsdp, jax.devices()[:count])
    state = devices.place(make_state(run.task, optimizer.make(run.experiment.optimizer, 100, MODEL)))
    step = devices.wrap(train_step, loss_fn=run.task.loss_fn, counts=run.task.counts, microbatches=1)
    memory = step.trace(state, batch).lower().compile().memory_analysis()
    # Of `argument_size` but for the step's number and its key, of a few bytes.
    arrays = layout.parameters + layout.optimizer + sum(x.nbytes for x in batch.values()) // count
    assert memory.argument_size_in_bytes == pytest.approx(arrays, abs=64)
    need = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    assert layout.activations == pytest.approx(need, rel=0.01)


def test_a_run_that_trains_its_head_alone_is_planned_without_the_gradients_of_its_encoder(data):
    devices = Devices("single", 16)
    every, head = (
        plan.memory(run, run.task.train_batches(batch_size=16, steps=1, seed=0)(0), devices, remat=False)
        for run in (plan.resolve(fine_tuning(data, optimizer=AdamW(head_only=only))) for only in (False, True))
    )
    assert head.parameters == every.parameters
    assert head.optimizer < 0.1 * every.optimizer
    assert head.activations < 0.8 * every.activations


def test_a_plan_marks_a_layout_that_does_not_fit(data):
    huge = plan.Memory(fsdp=1, remat=False, parameters=10**11, optimizer=0, activations=0)
    layout = plan.Plan(1, 1, 1, 1, 1.0, 1.0, (huge,), flops.ACCELERATORS["h100"], "")
    assert "does not fit" in str(layout)


@pytest.mark.parametrize(
    ("hours", "text"), [(0.01, "0.6 minutes"), (1.9, "114 minutes"), (5, "5.0 hours"), (72, "3.0 days")]
)
def test_a_plan_has_time_in_a_suitable_unit(hours, text):
    assert text in str(plan.Plan(1, 1, 1, 1, 1.0, hours, (), flops.ACCELERATORS["h100"], ""))


def test_memory_on_accelerators_is_estimated_without_compiling(data, monkeypatch):
    monkeypatch.setattr(plan, "memory", None)
    monkeypatch.setattr(plan, "kept_each", lambda run, batch, devices, remat: Kept(10 if remat else 5000, 300))
    planned = plan.plan(pretraining(data), "v5e", devices=2)
    assert plan.ESTIMATED in str(planned)
    whole, remat, split, _ = planned.layouts
    gradients = whole.parameters
    assert whole.activations == gradients + 5000 + 300
    assert remat.activations == gradients + (5000 - 10) // MODEL.num_layers + 300
    assert split.parameters == pytest.approx(whole.parameters / 2, rel=0.01)
    assert split.activations == whole.activations + whole.parameters  # gathered, in float32


def test_remat_microbatches_and_fused_attention_keep_less_for_the_backward_pass(data):
    model = replace(QUIET, num_layers=4)

    def kept(remat: bool = False, **compute) -> int:
        run = plan.resolve(pretraining(data, model=model, compute=Compute(sharding="single", **compute)))
        return plan.kept_each(run, batch, 2, remat).total

    batch = plan.resolve(pretraining(data)).task.train_batches(batch_size=16, steps=1, seed=0)(0)
    whole = kept()
    assert kept(remat=True) < 0.6 * whole
    assert kept(microbatches=2, dtype="bfloat16", attention="pallas") < 0.3 * whole


def planned_with(*analyses: topologies.Analysis) -> plan.Plan:
    layouts = tuple(plan.Memory(1, bool(number), 1, 1, 1, own) for number, own in enumerate(analyses))
    return plan.Plan(1, 1, 1, 1, 1.0, 1.0, layouts, flops.ACCELERATORS["v5e"], "", compiler="NOTE")


def test_the_figures_of_the_accelerators_own_compiler_follow_the_estimate():
    fits = topologies.Analysis(2_805_000_000, "", flops=2.266e12, bytes_accessed=16.26e9, seconds=171)
    refused = topologies.Analysis(None, "needs 22.7 GB of 16.9 GB", None, None, 88)
    planned = planned_with(fits, refused)
    after = str(planned).split("NOTE")[1]
    assert "   1  no         2.81 GB     2.27e+12      16.3 GB        171 s  fits" in after
    assert "   1  yes    does not fit: needs 22.7 GB of 16.9 GB" in after
    assert [planned.fits(layout) for layout in planned.layouts] == [True, False]


def test_operations_that_a_compiler_does_not_count_are_left_out():
    after = str(planned_with(topologies.Analysis(2_805_000_000, "", None, None, 71))).split("NOTE")[1]
    assert after.splitlines()[1:] == [
        "fsdp  remat       memory     compiled",
        "   1  no         2.81 GB         71 s  fits",
    ]


@pytest.mark.parametrize(
    ("arguments", "note"),
    [
        (("v5e", 6, "low", "explicit"), "there are no slices of 6 v5e, only of 1, 4, 8, 16"),
        (("v5e", 8, "low", "cudnn"), "choose --compute.attention pallas or explicit"),
        (("v5e", 8, "full", "pallas"), "pip install 'bert_jax[tpu]'"),
        (("h100", 6, "low", "explicit"), "jax_plugins.xla_cuda12 is not installed: pip install 'bert_jax[cuda]'"),
        (("v5e", 8, "none", "explicit"), ""),
        (("t4", 8, "low", "explicit"), ""),
    ],
)
def test_a_plan_names_the_reason_why_no_compiler_was_asked(arguments, note, monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
    own, printed = plan._compiler(*arguments)
    assert own is None
    assert note in printed
    assert bool(note) == bool(printed)


def test_a_plan_names_the_part_of_the_compiler_for_gpus_that_is_missing(monkeypatch):
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None if name == "nvidia.cudnn" else name)
    assert topologies.why_not("a100", 3) == ""
    assert topologies.why_not("a100", 3, "cudnn").startswith("nvidia.cudnn is not installed")


class Compiler:
    """A traced step, a lowered and a compiled one, as far as `Target.analyse` reads them."""

    argument_size_in_bytes, temp_size_in_bytes = 50_000_000_000, 20_000_000_000
    output_size_in_bytes = alias_size_in_bytes = 40_000_000_000

    def __init__(self, message: str = ""):
        self.message = message
        self.platforms = ()

    def lower(self, lowering_platforms):
        self.platforms = lowering_platforms
        return self

    def compile(self, options):
        if self.message:
            raise jax.errors.JaxRuntimeError(self.message)
        return self

    def memory_analysis(self):
        return self

    def cost_analysis(self):
        return {}


def test_a_step_that_the_compiler_refuses_does_not_fit_and_other_errors_are_raised():
    tpus = topologies.Target("tpu", ())
    analysis = tpus.analyse(Compiler("RESOURCE_EXHAUSTED: (21.17G) exceeds available HBM (15.75G)"))
    assert not analysis.fits
    assert analysis.refusal == "needs 22.7 GB of 16.9 GB"
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        tpus.analyse(Compiler("INTERNAL: no"))


@pytest.mark.parametrize(("share", "refusal"), [("", "needs 70.0 GB of 63.7 GB"), ("0.9", "")])
def test_a_step_for_gpus_fits_into_the_share_of_memory_that_jax_takes(share, refusal, monkeypatch):
    options = {}
    monkeypatch.setattr(
        topologies.topologies, "get_topology_desc", lambda **kwargs: options.update(kwargs) or MagicMock()
    )
    monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", share)
    own, note = plan._compiler("h100", 6, "low", "cudnn")
    step = Compiler()
    assert own.analyse(step) == topologies.Analysis(None if refusal else 70_000_000_000, refusal, None, None, ANY)
    assert f"JAX takes {own.limit / 1e9:.1f} GB of each GPU" in note
    assert (own.platform, step.platforms, options["platform"], options["topology"]) == (
        "cuda",
        ("cuda",),
        "cuda",
        "1x1x6",
    )


def test_a_share_of_a_gpu_that_is_not_a_number_is_refused(monkeypatch):
    monkeypatch.setattr(topologies.topologies, "get_topology_desc", MagicMock())
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", "most")
    with pytest.raises(InputError, match=r"XLA_PYTHON_CLIENT_MEM_FRACTION must be a share .* got most"):
        topologies.target("h100", 1, thorough=False)


def test_a_model_with_cudnns_attention_is_planned_where_cudnn_is_not_installed(data, monkeypatch):
    monkeypatch.setattr(plan, "kept_each", lambda run, batch, devices, remat: Kept(10 if remat else 5000, 300))
    fused = pretraining(data, model=QUIET, compute=Compute(dtype="bfloat16", attention="cudnn"))
    explicit = plan.resolve(replace(fused, compute=Compute()))
    assert plan.plan(fused, "t4").parameters == plan.count_parameters(explicit)


def test_an_unknown_accelerator_is_refused(data):
    with pytest.raises(InputError, match=r"--accelerator: must be one of h200, h100, .* or cpu, got abacus"):
        plan.plan(pretraining(data), "abacus")


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("TPU v4", "v4"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5p", "v5p"),
        ("Tesla T4", "t4"),
    ],
)
def test_jaxs_names_of_accelerators_are_recognized(kind, name):
    assert flops.accelerator(kind) is flops.ACCELERATORS[name]
    assert flops.accelerator("cpu") is None
