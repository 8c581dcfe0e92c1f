"""Watching a run in a terminal: what is drawn of it, and when it ends."""

import json
import os
import threading
import time
from io import StringIO
from pathlib import Path

from rich.console import Console

from bert_jax.report import watch
from helpers.fake_runs import classify, write_run


def watched(workdir: Path, **arguments) -> str:
    console = Console(file=StringIO(), width=120)
    watch(workdir, console=console, **arguments)
    return console.file.getvalue()


def test_watching_follows_a_run_to_its_end(tmp_path):
    folder = write_run(tmp_path / "run", classify(), 0.8, stop_at=0.5)

    def go_on():
        time.sleep(0.3)
        with (folder / "metrics.jsonl").open("a") as file:
            file.write('{"step": 400, "split": "eval", "accuracy": 0.7')
            file.flush()
            time.sleep(0.2)
            file.write("654}\n")
        (folder / "result.json").write_text(json.dumps({"step": 400, "metrics": {"accuracy": 0.7654}}))

    trainer = threading.Thread(target=go_on)
    trainer.start()
    printed = watched(folder, interval=0.05)
    trainer.join()
    assert "step 400 of 400" in printed
    assert "finished" in printed
    assert "0.7654" in printed


def test_watching_a_run_in_progress_tells_time_left_and_speed(tmp_path):
    folder = write_run(tmp_path / "run", classify(), 0.8, stop_at=0.5)
    printed = watched(folder, interval=0.05, patience=0.0)
    assert "8.0 s left" in printed  # 200 steps of 0.04 seconds
    assert "padding 12.0%" in printed
    assert "memory 868 MiB" in printed
    assert "nothing was written for" in printed


def test_watching_a_folder_follows_the_run_written_to_last(tmp_path):
    for age, name in ((100, "old"), (50, "new")):
        folder = write_run(tmp_path / name, classify(batch_size=age), 0.8)
        for path in folder.iterdir():
            os.utime(path, (time.time() - age,) * 2)
    printed = watched(tmp_path, interval=0.05, patience=10)
    assert "new" in printed
    assert "old" not in printed


def test_watching_ends_quietly_on_an_interrupt(tmp_path, monkeypatch):
    folder = write_run(tmp_path / "run", classify(), 0.8, stop_at=0.5)

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr("bert_jax.report.watching.time.sleep", interrupt)
    assert "the run continues" in watched(folder)
