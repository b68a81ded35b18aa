"""Pixel policies: how the samples of a file become canonical pixels, each named, each part of the key."""

from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from peftbench.errors import ConfigError, unknown_name
from stores.keys import digest_of

PolicyName = Literal["minmax", "window", "percentile", "equalize"]

POLICIES: tuple[PolicyName, ...] = get_args(PolicyName)

DECODER = "grey2"
"""How files become samples, as part of the key: raised when the same file would give other samples."""

PERCENTILES = (0.5, 99.5)
"""Between these the policy `percentile` stretches: burnt-in letters and dead detector lines lie outside."""

_TONES: dict[PolicyName, str] = {
    "minmax": "minmax(8bit)",
    "window": "window(first)or-minmax(8bit)",
    "percentile": "percentile({},{})(8bit)".format(*PERCENTILES),
    "equalize": "equalize(8bit)",
}

MEANING: dict[PolicyName, str] = {
    "minmax": "the darkest sample becomes 0, the brightest 255, as in the paper",
    "window": "the VOI LUT or the first window that a DICOM file names; min-max where it names none",
    "percentile": f"min-max between the percentiles {PERCENTILES[0]} and {PERCENTILES[1]}; the rest is cut off",
    "equalize": "histogram equalisation: every tone about equally frequent",
}


class PixelPolicy(BaseModel):
    """How a file's samples become canonical pixels.

    Attributes:
        name: `minmax` (as in the paper), `window`, `percentile` or `equalize`; `MEANING` says what each does.
        side: longest side in pixels; larger pictures are reduced, smaller ones are kept as they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: PolicyName = "minmax"
    side: int = Field(default=512, ge=32, le=4096)

    @property
    def recipe(self) -> str:
        """The policy as one readable string."""
        return f"{DECODER}|{_TONES[self.name]}|fit({self.side},bicubic,antialias)"

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe."""
        return digest_of(self.recipe)


def as_policy(name: str | PixelPolicy, side: int = 512) -> PixelPolicy:
    """A policy by its name.

    Raises:
        UnknownNameError: there is none of that name.
        ConfigError: the side is out of its range.
    """
    if isinstance(name, PixelPolicy):
        return name
    known = {str(each): each for each in POLICIES}
    if name not in known:
        raise unknown_name("pixel policy", name, POLICIES, "peftbench prepare --help")
    if not 32 <= side <= 4096:
        raise ConfigError(f"--side is {side}, expected 32 to 4096 pixels")
    return PixelPolicy(name=known[name], side=side)
