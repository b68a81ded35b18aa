"""Archives as somebody else would make them: with the standard library, and with anything in them."""

import hashlib
import io
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from weights_kit import tensors, torch_bytes

from peftbench import weights
from peftbench.weights.archive import MANIFEST_FILE, Manifest, Packed

Entry = tuple[tarfile.TarInfo, bytes]


def adopt(name: str, folder: Path, seed: int = 0) -> None:
    """Cached weights of a small backbone."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{seed}.pt"
    path.write_bytes(torch_bytes(tensors(seed)))
    weights.fetch(name, file=str(path), again=True)


def entry(name: str, data: bytes = b"", **facts: Any) -> Entry:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for key, value in facts.items():
        setattr(info, key, value)
    return info, data


def entries(archive: Path) -> list[Entry]:
    """What is in an archive, by the standard library's reader."""
    with tarfile.open(archive) as tar:
        found = []
        for info in tar:
            stream = tar.extractfile(info)
            assert stream is not None
            found.append(entry(info.name, stream.read()))
        return found


def packed(target: Path, all_of: Iterable[Entry]) -> Path:
    """An archive by the standard library's writer, closed as `bundle` closes its own."""
    stream = io.BytesIO()
    for info, data in all_of:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        stream.write(data + b"\0" * (-len(data) % 512))
    stream.write(b"\0" * 1024)
    target.write_bytes(stream.getvalue())
    return target


def manifest_for(all_of: Iterable[Entry], **changes: Any) -> Entry:
    """A manifest that fits its own digest and lists these files; `changes` are made to what it says of them."""
    files = [Packed(path=info.name, bytes=len(data), sha256=hashlib.sha256(data).hexdigest()) for info, data in all_of]
    files = [
        each.model_copy(update=changes.get(each.file.partition(".")[0], {})) for each in files
    ]  # fmt: skip
    made = Manifest.model_construct(schema_version=1, made_by="0.0", files=tuple(sorted(files, key=lambda x: x.path)))
    return entry(MANIFEST_FILE, made.to_bytes())
