"""Canonical pixels to a backbone's input, described by one readable string that is part of the feature's key.

Resizing works on 8-bit pixels (what torchvision does to a PIL image or a uint8 tensor), normalisation on a whole
batch. Extraction and training use the same class, so a stored feature and a streamed one mean the same.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

Interpolation = Literal["bilinear", "bicubic"]

CHANNELS_AT_ONCE = 4
"""Interleaved channels that torch resizes by its vectorised path."""

_TEXT = re.compile(
    r"(?:padsquare\((?P<pad>[1-9]\d*)\)\|)?"
    r"resize\((?P<resize>\d+),(?P<interpolation>bilinear|bicubic),antialias\)\|centercrop\((?P<crop>\d+)\)"
    r"\|rgb\|normalize\(mean=(?P<mean>[\d.,e+-]+);std=(?P<std>[\d.,e+-]+)\)"
)


@dataclass(frozen=True)
class InputTransform:
    """Pad to a square if wished, resize the shorter side, cut out the centre, repeat grey as RGB, scale, normalise.

    Attributes:
        resize: length of the shorter side after resizing, in pixels.
        crop: side of the square centre that is kept, in pixels.
        interpolation: of the resize, always with antialiasing.
        mean: of each channel, subtracted.
        std: of each channel, divided by.
        pad: where not 0, a picture is first set in the middle of a black square whose side is its longer one, and at
            least this many pixels.
    """

    resize: int
    crop: int
    interpolation: Interpolation
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad: int = 0

    def __str__(self) -> str:
        mean, std = (",".join(map(repr, values)) for values in (self.mean, self.std))
        padded = f"padsquare({self.pad})|" if self.pad else ""
        return (
            f"{padded}resize({self.resize},{self.interpolation},antialias)|centercrop({self.crop})"
            f"|rgb|normalize(mean={mean};std={std})"
        )

    @classmethod
    def parse(cls, text: str) -> "InputTransform":
        """The transform that a string describes.

        Raises:
            ValueError: the string is not of that form.
        """
        found = _TEXT.fullmatch(text)
        fault = f"not an input transform: {text!r}; expected a form like {IMAGENET}"
        if not found:
            raise ValueError(fault)
        interpolation: Interpolation = "bicubic" if found["interpolation"] == "bicubic" else "bilinear"
        try:
            red, green, blue = map(float, found["mean"].split(","))
            of_red, of_green, of_blue = map(float, found["std"].split(","))
            mean, std = (red, green, blue), (of_red, of_green, of_blue)
            return cls(int(found["resize"]), int(found["crop"]), interpolation, mean, std, int(found["pad"] or 0))
        except ValueError as error:
            raise ValueError(f"{fault} ({error})") from error

    def __post_init__(self) -> None:
        if not 1 <= self.crop <= self.resize:
            raise ValueError(f"the crop is {self.crop}, expected from 1 to the resized side, {self.resize}")
        if self.pad < 0:
            raise ValueError(f"the padding is {self.pad}, expected 0 or more pixels")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(f"expected three means and three positive deviations, got {self.mean}, {self.std}")

    def resized_extent(self, height: int, width: int) -> tuple[int, int]:
        """Height and width after resizing: the shorter side exact, the longer one cut to whole pixels."""
        if height <= width:
            return self.resize, int(self.resize * width / height)
        return int(self.resize * height / width), self.resize

    def shape(self, pictures: Sequence[npt.NDArray[np.uint8]]) -> "torch.Tensor":
        """Canonical pictures, resized and cut.

        torch resizes interleaved channels of 8 bits several at a time. Grey pictures of the same extent therefore
        travel as the channels of one; each comes out as it would alone, to the bit.

        Args:
            pictures: (height, width) each, uint8; extents may differ.

        Returns:
            (pictures, crop, crop) uint8.
        """
        import torch  # noqa: PLC0415 - the module must import without torch

        pictures = [self._padded(picture) for picture in pictures] if self.pad else pictures
        shaped = np.empty((len(pictures), self.crop, self.crop), dtype=np.uint8)
        for rows in _packs([picture.shape for picture in pictures]):
            shaped[rows] = self._resize([pictures[row] for row in rows])
        return torch.from_numpy(shaped)

    def _padded(self, picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        height, width = picture.shape
        side = max(self.pad, height, width)
        square = np.zeros((side, side), dtype=np.uint8)
        top, left = (side - height) // 2, (side - width) // 2
        square[top : top + height, left : left + width] = picture
        return square

    def _resize(self, pack: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
        import torch  # noqa: PLC0415
        from torch.nn import functional  # noqa: PLC0415

        # Two channels have no fast path in torch, three and four do. numpy interleaves them, because torch would
        # start its own threads for that, in every thread that shapes.
        filled = [*pack, pack[-1]] if len(pack) == 2 else pack
        channels = torch.from_numpy(np.stack(filled, axis=-1)).permute(2, 0, 1)[None]
        target = self.resized_extent(*pack[0].shape)
        resized = functional.interpolate(channels, size=target, mode=self.interpolation, antialias=True)[0].numpy()
        top, left = (round((length - self.crop) / 2) for length in target)
        return resized[: len(pack), top : top + self.crop, left : left + self.crop]

    def normalise(self, batch: "torch.Tensor", out: "torch.Tensor") -> "torch.Tensor":
        """Shaped pictures as model input.

        Args:
            batch: (pictures, crop, crop) uint8.
            out: (pictures, 3, crop, crop), float, overwritten and returned.
        """
        grey = batch.float()
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            out[:, channel] = grey * (1.0 / (255.0 * std)) - mean / std
        return out


def _packs(extents: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Positions of equal extents, at most `CHANNELS_AT_ONCE` together."""
    alike: dict[tuple[int, ...], list[int]] = {}
    for position, extent in enumerate(extents):
        alike.setdefault(extent, []).append(position)
    for positions in alike.values():
        for start in range(0, len(positions), CHANNELS_AT_ONCE):
            yield positions[start : start + CHANNELS_AT_ONCE]


IMAGENET = InputTransform(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What torchvision's ImageNet classifiers were trained on."""

HALF = InputTransform(256, 224, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""What TensorFlow's EfficientNet-Lite was trained on."""

_OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

CLIP = InputTransform(224, 224, "bicubic", *_OPENAI)
"""What OpenAI's CLIP and its descendants were trained on."""

DINO = InputTransform(256, 224, "bicubic", IMAGENET.mean, IMAGENET.std)
"""What DINOv2 is evaluated with."""

MEDCLIP = InputTransform(224, 224, "bicubic", (0.5862785803043838,) * 3, (0.27950088968644304,) * 3, pad=224)
"""What MedCLIP's own processor does: the whole picture in a black square; mean and deviation of chest X-rays."""


def interpolation_of(name: str) -> Interpolation:
    """A library's name of an interpolation; `random` of several, as in training, is the first of them.

    Raises:
        ValueError: it is neither bilinear nor bicubic.
    """
    if name == "bicubic":
        return "bicubic"
    if name in {"bilinear", "random"}:
        return "bilinear"
    raise ValueError(f"the interpolation is {name!r}, expected bilinear or bicubic")
