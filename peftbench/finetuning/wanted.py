"""What is wanted of a call of `finetune`, checked before anything is done."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict, Unpack

from peftbench.errors import ConfigError, unknown_name
from peftbench.finetuning.bench import Adaptation
from peftbench.protocol.options import refuse_below, refuse_other, several, sizes_of
from peftbench.protocol.splits.supports import REGIMES, Regime, regime_name
from peftbench.strategies.matrix import RANKED, canonical

RANK = 8
"""Of strategies that have one, where none is asked for."""

DRAWS = 5
"""Support sets a fold and size, where none are asked for: a training is dearer than a probe."""

PERMUTATIONS = 99


@dataclass(frozen=True)
class Wanted:
    """The options of `finetune`.

    Attributes:
        adaptations: strategies, each with each rank if it has one.
        preset: name or file.
        sets: settings on top of it.
        regime: how much of the training part is used.
        sizes: of the support sets; None for the regime's own.
        draws: support sets a fold and size.
        permutations: labellings of the null distribution.
        seed: of the division and of whatever is random.
        checkpoints: `all`, `none`, or `auto`: all but those of full fine-tuning on support sets.
    """

    adaptations: tuple[Adaptation, ...]
    preset: str = "paper"
    sets: tuple[str, ...] = ()
    regime: Regime = "full"
    sizes: tuple[int, ...] | None = None
    draws: int = 1
    permutations: int = PERMUTATIONS
    seed: int = 0
    checkpoints: str = "auto"

    @property
    def regime_name(self) -> str:
        """The regime as the protocol calls it."""
        return regime_name(self.regime)

    def keeps(self, adaptation: Adaptation) -> bool:
        """Whether the checkpoints of an adaptation are kept."""
        if self.checkpoints == "auto":
            return self.regime == "full" or adaptation.strategy != "FFT"
        return self.checkpoints == "all"


class FinetuneOptions(TypedDict, total=False):
    """What `finetune` takes besides task, backbone and places.

    Attributes:
        rank: of LoRA and VeRA, one or several; by default 8.
        preset: `paper` (the default), `quick`, or the path of a YAML or JSON file of settings.
        set_: settings on top of the preset, `key=value` each.
        regime: `full` (the default), `reduced`, `few-shot`, or `center-few-shot`.
        shots: images a class (and centre) of a few-shot regime, images in all of `reduced`; by default the paper's, as
            far as the task has them.
        draws: support sets a fold and number of shots, the first of those that `probe` draws; by default 5.
        permutations: labellings of the null distribution, 0 for none; by default 99.
        seed: of the division into folds and of whatever is random; by default 0.
        checkpoints: `auto` (all but those of full fine-tuning on support sets; the default), `all` or `none`.
    """

    rank: int | Sequence[int] | None
    preset: str
    set_: str | Sequence[str]
    regime: str
    shots: int | Sequence[int] | None
    draws: int | None
    permutations: int
    seed: int
    checkpoints: str


def wanted(strategies: Sequence[str], **options: Unpack[FinetuneOptions]) -> Wanted:
    """The options of `finetune`, checked.

    Raises:
        UnknownNameError: there is no such strategy or regime.
        ConfigError: an option is out of its range, or options contradict each other.
        TypeError: there is no such option.
    """
    strange = sorted(options.keys() - FinetuneOptions.__annotations__.keys())
    if strange:
        known = ", ".join(FinetuneOptions.__annotations__)
        raise TypeError(f"finetune has no option {strange[0]!r}: it takes {known}")
    regime, draws, shots = options.get("regime", "full"), options.get("draws"), options.get("shots")
    if regime not in REGIMES:
        raise unknown_name("regime", regime, REGIMES, "peftbench finetune --help")
    found = Wanted(
        adaptations=_adaptations(strategies, options.get("rank")),
        preset=options.get("preset", "paper"),
        sets=several(options.get("set_", ())),
        regime=next(each for each in REGIMES if each == regime),
        sizes=sizes_of(shots),
        draws=draws if draws is not None else 1 if regime == "full" else DRAWS,
        permutations=options.get("permutations", PERMUTATIONS),
        seed=options.get("seed", 0),
        checkpoints=options.get("checkpoints", "auto"),
    )
    _check(found, asked=shots is not None or draws is not None)
    return found


def _adaptations(strategies: Sequence[str], rank: int | Sequence[int] | None) -> tuple[Adaptation, ...]:
    names = list(dict.fromkeys(canonical(each) for each in strategies))
    if not names:
        raise ConfigError("no strategy named: give at least one with --strategy; `peftbench list strategies` shows all")
    ranks = list(dict.fromkeys([rank] if isinstance(rank, int) else rank or [RANK]))
    if rank is not None and not set(names) & set(RANKED):
        raise ConfigError(f"--rank is of {' and '.join(RANKED)}, and --strategy names {', '.join(names)}: leave it out")
    for each in ranks:
        if each < 1:
            raise ConfigError(f"--rank is {each}, expected 1 or more; the paper has 4, 8 and 16")
    return tuple(Adaptation(name, each) for name in names for each in (ranks if name in RANKED else [None]))


def _check(found: Wanted, *, asked: bool) -> None:
    if found.regime == "full" and asked:
        raise ConfigError(
            "--shots and --draws are for regimes that use a part of the training part: add --regime few-shot, "
            "center-few-shot or reduced"
        )
    refuse_below("--seed", found.seed, 0)
    refuse_below("--permutations", found.permutations, 0)
    refuse_below("--draws", found.draws, 1)
    if found.sizes is not None and (not found.sizes or found.sizes[0] < 1):
        told = ",".join(map(str, found.sizes)) or "empty"
        raise ConfigError(f"--shots is {told}, expected whole numbers from 1 on, e.g. --shots 2,4,8")
    refuse_other("--checkpoints", found.checkpoints, ("auto", "all", "none"))
