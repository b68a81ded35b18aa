"""Checkpoints as their publishers lay them out: names, types and shapes from stored lists, weights drawn from names.

`layouts/full/<backbone>.json.gz` lists every tensor of a published file, in its order; `layouts/tiny/<kind>.json` those
of a small model of the same code, with its configuration, and `layouts/tiny/<kind>.npz` what the original library
computes with it. `layouts/make_legacy.py` makes all of them with the libraries of the time.

No weights are stored. They are drawn from bits whose stream numpy guarantees, by whole numbers alone, so that they are
the same to the last bit with any version of numpy and torch. This file must import beside libraries of 2022.
"""

import dataclasses
import gzip
import hashlib
import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from peftbench.backbones.card import BackboneCard

LAYOUTS = Path(__file__).parent / "layouts"

CHUNK = 1 << 16
"""Numbers drawn at a time: they stay in the processor's cache."""

PERIOD = 65_521
"""Where not all of a large tensor need be drawn, its values repeat; a prime, so that no two rows are the same."""

Layout = list[tuple[str, str, tuple[int, ...]]]
"""Name, type (`float32`) and shape of each tensor, in the order of the file."""

TOKENS = ("class_embedding", "cls_token", "mask_token", "pos_embed", "position_embedding.weight")
TOKENS += ("position_embeddings", "positional_embedding", "relative_position_bias_table")
"""Learnt vectors that are added or put in front; what ends so is no weight of a layer."""


BLOCK = re.compile(r"\.(?:layers?|resblocks|blocks)\.(\d+)\.")
"""Of a Vision Transformer, in a tensor's name."""

DERIVED = ("out_features", "out_indices", "stage_names", "_out_features", "_out_indices")
"""What a configuration of transformers works out from the number of blocks."""


def layout(name: str, size: str = "full") -> Layout:
    """The tensors of a published file (`full`, by the backbone's name) or of a small model (`tiny`, by its kind)."""
    return [(each, kind, tuple(shape)) for each, kind, shape in described(name, size)["tensors"]]


def described(name: str, size: str = "full") -> dict[str, Any]:
    """All that is stored of a layout: `tensors`, the libraries that made it and, of a small one, its `config`."""
    if size == "full":
        content = gzip.decompress((LAYOUTS / "full" / f"{name}.json.gz").read_bytes())
    else:
        content = (LAYOUTS / "tiny" / f"{name}.json").read_bytes()
    value: dict[str, Any] = json.loads(content)
    return value


def computed(kind: str, size: str = "tiny") -> dict[str, torch.Tensor]:
    """What the original library computed with a small model, or with a backbone at full size: tensors by name."""
    with np.load(LAYOUTS / size / f"{kind}.npz") as stored:
        return {name: torch.from_numpy(stored[name].copy()) for name in stored.files}


def layout_of(tensors: Mapping[str, torch.Tensor]) -> Layout:
    """The layout of tensors at hand."""
    return [(name, str(each.dtype).removeprefix("torch."), tuple(each.shape)) for name, each in tensors.items()]


