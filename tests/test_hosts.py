"""Several hosts end together: each is a process that runs `bert_jax train`."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bert_jax import tokenizers
from bert_jax.data.prepare import prepare

EXPERIMENT = """
from bert_jax.config import BertConfig, Experiment, Pretraining

experiment = Experiment(
    task=Pretraining(stores=("store",), pairs="none", sequence_length=8, held_out=0.2),
    model=BertConfig(vocab_size=0, hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8),
    batch_size=8,
    steps=2,
)
"""

MISSING = "store/tokenizer: no such folder; expected a tokenizer there (tokenizer.json, vocab.txt or spiece.model)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hosts")
    text = "\n\n".join(f"The {word} cat runs. The dog eats." for word in ("red", "blue", "green") * 8)
    (folder / "corpus.txt").write_text(text)
    tokenizers.train("wordpiece", text.split("\n\n"), 40).save(folder / "tokenizer")
    prepare([str(folder / "corpus.txt")], folder / "tokenizer", folder / "store")
    (folder / "tiny.py").write_text(EXPERIMENT)
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/tiny.py").write_text(EXPERIMENT)
    return folder


def start_two(command: list[str], folders: list[Path], *second_flags: str) -> list[subprocess.Popen]:
    """Starts Python as two hosts with one device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = []
    for number, folder in enumerate(folders):
        variables = {
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"),
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(number),
        }
        whole = [sys.executable, *command, *(second_flags if number else ())]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        hosts.append(subprocess.Popen(whole, cwd=folder, env=os.environ | variables, text=True, **pipes))
    return hosts


def end_of_two_hosts(first_folder: Path, second_folder: Path, *second_flags: str) -> list[tuple[int, str]]:
    """The exit codes and error output of two hosts that train the same, in two folders, the second with more flags."""
    workdir = ["--workdir", str(first_folder / "run")]
    command = ["-m", "bert_jax.cli", "train", "tiny.py", "--several-hosts", *workdir]
    hosts = start_two(command, [first_folder, second_folder], *second_flags)
    try:
        return [(host.communicate(timeout=300)[1], host.returncode)[::-1] for host in hosts]
    finally:
        for host in hosts:
            host.kill()


def test_a_host_with_another_experiment_is_named(folder):
    first, second = end_of_two_hosts(folder, folder, "--batch-size", "16")
    assert first[0] == second[0] == 2
    assert first[1].endswith(
        "error: host 1 has experiment.batch_size 16, and host 0 has 8; start the same command with "
        "the same files on each host\n"
    )
    assert second[1] == ""


def test_the_error_of_one_host_ends_all_and_the_first_one_shows_it(folder):
    first, second = end_of_two_hosts(folder, folder / "elsewhere")
    assert first == (2, f"error: host 1: {MISSING}\n")
    assert second == (2, f"error: {MISSING}\n")


def test_an_error_of_all_hosts_ends_all(folder):
    ends = end_of_two_hosts(folder / "elsewhere", folder / "elsewhere")
    assert [code for code, _ in ends] == [2, 2]
    assert f"error: {MISSING}\n" in ends[0][1] or f"error: host 1: {MISSING}\n" in ends[0][1]
    assert "abort" not in ends[0][1] + ends[1][1]
    assert "Check failure" not in ends[0][1] + ends[1][1]


def test_hosts_with_a_part_each_do_not_wait_for_each_other(tmp_path):
    program = """
import sys
from bert_jax import hosts
host, count = hosts.part()
import jax
print(host, count, jax.jit(lambda x: x + 1)(1))
if host:
    sys.stdin.readline()
"""
    first, second = start_two(["-c", program], [tmp_path, tmp_path])
    try:
        assert first.communicate(timeout=300)[0].endswith("0 2 2\n")
        assert second.poll() is None
        assert second.communicate("go on\n", timeout=300)[0].endswith("1 2 2\n")
        assert first.returncode == second.returncode == 0
    finally:
        first.kill()
        second.kill()
