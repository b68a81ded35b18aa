"""What a report shows: the records of a workspace by task, each with its row of the table and its cohort's card.

Pure functions: records and cards in, frozen objects out. Nothing here knows Markdown or HTML.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from peftbench.analysis.intervals import Interval
from peftbench.analysis.results import by_fold, headline_metric, how
from peftbench.protocol.names import LOGISTIC, TRAINED, WITH_CLINICAL
from peftbench.protocol.records import Record
from peftbench.reporting.courses import Course
from peftbench.reporting.words import Kind, backbone_title, kind_of, learner, listed, value_text

Card = Mapping[str, Any]
"""A cohort's `card.json`."""

COMPARED = ("probe", "regime", "shots", "draws", "scheme", "folds", "seed", "version")
"""Columns of the results table in which rows must agree to be compared."""


KEY_LENGTH = 16
"""Characters of a key that are shown: as many as name its folder."""

TWINS = ("strategy", "precision", "settings", "features", "identity")
"""What may set records apart that may be compared, the most telling first."""


MOST_LEADING = 16
"""Rows of a task that the page shows at once; of more only the best backbones and controls."""

MOST_BACKBONES, MOST_CONTROLS = 10, 6
"""How many rows of each are shown then: the best of each, and of what room is left the best of all."""

REGIMES = ("reduced", "few-shot", "center few-shot")
"""Regimes with a number of images, in the order in which they are told of."""

USUAL_PROBE = LOGISTIC
"""What is read first where many probes were run: a probe that was not picked for its score."""


class FoldValue(NamedTuple):
    """MCC of one fold, the mean of its draws, in the task's unit; NaN where it is not defined (of Cox: the c-index)."""

    fold: int
    mcc: float


class Entry(NamedTuple):
    """One row of a task's table, with the record behind it.

    Attributes:
        row: the record's row of the results table.
        record: it.
        folds: MCC by fold.
        chance: mean share of units with the event in the test parts: the chance level of the mean PR-AUC.
        apart: columns of the table in which this record differs from others of its backbone and strategy.
        courses: of its trainings; empty where nothing was trained.
    """

    row: Mapping[str, Any]
    record: Record
    folds: tuple[FoldValue, ...]
    chance: float
    apart: tuple[str, ...] = ()
    courses: tuple[Course, ...] = ()

    @property
    def title(self) -> str:
        """Of the backbone or control."""
        return backbone_title(self.record.config.backbone)

    @property
    def name(self) -> str:
        """The title, with what tells the record from others of its backbone."""
        told = [*([self.learner] if self.tuned else []), *(key_text(self.row, column) for column in self.apart)]
        return f"{self.title} ({', '.join(told)})" if told else self.title

    @property
    def tuned(self) -> bool:
        """Whether it was fine-tuned on images, not probed on stored features."""
        return self.record.config.probe == TRAINED

    @property
    def learner(self) -> str:
        """The probe, or the strategy of what was fine-tuned; no two of them are called alike."""
        return learner(self.record.config.strategy, self.record.config.probe)

    @property
    def look(self) -> str:
        """Classes of the style sheet."""
        return f"{self.kind} tuned" if self.tuned else self.kind

    @property
    def kind(self) -> Kind:
        """Pretrained, random or control."""
        return kind_of(self.record.config.backbone)

    @property
    def with_clinical(self) -> bool:
        """Whether clinical variables were given to the probe beside the features."""
        return self.record.config.backbone.endswith(WITH_CLINICAL)

    @property
    def mcc(self) -> tuple[float, float]:
        """Mean and standard deviation over folds."""
        return float(self.row["mcc_mean"]), float(self.row["mcc_std"])

    @property
    def gain(self) -> Interval:
        """Paired difference to the strongest control, in MCC (of a probe of a time: in the c-index)."""
        mean, low, high = (float(self.row[f"gain_{each}"]) for each in ("mean", "low", "high"))
        return Interval(mean, low, high, len(self.folds))

    @property
    def compared_as(self) -> tuple[str, ...]:
        """What another row must agree in to be compared with this one; strategies differ in their settings too."""
        config = self.record.config
        same = (str(self.row[column]) for column in COMPARED)
        return (config.split_digest, config.task_digest, "" if self.tuned else how(self.record), *same)

    @property
    def ground(self) -> tuple[str, ...]:
        """What rows must share whatever predicted: patients, folds, and how much trained."""
        config = self.record.config
        same = (str(self.row[column]) for column in ("regime", "shots", "seed", "version"))
        return (config.split_digest, config.task_digest, *same)


