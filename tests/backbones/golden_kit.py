"""What the backbones computed when they were written: stored, so that a change of a library or of ours is noticed.

`golden/tiny.npz` holds every output of every small backbone (`tiny_kit`) for the golden pictures, in fp32 on the
processor; `golden/full.json` of those of full size the start and the length of each output for the first picture. The
weights are drawn from the published names (`layout_kit`), so nothing has to be downloaded.

Features that change are another key's, and what was published with the old ones can no longer be compared: regenerate
only on purpose, and say why in the commit.

    python tests/backbones/golden_kit.py          # the small ones, a second
    python tests/backbones/golden_kit.py full     # those of full size, half a minute
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

GOLDEN = Path(__file__).parent / "golden"
TINY, FULL = GOLDEN / "tiny.npz", GOLDEN / "full.json"

STARTS = 16
"""Values of an output of full size that are stored."""

Features = dict[str, npt.NDArray[np.float32]]


def tiny_features(name: str) -> Features:
    """All outputs of a small backbone for the golden pictures."""
    from tiny_kit import golden_pixels, tiny

    backbone = tiny(name)
    found = backbone.outputs(backbone.module(), golden_pixels(backbone.card))
    return {output: value.numpy() for output, value in found.items()}


def stored_tiny(name: str) -> Features:
    with np.load(TINY) as stored:
        return {each.partition("/")[2]: stored[each] for each in stored.files if each.startswith(f"{name}/")}


def full_features(name: str) -> dict[str, dict[str, Any]]:
    """The start of each output of a backbone of full size for the first golden picture, and its length."""
    from layout_kit import layout, tower
    from tiny_kit import golden_pixels

    from peftbench.backbones.cards import CARDS
    from peftbench.backbones.loading import find_loader

    card = CARDS[name]
    assert card.checkpoint is not None
    loader = find_loader(card)
    module = loader.load(tower(layout(name), card.checkpoint.prefix)).eval()
    with torch.inference_mode():
        found = loader.outputs(module, golden_pixels(card, 1))
    return {
        output: {"starts": value.flatten()[:STARTS].tolist(), "norm": float(value.double().norm())}
        for output, value in found.items()
    }


def stored_full(name: str) -> dict[str, dict[str, Any]]:
    value: dict[str, dict[str, Any]] = json.loads(FULL.read_text())[name]
    return value


def regenerate(which: str = "tiny") -> None:
    """Compute all and store them; the same features give the same file."""
    from tiny_kit import NAMES

    torch.set_num_threads(1)
    GOLDEN.mkdir(exist_ok=True)
    if which == "full":
        lines = [f' "{name}": {json.dumps(full_features(name))}' for name in NAMES]
        FULL.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    else:
        arrays = {f"{name}/{each}": values for name in NAMES for each, values in tiny_features(name).items()}
        np.savez_compressed(TINY, allow_pickle=False, **arrays)


if __name__ == "__main__":
    regenerate(*sys.argv[1:])
