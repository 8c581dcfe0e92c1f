"""The connection to buckets: settings, a check at the first use, patience with a storage that fails, errors in words.

`files.path` calls `connect`, so that nothing here costs time as long as all paths are local.
"""

import importlib.util
import logging
import os
import time
from functools import cache
from typing import Any

from bert_jax import memory
from bert_jax.errors import InputError

# Otherwise etils reads gs:// with TensorFlow where that is installed; it takes 10 seconds to import.
os.environ.setdefault("EPATH_USE_TF", "false")
# Otherwise gcsfs warns at each call that it cannot find out what kind of bucket this is, unless it has credentials.
os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")

PACKAGES = {"gs": "gcsfs", "s3": "s3fs"}  # what can come before :// in a path, and the package that reads it
INSTALL = {"gs": "pip install 'bert_jax[gcs]'", "s3": "pip install s3fs"}
PATIENCE = 120.0  # seconds for which a request to a storage that worked before is repeated
WAIT = 2.0  # seconds between two such requests, in addition to gcsfs's own


def file_system(name: str | os.PathLike[str]) -> Any:
    """Returns fsspec's file system of a remote path."""
    import fsspec

    return fsspec.filesystem({"gs": "gcs", "s3": "s3"}[os.fspath(name).partition("://")[0]])


def connect(name: str) -> None:
    """Prepares the libraries, and checks that the bucket of a remote path can be used. A second call does nothing.

    Raises:
      InputError: the scheme is not supported, its package is not installed, there is no such bucket, or it may not be
        read.
    """
    scheme, _, rest = name.partition("://")
    bucket = rest.partition("/")[0]
    if (scheme, bucket) in _connected:
        return
    if scheme not in PACKAGES:
        raise InputError(f"{name}: {scheme}:// is not supported; expected a local path, gs:// or s3://")
    if importlib.util.find_spec(PACKAGES[scheme]) is None:
        raise InputError(f"{name}: reading {scheme}:// needs a package: {INSTALL[scheme]}")
    _set_up(scheme)
    system = file_system(name)
    try:
        try:
            system.info(bucket)
        except FileNotFoundError:
            raise InputError(f"{scheme}://{bucket}: there is no such bucket, or nothing in it may be seen") from None
        except OSError:
            system.exists(name)  # the account may have access to a folder only
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: {problem(error) or error}") from error
    _connected.add((scheme, bucket))


_connected: set[tuple[str, str]] = set()  # buckets that have answered


@cache
def _set_up(scheme: str) -> None:
    memory.keep_freed()  # before the libraries start threads
    import fsspec.config

    for protocol in ("gcs", "gs", "s3"):
        # What another process has written would not be seen.
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    for library in ("gcsfs", "google.auth"):  # they log each error, with its traceback, and raise it too
        logging.getLogger(library).setLevel(logging.CRITICAL)
    if scheme == "gs":
        _be_patient()


def _be_patient() -> None:
    """Makes requests to gs:// last longer: gcsfs itself repeats a failed one for half a minute."""
    import asyncio

    import fsspec
    import gcsfs

    class Patient(gcsfs.GCSFileSystem):
        async def _request(self, *args: Any, **options: Any) -> Any:
            began = time.monotonic()
            while True:
                try:
                    return await super()._request(*args, **options)
                except Exception as error:
                    passed = time.monotonic() - began
                    if not is_passing(error) or passed > PATIENCE or not _connected:
                        raise
                await asyncio.sleep(WAIT)

    for protocol in ("gcs", "gs"):
        fsspec.register_implementation(protocol, Patient, clobber=True)


def is_passing(error: BaseException) -> bool:
    """Returns whether the storage failed in a way that may pass: no connection, an overload, an error of its own."""
    code = _code(error)
    return _library(error) in ("aiohttp", "requests") or code in ("408", "429") or code.startswith("5")


def problem(error: BaseException) -> str | None:
    """Returns in words what kept a library from a bucket, or None if the error is of another kind."""
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    if isinstance(error, OSError) and text.startswith(("Forbidden", "Access Denied")):
        return (
            "permission is missing; the account must be allowed to list, read and write objects there, as by the role "
            "Storage Object User"
        )
    no_credentials = type(error).__module__.startswith("google.auth") or "Credentials" in type(error).__name__
    if no_credentials or _code(error) == "401":
        return (
            "credentials are missing or have run out; run `gcloud auth application-default login`, or give the machine "
            f"a service account ({text})"
        )
    if is_passing(error):
        return f"the storage did not answer ({type(error).__name__}: {text})"
    return text if _library(error) in _LIBRARIES else None


_LIBRARIES = ("gcsfs", "s3fs", "botocore", "aiobotocore")


def _library(error: BaseException) -> str:
    return type(error).__module__.partition(".")[0]


def _code(error: BaseException) -> str:
    """Returns the number of an HTTP error, as text; empty if it is another error."""
    return str(getattr(error, "code", "")) if _library(error) in _LIBRARIES else ""