@dataclass(frozen=True)
class Section:
    """All that a report says of one task.

    Attributes:
        name: of the task.
        part: from 1, where the task's records are of several versions of its rows; else 0.
        facts: question, unit, caveat and counts, as the records hold them.
        entries: the rows of its table, in their order: of the full regime, or of the others where there is none.
        notes: what the records say that a reader must know, each once.
        card: of its cohort, or None where there is none.
        task_card: the task's part of that card, or None where the card was written for other rows.
        sampled: rows of regimes with a number of images.
        external: rows of validations on another cohort's task.
        survival: rows of probes of a time.
    """

    name: str
    part: int
    facts: Mapping[str, Any]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]
    card: Card | None
    task_card: Mapping[str, Any] | None
    sampled: tuple[Entry, ...] = ()
    external: tuple[Entry, ...] = ()
    survival: tuple[Entry, ...] = ()

    @property
    def anchor(self) -> str:
        """Identifier on the page."""
        return self.name + (f"-{self.part}" if self.part else "")

    @property
    def heading(self) -> str:
        """The task's name, with which version of its rows where there are several."""
        return self.name + (f" (rows, version {self.part})" if self.part else "")

    @property
    def many_images(self) -> bool:
        """Whether some patients have several images, so that scores of images and of patients differ."""
        return bool(self.facts["images"] != self.facts["patients"])

    @property
    def groups(self) -> list[list[Entry]]:
        """Entries that may be compared with each other: same rows, same split, same probe and regime."""
        return grouped(self.entries)

    @property
    def regimes(self) -> list[str]:
        """Regimes with a number of images that were run."""
        found = {entry.record.config.regime for entry in self.sampled}
        return [*(each for each in REGIMES if each in found), *sorted(found - {*REGIMES})]

    @property
    def reference(self) -> list[Entry]:
        """The group that is read first: of the usual probe where a backbone has it; empty where there is no entry."""
        groups = [group for group in self.groups if any(entry.kind != "control" for entry in group)] or self.groups
        usual = [group for group in groups if group[0].record.config.probe == USUAL_PROBE]
        return next(iter(usual or groups), [])

    @property
    def told_first(self) -> list[list[Entry]]:
        """The reference, and what was fine-tuned on the same ground."""
        first = self.reference
        if not first or first[0].tuned:
            return [first] if first else []
        beside = [group for group in self.groups if group[0].tuned and group[0].ground == first[0].ground]
        return [first, *beside[:1]]

    @property
    def tuned(self) -> list[Entry]:
        """Rows of what was fine-tuned, on the task's own test parts."""
        found = {entry.record.identity: entry for entry in (*self.entries, *self.sampled) if entry.tuned}
        return list(found.values())

    @property
    def leading(self) -> tuple[Entry, ...]:
        """All entries where they are few; else the best row of each backbone and control, and the best others."""
        if len(self.entries) <= MOST_LEADING:
            return self.entries
        controls = [entry for entry in self.entries if entry.kind == "control"]
        others = [entry for entry in self.entries if entry.kind != "control"]
        return (*_foremost(others, MOST_BACKBONES), *_foremost(controls, MOST_CONTROLS, fill=False))

    def varying(self, columns: Sequence[str]) -> list[str]:
        """Those columns of the results table in which the backbones' rows are not all alike."""
        rows = [entry.row for entry in self.entries if entry.kind != "control"]
        return [column for column in columns if len({str(row[column]) for row in rows}) > 1]


def _foremost(entries: Sequence[Entry], room: int, *, fill: bool = True) -> list[Entry]:
    """The first row of each title, then of each probed and fine-tuned; if asked for, others while there is room."""
    backwards = list(reversed(list(enumerate(entries))))
    places = sorted({entry.title: at for at, entry in backwards}.values())
    both = sorted({(entry.title, entry.tuned): at for at, entry in backwards}.values())
    places += [at for at in both if at not in places]
    places += [at for at in range(len(entries)) if at not in places] if fill else []
    return [entries[at] for at in sorted(places[:room])]


