"""Checkpoints of any age and packing to one safetensors file: the vision tower's tensors, their names untouched.

Knows files and tensors; nothing of architectures, and nothing of where files come from. A pickle can run code when it
is read, so pickles are read by torch's restricted reader, which knows tensors and containers, and only once.
"""

import pickle
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from peftbench.backbones.cache import MODEL_FILE, WeightsRecord, put_in_place, scratch_of
from peftbench.backbones.card import BackboneCard
from peftbench.backbones.tensorfile import MARK, looks_like_safetensors, read_header
from peftbench.errors import MissingPackageError, WeightsError
from stores.keys import canonical_json, file_digest

if TYPE_CHECKING:
    import torch

    Tensors = dict[str, torch.Tensor]

WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training code keeps the tensors."""

LARGEST_RATIO = 200
LARGEST_MEMBER = 16_000_000_000
"""Of a member of a ZIP archive: times its packed size, and bytes. Weights hardly compress; a bomb does."""

_BLOCK = 1 << 20
_INSTEAD = "ask its publisher for safetensors, or for a plain dictionary of tensors"


class Original(NamedTuple):
    """A checkpoint as published, on this machine.

    Attributes:
        path: of the file.
        source: where it comes from, for people.
        sha256: of the complete file.
        revision: the commit of a hub's repository.
        named: whether the user named it, and so may have made it: it may hold the tower alone, without the prefix.
    """

    path: Path
    source: str
    sha256: str
    revision: str = ""
    named: bool = False


def convert(original: Original, card: BackboneCard, home: Path) -> WeightsRecord:
    """Make a checkpoint the cached weights of a backbone. The caller holds the folder's lock.

    Raises:
        WeightsError: it is not what it should be.
    """
    tensors = tower(read_checkpoint(original.path, card, scratch_of(home)), card, named=original.named)
    staged = scratch_of(home) / MODEL_FILE
    _write(tensors, staged, {"backbone": card.name, "source_sha256": original.sha256})
    record = WeightsRecord(
        backbone=card.name,
        source=original.source,
        file=original.path.name,
        revision=original.revision,
        source_sha256=original.sha256,
        sha256=file_digest(staged),
        bytes=staged.stat().st_size,
        tensors=len(tensors),
    )
    put_in_place(home, staged, record)
    return record


def load(path: Path) -> "Tensors":
    """The tensors of a safetensors file.

    Raises:
        WeightsError: it is damaged.
    """
    try:
        from safetensors import SafetensorError  # noqa: PLC0415 - a base install has none
        from safetensors.torch import load_file  # noqa: PLC0415 - imports torch
    except ImportError as error:
        raise _no_models(error) from error
    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError) as error:
        raise WeightsError(f"{path} is damaged ({_short(error)}): get it again") from error


def tower(tensors: "Tensors", card: BackboneCard, *, named: bool = False) -> "Tensors":
    """The tensors of the vision tower: those whose names begin with the checkpoint's prefix.

    Raises:
        WeightsError: none does, and the file was not named by the user, who may have kept the tower alone.
    """
    prefix = card.checkpoint.prefix if card.checkpoint else ""
    chosen = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not chosen and not named:
        raise WeightsError(
            f"the checkpoint of {card.name!r} has no tensor whose name begins with {prefix!r}, but {_some(tensors)}: "
            "it is another model's; get the one that `peftbench weights ls` names"
        )
    return chosen or tensors


def read_checkpoint(path: Path, card: BackboneCard | None = None, scratch: Path | None = None) -> "Tensors":
    """All tensors of a checkpoint under their names, without the wrapping that training code puts around them.

    Args:
        path: safetensors, a file of `torch.save`, or a ZIP archive that holds the card's `member`.
        card: whose checkpoint it is; needed for a ZIP archive.
        scratch: folder to unpack a member into; by default the system's.

    Raises:
        WeightsError: it is no checkpoint, is damaged, or holds more than tensors.
        MissingPackageError: torch is not installed.
    """
    try:
        kind = _kind(path)
        if kind == "safetensors":
            return _plain(load(path), path)
        if kind == "zip":
            with _unpacked(path, card, scratch) as member:
                return read_checkpoint(member)
        return _plain(_unpickled(path, mapped=kind == "torch"), path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}): name a file that can") from error


def _kind(path: Path) -> str:
    """By its first bytes, because names lie: `safetensors`, `torch` (ZIP), `zip` or `pickle`."""
    with path.open("rb") as stream:
        head = stream.read(512)
    if not head:
        raise WeightsError(f"{path} is empty (0 bytes), expected a checkpoint: get it again")
    if head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"<"):
        raise WeightsError(
            f"{path} is a web page, expected a checkpoint: whatever saved it was shown a login or an error page; open "
            "its address in a browser and save the file itself"
        )
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(f"{path} is a pointer of git-lfs, expected the checkpoint itself: run `git lfs pull` there")
    if looks_like_safetensors(path):
        return "safetensors"
    if head.startswith(b"PK"):
        return _kind_of_zip(path)
    if head[:1] == b"\x80":
        return "pickle"
    raise WeightsError(
        f"{path} is no checkpoint (it begins with {head[:8]!r}): expected safetensors, a file of torch.save, or a ZIP "
        "archive of one"
    )


def _kind_of_zip(path: Path) -> str:
    with _opened(path) as archive:
        names = archive.namelist()
    parts = {name.rpartition("/")[2] for name in names if name.count("/") <= 1}
    if "data.pkl" not in parts:
        return "zip"
    if "constants.pkl" in parts:
        raise WeightsError(f"{path} is a TorchScript archive, which holds a program: {_INSTEAD}")
    return "torch"


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise WeightsError(f"{path} is damaged or cut short ({error}): get it again") from error


@contextmanager
def _unpacked(path: Path, card: BackboneCard | None, scratch: Path | None) -> Iterator[Path]:
    """The card's member of a ZIP archive as a file, for as long as the block runs."""
    wanted = card.checkpoint.member if card and card.checkpoint else ""
    with _opened(path) as archive:
        member = _member(archive, wanted, path)
        with tempfile.NamedTemporaryFile(dir=scratch, prefix="member-") as target:
            # zipfile stops at the size that was declared and checks the member's CRC at its end.
            with archive.open(member) as source:
                while block := source.read(_BLOCK):
                    target.write(block)
            target.flush()
            yield Path(target.name)


