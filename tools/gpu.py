"""Answers this project's questions to one GPU in under 9 minutes, and writes the answers into one JSON file.

    tools/gpu.sh --json FILE [--only SECTION ...] [--toy]

    device      the machine: name, versions, memory bandwidth, speed of matrix products
    attention   fused attention gives what the explicit path gives: values and gradients
    profile     the kernels that take the time of a training step
    resume      a run begun with cuDNN's attention continues on a CPU with the explicit one
    speed       training steps of BERT-base and BERT-large, next to `transformers` with SDPA and torch.compile
    pretrain    a pre-training of 4 minutes, scored on minimal pairs

It needs this repository, the packages that such a machine has, and what `tools/gpu.sh pack` put into `.gpu`. Each
section is a process of its own with a time limit. The file is written after each. A section that fails is recorded with
its error, and the next one starts. --toy uses a CPU and tiny sizes and takes two minutes. Exits with 1 where a section
or one of its checks failed.
"""

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CARRIED = ROOT / ".gpu"
QUIET = "quiet"  # the file that is there while `speed` may measure
# Section -> its time limit in seconds.
LIMITS = {"device": 60, "profile": 150, "attention": 90, "resume": 90, "speed": 240, "pretrain": 330}
# Those in one line start at the same time. `speed` compiles meanwhile, and measures when the others have ended.
STAGES = (("device",), ("profile",), ("attention", "resume", "speed"), ("pretrain",))
# XLA's search for the fastest matrix products takes minutes for each program if Triton's are among them.
FAST_TO_COMPILE = "--xla_gpu_enable_triton_gemm=false"
WITHOUT_SEARCH = f"{FAST_TO_COMPILE} --xla_gpu_autotune_level=0"
FLAGS = {
    "attention": WITHOUT_SEARCH,
    "resume": WITHOUT_SEARCH,
    "speed": FAST_TO_COMPILE,
    "profile": FAST_TO_COMPILE,
    "pretrain": FAST_TO_COMPILE,
}
ENDING = 10  # seconds before its limit in which a section starts nothing new


class Section:
    """One section in a process of its own."""

    def __init__(self, name: str, folder: Path, options: argparse.Namespace):
        seconds = options.seconds or (2 if options.toy else 1) * LIMITS[name]
        self._result, self._log = folder / f"{name}.json", (folder / f"{name}.log").open("w+")
        self._began, self._limit = time.monotonic(), seconds
        # A GPU is shared by several processes at a time, so none may take all of its memory at its start.
        flags = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS.get(name, '')}".strip()
        environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_FLAGS": flags}
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = "5"  # for each of several processes
        environment |= {"JAX_PLATFORMS": "cpu"} if options.toy else {}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tools"), str(ROOT), *sys.path[1:]])
        command = [sys.executable, __file__, "--section", name, "--json", self._result, "--seconds", str(seconds)]
        command += ["--toy"] if options.toy else []
        command += ["--steps", options.steps] if options.steps else []
        self._process = subprocess.Popen(
            list(map(str, command)),
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def finish(self) -> dict[str, Any]:
        """Waits for the end or the time limit; returns what was saved until then, the seconds and the error, if any."""
        try:
            code = self._process.wait(max(0.0, self._began + self._limit - time.monotonic()))
            problem = f"exit code {code}" if code else None
        except subprocess.TimeoutExpired:
            problem = f"not finished after {self._limit:.0f} seconds"
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the section, and processes that it left behind
        self._process.wait()
        saved = json.loads(self._result.read_text()) if self._result.exists() else {}
        ending = {"seconds": round(time.monotonic() - self._began, 1)}
        if problem is not None:
            self._log.seek(0)
            ending |= {"problem": problem, "log": self._log.read()[-3000:]}
        return saved | ending


def run_section(options: argparse.Namespace) -> None:
    """Runs one section in this process."""

    def save(results: dict[str, Any]) -> None:
        partial = options.json.with_suffix(".partial")
        partial.write_text(json.dumps(results, indent=1) + "\n")
        partial.replace(options.json)

    options.until = time.monotonic() + options.seconds - ENDING
    options.carried = CARRIED
    options.quiet = options.json.with_name(QUIET)
    importlib.import_module(f"gpu_kit.{options.section}").run(options, save)


def failed_checks(answers: dict[str, Any]) -> list[str]:
    """Returns a line for each section and each check that failed."""
    lines = []
    for name, section in answers.items():
        if "problem" in section:
            lines.append(f"{name}: {section['problem']}")
        lines += [f"{name}: {check}" for check in section.get("checks", []) if not check["passed"]]
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="the file to write")
    parser.add_argument("--only", nargs="+", choices=LIMITS, default=list(LIMITS), help="these sections alone")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--steps", type=int, help="of the pre-training, instead of as many as fit")
    parser.add_argument("--seconds", type=float, help="another time limit for each section")
    parser.add_argument("--section", choices=LIMITS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.section:
        run_section(options)
        return
    options.json.parent.mkdir(parents=True, exist_ok=True)  # now, not after minutes of work
    carried = sum(path.stat().st_size for path in CARRIED.rglob("*") if path.is_file())
    print(f"carried in {CARRIED.name}: {carried / 1e6:.1f} MB", flush=True)
    began, answers = time.monotonic(), {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for stage in STAGES:
            (folder / QUIET).unlink(missing_ok=True)
            started = {name: Section(name, folder, options) for name in stage if name in options.only}
            for number, (name, section) in enumerate(started.items(), 1):
                if number == len(started):
                    (folder / QUIET).touch()
                answers[name] = section.finish()
                print(f"{name}: {json.dumps(answers[name], indent=1)}", flush=True)
            total = {"seconds": round(time.monotonic() - began, 1), "carried_bytes": carried, "toy": options.toy}
            options.json.write_text(json.dumps(total | answers, indent=1) + "\n")
    failed = failed_checks(answers)
    print("\n".join(failed) or "every check passed")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
