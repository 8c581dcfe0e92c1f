"""A step gives the same result on any layout of devices and hosts."""

import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import devices, hosts, tokenizers, train
from bert_jax.config import AdamW, BertConfig, Compute, Experiment, Pretraining, SentenceEmbedding, preset
from bert_jax.data.prepare import prepare
from bert_jax.devices import Devices
from bert_jax.errors import InputError
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.tasks.pretraining import PretrainingTask
from bert_jax.training import optimizer
from bert_jax.training.step import train_step
from helpers.steps import CONFIG, FEW_PARAMETERS, KEEP_GRADIENT, ROWS, NoTokenizer, make_state, uneven_batch


@cache
def gradient(
    config: BertConfig, way: str, fsdp: int = 0, microbatches: int = 1, length: int = 12, compute: Compute = Compute()
):
    """Gradients of MLM and NSP, and sums, of the uneven batch."""
    task = PretrainingTask(Pretraining(), config, NoTokenizer(), compute)
    devices = Devices(way, ROWS, fsdp)
    step = devices.wrap(train_step, loss_fn=task.loss_fn, counts=task.counts, microbatches=microbatches)
    state, sums = step(devices.make(lambda: make_state(task, KEEP_GRADIENT)), uneven_batch(length))
    return jax.device_get((state.opt_state, sums))


def assert_same(actual, expected):
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(actual), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-5, atol=1e-5 * np.abs(a).max())


# Each kind of layout, and each number of microbatches with one of them: all fifteen pairs agree, but take long to
# compile. Without microbatches, the tests of dropout and of kinds of attention below compare the other layouts.
SPLITS = [("single", 0, 2), ("pmap", 0, 4), ("mesh", 4, 2)]


@pytest.mark.parametrize(("way", "fsdp", "microbatches"), SPLITS)
def test_the_gradient_does_not_depend_on_how_the_batch_is_split(way, fsdp, microbatches):
    assert_same(gradient(CONFIG, way, fsdp, microbatches), gradient(CONFIG, "single"))


@pytest.mark.parametrize(("way", "fsdp"), [("pmap", 0), ("mesh", 4)])
def test_the_gradient_of_fused_and_of_local_rotary_attention_does_not_depend_on_how_the_batch_is_split(way, fsdp):
    """Of the two layers, the first has global attention, which the kernel computes, and the second local attention."""
    sizes = {"num_layers": 2, "global_every": 2, "max_position_embeddings": 128, "local_attention": 8}
    config = replace(preset("modernbert-tiny"), vocab_size=56, hidden_size=16, intermediate_size=24, **sizes)
    fused = gradient(config, way, fsdp, length=128, compute=Compute(attention="pallas"))
    assert_same(fused, gradient(config, "single", length=128))


@pytest.mark.parametrize("fsdp", [1, 4])
def test_under_mesh_dropout_does_not_depend_on_the_number_of_devices(fsdp):
    config = replace(CONFIG, hidden_dropout=0.2, attention_dropout=0.2)
    one = gradient(config, "single")
    assert_same(gradient(config, "mesh", fsdp), one)
    with pytest.raises(AssertionError):  # otherwise there was no dropout
        assert_same(gradient(CONFIG, "single"), one)


def trace(config: BertConfig, devices: Devices, length: int = 12, compute: Compute = Compute(), **options):
    task = PretrainingTask(Pretraining(), config, NoTokenizer(), compute)
    transformation = optimizer.make(AdamW(), 10)
    state = devices.shapes(jax.eval_shape(lambda: make_state(task, transformation)))
    step = devices.wrap(train_step, loss_fn=task.loss_fn, counts=task.counts, **options)
    return state, step.trace(state, uneven_batch(length))


def moved(text: str) -> list[tuple[int, ...]]:
    """Shapes that the collectives of a compiled program gather or exchange; sums of gradients are not among them."""
    moves = []
    for line in text.splitlines():
        if match := re.search(r"= (.*?) (all-gather|all-to-all|collective-permute)(-start)?\(", line):
            shapes = re.findall(r"\w+\[([\d,]*)\]", match[1])
            moves += [tuple(int(n) for n in shape.split(",") if n) for shape in shapes]
    return moves


