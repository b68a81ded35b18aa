"""What is wanted of a call of `probe`, checked before anything is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack, get_args

from peftbench.cohorts.crew import workers_or_default
from peftbench.errors import ConfigError, unknown_name
from peftbench.probing.cells import ChosenOn
from peftbench.probing.families.family import ClassWeight
from peftbench.probing.inputs import READINGS, Reading
from peftbench.probing.registry import expand
from peftbench.probing.selecting import CRITERIA, Criterion
from peftbench.protocol.names import LOGISTIC
from peftbench.protocol.options import refuse_below, refuse_other, several, sizes_of
from peftbench.protocol.splits.supports import REGIMES, Regime, regime_name

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
        return regime_name(self.regime)


class ProbeOptions(TypedDict, total=False):
    """What `probe` takes besides task, backbone and places.

    Attributes:
        probe: name or names (`peftbench.list("probes")`), `classical`, `all`, or any classifier by its import path,
            e.g. `sklearn.svm.SVC(C=10)`; by default `logistic`.
        regime: `full` (the default), `reduced`, `few-shot`, or `center-few-shot`.
        shots: images a class (and centre) of a few-shot regime, images in all of `reduced`; by default the paper's, as
            far as the task has them.
        draws: support sets a fold and number of shots; by default 100.
        with_: `clinical`: clinical variables alone, and beside each backbone's features.
        reading: `embedding` (the default), or `blocks`: the last block or the last four, with and without the mean
            patch token.
        choose_on: where C (or what a probe has in its place) is chosen: `validation`, or `support`, each image of the
            support set by the fit without it; by default `support` where a part of the training part is used.
        choose_by: `log-loss` (balanced; the default) or `mcc`.
        class_weight: `balanced` (the default) or `none`.
        calibrate: `none` (the default), or `temperature`: scores scaled on the validation part.
        permutations: labellings of the null distribution, 0 for none; by default 99.
        seed: of the division into folds and of whatever is random; by default 0.
        workers: processes at most; by default one a core.
    """

    probe: str | Sequence[str]
    regime: str
    shots: int | Sequence[int] | None
    draws: int | None
    with_: str | Sequence[str]
    reading: str
    choose_on: str | None
    choose_by: str
    class_weight: str
    calibrate: str
    permutations: int
    seed: int
    workers: int | None


def wanted(**options: Unpack[ProbeOptions]) -> Wanted:
    """The options of `probe`, checked.

    Raises:
        TypeError: there is no such option.
        UnknownNameError: there is no such probe, regime or reading.
        ConfigError: a value is out of its range, or options contradict each other.
    """
    strange = sorted(options.keys() - ProbeOptions.__annotations__.keys())
    if strange:
        raise TypeError(f"probe has no option {strange[0]!r}: it takes {', '.join(ProbeOptions.__annotations__)}")
    regime, shots, draws = options.get("regime", "full"), options.get("shots"), options.get("draws")
    full = regime == "full"
    found = Wanted(
        probes=tuple(expand(several(options.get("probe", LOGISTIC)))),
        regime=regime,  # type: ignore[arg-type]
        sizes=sizes_of(shots),
        draws=1 if draws is None and full else DRAWS if draws is None else draws,
        chosen_on=options.get("choose_on") or ("validation" if full else "support"),  # type: ignore[arg-type]
        criterion=options.get("choose_by", "log-loss"),  # type: ignore[arg-type]
        class_weight=options.get("class_weight", "balanced"),  # type: ignore[arg-type]
        reading=options.get("reading", "embedding"),  # type: ignore[arg-type]
        calibrate=options.get("calibrate", "none") == "temperature",
        permutations=options.get("permutations", PERMUTATIONS),
        clinical="clinical" in several(options.get("with_", ())),
        seed=options.get("seed", 0),
        workers=workers_or_default(options.get("workers")),
    )
    _check_names(found, options)
    _check_numbers(found)
    if full and (shots is not None or draws is not None or found.chosen_on == "support"):
        raise ConfigError(
            "--shots, --draws and --choose-on support are for regimes that use a part of the training part: "
            "add --regime few-shot, center-few-shot or reduced"
        )
    if not full and found.clinical:
        raise ConfigError(
            f"--with clinical needs the whole training part, not --regime {regime}: leave one of them out"
        )
    return found


def _check_names(found: Wanted, options: ProbeOptions) -> None:
    if found.regime not in REGIMES:
        raise unknown_name("regime", found.regime, REGIMES, "peftbench probe --help")
    if found.reading not in READINGS:
        raise unknown_name("reading", found.reading, READINGS, "peftbench probe --help")
    refuse_other("--choose-by", found.criterion, CRITERIA)
    refuse_other("--class-weight", found.class_weight, get_args(ClassWeight))
    refuse_other("--calibrate", options.get("calibrate", "none"), ("none", "temperature"))
    refuse_other("--choose-on", found.chosen_on, get_args(ChosenOn))
    for name in several(options.get("with_", ())):
        refuse_other("--with", name, ("clinical",))


def _check_numbers(found: Wanted) -> None:
    refuse_below("--seed", found.seed, 0)
    refuse_below("--permutations", found.permutations, 0)
    refuse_below("--draws", found.draws, 1)
    if found.sizes is not None:
        _check_shots(found.sizes)


def _check_shots(shots: tuple[int, ...]) -> None:
    if not shots:
        raise ConfigError("--shots is empty, expected numbers from 2 on, e.g. --shots 2,4,8")
    for each in shots:
        if each < 2:
            raise ConfigError(
                f"--shots is {each}, expected 2 or more: a setting is chosen by leaving one image out, and its class "
                "needs another"
            )
