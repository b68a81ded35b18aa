"""What is wanted of a call of `probe`, checked before anything is done."""

from dataclasses import dataclass
from typing import Literal, get_args

from peftbench.errors import ConfigError, unknown_name
from peftbench.probing.cells import ChosenOn
from peftbench.probing.families.family import ClassWeight
from peftbench.probing.inputs import READINGS, Reading
from peftbench.probing.registry import expand
from peftbench.probing.selecting import CRITERIA, Criterion

Regime = Literal["full", "reduced", "few-shot", "center-few-shot"]

REGIMES: tuple[Regime, ...] = get_args(Regime)

SIZES: dict[Regime, tuple[int, ...]] = {
    "full": (),
    "reduced": (256,),
    "few-shot": (2, 4, 8, 16, 32),
    "center-few-shot": (2, 4, 8, 16),
}
"""Shots a class (and centre), or images in all: those of the paper."""

DRAWS = 100
"""Support sets a fold and size, where none are asked for."""

PERMUTATIONS = 99
"""Labellings of the null distribution, so that the least p value is 0.01."""


@dataclass(frozen=True)
class Wanted:
    """The options of `probe`.

    Attributes:
        probes: names, sets expanded.
        regime: how much of the training part is used.
        sizes: of the support sets; None for the regime's own.
        draws: support sets a fold and size.
        chosen_on: where settings are chosen.
        criterion: what decides.
        class_weight: whether both classes weigh the same.
        reading: which outputs of the backbone.
        calibrate: whether scores are scaled by a temperature.
        permutations: labellings of the null distribution.
        clinical: whether clinical variables are used beside the features.
        seed: of the division and of whatever is random.
        workers: processes at most.
    """

    probes: tuple[str, ...]
    regime: Regime = "full"
    sizes: tuple[int, ...] | None = None
    draws: int = 1
    chosen_on: ChosenOn = "validation"
    criterion: Criterion = "log-loss"
    class_weight: ClassWeight = "balanced"
    reading: Reading = "embedding"
    calibrate: bool = False
    permutations: int = PERMUTATIONS
    clinical: bool = False
    seed: int = 0
    workers: int = 1

    @property
    def regime_name(self) -> str:
        """The regime as the protocol calls it."""
        return self.regime.replace("center-few-shot", "center few-shot")


def wanted(
    *,
    probes: tuple[str, ...],
    regime: str,
    shots: tuple[int, ...] | None,
    draws: int | None,
    chosen_on: str | None,
    criterion: str,
    class_weight: str,
    reading: str,
    calibrate: str,
    permutations: int,
    with_: tuple[str, ...],
    seed: int,
    workers: int,
) -> Wanted:
    """The options of `probe`, checked.

    Raises:
        UnknownNameError: there is no such probe, regime or reading.
        ConfigError: a value is out of its range, or options contradict each other.
    """
    if regime not in REGIMES:
        raise unknown_name("regime", regime, REGIMES, "peftbench probe --help")
    if reading not in READINGS:
        raise unknown_name("reading", reading, READINGS, "peftbench probe --help")
    full = regime == "full"
    _one_of("--choose-by", criterion, CRITERIA)
    _one_of("--class-weight", class_weight, get_args(ClassWeight))
    _one_of("--calibrate", calibrate, ("none", "temperature"))
    where = chosen_on or ("validation" if full else "support")
    _one_of("--choose-on", where, get_args(ChosenOn))
    for name in with_:
        _one_of("--with", name, ("clinical",))
    _not_below("--seed", seed, 0)
    _not_below("--permutations", permutations, 0)
    _not_below("--draws", 1 if draws is None else draws, 1)
    if full and (shots is not None or draws is not None or where == "support"):
        raise ConfigError(
            "--shots, --draws and --choose-on support are for regimes that use a part of the training part: "
            "add --regime few-shot, center-few-shot or reduced"
        )
    if not full and with_:
        raise ConfigError(
            f"--with clinical needs the whole training part, not --regime {regime}: leave one of them out"
        )
    if shots is not None:
        _check_shots(shots)
    return Wanted(
        probes=tuple(expand(probes)),
        regime=regime,
        sizes=None if shots is None else tuple(sorted(set(shots))),
        draws=1 if full else draws or DRAWS,
        chosen_on=where,  # type: ignore[arg-type]
        criterion=criterion,  # type: ignore[arg-type]
        class_weight=class_weight,  # type: ignore[arg-type]
        reading=reading,
        calibrate=calibrate == "temperature",
        permutations=permutations,
        clinical=bool(with_),
        seed=seed,
        workers=workers,
    )


def _check_shots(shots: tuple[int, ...]) -> None:
    if not shots:
        raise ConfigError("--shots is empty, expected numbers from 2 on, e.g. --shots 2,4,8")
    for each in shots:
        if each < 2:
            raise ConfigError(
                f"--shots is {each}, expected 2 or more: a setting is chosen by leaving one image out, and its class "
                "needs another"
            )


def _one_of(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{option} is {value!r}, expected {' or '.join(known)}")


def _not_below(option: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigError(f"{option} is {value}, expected {least} or more")