@pytest.mark.parametrize("microbatches", [1, 2])
def test_fsdp_gathers_parameters_and_no_activations(microbatches):
    state, traced = trace(replace(CONFIG, **FEW_PARAMETERS), Devices("mesh", ROWS, 8), microbatches=microbatches)
    shapes = {x.shape for x in jax.tree.leaves(state.params)}
    gathered = moved(traced.lower().compile().as_text())
    assert gathered
    # XLA may drop dimensions of size 1 or merge neighbouring ones, so sizes are compared.
    sizes = {int(np.prod(shape)) for shape in shapes}
    strangers = [shape for shape in gathered if int(np.prod(shape)) not in sizes]
    assert not strangers
    assert not [shape for shape in gathered if shape and shape[0] == ROWS // microbatches]


@pytest.mark.parametrize("fsdp", [1, 8])
def test_fsdp_divides_the_memory_of_parameters_and_optimizer_state(fsdp):
    devices = Devices("mesh", ROWS, fsdp)
    task = PretrainingTask(Pretraining(), preset("bert-tiny", vocab_size=1000), NoTokenizer())
    transformation = optimizer.make(AdamW(), 10)
    state = devices.place(make_state(task, transformation))
    arrays = jax.tree.leaves((state.params, state.opt_state))
    whole = sum(x.nbytes for x in arrays)
    held = [sum(x.addressable_shards[i].data.nbytes for x in arrays) for i in range(8)]
    # What 8 does not divide stays whole: the pair head's two biases and counts of steps, a few bytes.
    assert whole / fsdp <= min(held) <= max(held) <= whole / fsdp + 100
    shapes = devices.shapes(jax.eval_shape(lambda: make_state(task, transformation)))
    assert devices.bytes_each((shapes.params, shapes.opt_state)) == held[0]


@pytest.mark.parametrize("saved_as", ["pmap", "mesh"])
def test_a_checkpoint_of_eight_devices_is_restored_on_fewer_with_any_sharding(tmp_path, saved_as):
    task = PretrainingTask(Pretraining(), replace(CONFIG, **FEW_PARAMETERS), NoTokenizer())
    transformation = optimizer.make(AdamW(), 10)
    make = lambda: make_state(task, transformation)  # noqa: E731
    state = Devices(saved_as, ROWS).make(make)
    saving = Checkpoints(tmp_path / "checkpoints")
    saving.save(3, state.params, state.opt_state, {"tokens": 5})
    saving.close()
    for way, count in (("mesh", 8), ("pmap", 8), ("mesh", 2), ("pmap", 2), ("single", 1)):
        devices = Devices(way, ROWS, 0, jax.devices()[:count])
        like = devices.shapes(jax.eval_shape(make))
        reading = Checkpoints(tmp_path / "checkpoints")
        params, opt_state, meta = reading.restore(3, like.params, like.opt_state)
        reading.close()
        assert meta == {"tokens": 5}
        kernel = params["bert"]["blocks_0"]["attention"]["qkv"]["kernel"]
        assert len(kernel.sharding.device_set) == count
        assert kernel.is_fully_replicated == (way != "mesh")
        for a, b in zip(jax.tree.leaves(state.opt_state), jax.tree.leaves(opt_state), strict=True):
            np.testing.assert_array_equal(a, b)
        for a, b in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("attention", ["explicit", "pallas"])
@pytest.mark.parametrize(("way", "fsdp"), [("pmap", 0), ("mesh", 8)])
def test_the_step_of_a_layer_like_bert_bases_lowers_for_accelerators(way, fsdp, attention, platform):
    text = step_of_a_wide_layer(way, fsdp, attention).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.dot_general" in text
    kernel = {"cuda": "__gpu$xla.gpu.triton", "tpu": "tpu_custom_call"}[platform]
    assert (kernel in text) == (attention == "pallas")


@cache
def step_of_a_wide_layer(way: str, fsdp: int, attention: str):
    """One of BERT-base's layers: twelve lower as one does, and take far longer."""
    dropout = 0.0 if attention == "pallas" else 0.1
    config = preset("bert-base", num_layers=1, attention_dropout=dropout)
    compute = Compute(dtype="bfloat16", remat=True, attention=attention)
    return trace(config, Devices(way, ROWS, fsdp), length=128, compute=compute)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("mesh", ROWS, 3), "compute.fsdp: 3 does not divide the 8 devices"),
        (("pmap", 12), "batch_size 12 does not divide by the 8 devices"),
    ],
)
def test_devices_that_do_not_divide_evenly_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Devices(*options)


def test_a_process_without_a_coordinator_is_refused_with_the_missing_variable(monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "0")
    with pytest.raises(InputError, match="set JAX_COORDINATOR_ADDRESS"):
        hosts.join()


# Several hosts ----------------------------------------------------------------------------------------------------

HOST = """
import sys
import threading
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from bert_jax import hosts
hosts.join()
from test_devices import train_on_eight
with hosts.together():
    train_on_eight(Path(sys.argv[1]), Path(sys.argv[2]), "pmap", "mesh")
"""


