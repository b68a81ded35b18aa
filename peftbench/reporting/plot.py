"""Two figures of a task as inline SVG: every fold's MCC, and the gain over the control with its interval.

Each row's title stands above its marks, so that a figure is as readable on a phone as on paper. Colours are classes of
the page's style sheet; what a mark means is said by its shape as well.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from peftbench.reporting.content import Entry, Section
from peftbench.reporting.reading import strongest
from peftbench.reporting.sheets import apart_columns
from peftbench.reporting.words import between, number, shown

WIDTH = 440.0
"""Of a figure, in its own units; about one a pixel."""

TITLE_LENGTH = 50
"""Characters of a row's title that fit beside its value; the tables have it whole."""

TOLD_LENGTH = 16
"""Characters of each thing that tells a row apart."""

MARGIN = 18.0
TITLE_HEIGHT = 22.0
"""Of a row's title; the strip with its marks lies below, so that no line crosses the words."""

STRIP_HEIGHT = 30.0
ROW_GAP = 8.0
ROW_HEIGHT = TITLE_HEIGHT + STRIP_HEIGHT + ROW_GAP
AXIS_HEIGHT = 40.0
MARK = 6.0
"""Radius of a mean."""

DOT_SWAY = 2.6
"""Folds are set apart vertically by this much, so that equal scores stay visible; the same fold at the same height."""

STEPS = (0.05, 0.1, 0.2, 0.25, 0.5, 1.0)
MOST_TICKS = 8


@dataclass(frozen=True)
class Axis:
    """A horizontal scale.

    Attributes:
        low: value at the left.
        high: value at the right.
        step: between ticks.
    """

    low: float
    high: float
    step: float

    @classmethod
    def over(cls, values: Iterable[float], limits: tuple[float, float]) -> "Axis":
        """The tightest round scale that holds zero and the values (NaN left out), within limits."""
        found = [min(max(value, limits[0]), limits[1]) for value in values if not math.isnan(value)] + [0.0]
        low, high = min(found), max(found)
        span = max(high - low, 0.2)
        step = next((step for step in STEPS if span / step <= MOST_TICKS - 1), STEPS[-1])
        bottom, top = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(max(bottom, limits[0]), min(max(top, bottom + step), limits[1]), step)

    def x(self, value: float) -> float:
        """Position of a value, of one beyond the scale that of its end."""
        inside = min(max(value, self.low), self.high)
        return MARGIN + (WIDTH - 2 * MARGIN) * (inside - self.low) / (self.high - self.low)

    @property
    def ticks(self) -> list[float]:
        """Multiples of the step from end to end."""
        first = math.ceil(self.low / self.step - 1e-9)
        last = math.floor(self.high / self.step + 1e-9)
        return [position * self.step for position in range(first, last + 1)]


def folds_figure(section: Section) -> str:
    """One row a leading record: a dot a fold, the mean as a bold mark, ± one deviation; the control as a band."""
    axis = Axis.over((value for entry in section.leading for value in _reach(entry)), (-1.0, 1.0))
    shaded = shaded_control(section)
    behind = "" if shaded is None else _band(shaded, axis)
    rows = [
        _row(at, _row_title(section, entry, number(entry.mcc[0])), axis, [behind, *_folds_marks(entry, axis)])
        for at, entry in enumerate(section.leading)
    ]
    told = "; ".join(f"{entry.name}: mean {number(entry.mcc[0])}" for entry in section.leading)
    rows.append(_axis(axis, len(rows), "MCC of each fold's test part (0: chance)"))
    return _svg(f"MCC by fold, {section.heading}", told, section.anchor + "-folds", rows)


def shaded_control(section: Section) -> Entry | None:
    """The strongest control, where all rows may be compared with it."""
    found = [strongest([entry for entry in group if entry.kind == "control"]) for group in section.groups]
    shared = {"" if each is None else each.record.identity for each in found}
    return found[0] if len(shared) == 1 else None


