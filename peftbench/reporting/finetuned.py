"""What fine-tuning cost, and how it was set: tables of a task's records that were fine-tuned, beside their scores."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from peftbench.reporting.content import Entry, Section
from peftbench.reporting.sheets import Cell, Column, Footnotes, Maker, Sheet
from peftbench.reporting.words import ABSENT, listed, number, shown, value_text

APART = ("regime", "scheme", "seed", "settings")
"""Columns that are shown only where the rows differ in them."""


def cost_words(section: Section) -> list[str]:
    """How the table is to be read; where rows were trained on several devices, that times do not compare."""
    told = "Epochs, minutes and energy are those of all folds and draws of a row together."
    devices = list(dict.fromkeys(str(entry.record.cost.get("device", "")) for entry in section.tuned))
    if len(devices) > 1:
        told += f" Times on different devices ({listed(devices)}) do not compare."
    return [told]


def cost_sheet(section: Section) -> Sheet:
    """One row a record that was fine-tuned: what learnt, for how long, on what, and what it took."""
    entries, notes = section.tuned, Footnotes()
    columns, makers = _named_columns(entries)
    for column, make in _cost_columns(entries, notes):
        columns.append(column)
        makers.append(make)
    rows = tuple(tuple(make(entry) for make in makers) for entry in entries)
    caption = f"{section.heading}: what was fine-tuned, and what it cost"
    return Sheet(caption, tuple(columns), rows, notes.by_mark())


def settings_sheet(section: Section) -> Sheet:
    """One row a setting and value, with the rows that have it."""
    entries = section.tuned
    names = dict.fromkeys(name for entry in entries for name in entry.record.config.settings if name not in NO_SETTINGS)
    rows = tuple(row for name in names for row in _values(name, entries))
    columns = tuple(Column(head, numeric=False) for head in ("Setting", "Value", "Of"))
    return Sheet(f"{section.heading}: settings of what was fine-tuned, as they were resolved", columns, rows)


NO_SETTINGS = frozenset(
    {"strategy", "rank", "precision", "device", "permutations", "finetune_schema", "metrics_schema"}
)
"""Parts of a record's settings that other columns tell, or that train nothing."""


def _named_columns(entries: Sequence[Entry]) -> tuple[list[Column], list[Maker]]:
    columns = [Column("Backbone", numeric=False), Column("Strategy", numeric=False)]
    makers: list[Maker] = [lambda entry: Cell(entry.title), lambda entry: Cell(str(entry.row["strategy"]))]
    for name in APART:
        if len({_plain(entry, name) for entry in entries}) > 1:
            columns.append(Column(name.capitalize(), numeric=False))
            makers.append(partial(_plain, column=name))
    return columns, makers


def _plain(entry: Entry, column: str) -> Cell:
    return Cell(_regime(entry) if column == "regime" else shown(entry.row[column]))


def _regime(entry: Entry) -> str:
    config = entry.record.config
    return config.regime if config.shots is None else f"{config.regime} {config.shots}"


def _cost_columns(entries: Sequence[Entry], notes: Footnotes) -> Iterable[tuple[Column, Maker]]:
    yield Column("Learns", "parameters"), _learns
    yield Column("Epochs", "trainings"), _epochs
    yield Column("Minutes"), lambda entry: _figure(float(entry.row["seconds"]) / 60)
    yield Column("Images/s", "in training"), lambda entry: _figure(_cost(entry, "images_per_second"))
    yield Column("Peak memory", "GB, process"), lambda entry: _figure(_cost(entry, "peak_memory_mb") / 1e3)
    # What no row knows has no column.
    for name, column, unit in (
        ("gpu_memory_mb", Column("Peak memory", "GB, GPU"), 1e3),
        ("energy_joules", Column("Energy", "kJ, GPU"), 1e3),
    ):
        if any(not math.isnan(_cost(entry, name)) for entry in entries):
            yield column, _measured(name, unit, notes)
    yield Column("Device", numeric=False), lambda entry: Cell(_device(entry))


def _measured(name: str, unit: float, notes: Footnotes) -> Callable[[Entry], Cell]:
    def make(entry: Entry) -> Cell:
        value = _cost(entry, name) / unit
        return _figure(value)._replace(mark=notes.mark("not measured there" if math.isnan(value) else ""))

    return make


def _cost(entry: Entry, name: str) -> float:
    value: Any = entry.record.cost.get(name)
    return math.nan if value is None else float(value)


def _learns(entry: Entry) -> Cell:
    count, share = _cost(entry, "trainable_parameters"), _cost(entry, "trainable_percent")
    return Cell(ABSENT if math.isnan(count) else f"{count:,.0f} ({share:.3g} %)")


def _epochs(entry: Entry) -> Cell:
    epochs, config = _cost(entry, "epochs"), entry.record.config
    return Cell(ABSENT if math.isnan(epochs) else f"{epochs:,.0f} ({config.folds * config.draws:,})")


def _device(entry: Entry) -> str:
    cost = entry.record.cost
    return ", ".join(str(cost[name]) for name in ("device", "precision") if cost.get(name)) or ABSENT


def _figure(value: float) -> Cell:
    """Two decimals of what is small, none of what is large."""
    return Cell(f"{value:,.0f}" if value >= 100 else number(value))


def _values(name: str, entries: Sequence[Entry]) -> Iterable[tuple[Cell, ...]]:
    """The values of a setting, each with the rows that have it."""
    by_value: dict[str, list[Entry]] = {}
    for entry in entries:
        settings = entry.record.config.settings
        by_value.setdefault(value_text(settings[name]) if name in settings else ABSENT, []).append(entry)
    title = name.replace("_", " ").capitalize()
    for value, rows in by_value.items():
        yield Cell(title), Cell(value), Cell("all" if len(by_value) == 1 else "; ".join(_rows_of(rows, entries)))


def _rows_of(rows: Sequence[Entry], entries: Sequence[Entry]) -> list[str]:
    """Names of rows: the strategy where all of its rows are among them, else what tells the row from others."""
    among = {entry.record.identity for entry in rows}
    told: dict[str, None] = {}
    for entry in rows:
        alike = [each for each in entries if each.learner == entry.learner]
        whole = all(each.record.identity in among for each in alike)
        told[entry.learner if whole else full_name(entry)] = None
    return list(told)


def full_name(entry: Entry) -> str:
    """A row's name, with how much it was trained on, and how patients were divided."""
    config = entry.record.config
    return ", ".join([entry.name, *([] if config.shots is None else [_regime(entry)]), config.scheme])
