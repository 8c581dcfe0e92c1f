"""A fault in a long run is reported in one sentence, and the run continues when the fault is repaired."""

import errno
import http.server
import json
import resource
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from bert_jax import Hook, runtime, train
from bert_jax.config import to_json
from bert_jax.errors import InputError
from bert_jax.runs import workdir
from bert_jax.runs.checkpoint import Checkpoints
from bert_jax.runs.workdir import Workdir, environment, git_revision
from bert_jax.training import progress
from bert_jax.training.hooks import ShowProgress
from helpers.cli import run
from helpers.experiments import fine_tuning, lines, pretraining, silent


class Poison(Hook):
    """Makes the loss of the batches of `steps` (counted from 1) not a number."""

    def __init__(self, steps):
        self.steps = steps

    def begin(self, loop, step):
        (seed_run,) = loop.seed_runs
        clean = seed_run.batches

        def batches(step):
            batch = clean(step)
            if step + 1 in self.steps:
                batch["label_weights"] = np.full_like(batch["label_weights"], np.nan)
            return batch

        seed_run.batches = batches


def short(data, **changes):
    experiment = fine_tuning(data, steps=12, log_every=4, checkpoint_every=4, eval_every=4)
    return replace(experiment, task=replace(experiment.task, eval_limit=48), **changes)  # three batches


def test_a_poisoned_batch_is_skipped_and_many_in_a_row_stop_the_run(data, tmp_path):
    experiment = short(data, max_skipped=3)
    with pytest.raises(InputError) as error:
        train(experiment, tmp_path / "run", say=silent, hooks=[Poison({2, 6, 7, 8})])
    message = str(error.value)
    assert message.startswith("step 8: the loss or its gradient was not finite in 3 steps in a row")
    assert "that of step 4" in message
    with np.load(tmp_path / "run" / "batch_of_step_8.npz", allow_pickle=False) as batch:
        assert np.isnan(batch["label_weights"]).all()
        assert batch["input_ids"].shape[0] == 16
    first, evaluation = lines(tmp_path / "run" / "metrics.jsonl")
    assert (first["split"], evaluation["split"], evaluation["step"]) == ("train", "eval", 4)
    assert first["skipped"] == 1  # of the four steps up to step 4
    assert all(np.isfinite(value) for name, value in first.items() if name != "split")
    result = train(experiment, tmp_path / "run", say=silent)  # the batches are good again
    assert result["step"] == 12
    assert np.isfinite(result["metrics"]["loss"])


@contextmanager
def files_no_larger_than(count: int):
    """Acts like a full disk where mounting one is not allowed: writing past `count` bytes of a file fails."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@contextmanager
def full_disk(folder, kilobytes: int):
    """Mounts a file system in memory with little space; calling what it yields gives it more."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a file system")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=100m", folder], check=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    """The workdir of a run, with a profile of two steps."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(short(data), folder, say=silent, profile=(6, 7))
    return folder


def metrics(workdir: Path) -> str:
    return (workdir / "metrics.jsonl").read_text()


def test_a_failed_save_is_reported_and_the_run_continues_when_there_is_space(data, tmp_path, undisturbed):
    with files_no_larger_than(3000), pytest.raises(InputError, match=r"run.*; .*run the same command again"):
        train(short(data), tmp_path / "run", say=silent)
    train(short(data), tmp_path / "run", say=silent)
    assert metrics(tmp_path / "run") == metrics(undisturbed)


def test_a_full_disk_is_reported_and_the_run_continues_when_there_is_space(data, tmp_path, undisturbed):
    # Space for a checkpoint and a half: one takes about 250 kB, which varies with the order of its writers.
    with full_disk(tmp_path / "disk", kilobytes=400) as make_room:
        run = tmp_path / "disk/run"
        with pytest.raises(InputError, match=r"(No space left|ENOSPC).*run the same command again") as error:
            train(short(data), run, say=silent)
        assert len(str(error.value).splitlines()) == 1
        assert Checkpoints(run / "checkpoints").steps() == [4]
        make_room()
        train(short(data), run, say=silent)
        assert metrics(run) == metrics(undisturbed)


