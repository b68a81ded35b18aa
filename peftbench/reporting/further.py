"""What follows a task's scores: strata, learning curve, calibration, other cohorts, time to event; tables and words.

Pure functions; Markdown and the page show the same cells, and the page draws figures beside some.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from peftbench.analysis.results import NOT_COMPARED, strata_table
from peftbench.protocol.elsewhere import settings_at_home
from peftbench.protocol.names import CLINICAL_CONTROL
from peftbench.reporting.content import USUAL_PROBE, Entry, Section, grouped
from peftbench.reporting.finetuned import cost_sheet, cost_words, settings_sheet
from peftbench.reporting.reading import best, best_pretrained, curve_words, series_of, shots_of, strongest
from peftbench.reporting.sheets import (
    INTERVAL,
    Cell,
    Column,
    Footnotes,
    Maker,
    Sheet,
    control_of,
    controls_named,
    gain_cell,
    score_cell,
)
from peftbench.reporting.words import ABSENT, between, number, plural, sentence, shown, spread
from stores.keys import canonical_json

STRATUM_NAMES = {"view": "View", "center": "Centre"}
"""Column of the manifest to its name in a table."""

MOST_ROWS = 24
"""Rows of a learning curve that are shown at once."""

HOW_JOINED = {
    "averaged": "scores of the models of all folds are averaged",
    "refitted": "one model was fitted anew on all of its rows",
}
"""How the models of several folds became one."""


@dataclass(frozen=True)
class Further:
    """A part of a task's section.

    Attributes:
        key: names it, for whoever draws a figure.
        heading: above it.
        texts: sentences, a paragraph each.
        sheet: its table.
        leading: how many rows are shown at once; the others are folded away where a page can do that.
        detail: a second table, for who asks for it.
    """

    key: str
    heading: str
    texts: tuple[str, ...]
    sheet: Sheet
    leading: int = MOST_ROWS
    detail: Sheet | None = None


def further(section: Section) -> list[Further]:
    """The parts that a task's records give rise to, in the order in which they are shown."""
    made = [_strata(section), _curve(section), _calibration(section), _fine_tuning(section), *_external(section)]
    made.append(_survival(section))
    return [part for part in made if part is not None]


def lead(section: Section) -> list[Entry]:
    """What is looked at closer: the best pretrained backbone, the best fine-tuned and untrained ones, and the control.

    Each of the reference group, or on its ground, and where there is one.
    """
    first, beside = section.reference, [group for group in section.told_first if group[0].tuned]
    found = [best_pretrained(first), *(best_pretrained(group) for group in beside), best_untrained(first)]
    found.append(strongest([entry for entry in first if entry.kind == "control"]))
    return list({entry.record.identity: entry for entry in found if entry is not None}.values())


def best_untrained(group: Sequence[Entry]) -> Entry | None:
    """The best backbone with random weights, by itself."""
    untrained = [entry for entry in group if entry.kind == "random" and not entry.with_clinical]
    return best(untrained) if untrained else None


def curves(section: Section) -> dict[str, list[list[Entry]]]:
    """Regime to its learning curves, each by number of images, pretrained ones first, each kind's best at its end."""
    lines: dict[tuple[object, ...], list[Entry]] = {}
    for entry in section.sampled:
        lines.setdefault(series_of(entry), []).append(entry)
    ordered = [sorted(line, key=shots_of) for line in lines.values()]
    kinds = ("pretrained", "random", "control")
    ordered.sort(
        key=lambda line: (kinds.index(line[0].kind), _aside(line[0]), -np.nan_to_num(line[-1].mcc[0], nan=-2.0))
    )
    return {regime: [line for line in ordered if line[0].record.config.regime == regime] for regime in section.regimes}


def _aside(entry: Entry) -> bool:
    """Whether clinical variables play a part, which is another question."""
    return entry.with_clinical or entry.record.config.backbone == CLINICAL_CONTROL


def first_of_each_kind(lines: Sequence[list[Entry]]) -> list[list[Entry]]:
    """The best curve of each kind, probed and fine-tuned.

    The untrained and the controls are such as were probed like the best pretrained one; beside what was only fine-tuned
    they are logistic.
    """
    chosen: dict[tuple[str, bool], list[Entry]] = {}
    usual = USUAL_PROBE if any(line[0].tuned for line in lines) else lines[0][0].record.config.probe if lines else ""
    probed = [line[0].record.config.probe for line in lines if not line[0].tuned and line[0].kind != "control"]
    probe = next(iter(probed), usual)
    for line in lines:
        if line[0].tuned or line[0].record.config.probe == probe:
            chosen.setdefault((line[0].kind, line[0].tuned), line)
    return list(chosen.values())


