"""Downloads that go on where they stopped.

Knows URLs and files; nothing of checkpoints. A hub is only asked where a file lies, at which commit, and what its
SHA-256 is: its own downloader begins anew after every interruption, which on a slow line never ends.
"""

import os
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import NamedTuple

from peftbench.backbones.card import Checkpoint
from peftbench.errors import DownloadError
from peftbench.protocol.progress import Progress

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""

TRIES = 20
"""Connections that may be cut in one download, as long as each brought something."""

_BLOCK = 1 << 16
_MB = 1_000_000
_HEX = re.compile(r"[0-9a-f]{64}")
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class Remote(NamedTuple):
    """A file elsewhere.

    Attributes:
        url: where.
        file: its name here.
        sha256: of it, as far as its keeper states one.
        size: bytes, if known beforehand.
        revision: the commit that a hub resolved.
        headers: to send to that host, and to no other that it may lead to.
    """

    url: str
    file: str
    sha256: str = ""
    size: int | None = None
    revision: str = ""
    headers: Mapping[str, str] = {}


class _CutError(Exception):
    """The connection ended before the file did."""


def is_offline() -> bool:
    """Whether the user forbids the network: PEFTBENCH_OFFLINE or HF_HUB_OFFLINE."""
    said = (os.environ.get(name, "").strip().lower() for name in ("PEFTBENCH_OFFLINE", "HF_HUB_OFFLINE"))
    return any(each in {"1", "true", "yes", "on"} for each in said)


def resolve(checkpoint: Checkpoint) -> Remote:
    """Where a checkpoint lies at this moment. Asks the hub for one of a hub.

    Raises:
        DownloadError: the hub cannot be asked, or has no such file.
    """
    if checkpoint.kind != "hub":
        return Remote(checkpoint.address, Path(checkpoint.file).name, checkpoint.sha256)
    try:
        from huggingface_hub import get_hf_file_metadata, get_token, hf_hub_url  # noqa: PLC0415 - a base install has none
    except ImportError as error:
        raise DownloadError(f"the package {error.name!r} is not installed: pip install 'peftbench[models]'") from error
    revision = checkpoint.revision or "main"
    try:
        facts = get_hf_file_metadata(hf_hub_url(checkpoint.address, checkpoint.file, revision=revision))
    except Exception as error:
        # The errors of whichever HTTP library the hub's package uses.
        raise DownloadError(_reason(error)) from error
    commit, token = facts.commit_hash or "", get_token()
    return Remote(
        url=hf_hub_url(checkpoint.address, checkpoint.file, revision=commit or revision),
        file=Path(checkpoint.file).name,
        sha256=facts.etag if facts.etag and _HEX.fullmatch(facts.etag) else "",
        size=facts.size,
        revision=commit,
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )


