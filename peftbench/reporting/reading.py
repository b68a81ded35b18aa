"""The honest reading of a task's table, in words. Pure functions; what cannot be said is said to be so."""

import math
from collections.abc import Sequence

from peftbench.analysis.intervals import Interval
from peftbench.analysis.results import gain, how
from peftbench.protocol.names import CLINICAL_CONTROL
from peftbench.reporting.content import COMPARED, USUAL_PROBE, Entry, Section
from peftbench.reporting.words import IMAGES_OF, between, control_phrase, listed, number, plural, shown, spread

WORSE_THAN_CHANCE = -0.05
"""A control below this MCC is said to be; nearer to zero it is chance."""

MOST_GROUPS = 4
"""Comparisons that are told one by one; of more, one is, and the others are counted."""

UNTRAINED_LESSON = "The score does not show that pretraining helps."


def reading(section: Section) -> list[str]:
    """What a task's scores say: against the controls, then against untrained weights; one paragraph a comparison.

    Rows are compared only where they share rows, split, probe (or were fine-tuned) and regime; where there are several
    such groups each paragraph opens with what sets it apart. Of many, the usual probe's is told, and that of what was
    fine-tuned beside it, and the others are counted.
    """
    groups = section.groups
    apart = section.varying(COMPARED) if len(groups) > 1 else []
    first = section.told_first
    rest = [group for group in groups if group not in first] if len(groups) <= MOST_GROUPS else []
    paragraphs = [
        " ".join([*_which(group[0], apart), *read_group(group), *beside_probe(group, section.entries)])
        for group in (*first, *rest)
    ]
    return [*paragraphs, *([_others(section)] if len(paragraphs) < len(groups) else [])]


def read_group(entries: Sequence[Entry]) -> list[str]:
    """The sentences for rows that may be compared with each other."""
    controls = [entry for entry in entries if entry.kind == "control"]
    backbones = [entry for entry in entries if entry.kind != "control"]
    if not backbones:
        run = "Only the control was run" if len(controls) == 1 else "Only controls were run"
        return [f"{run}: probe a backbone to compare with {'it' if len(controls) == 1 else 'them'}."]
    alone = [entry for entry in backbones if not entry.with_clinical] or backbones
    pretrained = [entry for entry in alone if entry.kind == "pretrained"]
    untrained = [entry for entry in alone if entry.kind == "random"]
    said = [against_control(pretrained or untrained, controls), *below_chance(pretrained or untrained, controls)]
    if pretrained and untrained:
        said.append(against_untrained(best(pretrained), best(untrained)))
    elif untrained:
        said.append("Only untrained weights were run, so nothing can be said of pretraining.")
    return [*said, *beside_clinical(backbones, controls)]


def overall(parts: Sequence[Section]) -> str:
    """In how many tasks a pretrained backbone beats its strongest control; empty where there is but one to tell of."""
    judged = {
        part.heading: any(entry.gain.low > 0 for entry in part.reference if entry.kind == "pretrained")
        for part in parts
        if any(not math.isnan(entry.gain.low) for entry in part.reference if entry.kind == "pretrained")
    }
    if len(judged) < 2:
        return ""
    won = [name for name, wins in judged.items() if wins]
    if not won:
        return f"In none of {len(judged)} tasks is a pretrained backbone shown to beat its strongest control."
    return f"In {len(won)} of {len(judged)} tasks a pretrained backbone beats its strongest control: {listed(won)}."


def best(entries: Sequence[Entry]) -> Entry:
    """The entry with the highest mean MCC; one without a score comes last, of equals the first counts."""
    return max(entries, key=lambda entry: -math.inf if math.isnan(entry.mcc[0]) else entry.mcc[0])


def strongest(controls: Sequence[Entry], *, clinical: bool = False) -> Entry | None:
    """The control with the highest mean MCC, of equals the first; that of the clinical variables only if asked for."""
    asked = [entry for entry in controls if clinical or entry.record.config.backbone != CLINICAL_CONTROL]
    return best(asked) if asked else None


def best_pretrained(entries: Sequence[Entry]) -> Entry | None:
    """The best pretrained backbone by itself; together with clinical variables only where it was not run alone."""
    found = [entry for entry in entries if entry.kind == "pretrained"]
    alone = [entry for entry in found if not entry.with_clinical]
    return best(alone or found) if found else None