def title_with_probe(entry: Entry, among: Iterable[Entry]) -> str:
    """An entry's title, with its probe or strategy where several were run; of what was fine-tuned always."""
    alike = [each for each in among if (each.kind == "control") == (entry.kind == "control")]
    several = len({each.learner for each in alike}) > 1
    return f"{entry.title} ({entry.learner})" if several or entry.tuned else entry.title


def _strata(section: Section) -> Further | None:
    shown_entries = [entry for entry in lead(section) if entry.record.strata]
    if not shown_entries:
        return None
    table = strata_table([entry.record for entry in shown_entries])
    rows, notes = [], Footnotes()
    for (column, value), part in table.groupby(["column", "value"], sort=False):
        of = {str(row["identity"]): row for row in part.to_dict("records")}
        first = next(iter(of.values()))
        name = f"{STRATUM_NAMES.get(str(column), str(column))} {value or 'unknown'}"
        scores = [_stratum_cell(of.get(entry.record.identity), notes) for entry in shown_entries]
        rows.append((Cell(name), Cell(f"{first['size']:,} ({first['events']:,})"), *scores))
    heads = [Column("MCC", title_with_probe(entry, section.entries)) for entry in shown_entries]
    columns = (Column("Stratum", numeric=False), Column(f"{_units(section)}", "with event"), *heads)
    caption = f"{section.heading}: scores within each view and centre, mean ± standard deviation over folds"
    return Further("strata", "Scores within strata", (), Sheet(caption, columns, tuple(rows), notes.by_mark()))


def _stratum_cell(row: dict[object, object] | None, notes: Footnotes) -> Cell:
    found = (None, None) if row is None else (row["mcc_mean"], row["mcc_std"])
    mean, std = (math.nan if each is None else float(str(each)) for each in found)
    return Cell(spread(mean, std), notes.mark("no fold has both classes there" if math.isnan(mean) else ""))


def _units(section: Section) -> str:
    return f"{section.facts['unit']}s".capitalize()


def _curve(section: Section) -> Further | None:
    found = curves(section)
    if not found:
        return None
    first = [entry for lines in found.values() for line in first_of_each_kind(lines) for entry in line]
    shown_first = {entry.record.identity for entry in first}
    rest = [
        entry
        for lines in found.values()
        for line in lines
        for entry in line
        if entry.record.identity not in shown_first
    ]
    notes = Footnotes()
    columns, makers = _curve_columns(section, notes)
    entries = [*first, *rest]
    rows = tuple(tuple(make(entry) for make in makers) for entry in entries)
    quiet = frozenset(at for at, entry in enumerate(entries) if entry.kind == "control")
    sheet = Sheet(f"{section.heading}: MCC by number of images", tuple(columns), rows, notes.by_mark(), quiet)
    whole = len(rows) <= MOST_ROWS
    return Further("curve", "Learning curve", tuple(curve_words(section)), sheet, len(rows) if whole else len(first))


def _curve_columns(section: Section, notes: Footnotes) -> tuple[list[Column], list[Maker]]:
    columns = [Column("Backbone", numeric=False)]
    makers: list[Maker] = [lambda entry: Cell(entry.title)]
    for name in ("strategy", "probe", "regime", "scheme", "seed", "settings"):
        told = [entry for entry in section.sampled if entry.kind != "control" or name != "settings"]
        if _telling(name, told):
            columns.append(Column(name.capitalize(), numeric=False))
            makers.append(partial(_plain, column=name))
    several = len(controls_named(section.sampled)) > 1
    columns += [Column("Images", _images_of(section)), Column("Draws"), Column("MCC"), Column("5 to 95 %", "of draws")]
    columns += [Column("Worst decile"), Column("Gain over strongest control", INTERVAL)]
    makers += [
        lambda entry: Cell(str(shots_of(entry))),
        lambda entry: Cell(str(entry.record.config.draws)),
        lambda entry: Cell(number(entry.mcc[0])),
        lambda entry: _range_cell(entry, notes),
        lambda entry: Cell(number(float(entry.row["mcc_worst_decile"]))),
        lambda entry: gain_cell(entry, notes, several=several),
    ]
    return columns, makers


