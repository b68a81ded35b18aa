"""What a training leaves on the disk: its state while it runs, and a checkpoint of the best epoch.

A state is for the same cell to go on from. It is replaced atomically and carries the digest of its bytes; it goes when
the cell is done. A checkpoint holds what learnt, in the safetensors format: adapters and head, of full fine-tuning
everything. Its header says which run, fold and draw it is of, which weights it was trained on, and how they were
adapted.
"""

import hashlib
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from peftbench.errors import RecordError
from peftbench.protocol.progress import Progress
from stores.atomic import write_atomic
from stores.keys import canonical_json, file_digest

STATE_SECONDS = 30.0
"""Between two states: how much work kill -9 can cost, at least."""

STATE_SHARE = 20.0
"""Times that a state's writing took must pass before the next: of large models it takes long."""

CHECKPOINTS = "checkpoints"
"""Folder of checkpoints inside a record."""

_HEADER = "peftbench"
_DIGEST_BYTES = 64


class StateFile:
    """The state of one cell's training.

    Args:
        path: of the file.
        told: hears of a damaged one.
        seconds: between two states, at least.
    """

    def __init__(self, path: Path, told: Progress, seconds: float = STATE_SECONDS) -> None:
        self.path, self.told, self.pause = path, told, seconds
        self._next = time.monotonic() + seconds

    def read(self) -> dict[str, Any] | None:
        """The state that was kept; None where there is none, or it is damaged: then the cell begins anew."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        digest, body = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        if hashlib.sha256(body).hexdigest().encode() != digest:
            self.told.note(f"the kept state {self.path.name} is damaged: this part of the training begins anew")
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
        return state

    def due(self) -> bool:
        """Whether enough time has passed since the last."""
        return time.monotonic() >= self._next

    def write(self, state: dict[str, Any]) -> None:
        """Replace what was kept, all or nothing."""
        start = time.monotonic()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        body = buffer.getbuffer()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, hashlib.sha256(body).hexdigest(), body)
        took = time.monotonic() - start
        self._next = time.monotonic() + max(self.pause, STATE_SHARE * took)

    def forget(self) -> None:
        """The cell is done."""
        self.path.unlink(missing_ok=True)


def write_checkpoint(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> str:
    """Save what learnt, atomically; answers the SHA-256 of the file.

    Args:
        path: of the file.
        tensors: by name.
        about: what a reader must know, as JSON's types.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.torch.save(dict(tensors), metadata={_HEADER: canonical_json(dict(about))})
    write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def read_checkpoint(path: Path, digest: str) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The tensors of a checkpoint, and what its header says.

    Args:
        path: of the file.
        digest: SHA-256 that the record states.

    Raises:
        RecordError: it is missing, or its bytes are not those that were written.
    """
    again = "run `peftbench finetune ... --force` to train it again"
    if not path.is_file():
        raise RecordError(f"the checkpoint {path} is missing: {again}")
    if file_digest(path) != digest:
        raise RecordError(f"the checkpoint {path} is damaged, or another one than the record names: {again}")
    with safetensors.safe_open(path, framework="pt") as held:
        about = json.loads((held.metadata() or {})[_HEADER])
        return {name: held.get_tensor(name) for name in held.keys()}, about  # noqa: SIM118 - not a dict
