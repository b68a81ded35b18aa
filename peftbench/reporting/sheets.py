"""Tables as text, before anybody decides how they are drawn: Markdown and the page show the same cells."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

from peftbench.protocol.names import TRAINED
from peftbench.protocol.records import Record
from peftbench.reporting.content import KEY_LENGTH, Entry, Section, fold_counts, key_text
from peftbench.reporting.reading import best, best_pretrained, strongest
from peftbench.reporting.words import ABSENT, backbone_title, between, kind_of, number, plural, shown, spread

APART = ("probe", "regime", "shots", "draws", "scheme", "folds", "seed", "version", "precision")
"""Columns that are shown only where rows differ in them."""

LAST_APART = ("settings", "features", "identity")
"""Columns that are shown only where nothing before them tells rows apart."""


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


def parted(sheet: Sheet, leading: int) -> tuple[Sheet, Sheet | None]:
    """A table's first rows, and the others, each with the footnotes of its own; None where there are no others."""
    if len(sheet.rows) <= leading:
        return sheet, None
    return _rows_of(sheet, 0, leading), _rows_of(sheet, leading, len(sheet.rows))


def _rows_of(sheet: Sheet, start: int, end: int) -> Sheet:
    rows = sheet.rows[start:end]
    marks = {cell.mark for row in rows for cell in row}
    notes = {mark: text for mark, text in sheet.footnotes.items() if mark in marks}
    quiet = frozenset(at - start for at in sheet.quiet if start <= at < end)
    return replace(sheet, rows=rows, footnotes=notes, quiet=quiet)


Maker = Callable[[Entry], Cell]
"""Makes a column's cell of a row."""


def scores_sheet(section: Section, entries: Sequence[Entry] | None = None) -> Sheet:
    """The table of a task: one row a record, controls last.

    Args:
        section: of the task.
        entries: rows to show; by default all of the section.
    """
    rows = section.entries if entries is None else tuple(entries)
    columns, makers = _scores_columns(section, notes := Footnotes())
    cells = tuple(tuple(make(entry) for make in makers) for entry in rows)
    quiet = frozenset(at for at, entry in enumerate(rows) if entry.kind == "control")
    caption = f"{section.heading}: mean ± standard deviation over {fold_counts(section)} folds"
    return Sheet(caption, tuple(columns), cells, notes.by_mark(), quiet)


def _scores_columns(section: Section, notes: Footnotes) -> tuple[list[Column], list[Maker]]:
    columns = [Column("Backbone", numeric=False), Column("Strategy", numeric=False)]
    apart = apart_columns(section)
    makers: list[Maker] = [lambda entry: Cell(entry.title), lambda entry: Cell(_strategy(entry, apart))]
    for name in apart:
        columns.append(Column(name.capitalize(), numeric=False))
        makers.append(partial(_plain, column=name))
    chance = _common_chance(section)
    columns.append(Column("MCC"))
    makers.append(lambda entry: score_cell(entry, "mcc", notes))
    if any(entry.record.null for entry in section.entries):
        columns.append(Column("p", _permutations(section)))
        makers.append(lambda entry: _p_cell(entry, _permutations(section), notes))
    columns.append(Column("PR-AUC", f"chance {chance}" if chance else ""))
    makers.append(lambda entry: score_cell(entry, "pr_auc", notes))
    if not chance:
        columns.append(Column("Chance", "of PR-AUC"))
        makers.append(lambda entry: Cell(number(entry.chance)))
    several = len(controls_named(section.entries)) > 1
    columns.append(Column(_gain_head(section), INTERVAL))
    makers.append(lambda entry: gain_cell(entry, notes, several=several))
    if section.many_images and section.facts["unit"] == "image":
        columns.append(Column("MCC", "by patient"))
        makers.append(lambda entry: score_cell(entry, "mcc", notes, "patient"))
    return columns, makers


def controls_named(entries: Iterable[Entry]) -> set[str]:
    """The controls that rows are set against."""
    return {str(entry.row["control"]) for entry in entries if entry.row["control"]}