def _telling(column: str, entries: Sequence[Entry]) -> bool:
    """Whether rows differ in a column; the strategy of what was fine-tuned is told in any case."""
    tuned = column == "strategy" and any(entry.tuned for entry in entries)
    return tuned or len({str(entry.row[column]) for entry in entries}) > 1


def _plain(entry: Entry, column: str) -> Cell:
    return Cell("" if column == "settings" and entry.kind == "control" else shown(entry.row[column]))


def _images_of(section: Section) -> str:
    regimes = {entry.record.config.regime for entry in section.sampled}
    told = {"reduced": "in all", "few-shot": "a class", "center few-shot": "a class and centre"}
    return told.get(regimes.pop(), "") if len(regimes) == 1 else "in all, or a class"


def _range_cell(entry: Entry, notes: Footnotes) -> Cell:
    low, high = float(entry.row["mcc_q05"]), float(entry.row["mcc_q95"])
    if math.isnan(low):
        return Cell(ABSENT, notes.mark("one draw only"))
    return Cell(between(low, high))


def _calibration(section: Section) -> Further | None:
    entries = [entry for entry in lead(section) if entry.record.reliability]
    if not entries:
        return None
    notes = Footnotes()
    rows = tuple(
        (Cell(title_with_probe(entry, section.entries)), *(score_cell(entry, name, notes) for name in ("brier", "ece")))
        for entry in entries
    )
    columns = (Column("Backbone", numeric=False), Column("Brier"), Column("ECE"))
    quiet = frozenset(at for at, entry in enumerate(entries) if entry.kind == "control")
    caption = f"{section.heading}: Brier score and expected calibration error (0 is best)"
    sheet = Sheet(caption, columns, rows, notes.by_mark(), quiet)
    return Further("calibration", "Calibration and threshold", tuple(_tuned_words(section, entries)), sheet)


def _tuned_words(section: Section, entries: Sequence[Entry]) -> list[str]:
    """Of the first, and of what was fine-tuned: the score at a threshold tuned on the validation part."""
    said = []
    for entry in (*entries[:1], *(each for each in entries[1:] if each.tuned)):
        title = title_with_probe(entry, section.entries) if entry.tuned else entry.title
        tuned = entry.record.score("mcc_tuned", str(entry.row["unit"]))
        if not math.isnan(tuned[0]):
            said.append(
                f"At a threshold tuned on the validation part, {title} has an MCC of {spread(*tuned)}; at 0.5 it "
                f"has {spread(*entry.mcc)}."
            )
    return said


def _fine_tuning(section: Section) -> Further | None:
    if not section.tuned:
        return None
    words, sheet = tuple(cost_words(section)), cost_sheet(section)
    return Further("fine-tuning", "Fine-tuning", words, sheet, detail=settings_sheet(section))


def _external(section: Section) -> list[Further]:
    tasks = dict.fromkeys(entry.record.config.external for entry in section.external)
    return [_external_to(section, task) for task in tasks]


def _external_to(section: Section, task: str) -> Further:
    entries = [entry for entry in section.external if entry.record.config.external == task]
    notes = Footnotes()
    columns, makers = _external_columns(section, entries, notes)
    rows = tuple(tuple(make(entry) for make in makers) for entry in entries)
    quiet = frozenset(at for at, entry in enumerate(entries) if entry.kind == "control")
    caption = f"Fitted on {section.name}, tested on {task}: MCC there with its 95 % interval, beside that at home"
    sheet = Sheet(caption, tuple(columns), rows, notes.by_mark(), quiet)
    heading = f"On another cohort: {task}"
    return Further("external", heading, tuple(_external_words(section, entries)), sheet, LEADING_EXTERNAL)


LEADING_EXTERNAL = 12
"""Rows of an external validation that are shown at once."""


def _external_columns(section: Section, entries: Sequence[Entry], notes: Footnotes) -> tuple[list[Column], list[Maker]]:
    columns, makers = [Column("Backbone", numeric=False)], [lambda entry: Cell(entry.title)]
    for name in ("strategy", "probe", "regime", "shots", "scheme", "seed", "precision", "settings"):
        if _telling(name, [entry for entry in entries if entry.kind != "control"]):
            columns.append(Column(name.capitalize(), numeric=False))
            makers.append(partial(_plain, column=name))
    several = len(controls_named(entries)) > 1
    columns += [
        Column("MCC", INTERVAL),
        Column("MCC", f"within {section.name}"),
        Column("PR-AUC"),
        Column("Gain over strongest control", INTERVAL),
    ]
    makers += [
        lambda entry: _own_interval(entry, notes),
        lambda entry: _at_home(section, entry, notes),
        lambda entry: Cell(number(entry.record.score("pr_auc", str(entry.row["unit"]))[0])),
        lambda entry: gain_cell(entry, notes, several=several),
    ]
    return columns, makers


