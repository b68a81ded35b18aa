"""Figures on two axes as inline SVG: learning curves and the reliability curve; shapes say what colours say."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from peftbench.reporting.content import Entry, Section
from peftbench.reporting.further import curves, first_of_each_kind, lead, title_with_probe
from peftbench.reporting.plot import MARGIN, TITLE_LENGTH, WIDTH, Axis
from peftbench.reporting.reading import shots_of
from peftbench.reporting.words import IMAGES_OF, number

LEFT = 46.0
"""Room for the numbers of the vertical axis."""

KEY_HEIGHT = 20.0
HEIGHT = 190.0
SQUARE = 250.0
FOOT = 40.0
KEY_GAP = 12.0
DOT = (2.5, 8.0)
"""Radius of the emptiest and of the fullest bin of a reliability curve."""


@dataclass(frozen=True)
class Figure:
    """A drawing and what is said above it.

    Attributes:
        lead: bold first words.
        caption: the rest of it.
        drawing: SVG.
    """

    lead: str
    caption: str
    drawing: str


@dataclass(frozen=True)
class Plane:
    """The field of a figure.

    Attributes:
        left, top, width, height: of the field.
        low, high: values at its bottom and its top.
        span: values at its left and right end.
    """

    left: float
    top: float
    width: float
    height: float
    low: float
    high: float
    span: tuple[float, float]

    def x(self, value: float) -> float:
        """Position of a value along the field, in its middle where there is one value only."""
        first, last = self.span
        share = (value - first) / (last - first) if last > first else 0.5
        return self.left + self.width * min(max(share, 0.0), 1.0)

    def y(self, value: float) -> float:
        """Height of a value, of one beyond the field that of its edge."""
        inside = min(max(value, self.low), self.high)
        return self.top + self.height * (1.0 - (inside - self.low) / (self.high - self.low))


def curve_figures(section: Section) -> list[Figure]:
    """One figure a regime: MCC by number of images of the best pretrained backbone, the best untrained and the control.

    The shading is 5 to 95 % of the draws of the pretrained one.
    """
    made = []
    for regime, lines in curves(section).items():
        chosen = [line for line in first_of_each_kind(lines) if not all(math.isnan(each.mcc[0]) for each in line)]
        if chosen and max(map(len, chosen)) > 1:
            caption = "MCC by number of images. Shaded: 5 to 95 % of the draws of the first."
            made.append(Figure(f"{regime.capitalize()}.", caption, _curves(section, regime, chosen)))
    return made


def reliability_figures(section: Section) -> list[Figure]:
    """The reliability curve of the best pretrained backbone, or of what is there instead."""
    entry = next((each for each in lead(section) if each is not None and each.record.reliability), None)
    if entry is None:
        return []
    title = title_with_probe(entry, section.entries)
    caption = f"{title}: share with the event by score, all test parts together. Larger: more of them. Line: agreement."
    return [Figure("Reliability.", caption, _reliability(section, entry))]


def _curves(section: Section, regime: str, lines: Sequence[Sequence[Entry]]) -> str:
    top = KEY_HEIGHT * len(lines) + KEY_GAP
    values = [each for line in lines for entry in line for each in (entry.mcc[0], *_range(entry))]
    axis = Axis.over(values, (-1.0, 1.0))
    sizes = sorted({shots_of(entry) for line in lines for entry in line})
    plane = Plane(
        LEFT, top, WIDTH - LEFT - MARGIN, HEIGHT, axis.low, axis.high, (math.log2(sizes[0]), math.log2(sizes[-1]))
    )
    body = [_rules(plane, axis.ticks)]
    body += [_size_tick(plane, size) for size in _spaced(plane, sizes)]
    body += [_shade(plane, lines[0]), *(_line(plane, line) for line in reversed(lines))]
    body += [_key(at, line[-1], title_with_probe(line[-1], section.sampled)) for at, line in enumerate(lines)]
    label = f"images{IMAGES_OF.get(regime, ' in all')}"
    body.append(_label(plane, label))
    told = "; ".join(f"{line[-1].title}: {_spoken(line)}" for line in lines)
    name = f"{section.anchor}-curve-{regime.replace(' ', '-')}"
    return _drawing(f"MCC by number of images, {regime}, {section.heading}", told, name, top + HEIGHT + FOOT, body)


def _reliability(section: Section, entry: Entry) -> str:
    bins = entry.record.reliability
    axis = Axis(0.0, 1.0, 0.2)
    plane = Plane(LEFT, KEY_GAP, SQUARE, SQUARE, 0.0, 1.0, (0.0, 1.0))
    most = max(each["count"] for each in bins)
    body = [_rules(plane, axis.ticks)]
    body += [_across(plane, tick, _plain(tick)) for tick in axis.ticks]
    body.append(f'<path class="reference" fill="none" d="M{_at(plane, 0, 0)}L{_at(plane, 1, 1)}"/>')
    body.append(
        f'<path class="bar {entry.kind}" d="{_path(plane, [(each["score"], each["share"]) for each in bins])}"/>'
    )
    for each in bins:
        radius = DOT[0] + (DOT[1] - DOT[0]) * math.sqrt(each["count"] / most)
        told = f"mean score {number(each['score'])}, share {number(each['share'])}, {each['count']:,}"
        body.append(
            f'<circle class="mean {entry.kind}" cx="{plane.x(each["score"]):.1f}" cy="{plane.y(each["share"]):.1f}" '
            f'r="{radius:.1f}"><title>{escape(told)}</title></circle>'
        )
    body.append(_label(plane, "score (up: share with the event)"))
    told = "; ".join(f"score {number(each['score'])}: share {number(each['share'])}" for each in bins)
    title = f"Reliability of {entry.title}, {section.heading}"
    return _drawing(title, told, f"{section.anchor}-reliability", KEY_GAP + SQUARE + FOOT, body)


def _drawing(title: str, description: str, name: str, height: float, body: Sequence[str]) -> str:
    title_id, text_id = (escape(f"{name}-{part}") for part in ("title", "desc"))
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-labelledby="{title_id} {text_id}">'
        f'<title id="{title_id}">{escape(title)}</title><desc id="{text_id}">{escape(description)}</desc>'
        f"{''.join(body)}</svg>"
    )


def _rules(plane: Plane, ticks: Sequence[float]) -> str:
    """Horizontal lines with their numbers."""
    lines = [
        f'<line class="{"zero" if abs(tick) < 1e-9 else "grid"}" x1="{plane.left:g}" '
        f'x2="{plane.left + plane.width:g}" y1="{plane.y(tick):.1f}" y2="{plane.y(tick):.1f}"/>'
        f'<text class="side" x="{plane.left - 8:g}" y="{plane.y(tick) + 4:.1f}">{_plain(tick)}</text>'
        for tick in ticks
    ]
    return "".join(lines)


def _spaced(plane: Plane, sizes: Sequence[int]) -> list[int]:
    """Numbers of images whose words do not run into each other; the last is always among them."""
    kept: list[int] = []
    for size in reversed(sizes):
        if not kept or plane.x(math.log2(kept[-1])) - plane.x(math.log2(size)) >= 8.0 * len(str(kept[-1])) + 6.0:
            kept.append(size)
    return kept[::-1]


def _size_tick(plane: Plane, size: int) -> str:
    return _across(plane, math.log2(size), str(size))


def _across(plane: Plane, value: float, text: str) -> str:
    return f'<text class="tick" x="{plane.x(value):.1f}" y="{plane.top + plane.height + 16:g}">{text}</text>'


def _label(plane: Plane, text: str) -> str:
    middle = plane.left + plane.width / 2
    return f'<text class="axis" x="{middle:g}" y="{plane.top + plane.height + 34:g}">{escape(text)}</text>'


def _key(at: int, entry: Entry, title: str) -> str:
    y = KEY_HEIGHT * at + 10
    short = title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 1] + "…"
    return (
        f'<path class="bar {entry.kind}" d="M{MARGIN:g} {y:g}h22"/>{_dot(entry, MARGIN + 11, y)}'
        f'<text class="name" x="{MARGIN + 30:g}" y="{y + 4:g}">{escape(short)}</text>'
        f'<text class="value" x="{WIDTH - MARGIN:g}" y="{y + 4:g}">{number(entry.mcc[0])}</text>'
    )


def _shade(plane: Plane, line: Sequence[Entry]) -> str:
    """The range of the draws of a curve, as one area; nothing where a single draw was made."""
    ends = [(shots_of(entry), *_range(entry)) for entry in line if not math.isnan(_range(entry)[0])]
    if len(ends) < 2:
        return ""
    there = [(math.log2(size), high) for size, _, high in ends]
    back = [(math.log2(size), low) for size, low, _ in reversed(ends)]
    return f'<path class="range" d="{_path(plane, [*there, *back])}Z"/>'


def _line(plane: Plane, line: Sequence[Entry]) -> str:
    found = [(math.log2(shots_of(entry)), entry) for entry in line if not math.isnan(entry.mcc[0])]
    path = _path(plane, [(size, entry.mcc[0]) for size, entry in found])
    dots = "".join(_dot(entry, plane.x(size), plane.y(entry.mcc[0])) for size, entry in found)
    return f'<path class="bar {line[0].kind}" d="{path}"/>{dots}'


def _dot(entry: Entry, x: float, y: float) -> str:
    if entry.kind == "control":
        return f'<rect class="mean control" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
    return f'<circle class="mean {entry.kind}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'


def _path(plane: Plane, points: Sequence[tuple[float, float]]) -> str:
    return "".join(f"{'L' if at else 'M'}{_at(plane, *point)}" for at, point in enumerate(points))


def _at(plane: Plane, x: float, y: float) -> str:
    return f"{plane.x(x):.1f} {plane.y(y):.1f}"


def _range(entry: Entry) -> tuple[float, float]:
    return float(entry.row["mcc_q05"]), float(entry.row["mcc_q95"])


def _plain(value: float) -> str:
    return "0" if abs(value) < 1e-9 else number(value).removesuffix("0").removesuffix(".0")


def _spoken(line: Sequence[Entry]) -> str:
    return ", ".join(f"{shots_of(entry)}: {number(entry.mcc[0])}" for entry in line)