def apart_columns(section: Section) -> list[str]:
    """Columns that tell the rows of a section apart, no more than are needed for it."""
    shown = section.varying(APART)
    rows = [entry.row for entry in section.entries if entry.kind != "control"]
    for column in LAST_APART:
        keys = {tuple(str(row[each]) for each in ("backbone", "strategy", *shown)) for row in rows}
        if len(keys) < len(rows):
            shown += section.varying([column])
    return shown


def _gain_head(section: Section) -> str:
    """What the gain is over: the control where there is only one."""
    controls = controls_named(section.entries)
    if len(controls) != 1:
        return "Gain over strongest control" if controls else "Gain over the control"
    return f"Gain over {control_title(controls.pop())}"


def control_title(backbone: str) -> str:
    """A control's title without saying that it is one."""
    return backbone_title(backbone).removesuffix(" (control)")


def glance_sheet(parts: Sequence[Section]) -> Sheet:
    """One row a task, and one of what was fine-tuned: the best pretrained backbone beside its strongest control."""
    columns = (
        Column("Task", numeric=False),
        Column("Patients", "with event"),
        Column("Best pretrained backbone", numeric=False),
        Column("MCC"),
        Column("Strongest control", numeric=False),
        Column("MCC", "control"),
        Column("Gain in MCC", INTERVAL),
    )
    notes = Footnotes()
    rows = tuple(_glance_row(section, group, notes) for section in parts for group in section.told_first)
    caption = "The best pretrained backbone of each task beside its strongest control"
    return Sheet(caption, columns, rows, notes.by_mark())


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
    """One row a feature store that the records were made from, or a backbone that was fine-tuned, controls last."""
    found: dict[tuple[str, ...], tuple[Cell, ...]] = {}
    for record in sorted(records, key=lambda each: kind_of(each.config.backbone) == "control"):
        recipe = record.provenance["features"].get("recipe", {})
        key = (record.config.backbone, record.config.features, *(str(recipe.get(each)) for each in FORWARD))
        found.setdefault(key, _features_row(record))
    heads = ("Backbone", "Feature key", "Weights", "Forward pass", "Input", "Libraries")
    columns = tuple(Column(head, numeric=False) for head in heads)
    tuned = any(record.config.probe == TRAINED for record in records)
    what = "Features that were probed, and backbones that were fine-tuned" if tuned else "Features that were probed"
    return Sheet(f"{what}; keys and digests are shortened", columns, tuple(found.values()))


FORWARD = ("precision", "device")
"""What may differ between fine-tunings of one backbone; a feature store's key holds it."""


def versions_text(packages: Mapping[str, str]) -> str:
    """Packages with their versions, in a line."""
    return ", ".join(f"{name} {version}" for name, version in packages.items())


def _features_row(record: Record) -> tuple[Cell, ...]:
    origin = record.provenance["features"]
    recipe: Mapping[str, Any] = origin.get("recipe", {})
    key = "fine-tuned" if record.config.probe == TRAINED else record.config.features[:KEY_LENGTH]
    texts = [backbone_title(record.config.backbone), key]
    if recipe:
        transform = str(recipe["transform"]).replace("|", ", ").replace(";", "; ")
        texts += [str(recipe["weights"])[:KEY_LENGTH], f"{recipe['precision']}, {recipe['device']}", transform]
        texts.append(versions_text(recipe["libraries"]))
    else:
        texts += [ABSENT, ABSENT, "; ".join(origin.get("columns", [])) or ABSENT, ABSENT]
    return tuple(map(Cell, texts))


def _glance_row(section: Section, group: Sequence[Entry], notes: Footnotes) -> tuple[Cell, ...]:
    facts = section.facts
    name = section.heading + (", fine-tuned" if group[0].tuned and len(section.told_first) > 1 else "")
    first = (Cell(name), Cell(f"{facts['patients']:,} ({facts['event_patients']:,})"))
    top = best_pretrained(group)
    control = control_of(top, group)
    reference = (Cell(ABSENT), Cell(ABSENT))
    if control is not None:
        reference = (Cell(control_title(control.record.config.backbone)), score_cell(control, "mcc", notes))
    if top is None:
        mark = notes.mark("no pretrained backbone was run")
        return *first, Cell(ABSENT, mark), Cell(ABSENT), *reference, Cell(ABSENT)
    several = len(section.groups) > len(section.told_first)
    mark = notes.mark("one of several splits, seeds, probes or regimes; the section below shows all" if several else "")
    return *first, Cell(top.name, mark), score_cell(top, "mcc", notes), *reference, gain_cell(top, notes)