def against_control(entries: Sequence[Entry], controls: Sequence[Entry]) -> str:
    """Which backbones beat the strongest of the controls, if any.

    Args:
        entries: backbones of one group, all pretrained or all untrained.
        controls: of the same group.
    """
    rival = strongest(controls)
    if rival is None:
        return "No control was run on the same folds, so a score here cannot be told from a shortcut."
    several = len({entry.title for entry in controls}) > 1
    control = control_phrase(rival.record.config.backbone, several=several)
    judged = [entry for entry in _set_against(entries, rival) if not math.isnan(entry.gain.low)]
    if not judged:
        return f"Nothing can be said against {control.rstrip(',')}: fewer than two folds have a defined MCC."
    winners = [entry for entry in judged if entry.gain.low > 0]
    if winners:
        return _winners(winners, len(judged) - len(winners), control)
    if all(entry.gain.high < 0 for entry in judged):
        return _losers(judged, control)
    return _nobody(judged, control)


def below_chance(entries: Sequence[Entry], controls: Sequence[Entry]) -> list[str]:
    """A warning where the strongest control does worse than chance, so that to gain over it means less than it seems.

    Args:
        entries: backbones of one group.
        controls: of the same group.
    """
    rival = strongest(controls)
    if rival is None or not rival.mcc[0] < WORSE_THAN_CHANCE:
        return []
    top = best(entries)
    which = "The control itself" if len(controls) == 1 else "Even the strongest control"
    return [
        f"{which} is below chance (MCC {number(rival.mcc[0])}), so the gain over it overstates: "
        f"measured from chance (0), {top.name} has an MCC of {spread(*top.mcc)}."
    ]


def beside_clinical(entries: Sequence[Entry], controls: Sequence[Entry]) -> list[str]:
    """Whether features add to clinical variables: the best of both together against the clinical variables alone."""
    both = [entry for entry in entries if entry.with_clinical and entry.kind == "pretrained"]
    alone = [entry for entry in controls if entry.record.config.backbone == CLINICAL_CONTROL]
    if not both or not alone:
        return []
    (top,) = _set_against([best(both)], alone[0])
    difference = top.gain
    if math.isnan(difference.low):
        return [f"Whether {top.name}, does better than these alone cannot be said."]
    if difference.low > 0:
        return [f"{top.name}, beats these variables alone by {_size(difference)}."]
    verdict = "does worse than" if difference.high < 0 else "is not distinguishable from"
    return [f"{top.name}, {verdict} these variables alone: the difference is {_shift(difference)}."]


def beside_probe(group: Sequence[Entry], entries: Sequence[Entry]) -> list[str]:
    """Whether the best fine-tuned row of a group beats the linear probe of its own backbone on the same folds.

    Args:
        group: rows that may be compared with each other.
        entries: all rows of the section.
    """
    tuned = [entry for entry in group if entry.tuned and entry.kind == "pretrained"]
    if not tuned:
        return []
    top = best(tuned)
    probes = [each for each in entries if each.record.config.probe == USUAL_PROBE and each.ground == top.ground]
    own = [each for each in probes if each.record.config.backbone == top.record.config.backbone]
    if not own:
        return [f"No linear probe of {top.title} was run on the same folds, so what fine-tuning adds is not known."]
    difference = gain(top.record, best(own).record)
    if math.isnan(difference.low):
        return [f"Whether {top.name} does better than its linear probe cannot be said: it takes two folds."]
    if difference.low > 0:
        return [f"{top.name} beats its linear probe by {_size(difference)}."]
    verdict = "does worse than" if difference.high < 0 else "is not distinguishable from"
    return [f"{top.name} {verdict} its linear probe: the difference is {_shift(difference)}."]


def curve_words(section: Section) -> list[str]:
    """From how many images on the best pretrained backbone beats its strongest control, a sentence a regime."""
    said = []
    for regime in section.regimes:
        found = [each for each in section.sampled if each.record.config.regime == regime and each.kind == "pretrained"]
        judged = [entry for entry in found if not math.isnan(entry.gain.low)]
        if not judged:
            continue
        most = max(shots_of(entry) for entry in judged)
        top = best_pretrained([entry for entry in judged if shots_of(entry) == most]) or judged[0]
        line = sorted((entry for entry in judged if series_of(entry) == series_of(top)), key=shots_of)
        said.append(_from_when(regime, top, line))
    return said


def shots_of(entry: Entry) -> int:
    """Number of images of an entry's regime."""
    return entry.record.config.shots or 0