def download(remote: Remote, folder: Path, told: Progress) -> Path:
    """Bring a file into a folder; what an earlier try left there is gone on with.

    The caller makes sure that nobody else does the same, and checks the file's digest.

    Raises:
        DownloadError: it cannot be had.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    done, part = folder / remote.file, folder / f"{remote.file}.part"
    if done.is_file():
        return done
    bar = _Megabytes(told, remote.file)
    for _ in range(TRIES):
        before = _size(part)
        try:
            _go_on(remote, part, bar)
            break
        except _CutError as error:
            if _size(part) <= before:
                raise DownloadError(f"{error}{_kept(part)}") from error
    else:
        raise DownloadError(f"the connection was cut {TRIES} times{_kept(part)}")
    part.replace(done)
    _tag(part).unlink(missing_ok=True)
    return done


def _kept(part: Path) -> str:
    return f"; {_size(part)} bytes are kept, and the next try goes on from there" if _size(part) else ""


def _go_on(remote: Remote, part: Path, bar: "_Megabytes") -> None:
    """One connection.

    Raises:
        _CutError: it was cut.
    """
    offset = _size(part)
    with _connected(remote, part) as response:
        if response is None:
            # The server has nothing beyond what is here.
            return
        start, total = _span(response, offset)
        if remote.size is not None and total is not None and total != remote.size:
            raise DownloadError(f"it offers {total} bytes, expected {remote.size}")
        _need_room(part.parent, (total or 0) - start)
        _tag(part).write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
        bar.begin(start, total)
        with part.open("ab" if start else "wb") as stream:
            for block in _blocks(response):
                stream.write(block)
                # The safe moment to stop at: what was written stays.
                stream.flush()
                bar.add(len(block))
            os.fsync(stream.fileno())
    if total is not None and _size(part) < total:
        raise _CutError("the connection was cut")


@contextmanager
def _connected(remote: Remote, part: Path) -> Iterator[HTTPResponse | None]:
    request, offset, validator = _request(remote), _size(part), _validator(part, remote)
    if offset and validator is not None:
        request.add_header("Range", f"bytes={offset}-")
        if validator:
            request.add_header("If-Range", validator)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)  # noqa: S310 - _request checked the scheme
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 416 and error.headers.get("Content-Range", "") == f"bytes */{offset}":
                yield None
                return
        if error.code == 416:
            part.unlink(missing_ok=True)
            raise DownloadError("the file there has changed since: the next try begins anew") from error
        raise DownloadError(f"HTTP {error.code} {error.reason}") from error
    except (OSError, HTTPException, ValueError) as error:
        raise _CutError(_reason(error)) from error
    with response:
        _refuse_detour(remote, response)
        yield response


def _request(remote: Remote) -> urllib.request.Request:
    if urllib.parse.urlsplit(remote.url).scheme not in {"http", "https"}:
        raise DownloadError(f"the address {remote.url!r} is none of http or https")
    request = urllib.request.Request(remote.url)  # noqa: S310 - http or https
    # As they are, redirects would carry them to other hosts, tokens among them.
    for name, value in remote.headers.items():
        request.add_unredirected_header(name, value)
    return request


def _refuse_detour(remote: Remote, response: HTTPResponse) -> None:
    final = response.url if isinstance(response.url, str) else remote.url
    if remote.url.startswith("https:") and not final.startswith("https:"):
        raise DownloadError("it leads to an address without encryption")
    if response.headers.get_content_type() == "text/html":
        raise DownloadError("it answers with a web page, as portals do that want a login first")


def _span(response: HTTPResponse, offset: int) -> tuple[int, int | None]:
    """First byte that comes, and length of the whole file if it is told."""
    if response.status == 206:
        found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not found or int(found[1]) != offset:
            raise DownloadError(f"it answers a part that was not asked for ({response.headers.get('Content-Range')})")
        return offset, int(found[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            # Whatever is there: waiting for full blocks on a slow line would make Ctrl-C wait as well.
            block = response.read1(_BLOCK)
        except (OSError, HTTPException) as error:
            raise _CutError(_reason(error)) from error
        if not block:
            return
        yield block


def _validator(part: Path, remote: Remote) -> str | None:
    """What tells that the file is still the one that was begun; empty where its digest will, None where none does."""
    try:
        tag = _tag(part).read_text()
    except OSError:
        tag = ""
    if tag and not tag.startswith("W/"):
        return tag
    return "" if remote.sha256 else None


def _tag(part: Path) -> Path:
    return part.with_name(f"{part.name}.tag")


def _need_room(folder: Path, count: int) -> None:
    free = shutil.disk_usage(folder).free
    if count > free:
        raise OSError(f"{count // _MB} MB are to come, {free // _MB} MB are free")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _reason(error: BaseException) -> str:
    inner = getattr(error, "reason", None) or error
    lines = str(inner).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


class _Megabytes:
    """A progress that counts bytes and tells whole megabytes; one job, however often the connection is cut."""

    def __init__(self, told: Progress, file: str) -> None:
        self.told, self.file = told, file
        self.total: int | None = None
        self.bytes = self.shown = 0
        self.begun = False

    def begin(self, start: int, total: int | None) -> None:
        """A connection brings the file from a byte on."""
        self.bytes, self.total = start, total
        if not self.begun:
            self.told.start(f"downloading {self.file} (MB)", max(1, -(-(total or 0) // _MB)))
            self.begun = True
        self.add(0)

    def add(self, count: int) -> None:
        """So many bytes more; may raise, to stop."""
        self.bytes += count
        whole = self.bytes // _MB if self.bytes != self.total else -(-self.bytes // _MB)
        step, self.shown = max(0, whole - self.shown), max(whole, self.shown)
        self.told.advance(step)