def train_on_eight(folder: Path, out: Path, *ways: str) -> None:
    """Trains on eight devices; with several hosts, every process calls it."""
    assert jax.device_count() == 8
    tasks = {
        "words": Pretraining(
            (str(folder / "store"),), pairs="none", sequence_length=16, held_out=0.2, eval_sequences=20
        ),
        # A row's negatives are the rows of all devices.
        "pairs": SentenceEmbedding(
            train="pairs.jsonl", eval="scored.jsonl", folder=str(folder), max_length=16, symmetric=True
        ),
    }
    for (name, task), way in itertools.product(tasks.items(), ways):
        experiment = Experiment(
            task=task,
            model=replace(CONFIG, vocab_size=0, **FEW_PARAMETERS),
            tokenizer=str(folder / "tokenizer") if name == "pairs" else None,
            batch_size=8,
            steps=2,
            log_every=1,
            eval_every=0,
            checkpoint_every=1,
            compute=Compute(sharding=way),
        )
        train(experiment, out / name / way, say=lambda text: None)


def start_host(number: int, port: int, folder: Path) -> subprocess.Popen:
    variables = {
        "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4"),
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(number),
    }
    command = [sys.executable, "-c", HOST, str(folder), str(folder / "two"), str(Path(__file__).parent)]
    with open(folder / f"host-{number}.log", "w") as log:
        return subprocess.Popen(command, env=os.environ | variables, stdout=log, stderr=subprocess.STDOUT)


def test_two_hosts_of_four_devices_train_the_run_of_one_with_eight(tmp_path):
    words = ["red", "blue", "green", "cat", "dog", "runs", "eats"]
    rng = np.random.default_rng(0)
    texts = ["\n".join(" ".join(rng.choice(words, 6)) + "." for _ in range(4)) for _ in range(60)]
    tokenizers.train("wordpiece", texts, 36).save(tmp_path / "tokenizer")
    (tmp_path / "corpus.txt").write_text("\n\n".join(texts))
    prepare([str(tmp_path / "corpus.txt")], tmp_path / "tokenizer", tmp_path / "store")
    lines = [line for text in texts for line in text.split("\n")]
    pairs = [{"query": first, "positive": second} for first, second in zip(lines[:64:2], lines[1:64:2], strict=True)]
    scored = [{"text_a": a, "text_b": b, "score": n / 20} for n, (a, b) in enumerate(itertools.pairwise(lines[-20:]))]
    for name, rows in (("pairs", pairs), ("scored", scored)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = [start_host(number, port, tmp_path) for number in range(2)]
    try:
        train_on_eight(tmp_path, tmp_path / "one", "mesh")
        for host in hosts:
            host.wait(timeout=300)
    finally:
        for host in hosts:
            host.kill()
        logs = [(tmp_path / f"host-{number}.log").read_text() for number in range(2)]
        print(*logs, sep="\n----\n")  # pytest shows it where the test fails
    assert [host.returncode for host in hosts] == [0, 0]
    for name, way in itertools.product(("words", "pairs"), ("pmap", "mesh")):
        one, two = figures(tmp_path / "one" / name / "mesh"), figures(tmp_path / "two" / name / way)
        assert [line.keys() for line in two] == [line.keys() for line in one]
        for expected, actual in zip(one, two, strict=True):
            for name, value in expected.items():
                assert actual[name] == (value if name in ("step", "split") else pytest.approx(value, rel=1e-4)), name


def figures(workdir: Path) -> list[dict]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_cpu_computes_several_batches_at_once_and_gives_their_results_in_order():
    together = threading.Barrier(2, timeout=60)

    def step(batch):
        if batch < 2:
            together.wait()  # the first one goes on only when the second one runs too
        return jnp.asarray(batch * 10)

    results = list(devices.computed(step, iter(range(9))))
    assert results == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    assert all(isinstance(result, np.ndarray) for result in results)


def test_several_devices_are_sent_their_batches_in_order_and_by_one_thread():
    sent = []

    def step(batch):
        sent.append((batch, threading.get_ident()))
        return jnp.asarray(batch)

    for result in devices.computed(step, range(5), devices=2):
        assert len(sent) == min(result + 2, 5)  # the next batch is sent before a result is waited for
    assert sent == [(batch, threading.get_ident()) for batch in range(5)]


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_a_step_reaches_the_caller(count):
    def step(batch):
        raise ValueError(f"batch {batch}")

    with pytest.raises(ValueError, match="batch 0"):
        list(devices.computed(step, range(5), devices=count))
