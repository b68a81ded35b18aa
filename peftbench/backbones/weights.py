"""Weights files and the digests in their names."""

from pathlib import Path

from peftbench.errors import WeightsError
from stores.keys import file_digest


def check_digest(path: Path) -> None:
    """Compare a checkpoint with the start of its SHA-256, which torch's hub puts into the name (`resnet18-f37072fd`).

    Raises:
        WeightsError: they differ, or there is no such file.
    """
    if not path.is_file():
        raise WeightsError(f"the weights file {path} is missing: reinstall or download it")
    expected = path.stem.rsplit("-", 1)[-1]
    found = file_digest(path)
    if not found.startswith(expected):
        raise WeightsError(
            f"the weights file {path.name} is damaged: its SHA-256 starts with {found[:8]}, expected {expected}: "
            "delete or reinstall it, then run again"
        )