def grouped(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Entries by what they must agree in to be compared, in the order of their first.

    A control has nothing to fine-tune: what was fine-tuned is set against those that were probed logistically on its
    ground, which are in its group as well.
    """
    groups = list(_by(lambda entry: entry.compared_as, entries).values())
    lent = [group for group in groups if group[0].record.config.probe == USUAL_PROBE]
    whole = [[*group, *_controls_on(group[0].ground, lent)] if group[0].tuned else group for group in groups]
    taken = {entry.record.identity for group in whole if group[0].tuned for entry in group}
    # Controls alone are no group of their own where another has them.
    return [group for group in whole if group[0].tuned or any(each.record.identity not in taken for each in group)]


def _controls_on(ground: tuple[str, ...], groups: Iterable[Sequence[Entry]]) -> list[Entry]:
    return [each for group in groups for each in group if each.kind == "control" and each.ground == ground]


def sections(
    records: Iterable[Record],
    table: pd.DataFrame,
    cards: Mapping[str, Card],
    courses: Mapping[str, tuple[Course, ...]] | None = None,
) -> list[Section]:
    """One section a task (and a version of its rows), in the order of the table.

    Args:
        records: as read.
        table: `results_table` of them.
        cards: cohort to its card.
        courses: identity of a record to the courses of its trainings, of those that have any.
    """
    by_identity = {record.identity: record for record in records}
    by_rows: dict[tuple[str, str], list[Entry]] = {}
    for row in table.to_dict("records"):
        record = by_identity[row["identity"]]
        entry = _entry(
            {str(key): value for key, value in row.items()}, record, (courses or {}).get(record.identity, ())
        )
        by_rows.setdefault((record.config.task, record.config.task_digest), []).append(entry)
    versions = pd.Series([task for task, _ in by_rows]).value_counts()
    seen: dict[str, int] = {}
    made = []
    for (task, _), entries in by_rows.items():
        seen[task] = seen.get(task, 0) + 1
        part = seen[task] if versions[task] > 1 else 0
        made.append(_section(task, part, entries, cards))
    return made


def _entry(row: Mapping[str, Any], record: Record, courses: tuple[Course, ...]) -> Entry:
    shares = [score["events"] / score["size"] for score in record.scores if score["unit"] == row["unit"]]
    values = tuple(FoldValue(fold, value) for fold, value in by_fold(record).items())
    return Entry(row, record, values, float(np.mean(shares)) if shares else math.nan, courses=courses)


def _section(task: str, part: int, found: Sequence[Entry], cards: Mapping[str, Card]) -> Section:
    entries = _with_settings(found)
    external = [entry for entry in entries if entry.record.config.external]
    own = [entry for entry in entries if not entry.record.config.external]
    survival = [entry for entry in own if headline_metric(entry.record) != "mcc"]
    scored = _told_apart([entry for entry in own if headline_metric(entry.record) == "mcc"])
    sampled = [entry for entry in scored if entry.record.config.shots is not None]
    full = [entry for entry in scored if entry.record.config.shots is None]
    facts = (own or external)[0].record.task
    prefix = f"{task}: "
    notes = dict.fromkeys(note.removeprefix(prefix) for entry in entries for note in entry.record.notes)
    card = cards.get(facts["cohort"])
    task_card = (card or {}).get("tasks", {}).get(task)
    counts = ("images", "patients", "events")
    if task_card is None or any(task_card.get(key) != facts[key] for key in counts):
        task_card = None
    beside = (tuple(sampled), tuple(external), tuple(survival))
    return Section(task, part, facts, tuple(full or sampled), tuple(notes), card, task_card, *beside)


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Entries with the first of `TWINS` that sets each apart from those it would be taken for."""
    alike = _by(_named_alike, entries)
    told = []
    for entry in entries:
        rows = [each.row for each in alike[_named_alike(entry)]]
        telling = (column for column in TWINS if len({str(row[column]) for row in rows}) == len(rows))
        told.append(entry._replace(apart=(next(telling, TWINS[-1]),)) if len(rows) > 1 else entry)
    return told


def _by(key: Callable[[Entry], tuple[object, ...]], entries: Iterable[Entry]) -> dict[tuple[object, ...], list[Entry]]:
    """Entries by a key, in the order of their first."""
    found: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        found.setdefault(key(entry), []).append(entry)
    return found


def _named_alike(entry: Entry) -> tuple[object, ...]:
    # What was fine-tuned is named with its strategy.
    return (entry.title, entry.compared_as, entry.learner if entry.tuned else "")


def _with_settings(entries: Sequence[Entry]) -> list[Entry]:
    """Entries whose rows tell the settings in which each differs from those it would be taken for."""
    alike = _by(_taken_for, entries)
    return [
        entry._replace(row={**entry.row, "settings": _differing(entry, alike[_taken_for(entry)])}) for entry in entries
    ]


def _taken_for(entry: Entry) -> tuple[str, ...]:
    columns = ("backbone", "strategy", "external", "precision", *COMPARED)
    return (entry.record.config.split_digest, *(str(entry.row[column]) for column in columns))


MOST_SETTINGS = 3
"""Settings that tell rows apart which are named; of more, the number."""


def _differing(entry: Entry, others: Sequence[Entry]) -> str:
    """The settings of an entry that not all of the others share."""
    told = [_flat(each.record.config.settings) for each in others]
    ours = _flat(entry.record.config.settings)
    shared = [name for name in ours if all(name in each for each in told)]
    names = [name for name in shared if len({json.dumps(each[name]) for each in told}) > 1]
    named = [f"{name.replace('_', ' ')} {value_text(ours[name])}" for name in names[:MOST_SETTINGS]]
    more = len(names) - MOST_SETTINGS
    return ", ".join([*named, *([f"{more} more"] if more > 0 else [])])


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, those within a setting by both names; that there are such is `yes`."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        within = value if isinstance(value, Mapping) else {}
        flat |= {name: True if within else value, **{f"{name} {key}": each for key, each in within.items()}}
    return flat


def key_text(row: Mapping[str, Any], column: str) -> str:
    """A value that tells a row apart; of a key its first characters."""
    text = str(row[column])
    return text[:KEY_LENGTH] if column in {"features", "identity"} else text


def fold_counts(section: Section) -> str:
    """Number of folds of the section's records: `5`, or `3 and 5`."""
    shown = section.entries or section.survival or section.external
    return listed([str(count) for count in sorted({entry.record.config.folds for entry in shown})])
