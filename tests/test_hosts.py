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
    task=Pretraining(stores=("store",), pairs="none", sequence_length=8),
    model=BertConfig(vocab_size=0, hidden_size=8, num_layers=1, num_heads=1, intermediate_size=8),
    batch_size=8,
    steps=2,
)
"""


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


def end_of_two_hosts(folder: Path, second_folder: Path, *second_flags: str) -> list[tuple[int, str]]:
    """The exit codes and error output of two hosts that train the same, but for the second one's folder and flags."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = []
    for number, (where, flags) in enumerate([(folder, ()), (second_folder, second_flags)]):
        variables = {
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"),
            "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{port}",
            "JAX_NUM_PROCESSES": "2",
            "JAX_PROCESS_ID": str(number),
        }
        command = [sys.executable, "-m", "bert_jax.cli", "train", "tiny.py", "--several-hosts", "--workdir"]
        hosts.append(
            subprocess.Popen(
                [*command, str(folder / "run"), *flags],
                cwd=where,
                env=os.environ | variables,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
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
    assert first[0] == second[0] == 2
    assert "error: host 1: store" in first[1]
    assert second[1].startswith("error: store")
    assert "Traceback" not in first[1] + second[1]
