"""Numbers and names as a reader sees them; the tables on disk keep full precision."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

from peftbench.backbones.registry import parse_backbone
from peftbench.errors import ConfigError, UnknownNameError
from peftbench.protocol.names import CONTROL_PREFIX, RANDOM_MARK, TRAINED, WITH_CLINICAL

ABSENT = "\N{EN DASH}"
"""Stands where there is no number; a footnote says why."""

MINUS = "\N{MINUS SIGN}"

CONTROL_TITLES = {
    "view": "view only (control)",
    "center": "centre only (control)",
    "images": "number of images only (control)",
    "metadata": "view, centre and number of images (control)",
    "clinical": "clinical variables alone (control)",
}
"""Title of each control, by its name without the prefix."""

CONTROL_SENTENCES = {
    "view": "sees only the view (AP or PA)",
    "center": "knows only the centre",
    "images": "knows only how many images a patient has",
    "metadata": "knows nothing but view, centre and number of images",
    "clinical": "knows only the clinical variables",
}
"""What each control goes by, as a sentence says it."""

IMAGES_OF = {"few-shot": " a class", "center few-shot": " a class and centre"}
"""Of what a regime's number of images is one number."""

Kind = Literal["pretrained", "random", "control"]


def kind_of(backbone: str) -> Kind:
    """Whether a backbone is pretrained, untrained, or a control."""
    if backbone.startswith(CONTROL_PREFIX):
        return "control"
    return "random" if RANDOM_MARK in backbone else "pretrained"


def backbone_title(backbone: str) -> str:
    """A backbone's title, its name where the registry does not know it; untrained weights are always said."""
    if kind_of(backbone) == "control":
        name = backbone.removeprefix(CONTROL_PREFIX)
        return CONTROL_TITLES.get(name, f"{name} only (control)")
    alone = backbone.removesuffix(WITH_CLINICAL)
    architecture, mark, seed = alone.partition(RANDOM_MARK)
    try:
        title = parse_backbone(architecture).title
    except (UnknownNameError, ConfigError):
        title = architecture
    title = f"{title}, random weights (seed {seed})" if mark else title
    return title if alone == backbone else f"{title}, with clinical variables"


def learner(strategy: str, probe: str) -> str:
    """What learnt, in a word or two: a probe by its name, what was fine-tuned by its strategy.

    A linear head is both: `logistic` on stored features, `trained LP` on streamed images.
    """
    if probe != TRAINED:
        return probe
    return f"trained {strategy}" if strategy == "LP" else strategy


def value_text(value: object) -> str:
    """A setting's value as a table shows it."""
    if isinstance(value, Mapping):
        return "; ".join(f"{str(key).replace('_', ' ')} {value_text(each)}" for key, each in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(value_text, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def control_phrase(backbone: str, *, several: bool = False) -> str:
    """A control as a sentence names it.

    Args:
        backbone: as a record names the control.
        several: whether it is the strongest of several.
    """
    name = backbone.removeprefix(CONTROL_PREFIX)
    does = CONTROL_SENTENCES.get(name)
    if several:
        return f"the strongest control, which {does}," if does else f"the strongest control, {name!r},"
    return f"the control that {does}" if does else f"the control {name!r}"


def number(value: float, *, signed: bool = False) -> str:
    """Two decimals with a true minus sign, `ABSENT` for NaN; rounding never hides on which side of zero a value is."""
    if math.isnan(value):
        return ABSENT
    size = abs(value)
    text = f"{size:.2f}" if size >= 0.005 or size < 1e-9 else f"{size:.1g}"
    if not float(text):
        return text
    return MINUS + text if value < 0 else f"+{text}" * signed or text


def spread(mean: float, std: float) -> str:
    """Mean ± standard deviation; the deviation is `ABSENT` where only one fold is left."""
    return ABSENT if math.isnan(mean) else f"{number(mean)} ± {number(std)}"


def between(low: float, high: float) -> str:
    """The bounds of an interval."""
    return f"{number(low)} to {number(high)}"


def listed(items: Sequence[str]) -> str:
    """Items as a sentence lists them: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def sentence(text: str) -> str:
    """A remark as a sentence: a capital first, a full stop last."""
    bare = text.strip()
    if not bare:
        return ""
    return bare[0].upper() + bare[1:] + ("" if bare[-1] in ".!?" else ".")


def shown(value: object) -> str:
    """A value of the results table: whole numbers without a decimal, nothing as `ABSENT`."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ABSENT
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def plural(count: int, noun: str) -> str:
    """A count and its noun: `1 image`, `2 images`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