def control_of(entry: Entry | None, group: Sequence[Entry]) -> Entry | None:
    """The row of the control that an entry is set against; without one the strongest of the group, if any."""
    named = [each for each in group if entry is not None and each.record.config.backbone == entry.row["control"]]
    return best(named) if named else strongest([each for each in group if each.kind == "control"])


def _plain(entry: Entry, column: str) -> Cell:
    # What a backbone's features are says nothing of a control, which has none.
    blank = entry.kind == "control" and column in {"precision", *LAST_APART}
    text = key_text(entry.row, column) if column in LAST_APART else shown(entry.row[column])
    # Settings are told of those rows only that would be taken for each other.
    return Cell("" if blank else text or ("" if column == "settings" else ABSENT))


def _permutations(section: Section) -> str:
    """How many permutations stand behind the p values, if all rows share it."""
    found = {entry.record.null["permutations"] for entry in section.entries if entry.record.null}
    return f"{found.pop()} permutations" if len(found) == 1 else "permuted labels"


def _p_cell(entry: Entry, told: str, notes: Footnotes) -> Cell:
    null = entry.record.null
    if not null:
        return Cell(ABSENT, notes.mark("not judged under permuted labels"))
    count = "" if told[0].isdigit() else f" ({null['permutations']} permutations)"
    return Cell(f"{number(float(null['p']))}{count}")


def _strategy(entry: Entry, apart: Sequence[str]) -> str:
    strategy, probe = str(entry.row["strategy"]), str(entry.row["probe"])
    return f"{strategy} ({probe})" if probe and "probe" not in apart else strategy


def _common_chance(section: Section) -> str:
    """Chance level of PR-AUC, if all rows share it."""
    found = {number(entry.chance) for entry in section.entries}
    return found.pop() if len(found) == 1 else ""


def score_cell(entry: Entry, metric: str, notes: Footnotes, unit: str = "") -> Cell:
    """Mean ± standard deviation of a metric, with a footnote where a fold is missing."""
    unit = unit or str(entry.row["unit"])
    mean, std = entry.record.score(metric, unit)
    return Cell(spread(mean, std), notes.mark(_why_absent(entry, metric, unit)))


def _why_absent(entry: Entry, metric: str, unit: str) -> str:
    """Which folds are missing from a score, and why; empty where none is."""
    cells = [score for score in entry.record.scores if score["unit"] == unit]
    missing: dict[str, dict[int, None]] = {}
    for score in cells:
        if (value := score["metrics"].get(metric)) is None or math.isnan(value):
            reason = score["reasons"].get(metric) or "the metric is not defined there"
            missing.setdefault(reason, {})[score["fold"] + 1] = None
    if not missing:
        return "" if len({score["fold"] for score in cells}) > 1 else "one fold only, so no standard deviation"
    told = "; ".join(f"fold {', '.join(map(str, folds))}: {reason}" for reason, folds in missing.items())
    return f"not defined in every fold, left out of the mean ({told})"


def gain_cell(entry: Entry, notes: Footnotes, *, several: bool = False) -> Cell:
    """The gain over the strongest control with its interval.

    Args:
        entry: the row.
        notes: of the table.
        several: whether rows are set against different controls, so that a footnote says which.
    """
    if entry.kind == "control":
        return Cell("reference")
    gain = entry.gain
    if math.isnan(gain.mean):
        lacks = "no control was run on the same folds" if not entry.row["control"] else "no fold has an MCC for both"
        return Cell(ABSENT, notes.mark(lacks))
    shift, over = number(gain.mean, signed=True), str(entry.row["control"])
    if math.isnan(gain.low):
        return Cell(f"{shift} ({ABSENT})", notes.mark("one fold in common with the control, so no interval"))
    return Cell(f"{shift} ({between(gain.low, gain.high)})", notes.mark(f"over {control_title(over)}" * several))


def _letters(position: int) -> str:
    alphabet = "abcdefghijklmnopqrstuvwxyz"
    return alphabet[position % 26] * (position // 26 + 1)
