"""Small checkpoints, cards for them, and a server that behaves as badly as the networks that it stands for."""

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from peftbench.backbones.card import BackboneCard, Checkpoint, Output
from peftbench.imaging.transform import IMAGENET

PREFIX = "visual."
NAME = "tiny"


def tiny_card(name: str = NAME, **checkpoint: Any) -> BackboneCard:
    """A backbone of a few numbers."""
    facts = {
        "kind": "url",
        "address": "http://127.0.0.1:9/tiny.pt",
        "file": "tiny.pt",
        "prefix": PREFIX,
        "megabytes": 1,
    }
    return BackboneCard(
        name=name,
        title=name.title(),
        family="FM",
        architecture="tests:Tiny",
        pretraining="none",
        data="none",
        checkpoint=Checkpoint(**{"megabytes": 1, **facts, **checkpoint}),
        licence="Apache-2.0",
        parameters=16,
        parameters_with_head=16,
        outputs=(Output("embedding", "last|mean", (4,)),),
        transform=IMAGENET,
        loader="tests:tiny",
        libraries=("torch",),
    )


def tensors(seed: int = 0, prefix: str = PREFIX, rows: int = 4) -> dict[str, Any]:
    """A tower of three tensors (one in bf16), and two that do not belong to it."""
    import torch

    made = torch.Generator().manual_seed(seed)
    return {
        f"{prefix}weight": torch.randn(rows, 4, generator=made),
        f"{prefix}half": torch.randn(3, generator=made).to(torch.bfloat16),
        f"{prefix}count": torch.tensor(seed),
        "text.weight": torch.randn(2, 2, generator=made),
        "logit_scale": torch.tensor(1.0),
    }


def tower_of(all_of: dict[str, Any], prefix: str = PREFIX) -> dict[str, Any]:
    return {name: each for name, each in all_of.items() if name.startswith(prefix)}


def same(mine: dict[str, Any], theirs: dict[str, Any]) -> bool:
    import torch

    return mine.keys() == theirs.keys() and all(
        mine[name].dtype == theirs[name].dtype and torch.equal(mine[name], theirs[name]) for name in mine
    )


def torch_bytes(value: Any, **options: Any) -> bytes:
    import torch

    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def zip_bytes(members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return stream.getvalue()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def noise(count: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(count)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but locks, by its path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "writer.lock"
    }


class Server:
    """What is served, how badly, and what was asked for.

    Attributes:
        files: path to bytes.
        etags: path to ETag; by default the start of the digest.
        cuts: for each answer to come, after how many bytes of it the connection is cut; None is not at all.
        ranges: whether parts are served.
        statuses: path to status instead of the file.
        types: path to content type.
        lengths: path to the Content-Length that is claimed.
        headers: path to further headers.
        redirects: path to another.
        pause: seconds before each block of `block` bytes.
        requests: (method, path, headers) as they came.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.cuts: list[int | None] = []
        self.ranges = True
        self.statuses: dict[str, int] = {}
        self.types: dict[str, str] = {}
        self.lengths: dict[str, int] = {}
        self.headers: dict[str, dict[str, str]] = {}
        self.redirects: dict[str, str] = {}
        self.pause = threading.Event()
        self.wait = 0.0
        self.block = 1 << 16
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.address = ""

    @property
    def ranges_asked(self) -> list[str | None]:
        return [headers.get("Range") for method, _, headers in self.requests if method == "GET"]


class _Handler(BaseHTTPRequestHandler):
    served: Server

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        served = self.served
        served.requests.append((self.command, self.path, dict(self.headers)))
        if self.path in served.redirects:
            self.send_response(302)
            self.send_header("Location", served.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = served.files.get(self.path)
        status = served.statuses.get(self.path, 200 if data is not None else 404)
        if data is None or status >= 400:
            self.send_error(status)
            return
        etag = served.etags.get(self.path, f'"{sha256(data)[:16]}"')
        start = self._start(data, etag)
        if start == len(data) and data:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else status)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Type", served.types.get(self.path, "application/octet-stream"))
        self.send_header("Content-Length", str(served.lengths.get(self.path, len(data) - start)))
        if etag:
            self.send_header("ETag", etag)
        for name, value in served.headers.get(self.path, {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self._send(data[start:])

    def _start(self, data: bytes, etag: str) -> int:
        asked = self.headers.get("Range")
        condition = self.headers.get("If-Range")
        if not self.served.ranges or not asked or (condition and condition != etag):
            return 0
        return int(asked.removeprefix("bytes=").partition("-")[0])

    def _send(self, data: bytes) -> None:
        served = self.served
        cut = served.cuts.pop(0) if served.cuts else None
        try:
            for begin in range(0, len(data if cut is None else data[:cut]), served.block):
                if served.wait:
                    served.pause.wait(served.wait)
                end = begin + served.block
                self.wfile.write(data[begin : end if cut is None else min(cut, end)])
                self.wfile.flush()
        except OSError:
            pass
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    served = Server()
    handler = type("Handler", (_Handler,), {"served": served})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        served.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield served
        finally:
            served.pause.set()
            server.shutdown()
            thread.join()
