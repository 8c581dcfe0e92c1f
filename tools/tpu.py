"""Runs a command on a spot TPU machine, or a slice of several, and again on a new one each time it is taken away.

    python tools/tpu.py --name NAME --zone ZONE --type v5litepod-8 --bucket gs://BUCKET [--dry-run] COMMAND ...
    python tools/tpu.py --name small --zone us-west4-a --type v5litepod-8 --bucket gs://BUCKET \
        bert_jax train experiments/bert_small.py --workdir gs://BUCKET/runs/small --task.stores gs://BUCKET/store

It runs where `gcloud` is installed and logged in. It puts the last commit of this repository into the bucket, queues
for the machine, installs the package there, and runs COMMAND on every host of it. When COMMAND succeeds, the machine is
deleted. When the machine was taken away, it queues for a new one, where COMMAND must continue what it did: so all its
paths are in the bucket. With any other error the machine stays, and the exit code is that of COMMAND. --dry-run prints
all commands.
"""

import argparse
import shlex
import subprocess
import sys
import time
from pathlib import Path

RUNTIMES = {"v5lite": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5", "v6e": "v2-alpha-tpuv6e"}
OLDER_RUNTIME = "tpu-ubuntu2204-base"  # of v4 and before
LOST = ("SUSPENDING", "SUSPENDED")  # states of a machine that was taken away
INTERRUPTED = (143, 255)  # exit codes of a run that had notice, and of ssh when the machine is gone
POLL_SECONDS = 30

# The images have Python 3.10, and the package needs 3.11.
INSTALL = """
set -e
mkdir -p ~/code && cd ~/code
gcloud storage cat {archive} | tar xz
test -d ~/venv || (curl -LsSf https://astral.sh/uv/install.sh | sh && ~/.local/bin/uv venv -q --python 3.11 ~/venv)
~/.local/bin/uv pip install -q --python ~/venv/bin/python -e '.[tpu,gcs]'
export PATH=~/venv/bin:$PATH
{command}
"""


class Machine:
    """A queued request for a spot machine, by `gcloud`."""

    def __init__(self, options: argparse.Namespace):
        self._name, self._options, self._created = options.name, options, False

    def _gcloud(self, *words: str) -> list[str]:
        return ["gcloud", *words, f"--zone={self._options.zone}", "--quiet"]

    def _call(self, command: list[str]) -> int:
        print("+", shlex.join(command), flush=True)
        return 0 if self._options.dry_run else subprocess.run(command, check=False).returncode

    def create(self) -> int:
        """Queues for the machine, and returns the exit code."""
        self._created = True
        kind = self._options.type
        runtime = next((name for start, name in RUNTIMES.items() if kind.startswith(start)), OLDER_RUNTIME)
        flags = [f"--node-id={self._name}", f"--accelerator-type={kind}", f"--runtime-version={runtime}", "--spot"]
        return self._call(self._gcloud("compute", "tpus", "queued-resources", "create", self._name, *flags))

    def state(self) -> str:
        """Returns the state of the request, such as ACTIVE; empty if there is no request."""
        describe = ["compute", "tpus", "queued-resources", "describe", self._name, "--format=value(state.state)"]
        if self._options.dry_run:
            print("+", shlex.join(self._gcloud(*describe)), flush=True)
            return "ACTIVE" if self._created else ""
        done = subprocess.run(self._gcloud(*describe), capture_output=True, text=True, check=False)
        return done.stdout.strip() if not done.returncode else ""

    def run(self, archive: str) -> int:
        """Installs the package and runs the command, on every host; returns the exit code."""
        script = INSTALL.format(archive=archive, command=shlex.join(self._options.command))
        ssh = ["compute", "tpus", "tpu-vm", "ssh", self._name, "--worker=all", f"--command={script}"]
        return self._call(self._gcloud(*ssh))

    def delete(self) -> None:
        """Deletes the machine and the request."""
        self._call(self._gcloud("compute", "tpus", "queued-resources", "delete", self._name, "--force"))


def put_code(archive: str, dry_run: bool) -> None:
    """Puts the last commit into the bucket."""
    root = Path(__file__).resolve().parent.parent
    command = (
        f"git -C {shlex.quote(str(root))} archive --format=tar.gz HEAD | gcloud storage cp - {shlex.quote(archive)}"
    )
    print("+", command, flush=True)
    if not dry_run and subprocess.run(["sh", "-c", command], check=False).returncode:
        sys.exit(f"{archive}: the code could not be put there")


def keep_running(machine: Machine, archive: str) -> int:
    """Runs the command until it ends by itself, and returns its exit code."""
    while True:
        if not machine.state() and (code := machine.create()):
            return code
        while (state := machine.state()) not in ("ACTIVE", "FAILED", *LOST):
            print(f"{state or 'no machine yet'}; looking again in {POLL_SECONDS} s", flush=True)
            time.sleep(POLL_SECONDS)
        if state == "FAILED":
            print(
                "the request has failed; `gcloud compute tpus queued-resources describe` has the reason",
                file=sys.stderr,
            )
            return 1
        code = machine.run(archive) if state == "ACTIVE" else INTERRUPTED[0]
        if code == INTERRUPTED[0]:
            time.sleep(POLL_SECONDS)  # it has had notice, and is there for some seconds yet
        if code and code not in INTERRUPTED and machine.state() == "ACTIVE":
            print(f"failed with exit code {code}; the machine is still there, and costs", file=sys.stderr)
            return code
        machine.delete()
        if not code:
            return 0
        print("the machine was taken away; queueing for another one", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True, help="of the machine and of the request for it")
    parser.add_argument("--zone", required=True)
    parser.add_argument("--type", required=True, help="such as v5litepod-8, v6e-16, v4-32")
    parser.add_argument("--bucket", required=True, help="gs://BUCKET, for the code")
    parser.add_argument("--dry-run", action="store_true", help="print the commands only")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("name the command to run there")
    archive = f"{options.bucket.rstrip('/')}/code/{options.name}.tar.gz"
    put_code(archive, options.dry_run)
    sys.exit(keep_running(Machine(options), archive))


if __name__ == "__main__":
    main()
