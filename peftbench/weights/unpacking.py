"""Reading an archive that may be anything: once, from its beginning to its end, as its manifest foretells it."""

import hashlib
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from peftbench.backbones.registry import all_cards
from peftbench.errors import WeightsError, WeightsFolderError
from peftbench.protocol.progress import Progress
from peftbench.weights.archive import (
    BLOCK,
    END,
    LARGEST_MANIFEST,
    MANIFEST_FILE,
    Manifest,
    Packed,
    explain,
    header,
    padding,
    read_manifest,
)

_CHUNK = 1 << 20
_MB = 1_000_000


def refused(path: Path, why: str) -> WeightsError:
    """The error for an archive that is not taken."""
    return WeightsError(
        f"the archive {path} is refused, and nothing of it was taken: {why}; pack it again with `peftbench weights "
        "bundle`, or copy it once more"
    )


class Reader:
    """Reads an archive once, from its beginning to its end, as its manifest foretells it."""

    def __init__(self, path: Path, told: Progress) -> None:
        self.path, self.told = path, told
        self.digest = hashlib.sha256()

    def unpack(self, staging: Path) -> Manifest:
        """Every file into the folder of its backbone below `staging`.

        Raises:
            WeightsError: anything is not as it must be.
        """
        try:
            stream = self.path.open("rb")
        except OSError as error:
            raise WeightsError(f"{self.path} cannot be read ({error.strerror}): change its rights") from error
        with stream:
            manifest = self._manifest(stream)
            self._refuse_unknown(manifest)
            total = sum(each.bytes for each in manifest.files)
            self._need(staging, total)
            self.told.start(f"unpacking {self.path.name} (MB)", max(1, total // _MB))
            for each in manifest.files:
                self._expect(stream, header(each.path, each.bytes), manifest, each.path)
                (staging / each.backbone).mkdir(exist_ok=True)
                self._unpack_one(stream, each, staging / each.backbone / each.file)
                self._expect_zeros(stream, padding(each.bytes))
            self._end(stream, manifest)
        return manifest

    def _manifest(self, stream: IO[bytes]) -> Manifest:
        head = self._read(stream, BLOCK)
        try:
            info = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise refused(self.path, f"it is no tar archive ({error})") from error
        if info.name != MANIFEST_FILE or not info.isreg():
            raise refused(self.path, f"it begins with {info.name!a}, expected {MANIFEST_FILE}")
        if info.size > LARGEST_MANIFEST:
            raise refused(self.path, f"its manifest has {info.size} bytes, at most {LARGEST_MANIFEST} are read")
        if head != header(MANIFEST_FILE, info.size):
            raise refused(self.path, "the header of its manifest is not as `peftbench weights bundle` writes it")
        data = self._read(stream, info.size)
        try:
            manifest = read_manifest(data)
        except ValueError as error:
            raise refused(self.path, str(error)) from error
        self._expect_zeros(stream, padding(info.size))
        return manifest

    def _refuse_unknown(self, manifest: Manifest) -> None:
        unknown = [name for name in manifest.backbones if name not in all_cards()]
        if unknown:
            raise refused(
                self.path,
                f"it holds weights of {', '.join(unknown)}, which this peftbench does not know (it was packed by "
                f"version {manifest.made_by}); `peftbench list backbones` shows those that it knows",
            )

    def _need(self, staging: Path, total: int) -> None:
        free = shutil.disk_usage(staging).free
        if total > free:
            raise WeightsFolderError(
                f"{self.path.name} unpacks to {total // _MB} MB, and {free // _MB} MB are free in {staging.parent}: "
                "free some space, or name another folder with PEFTBENCH_WEIGHTS"
            )

    def _expect(self, stream: IO[bytes], block: bytes, manifest: Manifest, name: str) -> None:
        found = self._read(stream, len(block))
        if found != block:
            raise refused(self.path, explain(found, manifest, name))

    def _expect_zeros(self, stream: IO[bytes], zeros: bytes) -> None:
        if self._read(stream, len(zeros)) != zeros:
            raise refused(self.path, "there is something between its files")

    def _unpack_one(self, stream: IO[bytes], each: Packed, target: Path) -> None:
        digest = hashlib.sha256()
        with target.open("xb") as out:
            for block in self._blocks(stream, each.bytes):
                digest.update(block)
                out.write(block)
        if digest.hexdigest() != each.sha256:
            raise refused(
                self.path, f"{each.path} has the SHA-256 {digest.hexdigest()}, its manifest says {each.sha256}"
            )

    def _end(self, stream: IO[bytes], manifest: Manifest) -> None:
        found = self._read(stream, len(END))
        if found != END:
            raise refused(self.path, explain(found[:BLOCK], manifest, ""))
        if self._some(stream, 1):
            raise refused(self.path, "it goes on behind its end")

    def _read(self, stream: IO[bytes], count: int) -> bytes:
        return b"".join(self._blocks(stream, count))

    def _blocks(self, stream: IO[bytes], count: int) -> Iterator[bytes]:
        done = 0
        while done < count:
            block = self._some(stream, min(_CHUNK, count - done))
            if not block:
                raise refused(self.path, "it is cut short")
            self.told.advance((done + len(block)) // _MB - done // _MB)
            done += len(block)
            yield block

    def _some(self, stream: IO[bytes], count: int) -> bytes:
        try:
            block = stream.read(count)
        except OSError as error:
            raise refused(self.path, f"it cannot be read to its end ({error.strerror})") from error
        self.digest.update(block)
        return block
