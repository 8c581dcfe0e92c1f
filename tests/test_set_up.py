"""Compiled programs are stored in the user's cache, and no fault of that cache stops a run."""

import itertools
import os
import shutil
import subprocess
import sys
import types

import jax
import pytest

from bert_jax import cli, memory, tokenizers
from bert_jax.data.prepare import prepare

COMPILES = """
import jax
from bert_jax.runtime import set_up

set_up()

@jax.jit
def slow(x):
    for i in range(150):
        x = x * i + x[::-1]
    return x

print(slow(jax.numpy.ones(4)).sum())
"""


def compile_with(**variables):
    """Runs COMPILES in a process that has these environment variables instead of the tests' own; its output."""
    ours = ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "XLA_FLAGS")
    env = {name: value for name, value in os.environ.items() if name not in ours}
    env |= {name: str(value) for name, value in variables.items()}
    done = subprocess.run([sys.executable, "-c", COMPILES], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def stored(folder):
    return [path for path in folder.rglob("*-cache") if path.is_file()]


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """What a first process wrote, and its home of caches."""
    home = tmp_path_factory.mktemp("home")
    return compile_with(XDG_CACHE_HOME=home), home


@pytest.fixture
def home(first, tmp_path):
    """A copy of the first process's home of caches."""
    return shutil.copytree(first[1], tmp_path / "home")


def test_the_next_process_reads_the_programs_of_the_first(first, home):
    times = {path: path.stat().st_mtime_ns for path in stored(home / "bert_jax")}
    assert times
    assert compile_with(XDG_CACHE_HOME=home) == first[0]
    # On a busy machine, the second process may add programs that took the first one too little time to be stored.
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_environment_variables_move_the_cache_or_disable_it(tmp_path):
    compile_with(XDG_CACHE_HOME=tmp_path / "a", JAX_COMPILATION_CACHE_DIR=tmp_path / "b")
    assert not stored(tmp_path / "a")
    compile_with(XDG_CACHE_HOME=tmp_path / "c", JAX_ENABLE_COMPILATION_CACHE="false")
    assert not stored(tmp_path / "c")


@pytest.mark.parametrize("size", [0, 100])
def test_a_stored_program_that_was_cut_short_is_compiled_again(first, home, size):
    for path in stored(home):
        path.write_bytes(path.read_bytes()[:size])
    assert compile_with(XDG_CACHE_HOME=home) == first[0]


def test_a_cache_folder_that_cannot_be_written_does_no_harm(tmp_path):
    (tmp_path / "file").write_text("")
    assert compile_with(XDG_CACHE_HOME=tmp_path / "file")


TRAINS = """
import resource
import sys
from dataclasses import replace
from pathlib import Path

from bert_jax import train
from helpers.experiments import pretraining
from helpers.steps import FEW_PARAMETERS

def say(text):
    if text.startswith("step"):
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)

data = Path(sys.argv[1])
experiment = pretraining(data, steps=16, batch_size=256, log_every=4, eval_every=0, checkpoint_every=0)
task = replace(experiment.task, pairs="none", held_out=0.0)
model = replace(experiment.model, num_layers=1, hidden_size=64, intermediate_size=256, **FEW_PARAMETERS)
experiment = replace(experiment, task=task, model=model)
train(experiment, data / "run", say=say)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is set up on Linux only")
def test_a_step_of_training_gets_no_new_memory_from_the_kernel(data):
    """Four steps of this run use about 70,000 pages, if the memory is not reused.

    On a busy machine the most that is in use at once, and so the memory kept, may still grow in one of the later steps.
    """
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "XLA_FLAGS": flags}
    command = [sys.executable, "-c", TRAINS, data]
    faults = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout.split()
    assert min(int(after) - int(before) for before, after in itertools.pairwise(faults)) < 28_000, faults


class SetUpError(Exception):
    pass


@pytest.fixture
def set_up_raises(monkeypatch):
    def keep_freed():
        raise SetUpError

    monkeypatch.setattr(memory, "keep_freed", keep_freed)


def test_the_allocator_is_set_up_before_libraries_start_threads(tmp_path, set_up_raises):
    """A thread that exists before keeps memory of its own, which is given back at each step."""
    with pytest.raises(SetUpError):
        cli.run(["embed"])
    with pytest.raises(SetUpError):
        tokenizers.train("wordpiece", [], 0)
    with pytest.raises(SetUpError):
        prepare(["no file"], tmp_path / "no folder", tmp_path)


MMAP_MAX, TRIM_THRESHOLD, ARENA_MAX = -4, -1, -8  # of glibc's malloc.h
KEPT = [MMAP_MAX, TRIM_THRESHOLD, ARENA_MAX]


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is set up on Linux only")
@pytest.mark.parametrize(
    ("command", "device", "imported", "env", "calls", "tokenizer_threads", "asynchronous"),
    [
        ("embed", "", "", {}, KEPT, "false", True),
        ("embed", "", "", {"TOKENIZERS_PARALLELISM": "true"}, KEPT, "true", True),
        ("embed", "", "ipykernel", {}, [MMAP_MAX, TRIM_THRESHOLD], None, False),
        ("embed", "/dev/accel0", "", {}, [], None, True),
        ("embed", "/dev/accel0", "", {"JAX_PLATFORMS": "cpu"}, KEPT, "false", True),
        ("embed", "", "", {"JAX_PLATFORMS": "cuda,cpu"}, [], None, True),
        ("prepare", "", "", {}, [], None, True),
        ("tokenizer", "", "", {}, [], None, True),
    ],
)
def test_memory_is_kept_where_the_cpu_computes(
    command, device, imported, env, calls, tokenizer_threads, asynchronous, monkeypatch
):
    called, updates = [], {}
    libc = types.SimpleNamespace(gnu_get_libc_version=None, mallopt=lambda option, value: called.append(option))
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(memory.os, "access", lambda path, mode: path == device)
    monkeypatch.setattr(memory, "keep_freed", memory.keep_freed.__wrapped__)
    monkeypatch.setattr(memory, "_computes", True)
    monkeypatch.setitem(sys.modules, imported or "no module", types.ModuleType("imported"))
    for name in ("JAX_PLATFORMS", "TOKENIZERS_PARALLELISM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(type(jax.config), "update", lambda config, name, value: updates.update({name: value}))
    with pytest.raises(SystemExit):
        cli.run([command, "--help"])
    assert called == calls
    assert os.environ.get("TOKENIZERS_PARALLELISM") == tokenizer_threads
    assert updates.get("jax_cpu_enable_async_dispatch", True) == asynchronous
