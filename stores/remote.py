"""Reading a store on another machine: `s3://bucket/key`, `https://host/path`, and what else obstore knows.

The arrays are read through zarr's own remote store, and then held against the commit record, chunk by chunk.
Needs the extra `remote`. Credentials and endpoints come from the environment, as for any S3 client
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, ...), or from options.
"""

import re
from datetime import timedelta
from typing import Any

import numpy as np

from stores.errors import ExtraMissingError, RemoteError, StoreDamagedError
from stores.layout import Array, checksum
from stores.local import Extent

RETRY = {
    "max_retries": 4,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"max_backoff": timedelta(seconds=2)},
}
"""A machine that does not answer is given up after some seconds; without this it would be minutes."""


MEND_REMOTE = "repair the store that it was copied from (`peftbench store verify`), then copy that again"
"""What to do about a damaged store that can only be read."""


def is_remote(where: str) -> bool:
    """Whether a path is an address on another machine."""
    return "://" in where


class RemoteFiles:
    """The files of a store behind a URL."""

    def __init__(self, url: str, **options: Any) -> None:
        """Name the store; nothing is fetched yet.

        Args:
            url: of its folder.
            options: for `obstore.store.from_url`: `config`, `client_options`, `retry_config`, `credential_provider`.
                `retry_config` is `RETRY` by default, and an address that begins with `http:` allows what it says.

        Raises:
            ExtraMissingError: the extra `remote` is not installed.
            RemoteError: the URL is not understood.
        """
        self.where = url.rstrip("/")
        try:
            from obstore.store import from_url  # noqa: PLC0415 - optional
        except ImportError as error:
            raise ExtraMissingError(
                f"reading {url} needs a package that is not installed ({error}): pip install 'peftbench[remote]'"
            ) from error
        options = {"retry_config": RETRY, **options}
        if url.startswith("http:"):
            options["client_options"] = {"allow_http": True, **(options.get("client_options") or {})}
        try:
            self._store: Any = from_url(self.where, **options)
        except BaseException as error:
            # At some wrong options obstore panics, which in Python is no Exception.
            if isinstance(error, Exception) or type(error).__name__ == "PanicException":
                raise self._failed(error) from error
            raise

    def read_file(self, name: str) -> bytes | None:
        """A small file's bytes; None where there is no such file.

        Raises:
            RemoteError: the machine does not answer, or refuses.
        """
        try:
            return bytes(self._store.get(name).bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._failed(error) from error
            return None
        except Exception as error:
            raise self._failed(error) from error

    def read_rows(self, extent: Extent, start: int, stop: int) -> Array:
        """Rows [start, stop) of a column, each chunk checked.

        Raises:
            StoreDamagedError: a chunk is missing or its bytes are not what was committed.
            RemoteError: the machine does not answer, or refuses.
        """
        size = extent.column.chunk_rows
        low, high = start - start % size, min(-(-stop // size) * size, extent.rows)
        if start >= stop:
            return np.empty((0, *extent.column.shape), dtype=extent.column.stored_dtype)
        rows = self._fetch(extent, low, high)
        for chunk in range(low // size, extent.column.chunks(high)):
            part = rows[chunk * size - low : (chunk + 1) * size - low]
            if checksum(part) != extent.checksums[chunk]:
                raise StoreDamagedError(
                    f"chunk {chunk} of {extent.name!r} in {self.where} is missing or not what was committed: "
                    f"{MEND_REMOTE}"
                )
        return rows[start - low : stop - low]

    def _fetch(self, extent: Extent, low: int, high: int) -> Array:
        import zarr  # noqa: PLC0415 - what lies here is read without it
        from obstore.exceptions import BaseError  # noqa: PLC0415
        from zarr.storage import ObjectStore  # noqa: PLC0415

        try:
            array = zarr.open_array(ObjectStore(self._store, read_only=True), path=extent.name, mode="r", zarr_format=3)
            found = np.ascontiguousarray(array[low:high])
        except (BaseError, OSError) as error:
            if not isinstance(error, FileNotFoundError):
                raise self._failed(error) from error
            raise StoreDamagedError(f"{self.where}/{extent.name} has lost its metadata: {MEND_REMOTE}") from error
        except Exception as error:
            # What was fetched is not what zarr expects.
            raise StoreDamagedError(f"{self.where}/{extent.name} cannot be read: {error}: {MEND_REMOTE}") from error
        if found.shape != (high - low, *extent.column.shape) or found.dtype != extent.column.stored_dtype:
            raise StoreDamagedError(f"{self.where}/{extent.name} has not the rows that were committed: {MEND_REMOTE}")
        return found

    def _failed(self, error: BaseException) -> RemoteError:
        place = "check the address"
        if not self.where.startswith("http"):
            place += ", and that its endpoint and credentials are in the environment"
            place += " (AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, ...)"
        return RemoteError(f"{self.where} cannot be read ({_reason(error)}): {place}")


def _reason(error: BaseException) -> str:
    """What obstore has to say, without the inner parts of its errors and the pages that servers answer with."""
    text = str(error).partition("Debug source:")[0]
    if "latest/api/token" in text:
        # The last place where a machine in a cloud would find its credentials.
        return "there are no credentials"
    if "config prefix" in text:
        return "an option in `config` belongs into `client_options`"
    if "builder error" in text:
        return "it is not encrypted: AWS_ALLOW_HTTP=true or client_options={'allow_http': True} allows that"
    told = re.search(r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", text, re.DOTALL)
    if told:
        return f"{told[1]}: {told[2]}".rstrip(".")
    # How long it took, and how often it was tried, stands in the midst of it.
    text = re.sub(r" in [0-9.]+[mnµ]?s(, after .*?)?(?= - )", "", " ".join(text.split()))
    return text.partition(": <")[0][:300].rstrip(".")
