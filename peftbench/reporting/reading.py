"""The honest reading of a task's table, in words. Pure functions; what cannot be said is said to be so."""

import math
from collections.abc import Sequence

from peftbench.analysis.intervals import Interval
from peftbench.analysis.results import gain
from peftbench.reporting.content import COMPARED, Entry, Section
from peftbench.reporting.words import between, control_phrase, listed, number, spread

WORSE_THAN_CHANCE = -0.05
"""A control below this MCC is said to be; nearer to zero it is chance."""

UNTRAINED_LESSON = "The score does not show that pretraining helps."


def reading(section: Section) -> list[str]:
    """What a task's scores say: against the control, then against untrained weights; one paragraph a comparison.

    Rows are compared only where they share rows, split, probe and regime; where there are several such groups each
    paragraph opens with what sets it apart.
    """
    groups = section.groups
    apart = section.varying(COMPARED) if len(groups) > 1 else []
    return [" ".join([*_which(group[0], apart), *read_group(group)]) for group in groups]


def read_group(entries: Sequence[Entry]) -> list[str]:
    """The sentences for rows that may be compared with each other."""
    backbones = [entry for entry in entries if entry.kind != "control"]
    if not backbones:
        return ["Only the control was run: probe a backbone to compare with it."]
    pretrained = [entry for entry in backbones if entry.kind == "pretrained"]
    untrained = [entry for entry in backbones if entry.kind == "random"]
    said = [against_control(pretrained or untrained), *below_chance(entries)]
    if pretrained and untrained:
        said.append(against_untrained(best(pretrained), best(untrained)))
    elif untrained:
        said.append("Only untrained weights were run, so nothing can be said of pretraining.")
    return said


def overall(parts: Sequence[Section]) -> str:
    """In how many tasks a pretrained backbone beats the control; empty where there is but one task to tell of."""
    judged = {
        part.heading: any(entry.gain.low > 0 for entry in part.entries if entry.kind == "pretrained")
        for part in parts
        if any(not math.isnan(entry.gain.low) for entry in part.entries if entry.kind == "pretrained")
    }
    if len(judged) < 2:
        return ""
    won = [name for name, wins in judged.items() if wins]
    if not won:
        return f"In none of {len(judged)} tasks is a pretrained backbone shown to beat its control."
    return f"In {len(won)} of {len(judged)} tasks a pretrained backbone beats its control: {listed(won)}."


def best(entries: Sequence[Entry]) -> Entry:
    """The entry with the highest mean MCC; one without a score comes last, of equals the first counts."""
    return max(entries, key=lambda entry: -math.inf if math.isnan(entry.mcc[0]) else entry.mcc[0])


def against_control(entries: Sequence[Entry]) -> str:
    """Which backbones beat the control, if any.

    Args:
        entries: backbones of one group, all pretrained or all untrained.
    """
    if not any(entry.row["control"] for entry in entries):
        return "No control was run on the same folds, so a score here cannot be told from a shortcut."
    judged = [entry for entry in entries if not math.isnan(entry.gain.low)]
    control = control_phrase(next(str(entry.row["control"]) for entry in entries if entry.row["control"]))
    if not judged:
        return f"Nothing can be said against {control}: fewer than two folds have a defined MCC."
    winners = [entry for entry in judged if entry.gain.low > 0]
    if winners:
        return _winners(winners, len(judged) - len(winners), control)
    if all(entry.gain.high < 0 for entry in judged):
        return _losers(judged, control)
    return _nobody(judged, control)


def below_chance(entries: Sequence[Entry]) -> list[str]:
    """A warning where the control does worse than chance, so that to gain over it means less than it seems."""
    backbones = [entry for entry in entries if entry.kind != "control"]
    controls = [entry.mcc[0] for entry in entries if entry.kind == "control" and entry.mcc[0] < WORSE_THAN_CHANCE]
    if not controls or not backbones:
        return []
    top = best([entry for entry in backbones if entry.kind == "pretrained"] or backbones)
    return [
        f"The control itself is below chance (MCC {number(min(controls))}), so the gain over it overstates: "
        f"measured from chance (0), {top.name} has an MCC of {spread(*top.mcc)}."
    ]


def against_untrained(pretrained: Entry, untrained: Entry) -> str:
    """Whether the best pretrained backbone beats the best untrained one, paired over the same folds."""
    difference = gain(pretrained.record, untrained.record)
    # "Untrained" says what the title's "random weights" says.
    ours, theirs = pretrained.name, f"an untrained {untrained.name.replace(', random weights', '')}"
    if math.isnan(difference.low):
        return f"Whether {ours} does better than {theirs} cannot be said: fewer than two folds have a defined MCC."
    if difference.low > 0:
        return f"{ours} beats {theirs} by {_size(difference)}."
    theirs = _capital(theirs)
    if difference.high < 0:
        return f"{theirs} beats {ours} by {_size(_turned(difference))}. {UNTRAINED_LESSON}"
    verdict = "does as well as" if difference.mean <= 0 else "is not distinguishable from"
    return f"{theirs} {verdict} {ours}: pretrained minus untrained is {_shift(difference)}. {UNTRAINED_LESSON}"


def _winners(winners: Sequence[Entry], others: int, control: str) -> str:
    ordered = sorted(winners, key=lambda entry: -entry.gain.mean)
    rest = f"; {others} more {'is' if others == 1 else 'are'} not shown to beat it" if others else ""
    if len(ordered) == 1:
        return f"{ordered[0].name} beats {control} by {_size(ordered[0].gain)}{rest}."
    told = [f"{entry.name} by {_size(entry.gain)}" for entry in ordered]
    return f"{_capital(control)} is beaten by several: {listed(told)}{rest}."


def _losers(entries: Sequence[Entry], control: str) -> str:
    top = best(entries)
    if len(entries) == 1:
        return f"{top.name} does worse than {control}, by {_size(_turned(top.gain))}."
    return f"Every backbone does worse than {control}: the best, {top.name}, by {_size(_turned(top.gain))}."


def _nobody(entries: Sequence[Entry], control: str) -> str:
    top = max(entries, key=lambda entry: entry.gain.mean)
    told = _shift(top.gain)
    if len(entries) == 1:
        return f"{top.name} is not distinguishable from {control}: its gain is {told}."
    which = "untrained" if top.kind == "random" else "pretrained"
    return f"No {which} backbone is distinguishable from {control}: the best, {top.name}, gains {told}."


def _size(difference: Interval) -> str:
    return f"{number(difference.mean)} MCC (95 % interval {between(difference.low, difference.high)})"


def _shift(difference: Interval) -> str:
    shift = number(difference.mean, signed=True)
    return f"{shift} MCC (95 % interval {between(difference.low, difference.high)})"


def _turned(difference: Interval) -> Interval:
    return Interval(-difference.mean, -difference.high, -difference.low, difference.folds)


def _which(entry: Entry, columns: Sequence[str]) -> list[str]:
    told = ", ".join(f"{column} {entry.row[column]}" for column in columns)
    return [f"{_capital(told)}:"] if told else []


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