def _own_interval(entry: Entry, notes: Footnotes) -> Cell:
    mean, low, high = (float(entry.row[f"mcc_{each}"]) for each in ("mean", "low", "high"))
    if math.isnan(low):
        return Cell(f"{number(mean)} ({ABSENT})", notes.mark("no interval"))
    return Cell(f"{number(mean)} ({between(low, high)})")


def _at_home(section: Section, entry: Entry, notes: Footnotes) -> Cell:
    """The score of the same models on their own task's test parts."""
    own = [each for each in (*section.entries, *section.sampled) if _models_of(each) == _models_of(entry)]
    return score_cell(own[0], "mcc", notes) if own else Cell(ABSENT, notes.mark("not run there"))


def _models_of(entry: Entry) -> tuple[object, ...]:
    """What decides the models that were fitted, and their seed; how they were joined elsewhere is no part of it."""
    config = entry.record.config
    decided = settings_at_home(config.settings)
    settings = {name: value for name, value in decided.items() if name not in NOT_COMPARED}
    learnt = (config.strategy, config.probe, config.draws, canonical_json(settings), config.features)
    return (config.backbone, *learnt, *entry.ground)


def _external_words(section: Section, entries: Sequence[Entry]) -> list[str]:
    """Who was tested there, how models were joined, who was removed; and whether the best of them beats its control."""
    facts, origin = entries[0].record.task, entries[0].record.provenance.get("external", {})
    told = f"{facts['question']} {plural(facts['images'], 'image')} of {plural(facts['patients'], 'patient')}"
    told += f", {facts['event_patients']:,} of them with the event"
    told += f"; {HOW_JOINED[origin['how']]}" if origin.get("how") in HOW_JOINED else ""
    said = [f"{told}."]
    removed = origin.get("removed_images", 0)
    if removed:
        patients = plural(origin.get("removed_patients", 0), "patient")
        said[0] += f" Left out because {section.name} holds them too: {plural(removed, 'image')} of {patients}."
    top = best_pretrained([entry for entry in entries if not math.isnan(entry.gain.low)])
    return said if top is None else [*said, _external_verdict(top, entries)]


def _external_verdict(top: Entry, entries: Sequence[Entry]) -> str:
    group = next((group for group in grouped(entries) if any(entry is top for entry in group)), [top])
    rival = control_of(top, group)
    name = title_with_probe(top, entries)
    over = (
        "its strongest control"
        if rival is None
        else f"its strongest control there ({rival.title.removesuffix(' (control)')})"
    )
    reach = f"95 % interval {between(top.gain.low, top.gain.high)}"
    if top.gain.low > 0:
        return f"{name} beats {over} by {number(top.gain.mean)} MCC ({reach})."
    verdict = "does worse than" if top.gain.high < 0 else "is not distinguishable from"
    return f"{name} {verdict} {over}: its gain is {number(top.gain.mean, signed=True)} MCC ({reach})."


def _survival(section: Section) -> Further | None:
    if not section.survival:
        return None
    notes = Footnotes()
    entries = sorted(section.survival, key=lambda entry: (entry.kind == "control", -np.nan_to_num(_concordance(entry))))
    several = len(controls_named(entries)) > 1
    rows = tuple(
        (Cell(entry.title), score_cell(entry, "c_index", notes, "patient"), gain_cell(entry, notes, several=several))
        for entry in entries
    )
    columns = (
        Column("Backbone", numeric=False),
        Column("c-index", "chance 0.50"),
        Column("Gain over strongest control", INTERVAL),
    )
    quiet = frozenset(at for at, entry in enumerate(entries) if entry.kind == "control")
    caption = f"{section.heading}: Cox model, mean ± standard deviation over folds"
    texts = dict.fromkeys(sentence(str(entry.record.task.get("time", ""))) for entry in entries)
    return Further(
        "survival",
        "Time to the event",
        tuple(filter(None, texts)),
        Sheet(caption, columns, rows, notes.by_mark(), quiet),
    )


def _concordance(entry: Entry) -> float:
    return entry.record.score("c_index", "patient")[0]