def gains_figure(section: Section) -> str:
    """One row a leading backbone: the mean gain in MCC over its control, with 95 % interval; empty without a gain."""
    entries = [entry for entry in section.leading if not math.isnan(entry.gain.mean)]
    if not entries:
        return ""
    bounds = [each for entry in entries for each in (entry.gain.mean, entry.gain.low, entry.gain.high)]
    axis = Axis.over(bounds, (-2.0, 2.0))
    rows = [
        _row(at, _row_title(section, entry, number(entry.gain.mean, signed=True)), axis, _gain_marks(entry, axis))
        for at, entry in enumerate(entries)
    ]
    told = "; ".join(f"{entry.name}: {_gain_words(entry)}" for entry in entries)
    rows.append(_axis(axis, len(rows), "Gain in MCC over the strongest control (0: none)", signed=True))
    return _svg(f"Gain over the strongest control, {section.heading}", told, section.anchor + "-gain", rows)


def _reach(entry: Entry) -> Sequence[float]:
    mean, std = entry.mcc
    return [*(value.mcc for value in entry.folds), mean, mean - std, mean + std]


def _svg(title: str, description: str, name: str, body: Sequence[str]) -> str:
    """A drawing of rows and, last, the axis."""
    title_id, text_id = (escape(f"{name}-{part}") for part in ("title", "desc"))
    height = (len(body) - 1) * ROW_HEIGHT + AXIS_HEIGHT
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-labelledby="{title_id} {text_id}">'
        f'<title id="{title_id}">{escape(title)}</title><desc id="{text_id}">{escape(description)}</desc>'
        f"{''.join(body)}</svg>"
    )


def _row(at: int, title: str, axis: Axis, marks: Iterable[str]) -> str:
    """A title and below it the strip with its grid and marks, drawn with the strip's middle at y = 0."""
    top = at * ROW_HEIGHT
    middle = top + TITLE_HEIGHT + STRIP_HEIGHT / 2
    strip = f'<g transform="translate(0 {middle:g})">{_grid(axis)}{"".join(marks)}</g>'
    return f'<g transform="translate(0 {top:g})">{title}</g>{strip}'


def _grid(axis: Axis) -> str:
    half = STRIP_HEIGHT / 2
    lines = (
        f'<line class="{"zero" if abs(tick) < 1e-9 else "grid"}" x1="{axis.x(tick):.1f}" x2="{axis.x(tick):.1f}" '
        f'y1="{-half:g}" y2="{half:g}"/>'
        for tick in axis.ticks
    )
    return "".join(lines)


def _axis(axis: Axis, rows: int, label: str, *, signed: bool = False) -> str:
    top = rows * ROW_HEIGHT - ROW_GAP
    ends = f'x1="{axis.x(axis.low):.1f}" x2="{axis.x(axis.high):.1f}"'
    ticks = [
        f'<text class="tick" x="{axis.x(tick):.1f}" y="{top + 16:g}">{_tick(tick, signed=signed)}</text>'
        for tick in axis.ticks
    ]
    line = f'<line class="base" {ends} y1="{top:g}" y2="{top:g}"/>'
    return f'{line}{"".join(ticks)}<text class="axis" x="{WIDTH / 2:g}" y="{top + 36:g}">{escape(label)}</text>'


def _tick(value: float, *, signed: bool) -> str:
    if abs(value) < 1e-9:
        return "0"
    return number(value, signed=signed).removesuffix("0").removesuffix(".0")


