"""Measures what the design promises, beside PyTorch, in one run: medians of rounds in which the works take turns.

    python tools/benchmark.py [--json FILE]                training, fine-tuning, inference and start
    python tools/benchmark.py training [--only PRESET]     a pre-training step; on a GPU, the GPU's sizes
    python tools/benchmark.py use [--model FOLDER] [--texts FILE]
    python tools/benchmark.py data [--corpus FILE...]      the data side, against transformers' collator
    python tools/benchmark.py savings                      freezing the lower layers; several seeds in one run
    python tools/benchmark.py sweep EXPERIMENT.py          a step of each model that a sweep pre-trains

It needs the installed package, `torch` and `transformers`; keras-hub is measured where it is installed. Machines are
noisy: read the ratios, not the speeds.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import time
from pathlib import Path

import jax
from benchmarks import data, savings, sweep, timing, training, use

MODULES = {"training": training, "use": use}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command")
    parser.add_argument("--json", type=Path, help="write the results there")
    for name, module in MODULES.items():
        module.add_options(commands.add_parser(name, help=str(module.__doc__).splitlines()[0]))
    data.add_command(commands)
    savings.add_command(commands)
    sweep.add_command(commands)
    options = parser.parse_args()
    if options.command not in (None, *MODULES):
        options.run(options)
        return
    machine = describe()
    print("\n".join(f"{name}: {value}" for name, value in machine.items()) + f"\n\n{timing.HEADER}", flush=True)
    # Without a command, each is measured as it is without options.
    chosen = {options.command: options} if options.command else {name: parser.parse_args([name]) for name in MODULES}
    results = [found for name, its_options in chosen.items() for found in MODULES[name].run(its_options)]
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


def describe() -> dict[str, object]:
    """What the figures depend on."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "flax", "torch", "transformers")}
    return {
        "date": time.strftime("%Y-%m-%d"),
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        "processor": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f} before the start",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
    }


if __name__ == "__main__":
    main()
