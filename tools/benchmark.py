"""Measures what the design promises. Each subcommand prints a table and needs no file but the text it is given.

python tools/benchmark.py data [--corpus FILE...]
"""

import argparse

import benchmark_data
import benchmark_training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for module in (benchmark_data, benchmark_training):
        module.add_command(commands)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