def _row_title(section: Section, entry: Entry, value: str) -> str:
    told = ", ".join(_told_apart(section, entry))
    most = max(TITLE_LENGTH // 2, TITLE_LENGTH - len(entry.title))
    told = told if len(told) <= most else told[: most - 1] + "…"
    aside = f'<tspan class="aside" dx="6">{escape(told)}</tspan>' if told else ""
    room = TITLE_LENGTH - len(told)
    title = entry.title if len(entry.title) <= room else entry.title[: room - 1] + "…"
    return (
        f'<text class="name" x="{MARGIN:g}" y="15">{escape(title)}{aside}</text>'
        f'<text class="value" x="{WIDTH - MARGIN:g}" y="15">{escape(value)}</text>'
    )


def _told_apart(section: Section, entry: Entry) -> list[str]:
    """What tells a row from the others; a control needs nothing."""
    if entry.kind == "control":
        return []
    apart = apart_columns(section)
    # The strategy of what was fine-tuned says that it was.
    named = [entry.learner] if entry.tuned or "probe" in apart else []
    # A scheme says how many folds there are, as far as a figure needs it.
    without = {"probe", *(["folds"] if "scheme" in apart else [])}
    rest = [shown(entry.row[each])[:TOLD_LENGTH] for each in apart if each not in without and entry.row[each] != ""]
    return [*named, *rest]


def _folds_marks(entry: Entry, axis: Axis) -> list[str]:
    mean, std = entry.mcc
    bar = [] if math.isnan(std) else [_bar(axis, mean - std, mean + std, entry.look)]
    bold = [] if math.isnan(mean) else [mark(entry, axis.x(mean), 0.0, MARK)]
    return [*bar, *_dots(entry, axis), *bold]


def _dots(entry: Entry, axis: Axis) -> list[str]:
    last = max((value.fold for value in entry.folds), default=0)
    return [
        f'<circle class="dot {entry.look}" cx="{axis.x(value.mcc):.1f}" cy="{DOT_SWAY * (value.fold - last / 2):.1f}" '
        f'r="3"><title>fold {value.fold + 1}: {number(value.mcc)}</title></circle>'
        for value in entry.folds
        if not math.isnan(value.mcc)
    ]


def _gain_marks(entry: Entry, axis: Axis) -> list[str]:
    gain = entry.gain
    bar = [] if math.isnan(gain.low) else [_bar(axis, gain.low, gain.high, entry.look)]
    return [*bar, mark(entry, axis.x(gain.mean), 0.0, MARK)]


def _gain_words(entry: Entry) -> str:
    gain = entry.gain
    interval = "no interval" if math.isnan(gain.low) else f"95 % interval {between(gain.low, gain.high)}"
    return f"{number(gain.mean, signed=True)}, {interval}"


def _bar(axis: Axis, low: float, high: float, look: str) -> str:
    """A bar with caps; an end beyond the scale has no cap."""
    caps = "".join(f"M{axis.x(value):.1f} -5v10" for value in (low, high) if axis.low <= value <= axis.high)
    return f'<path class="bar {look}" d="M{axis.x(low):.1f} 0H{axis.x(high):.1f}{caps}"/>'


def mark(entry: Entry, x: float, y: float, size: float) -> str:
    """A bold mark at a position: square for a control, diamond for what was fine-tuned, else round.

    Args:
        entry: the row.
        x: position.
        y: height.
        size: radius of a round mark.
    """
    if entry.kind == "control":
        half = size - 0.5
        place = f'x="{x - half:.1f}" y="{y - half:.1f}"'
        return f'<rect class="mean control" {place} width="{2 * half:g}" height="{2 * half:g}"/>'
    if entry.tuned:
        return f'<path class="mean {entry.look}" d="{diamond(x, y, 1.2 * size)}"/>'
    return f'<circle class="mean {entry.kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:g}"/>'


def diamond(x: float, y: float, half: float) -> str:
    """The outline of a diamond about a position."""
    return f"M{x - half:.1f} {y:.1f}l{half:g} {-half:g}l{half:g} {half:g}l{-half:g} {half:g}z"


def _band(control: Entry, axis: Axis) -> str:
    mean, std = control.mcc
    if math.isnan(mean):
        return ""
    half, x = STRIP_HEIGHT / 2, axis.x(mean)
    line = f'<line class="reference" x1="{x:.1f}" x2="{x:.1f}" y1="{-half:g}" y2="{half:g}"/>'
    if math.isnan(std):
        return line
    left, right = axis.x(mean - std), axis.x(mean + std)
    shape = f'x="{left:.1f}" y="{-half:g}" width="{right - left:.1f}" height="{STRIP_HEIGHT:g}"'
    return f'<rect class="band" {shape}/>{line}'
