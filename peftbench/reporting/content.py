"""What a report shows: the records of a workspace by task, each with its row of the table and its cohort's card.

Pure functions: records and cards in, frozen objects out. Nothing here knows Markdown or HTML.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from peftbench.analysis.intervals import Interval
from peftbench.protocol.records import Record
from peftbench.reporting.words import Kind, backbone_title, kind_of, listed

Card = Mapping[str, Any]
"""A cohort's `card.json`."""

COMPARED = ("probe", "regime", "scheme", "folds", "seed")
"""Columns of the results table in which rows must agree to be compared."""


KEY_LENGTH = 16
"""Characters of a key that are shown: as many as name its folder."""

TWINS = ("strategy", "precision", "features", "identity")
"""What may set records apart that may be compared, the most telling first."""


class FoldValue(NamedTuple):
    """MCC of one fold and draw, in the task's unit; NaN where it is not defined."""

    fold: int
    draw: int
    mcc: float


class Entry(NamedTuple):
    """One row of a task's table, with the record behind it.

    Attributes:
        row: the record's row of the results table.
        record: it.
        folds: MCC by fold.
        chance: mean share of units with the event in the test parts: the chance level of the mean PR-AUC.
        apart: columns of the table in which this record differs from others of its backbone and strategy.
    """

    row: Mapping[str, Any]
    record: Record
    folds: tuple[FoldValue, ...]
    chance: float
    apart: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Of the backbone or control."""
        return backbone_title(self.record.config.backbone)

    @property
    def name(self) -> str:
        """The title, with what tells the record from others of its backbone."""
        told = ", ".join(str(self.row[column])[:KEY_LENGTH] for column in self.apart)
        return f"{self.title} ({told})" if told else self.title

    @property
    def kind(self) -> Kind:
        """Pretrained, random or control."""
        return kind_of(self.record.config.backbone)

    @property
    def mcc(self) -> tuple[float, float]:
        """Mean and standard deviation over folds."""
        return float(self.row["mcc_mean"]), float(self.row["mcc_std"])

    @property
    def gain(self) -> Interval:
        """Paired difference in MCC to the control."""
        mean, low, high = (float(self.row[f"gain_{each}"]) for each in ("mean", "low", "high"))
        return Interval(mean, low, high, len(self.folds))

    @property
    def compared_as(self) -> tuple[str, ...]:
        """What another row must agree in to be compared with this one."""
        config = self.record.config
        return (config.split_digest, config.task_digest, *(str(self.row[column]) for column in COMPARED))


@dataclass(frozen=True)
class Section:
    """All that a report says of one task.

    Attributes:
        name: of the task.
        part: from 1, where the task's records are of several versions of its rows; else 0.
        facts: question, unit, caveat and counts, as the records hold them.
        entries: the rows of its table, in their order.
        notes: what the records say that a reader must know, each once.
        card: of its cohort, or None where there is none.
        task_card: the task's part of that card, or None where the card was written for other rows.
    """

    name: str
    part: int
    facts: Mapping[str, Any]
    entries: tuple[Entry, ...]
    notes: tuple[str, ...]
    card: Card | None
    task_card: Mapping[str, Any] | None

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
        found: dict[tuple[str, ...], list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.compared_as, []).append(entry)
        return list(found.values())

    def varying(self, columns: Sequence[str]) -> list[str]:
        """Those columns of the results table in which the backbones' rows are not all alike."""
        rows = [entry.row for entry in self.entries if entry.kind != "control"]
        return [column for column in columns if len({str(row[column]) for row in rows}) > 1]


def sections(
    records: Iterable[Record], table: pd.DataFrame, folds: pd.DataFrame, cards: Mapping[str, Card]
) -> list[Section]:
    """One section a task (and a version of its rows), in the order of the table.

    Args:
        records: as read.
        table: `results_table` of them.
        folds: `folds_table` of them.
        cards: cohort to its card.
    """
    by_identity = {record.identity: record for record in records}
    by_rows: dict[tuple[str, str], list[Entry]] = {}
    cells = {str(identity): part for identity, part in folds.groupby("identity")}
    for row in table.to_dict("records"):
        record = by_identity[row["identity"]]
        entry = _entry({str(key): value for key, value in row.items()}, record, cells[record.identity])
        by_rows.setdefault((record.config.task, record.config.task_digest), []).append(entry)
    versions = pd.Series([task for task, _ in by_rows]).value_counts()
    seen: dict[str, int] = {}
    made = []
    for (task, _), entries in by_rows.items():
        seen[task] = seen.get(task, 0) + 1
        part = seen[task] if versions[task] > 1 else 0
        made.append(_section(task, part, entries, cards))
    return made


def _entry(row: Mapping[str, Any], record: Record, cells: pd.DataFrame) -> Entry:
    own = cells[cells["unit"] == row["unit"]]
    values = tuple(
        FoldValue(int(fold), int(draw), float(mcc if mcc is not None else np.nan))
        for fold, draw, mcc in zip(own["fold"], own["draw"], own["mcc"], strict=True)
    )
    return Entry(row, record, values, float((own["events"] / own["size"]).mean()))


def _section(task: str, part: int, entries: Sequence[Entry], cards: Mapping[str, Card]) -> Section:
    facts = entries[0].record.task
    prefix = f"{task}: "
    notes = dict.fromkeys(note.removeprefix(prefix) for entry in entries for note in entry.record.notes)
    card = cards.get(facts["cohort"])
    task_card = (card or {}).get("tasks", {}).get(task)
    counts = ("images", "patients", "events")
    if task_card is None or any(task_card.get(key) != facts[key] for key in counts):
        task_card = None
    return Section(task, part, facts, tuple(_told_apart(entries)), tuple(notes), card, task_card)


def _told_apart(entries: Sequence[Entry]) -> list[Entry]:
    """Entries with the first of `TWINS` that sets each apart from those it would be taken for."""
    told = []
    for entry in entries:
        key = (entry.title, entry.compared_as)
        rows = [each.row for each in entries if (each.title, each.compared_as) == key]
        telling = (column for column in TWINS if len({str(row[column]) for row in rows}) == len(rows))
        told.append(entry._replace(apart=(next(telling, TWINS[-1]),)) if len(rows) > 1 else entry)
    return told


def fold_counts(section: Section) -> str:
    """Number of folds of the section's records: `5`, or `3 and 5`."""
    return listed([str(count) for count in sorted({entry.record.config.folds for entry in section.entries})])
