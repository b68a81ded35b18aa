"""Tables as text, before anybody decides how they are drawn: Markdown and the page show the same cells."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from peftbench.protocol.records import Record
from peftbench.reporting.content import KEY_LENGTH, Entry, Section, fold_counts
from peftbench.reporting.reading import best
from peftbench.reporting.words import ABSENT, backbone_title, between, kind_of, number, plural, spread

APART = ("probe", "regime", "scheme", "folds", "seed", "precision", "features")
"""Columns that are shown only where rows differ in them; `features` only where nothing before it tells rows apart."""


INTERVAL = "95 % interval"


class Cell(NamedTuple):
    """A cell: what it says, and the mark of its footnote, if any."""

    text: str
    mark: str = ""


class Column(NamedTuple):
    """A column: its head, a second line to it, and whether it holds numbers."""

    head: str
    detail: str = ""
    numeric: bool = True


@dataclass(frozen=True)
class Sheet:
    """A table as text.

    Attributes:
        caption: what it shows.
        columns: heads.
        rows: cells; the first of each row names it.
        footnotes: mark to text.
        quiet: positions of rows that are a reference rather than a result.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    footnotes: dict[str, str] = field(default_factory=dict)
    quiet: frozenset[int] = frozenset()


class Footnotes:
    """Hands out one mark (a, b, ...) for each different text."""

    def __init__(self) -> None:
        self._marks: dict[str, str] = {}

    def mark(self, text: str) -> str:
        """The mark of a text; none for an empty one."""
        if not text:
            return ""
        return self._marks.setdefault(text, _letters(len(self._marks)))

    def by_mark(self) -> dict[str, str]:
        """Mark to text, in the order in which they were handed out."""
        return {mark: text for text, mark in self._marks.items()}


def scores_sheet(section: Section) -> Sheet:
    """The table of a task: one row a record, controls last."""
    notes = Footnotes()
    columns = [Column("Backbone", numeric=False), Column("Strategy", numeric=False)]
    makers: list[Callable[[Entry], Cell]] = [lambda entry: Cell(entry.title), lambda entry: Cell(_strategy(entry))]
    for name in apart_columns(section):
        columns.append(Column(name.capitalize(), numeric=False))
        makers.append(partial(_plain, column=name))
    chance = _common_chance(section)
    columns += [Column("MCC"), Column("PR-AUC", f"chance {chance}" if chance else "")]
    makers += [lambda entry: _score(entry, "mcc", notes), lambda entry: _score(entry, "pr_auc", notes)]
    if not chance:
        columns.append(Column("Chance", "of PR-AUC"))
        makers.append(lambda entry: Cell(number(entry.chance)))
    columns.append(Column(_gain_head(section), INTERVAL))
    makers.append(lambda entry: _gain(entry, notes))
    if section.many_images and section.facts["unit"] == "image":
        columns.append(Column("MCC", "by patient"))
        makers.append(lambda entry: _score(entry, "mcc", notes, "patient"))
    rows = tuple(tuple(make(entry) for make in makers) for entry in section.entries)
    quiet = frozenset(at for at, entry in enumerate(section.entries) if entry.kind == "control")
    caption = f"{section.heading}: mean ± standard deviation over {fold_counts(section)} folds"
    return Sheet(caption, tuple(columns), rows, notes.by_mark(), quiet)


def apart_columns(section: Section) -> list[str]:
    """Columns that tell the rows of a section apart, no more than are needed for it."""
    shown = section.varying(APART[:-1])
    rows = [entry.row for entry in section.entries if entry.kind != "control"]
    keys = {tuple(str(row[column]) for column in ("backbone", "strategy", *shown)) for row in rows}
    if len(keys) == len(rows):
        return shown
    alike = len({(row["backbone"], row["strategy"], row["features"]) for row in rows}) < len(rows)
    return [*shown, *section.varying(APART[-1:]), *(["identity"] if alike else [])]


def _gain_head(section: Section) -> str:
    """Head of the column of gains, with the control where there is only one."""
    controls = {str(entry.row["control"]) for entry in section.entries if entry.row["control"]}
    over = backbone_title(controls.pop()).removesuffix(" (control)") if len(controls) == 1 else "the control"
    return f"Gain over {over}"


def glance_sheet(parts: Sequence[Section]) -> Sheet:
    """One row a task: the best pretrained backbone beside the control."""
    columns = (
        Column("Task", numeric=False),
        Column("Patients", "with event"),
        Column("Best pretrained backbone", numeric=False),
        Column("MCC"),
        Column("MCC", "control"),
        Column("Gain in MCC", INTERVAL),
    )
    notes = Footnotes()
    rows = tuple(_glance_row(section, group, notes) for section in parts for group in section.groups[:1])
    return Sheet("The best pretrained backbone of each task beside the control", columns, rows, notes.by_mark())


def views_sheet(section: Section) -> Sheet | None:
    """Images by view and label, from the cohort's card; None where there is no card for these rows."""
    views = (section.task_card or {}).get("views")
    if not views:
        return None
    columns = (
        Column("View", numeric=False),
        Column("Images"),
        Column("With event"),
        Column("Without"),
        Column("Share with event"),
    )
    rows = []
    for view, counts in views.items():
        event, rest = int(counts["event"]), int(counts["no event"])
        share = event / (event + rest) if event + rest else math.nan
        rows.append(
            (Cell(str(view)), *(Cell(f"{each:,}") for each in (event + rest, event, rest)), Cell(number(share)))
        )
    return Sheet("Images of this task by view and outcome", columns, tuple(rows))


