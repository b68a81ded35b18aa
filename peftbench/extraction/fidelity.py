"""What a faster way of computing features keeps of them, picture by picture.

Features of two ways are compared by the cosine of the angle between them: what probes and nearest neighbours see.
"""

import copy
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from peftbench.backbones.device import FAITHFUL_COSINE, GOLDEN_COSINE, Precision, exact_fp32
from peftbench.backbones.golden import golden_pictures
from peftbench.backbones.loading import Encoder
from peftbench.extraction.engine import Engine


def cosines(one: npt.NDArray[np.floating], other: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Cosine between the rows of two matrices (n, d), in double precision: (n,)."""
    a, b = one.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    found: npt.NDArray[np.float64] = (a * b).sum(axis=1) / np.where(lengths > 0, lengths, 1.0)
    return found


def precision_cosine(encoder: Encoder, device: torch.device, precision: Precision) -> float:
    """Lowest cosine of embeddings in a precision to those in fp32, over the golden pictures."""
    if device.type != "cpu":
        # An engine takes the module to its device; the caller's stays where it is.
        encoder = replace(encoder, module=copy.deepcopy(encoder.module))
    pictures = encoder.card.transform.shape(golden_pictures())
    ways: tuple[Precision, Precision] = ("fp32", precision)
    with exact_fp32():
        exact, faster = (Engine(encoder, device, each, len(pictures)).embed(pictures)["embedding"] for each in ways)
    return float(cosines(exact, faster).min())


def keeps_in_bf16(encoder: Encoder, device: torch.device) -> bool:
    """Whether a backbone's features keep their direction: as its card says, else as the golden pictures show."""
    measured = encoder.card.bf16_cosine if encoder.spec.is_published else None
    if measured is not None:
        return measured >= FAITHFUL_COSINE
    return precision_cosine(encoder, device, "bf16") >= GOLDEN_COSINE