def series_of(entry: Entry) -> tuple[object, ...]:
    """What the points of one learning curve share."""
    config = entry.record.config
    learnt = (config.probe, config.strategy, how(entry.record)) if entry.tuned else (config.probe,)
    return (config.backbone, *learnt, config.regime, config.split_digest, config.features, config.version)


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


def _set_against(entries: Sequence[Entry], rival: Entry) -> list[Entry]:
    """Entries whose gain is that over one control."""
    told = []
    for entry in entries:
        found = gain(entry.record, rival.record)
        told.append(
            entry._replace(row={**entry.row, "gain_mean": found.mean, "gain_low": found.low, "gain_high": found.high})
        )
    return told


def _from_when(regime: str, top: Entry, line: Sequence[Entry]) -> str:
    """From the smallest number of images on from which each larger one beats the control too."""
    start: int | None = None
    for entry in reversed(line):
        if not entry.gain.low > 0:
            break
        start = shots_of(entry)
    name = f"{_capital(regime)}: {top.title} ({top.learner})"
    if start is None:
        sizes = f"{plural(shots_of(line[-1]), 'image')}{IMAGES_OF.get(regime, '')}"
        return f"{name} is not shown to beat its strongest control with {sizes}, the most that were tried."
    return f"{name} beats its strongest control from {plural(start, 'image')}{IMAGES_OF.get(regime, '')} on."


def _others(section: Section) -> str:
    """The groups beside the reference, counted: in how many a pretrained backbone beats its strongest control."""
    first = {group[0].compared_as for group in section.told_first}
    rest = [group for group in section.groups if group[0].compared_as not in first]
    tops = [top for group in rest if (top := best_pretrained(group)) is not None]
    if not tops:
        return "No pretrained backbone was run under the others."
    won = sum(any(each.kind == "pretrained" and each.gain.low > 0 for each in group) for group in rest)
    top = best(tops)
    columns = section.varying(COMPARED)
    told = ", ".join([*([top.learner] if top.tuned else []), *(_choice(top, column) for column in columns)])
    choices = f"{plural(len(rest), 'other choice')} of {listed(columns or ['settings'])}"
    run = f"{choices} {'was' if len(rest) == 1 else 'were'} run"
    return (
        f"Beside this, {run}; under {won} of them a pretrained backbone beats its strongest control. The highest MCC "
        f"is that of {top.title} ({told}): {spread(*top.mcc)}; as the best of so many it flatters."
    )


def _winners(winners: Sequence[Entry], others: int, control: str) -> str:
    ordered = sorted(winners, key=lambda entry: -entry.gain.mean)
    rest = f"; {others} more {'is' if others == 1 else 'are'} not shown to beat it" if others else ""
    if len(ordered) == 1:
        return f"{ordered[0].name} beats {control} by {_size(ordered[0].gain)}{rest}."
    told = [f"{entry.name} by {_size(entry.gain)}" for entry in ordered]
    return f"{_capital(control)} is beaten by several: {listed(told)}{rest}."


def _losers(entries: Sequence[Entry], control: str) -> str:
    top, bare = best(entries), control.rstrip(",")
    if len(entries) == 1:
        return f"{top.name} does worse than {bare}, by {_size(_turned(top.gain))}."
    return f"Every backbone does worse than {bare}: the best, {top.name}, by {_size(_turned(top.gain))}."


def _nobody(entries: Sequence[Entry], control: str) -> str:
    top, bare = max(entries, key=lambda entry: entry.gain.mean), control.rstrip(",")
    told = _shift(top.gain)
    if len(entries) == 1:
        return f"{top.name} is not distinguishable from {bare}: its gain is {told}."
    which = "untrained" if top.kind == "random" else "pretrained"
    return f"No {which} backbone is distinguishable from {bare}: the best, {top.name}, gains {told}."


def _size(difference: Interval) -> str:
    return f"{number(difference.mean)} MCC (95 % interval {between(difference.low, difference.high)})"


def _shift(difference: Interval) -> str:
    shift = number(difference.mean, signed=True)
    return f"{shift} MCC (95 % interval {between(difference.low, difference.high)})"


def _turned(difference: Interval) -> Interval:
    return Interval(-difference.mean, -difference.high, -difference.low, difference.folds)


def _which(entry: Entry, columns: Sequence[str]) -> list[str]:
    told = ", ".join(_choice(entry, column) for column in columns)
    return [f"{_capital(told)}:"] if told else []


def _choice(entry: Entry, column: str) -> str:
    return "fine-tuned" if column == "probe" and entry.tuned else f"{column} {shown(entry.row[column])}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