def headline(section: Section) -> list[tuple[str, str]]:
    """The facts above a task's table, as (what, value); the prevalence is of the task's unit."""
    facts = section.facts
    by_patient = facts["unit"] == "patient"
    prevalence = facts["event_patients"] / facts["patients"] if by_patient else facts["prevalence"]
    return [
        ("Images", f"{facts['images']:,}"),
        ("Patients", f"{facts['patients']:,}"),
        ("Patients with event", f"{facts['event_patients']:,}"),
        (f"Prevalence ({facts['unit']}s)", number(float(prevalence))),
        ("Folds", fold_counts(section)),
    ]


def exclusions(section: Section) -> str:
    """What was left out of the cohort for this task; empty where nothing was or nobody knows."""
    left_out = (section.task_card or {}).get("excluded", {})
    return "; ".join(f"{plural(count, 'image')}, {reason}" for reason, count in left_out.items())


def features_sheet(records: Sequence[Record]) -> Sheet:
    """One row a feature store that the records were made from, controls last."""
    found: dict[tuple[str, str], tuple[Cell, ...]] = {}
    for record in sorted(records, key=lambda each: kind_of(each.config.backbone) == "control"):
        found.setdefault((record.config.backbone, record.config.features), _features_row(record))
    heads = ("Backbone", "Feature key", "Weights", "Forward pass", "Input", "Libraries")
    columns = tuple(Column(head, numeric=False) for head in heads)
    return Sheet("Features that were probed; keys and digests are shortened", columns, tuple(found.values()))


def versions_text(packages: Mapping[str, str]) -> str:
    """Packages with their versions, in a line."""
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _features_row(record: Record) -> tuple[Cell, ...]:
    origin = record.provenance["features"]
    recipe: Mapping[str, Any] = origin.get("recipe", {})
    texts = [backbone_title(record.config.backbone), record.config.features[:KEY_LENGTH]]
    if recipe:
        transform = str(recipe["transform"]).replace("|", ", ").replace(";", "; ")
        texts += [str(recipe["weights"])[:KEY_LENGTH], f"{recipe['precision']}, {recipe['device']}", transform]
        texts.append(versions_text(recipe["libraries"]))
    else:
        texts += [ABSENT, ABSENT, "; ".join(origin.get("columns", [])) or ABSENT, ABSENT]
    return tuple(map(Cell, texts))


def _glance_row(section: Section, group: Sequence[Entry], notes: Footnotes) -> tuple[Cell, ...]:
    facts = section.facts
    size = Cell(f"{facts['patients']:,} ({facts['event_patients']:,})")
    control = next((entry for entry in group if entry.kind == "control"), None)
    reference = Cell(ABSENT) if control is None else _score(control, "mcc", notes)
    pretrained = [entry for entry in group if entry.kind == "pretrained"]
    if not pretrained:
        mark = notes.mark("no pretrained backbone was run")
        return Cell(section.heading), size, Cell(ABSENT, mark), Cell(ABSENT), reference, Cell(ABSENT)
    top = best(pretrained)
    several = len(section.groups) > 1
    mark = notes.mark("one of several splits, seeds or probes; the section below shows all" if several else "")
    return Cell(section.heading), size, Cell(top.name, mark), _score(top, "mcc", notes), reference, _gain(top, notes)


def _plain(entry: Entry, column: str) -> Cell:
    # What a backbone's features are says nothing of a control, which has none.
    blank = entry.kind == "control" and column in {"precision", "features", "identity"}
    return Cell("" if blank else str(entry.row[column])[:KEY_LENGTH] or ABSENT)


def _strategy(entry: Entry) -> str:
    strategy, probe = str(entry.row["strategy"]), str(entry.row["probe"])
    return f"{strategy} ({probe})" if probe else strategy


def _common_chance(section: Section) -> str:
    """Chance level of PR-AUC, if all rows share it."""
    found = {number(entry.chance) for entry in section.entries}
    return found.pop() if len(found) == 1 else ""


def _score(entry: Entry, metric: str, notes: Footnotes, unit: str = "") -> Cell:
    unit = unit or str(entry.row["unit"])
    mean, std = entry.record.score(metric, unit)
    return Cell(spread(mean, std), notes.mark(_why_absent(entry, metric, unit)))


def _why_absent(entry: Entry, metric: str, unit: str) -> str:
    """Which folds are missing from a score, and why; empty where none is."""
    cells = [score for score in entry.record.scores if score["unit"] == unit]
    missing: dict[str, list[int]] = {}
    for score in cells:
        if (value := score["metrics"][metric]) is None or math.isnan(value):
            reason = score["reasons"].get(metric) or "the metric is not defined there"
            missing.setdefault(reason, []).append(score["fold"] + 1)
    if not missing:
        return "" if len(cells) > 1 else "one fold only, so no standard deviation"
    told = "; ".join(f"fold {', '.join(map(str, folds))}: {reason}" for reason, folds in missing.items())
    return f"not defined in every fold, left out of the mean ({told})"


def _gain(entry: Entry, notes: Footnotes) -> Cell:
    if entry.kind == "control":
        return Cell("reference")
    gain = entry.gain
    if math.isnan(gain.mean):
        lacks = "no control was run on the same folds" if not entry.row["control"] else "no fold has an MCC for both"
        return Cell(ABSENT, notes.mark(lacks))
    shift = number(gain.mean, signed=True)
    if math.isnan(gain.low):
        return Cell(f"{shift} ({ABSENT})", notes.mark("one fold in common with the control, so no interval"))
    return Cell(f"{shift} ({between(gain.low, gain.high)})")


def _letters(position: int) -> str:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return alphabet[position % 26] * (position // 26 + 1)
