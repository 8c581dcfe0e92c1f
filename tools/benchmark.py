"""Measures the speed of bert_jax, next to PyTorch where that has the same: medians of rounds in which both take turns.

    python tools/benchmark.py [--json FILE]                training and use
    python tools/benchmark.py training [--only PRESET]     a pre-training step; on a GPU, the GPU's sizes
    python tools/benchmark.py use [--model FOLDER] [--texts FILE]      fine-tuning, inference and start
    python tools/benchmark.py data [--corpus FILE...]      preparing text and making batches
    python tools/benchmark.py bulk --model FOLDER --texts FILE         vectors of many rows
    python tools/benchmark.py bucket                       a run in a bucket, next to one on a local disk
    python tools/benchmark.py savings                      freezing the lower layers; several seeds in one run
    python tools/benchmark.py sweep EXPERIMENT.py          a step of each model that a sweep pre-trains
    python tools/benchmark.py learning [--figure FILE]     minutes until recipes reach an MLM accuracy: takes hours

Each takes --json FILE, for its results and what they depend on. It needs the installed package, `torch` and
`transformers`; keras-hub is measured where it is installed. Machines are noisy: read the ratios, not the speeds.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path

import jax
from benchmarks import bucket, bulk, data, learning, savings, sweep, training, use

# Each has add_options(parser), and run(options), which prints its results and returns them.
BENCHMARKS = {
    "training": training,
    "use": use,
    "data": data,
    "bulk": bulk,
    "bucket": bucket,
    "savings": savings,
    "sweep": sweep,
    "learning": learning,
}
DEFAULT = ("training", "use")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the results there")
    commands = parser.add_subparsers(dest="command", metavar="NAME")
    for name, module in BENCHMARKS.items():
        command = commands.add_parser(name, help=str(module.__doc__).splitlines()[0])
        command.add_argument("--json", type=Path, default=argparse.SUPPRESS, help="write the results there")
        module.add_options(command)
    options = parser.parse_args()
    for path in (options.json, getattr(options, "figure", None)):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)  # now, not after hours of measuring
    machine = describe()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()), flush=True)
    chosen = {options.command: options} if options.command else {name: parser.parse_args([name]) for name in DEFAULT}
    results = [result for name, its_options in chosen.items() for result in BENCHMARKS[name].run(its_options)]
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


def describe() -> dict[str, object]:
    """Returns what the figures depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "torch", "transformers")}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f} before the start",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


if __name__ == "__main__":
    main()