def test_a_workdir_whose_last_lines_cannot_be_written_is_free_again(tmp_path, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, "No space left on device")

    def use(error: Exception | None) -> None:
        with Workdir(tmp_path / "run") as opened:
            opened.rewind(0, 0)
            if error is not None:
                raise error

    monkeypatch.setattr(workdir.Board, "close", full)
    with pytest.raises(OSError, match="No space left"):
        use(None)
    with pytest.raises(ValueError, match="what went wrong first"):
        use(ValueError("what went wrong first"))


def test_a_store_that_is_cut_short_is_named(data, tmp_path):
    tokens = data / "store" / "tokens.bin"
    whole = tokens.read_bytes()
    tokens.write_bytes(whole[:-2])
    try:
        with pytest.raises(InputError, match=r"tokens\.bin: has .* from the header"):
            train(pretraining(data), tmp_path / "run", say=silent)
    finally:
        tokens.write_bytes(whole)


STOPPED_TWICE = """
import os, signal, time
from bert_jax.training.progress import Stop
with Stop() as stop:
    os.kill(os.getpid(), signal.{name})
    assert stop.requested
    print("asked once", flush=True)
    os.kill(os.getpid(), signal.{name})
    time.sleep(60)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_second_signal_ends_at_once(name):
    done = subprocess.run(
        [sys.executable, "-c", STOPPED_TWICE.format(name=name)], capture_output=True, text=True, timeout=50
    )
    assert done.returncode == -signal.Signals[name]
    assert done.stdout == "asked once\n"
    assert "once more to end at once" in done.stderr


def test_a_run_stopped_in_an_evaluation_evaluates_when_it_continues(data, tmp_path, monkeypatch, undisturbed):
    def stop_in_evaluation(text):
        if text.startswith("evaluating 2/"):
            signal.raise_signal(signal.SIGTERM)

    # The run continues with the evaluation. When it is stopped there again, it must not take a step before.
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    for _ in range(2):
        train(short(data), tmp_path / "stopped", say=stop_in_evaluation)
        assert Checkpoints(tmp_path / "stopped/checkpoints").latest() == 4
    monkeypatch.undo()
    train(short(data), tmp_path / "stopped", say=silent)
    assert metrics(tmp_path / "stopped") == metrics(undisturbed)


def test_a_stopped_run_exits_with_the_signals_code_and_its_step(data, tmp_path, monkeypatch, capsys, undisturbed):
    stored = json.dumps(to_json(short(data)))
    loading = "import json\nfrom bert_jax.config import experiment_from_json\n"
    both = f"sweep = dict.fromkeys(('first', 'second'), experiment_from_json(json.loads({stored!r}), 'here'))\n"
    (tmp_path / "sweep.py").write_text(loading + both)
    command = ("train", tmp_path / "sweep.py", "--workdir", tmp_path / "runs")
    for number, at in ((signal.SIGTERM, 5), (signal.SIGINT, 9)):

        def stop(self, loop, step, number=number, at=at):
            if step == at:
                signal.raise_signal(number)

        monkeypatch.setattr(ShowProgress, "__call__", stop)
        assert run(*command) == 128 + number
        last = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert last == {"experiment": "first", "step": at, "stopped": True}
        assert not (tmp_path / "runs/second").exists()
    monkeypatch.undo()
    shutil.copytree(undisturbed, tmp_path / "runs/second")  # finished already: the sweep goes on to it all the same
    assert run(*command) == 0
    lasts = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [(line["experiment"], line["step"]) for line in lasts] == [("first", 12), ("second", 12)]


def test_a_run_that_never_took_a_step_leaves_its_workdir_free(data, tmp_path):
    class Never(Hook):
        def __call__(self, loop, step):
            raise AssertionError(f"took step {step}")

    class Once(Hook):
        def __call__(self, loop, step):
            loop.stop()

    experiment, messages = short(data), []
    missing = replace(experiment, task=replace(experiment.task, eval=str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(InputError, match="no such file"):
        train(missing, tmp_path / "run", say=silent)
    for name in ("f1macro", "mean_average_precision"):  # of no task, and of another one
        with pytest.raises(InputError, match=f"no figure '{name}'; it has .*f1_macro"):
            train(replace(experiment, keep_best=name), tmp_path / "run", say=silent, hooks=[Never()])
    train(replace(experiment, keep_best="f1_macro", seeds=2), tmp_path / "run", say=messages.append, hooks=[Once()])
    assert messages[-1].startswith("Stopped at step 1 of 12")
    with pytest.raises(InputError, match="holds another experiment"):
        train(replace(experiment, seed=1, keep_best="loss"), tmp_path / "run/seed-1", say=silent)


def test_the_workdir_records_hardware_and_versions(data, tmp_path, undisturbed):
    shutil.copytree(undisturbed, tmp_path / "run")
    train(short(data), tmp_path / "run", say=silent)
    (entry,) = json.loads((tmp_path / "run/environment.json").read_text())
    assert entry["from_step"] == 0
    assert entry["libraries"]["jax"] == environment()["libraries"]["jax"]
    assert entry["devices"]["count"] == 1


def test_a_folder_outside_a_repository_has_no_revision(tmp_path):
    assert git_revision(tmp_path) is None


def test_figures_of_speed_stay_out_of_metrics(undisturbed):
    speed = lines(undisturbed / "speed.jsonl")[-1]
    assert speed.keys() == {"step", "seconds", "tokens_per_second", "padding_share", "mfu", "memory_bytes"}
    assert 0 < speed["mfu"] < 1
    assert not speed.keys() & {name for line in lines(undisturbed / "metrics.jsonl") for name in line} - {"step"}
    assert json.loads((undisturbed / "result.json").read_text())["flops"] > 0
    assert list((undisturbed / "profile").rglob("*.xplane.pb"))


def test_a_checkpoint_holds_what_was_so_when_it_was_saved(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    arrays = {"x": jnp.arange(4.0)}
    meta = {"losses": {str(n): n for n in range(100_000)}}  # long to write
    checkpoints.save(1, arrays, arrays, meta)
    meta["losses"].clear()
    checkpoints.close()
    assert len(Checkpoints(tmp_path / "checkpoints").restore(1, arrays, arrays)[2]["losses"]) == 100_000


def test_old_checkpoints_are_never_half_there(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    seen = []
    remove = shutil.rmtree
    # A kill while an old checkpoint is removed is a removal that does not happen, or not wholly.
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: seen.append(str(path)))
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.arange(4.0)}, {"m": jnp.zeros(4)}, {})
    checkpoints.close()
    assert set(seen) == {str(tmp_path / "checkpoints/deleted")}
    assert (tmp_path / "checkpoints/deleted").is_dir()
    assert Checkpoints(tmp_path / "checkpoints", keep=1).steps() == [3]
    monkeypatch.setattr(shutil, "rmtree", remove)
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=1)
    checkpoints.close()
    assert not (tmp_path / "checkpoints/deleted").exists()


def test_a_machine_that_is_taken_away_gives_notice(monkeypatch):
    answers = [b"FALSE", b"FALSE", b"TRUE"]

    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            assert self.headers["Metadata-Flavor"] == "Google"
            assert self.path.startswith("/computeMetadata/v1/instance/preempted?wait_for_change=true")
            self.send_response(200)
            self.end_headers()
            self.wfile.write(answers.pop(0))

        def log_message(self, *args):
            pass

    monkeypatch.setattr(runtime, "NOTICE_PAUSE", 0.01)
    with http.server.HTTPServer(("127.0.0.1", 0), Metadata) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{server.server_port}")
        noticed = threading.Event()
        runtime.on_preemption(noticed.set)
        assert noticed.wait(5)
        server.shutdown()
    assert not answers
    with progress.Stop() as stop:  # nobody answers there any more: no notice, and no error
        assert not stop.requested
        stop._preempted()
    assert (stop.requested, stop.signal) == (True, signal.SIGTERM)