def tower(listed: Layout, prefix: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """The vision tower's tensors as a loader is given them: drawn under their full names, then without the prefix."""
    tensors = seeded_tensors((each for each in listed if each[0].startswith(prefix)), seed)
    return {name.removeprefix(prefix): each for name, each in tensors.items()}


def cut(listed: Layout, blocks: int, extents: Mapping[int, int]) -> Layout:
    """A layout with fewer blocks, its extents exchanged: the names of a published file for a small model."""
    kept = [each for each in listed if int((BLOCK.search(each[0]) or [0, 0])[1]) < blocks]
    return [(name, kind, tuple(extents.get(side, side) for side in shape)) for name, kind, shape in kept]


def tiny_config(kind: str) -> dict[str, Any]:
    """Configuration of the small model of a kind."""
    config: dict[str, Any] = described(kind, "tiny")["config"]
    return config


def shrunk(loader: Any, **changes: Any) -> Any:
    """The library's own loader with a smaller architecture; all else, activation and norms, stays as it is."""
    kept = {name: value for name, value in loader.config.to_dict().items() if name not in DERIVED}
    return dataclasses.replace(loader, config=type(loader.config).from_dict({**kept, **changes}))


def seeded_tensors(
    listed: Iterable[tuple[str, str, tuple[int, ...]]], seed: int = 0, period: int | None = None
) -> dict[str, torch.Tensor]:
    """Tensors of a layout; each depends on its name, its shape, the seed and the period alone.

    The spread is that of a network in use: activations keep their size, no norm is the identity, no bias is zero, so
    that a tensor that is in the wrong place or left out changes what is computed.
    """
    return {name: _tensor(name, kind, tuple(shape), seed, period) for name, kind, shape in listed}


def seeded_pixels(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A batch of normalised input."""
    return torch.from_numpy(_bell("pixels", shape, seed))


def grey_picture(height: int, width: int) -> np.ndarray:
    """A picture of 8 bits with flat places, edges, black and white, by whole numbers alone."""
    row, column = np.divmod(np.arange(height * width), width)
    waves = (row * row // 7 + 3 * column) // 16 * 40 + (row + column) // 2
    disc = (row - height // 2) ** 2 + (column - width // 3) ** 2 < (min(height, width) // 4) ** 2
    levels = np.where(disc, 255 - waves % 97, waves % 256).reshape(height, width)
    levels[: height // 9], levels[:, : width // 11] = 0, 255
    return levels.astype(np.uint8)


def _tensor(name: str, kind: str, shape: tuple[int, ...], seed: int, period: int | None) -> torch.Tensor:
    last = name.rpartition(".")[2]
    if last == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if last == "position_ids":
        return torch.arange(shape[-1]).expand(shape).clone()
    if last == "relative_position_index":
        return relative_position_index(math.isqrt(shape[0]))
    if kind != "float32":
        raise ValueError(f"no weights for {name}: {kind}")
    if last == "running_var":
        return torch.from_numpy(0.5 + _uniform(name, shape, seed))
    scale, shift = _spread(name, shape)
    repeats = period is not None and math.prod(shape) > period
    drawn = np.resize(_bell(name, (period,), seed), shape) if repeats else _bell(name, shape, seed)
    drawn *= np.float32(scale)
    drawn += np.float32(shift)
    return torch.from_numpy(drawn)


def _spread(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Deviation and mean."""
    if name.endswith(TOKENS):
        return 0.5, 0.0
    if name.endswith("lambda1"):
        return 0.1, 0.5
    if len(shape) >= 2:
        return 1 / math.sqrt(math.prod(shape[1:])), 0.0
    return 0.1, 1.0 if name.endswith("weight") else 0.0


def relative_position_index(window: int) -> torch.Tensor:
    """Of Swin: for two places of a window, the row of the table for their offset (Liu et al. 2021)."""
    row, column = np.divmod(np.arange(window * window), window)
    down = row[:, None] - row[None] + window - 1
    right = column[:, None] - column[None] + window - 1
    return torch.from_numpy(down * (2 * window - 1) + right)


def _stream(name: str, seed: int) -> np.random.PCG64:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.PCG64(int.from_bytes(digest[:16], "little"))


def _uniform(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """From 0 to below 1, in steps of 2^-24."""
    bits = _stream(name, seed).random_raw(math.prod(shape)).reshape(shape)
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)


def _bell(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Mean 0, variance 1: the sum of four even whole numbers from 0 to 65,535, nearly normal and exact everywhere."""
    stream, drawn = _stream(name, seed), np.zeros(math.prod(shape), dtype=np.float32)
    for start in range(0, drawn.size, CHUNK):
        piece = drawn[start : start + CHUNK]
        parts = stream.random_raw(piece.size).astype("<u8", copy=False).view("<u2").reshape(-1, 4)
        # Whole numbers up to 262,140: a float holds each of these sums exactly.
        for place in range(4):
            piece += parts[:, place]
    drawn -= np.float32(2 * 65535)
    drawn *= np.float32(1 / math.sqrt((65536.0**2 - 1) / 3))
    return drawn.reshape(shape)


def write_layout(path: Path, description: Mapping[str, Any]) -> None:
    """Store a layout; the same content gives the same file."""
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(json.dumps(description, separators=(",", ":")).encode(), mtime=0))
        return
    lines = ",\n".join(f"  {json.dumps(each)}" for each in description["tensors"])
    rest = [f' "{key}": {json.dumps(value)},' for key, value in description.items() if key != "tensors"]
    path.write_text("\n".join(["{", *rest, f' "tensors": [\n{lines}\n ]', "}"]) + "\n")


def write_checkpoint(folder: Path, name: str, tensors: Mapping[str, torch.Tensor], card: "BackboneCard") -> Path:
    """Write tensors as a backbone's publisher ships them.

    Args:
        folder: where to.
        name: of the file; empty for the one on the card.
        tensors: under the published names.
        card: says of what form the file is: safetensors, a ZIP archive with a pickle in it, or a pickle.

    Returns:
        The file.
    """
    checkpoint = card.checkpoint
    assert checkpoint is not None, f"{card.name} has no checkpoint"
    path = folder / (name or checkpoint.file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        from safetensors.torch import save_file

        save_file({each: tensor.contiguous() for each, tensor in tensors.items()}, path, metadata={"format": "pt"})
    elif checkpoint.member:
        with zipfile.ZipFile(path, "w") as archive, archive.open(checkpoint.member, "w", force_zip64=True) as member:
            torch.save(dict(tensors), member)
    else:
        torch.save(dict(tensors), path)
    return path