def _member(archive: zipfile.ZipFile, wanted: str, path: Path) -> zipfile.ZipInfo:
    inside = [each for each in archive.infolist() if not each.is_dir()]
    # Archives are often made of the folder around the file.
    found = [each for each in inside if each.filename == wanted] or [
        each for each in inside if each.filename.rpartition("/")[2] == wanted
    ]
    if not wanted or len(found) != 1:
        expected = f"expected {wanted!r} in it once" if wanted else "expected a checkpoint, not an archive of files"
        raise WeightsError(f"the archive {path} holds {_some([each.filename for each in inside])}: {expected}")
    (member,) = found
    if member.flag_bits & 1:
        raise WeightsError(f"{member.filename} in {path} is encrypted: unpack it and name the unpacked file")
    if member.file_size > LARGEST_MEMBER or member.file_size > LARGEST_RATIO * max(member.compress_size, 1):
        raise WeightsError(
            f"{member.filename} in {path} would grow from {member.compress_size} to {member.file_size} bytes: at most "
            f"{LARGEST_RATIO} times and {LARGEST_MEMBER // 10**9} GB are unpacked; weights hardly compress, so this is "
            "something else"
        )
    return member


def _unpickled(path: Path, *, mapped: bool) -> Any:
    try:
        import torch  # noqa: PLC0415 - a base install has none
    except ImportError as error:
        raise _no_models(error) from error
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        if "Unsupported" in str(error) or "GLOBAL" in str(error):
            raise WeightsError(
                f"{path} holds objects other than tensors, and reading them could run code: weights_only refuses it; "
                f"{_INSTEAD}"
            ) from error
        raise WeightsError(f"{path} is damaged or no checkpoint ({_short(error)}): get it again") from error
    except Exception as error:
        # A damaged pickle raises whatever it stumbles over.
        raise WeightsError(f"{path} is damaged or cut short ({_short(error)}): get it again") from error


def _plain(value: Any, path: Path) -> "Tensors":
    """Tensors by name and nothing else."""
    import torch  # noqa: PLC0415 - imported long since

    value = _unwrapped(value)
    if not isinstance(value, Mapping) or not value:
        what = "nothing" if isinstance(value, Mapping) else f"a {type(value).__name__}"
        raise WeightsError(f"{path} holds {what}, expected tensors by name: {_INSTEAD}")
    for name, each in value.items():
        if not isinstance(name, str) or not isinstance(each, torch.Tensor):
            raise WeightsError(f"{path} holds {name!r}, a {type(each).__name__}, expected tensors alone: {_INSTEAD}")
        if each.layout is not torch.strided or each.is_quantized or each.is_meta:
            raise WeightsError(f"{path} holds {name!r}, a sparse or quantized tensor, expected plain ones: {_INSTEAD}")
    # Training on several GPUs wraps the model in another, whose only part is called `module`.
    wrapped = all(name.startswith("module.") for name in value)
    return {name.removeprefix("module.") if wrapped else name: each.detach() for name, each in value.items()}


def _unwrapped(value: Any) -> Any:
    for _ in WRAPPERS:
        if isinstance(value, Mapping):
            inner = [value[key] for key in WRAPPERS if isinstance(value.get(key), Mapping)]
            value = inner[0] if inner else value
    return value


def _write(tensors: "Tensors", path: Path, facts: Mapping[str, str]) -> None:
    from safetensors import SafetensorError  # noqa: PLC0415 - a base install has none
    from safetensors.torch import save_file  # noqa: PLC0415 - imports torch

    # Tensors may share storage (tied weights) or be views of it, which the format does not have. One key of metadata,
    # because several are written in no fixed order, and the same original shall give the same bytes everywhere.
    own = {name: tensor.contiguous().clone() for name, tensor in tensors.items()}
    path.touch()
    rights = path.stat().st_mode
    try:
        save_file(own, path, metadata={MARK: canonical_json(dict(facts))})
    except SafetensorError as error:
        # Its word for a disk that is full.
        raise OSError(_short(error)) from error
    # The library makes files that only their owner may read; a group shares its weights.
    path.chmod(rights)
    read_header(path)


def _no_models(error: ImportError) -> MissingPackageError:
    return MissingPackageError(
        f"weights cannot be read without the package {error.name!r}, which is not installed: "
        "pip install 'peftbench[models,offline]'"
    )


def _some(names: Any) -> str:
    names = sorted(names)
    return ", ".join(map(repr, names[:4])) + (f" and {len(names) - 4} more" if len(names) > 4 else "") or "nothing"


def _short(error: Exception) -> str:
    """The first sentence of what a library said, which may go on for a page."""
    first = next(iter(str(error).strip().splitlines()), "")[:160]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
