"""Figures on two axes as inline SVG: learning curves and the reliability curve; shapes say what colours say."""

import math
from collections.abc import Sequence
from html import escape

from peftbench.reporting.content import Entry, Section
from peftbench.reporting.further import curves, first_of_each_kind, lead, title_with_probe
from peftbench.reporting.plane import (
    FOOT,
    KEY_GAP,
    KEY_HEIGHT,
    LEFT,
    Figure,
    Plane,
    across,
    drawing,
    label,
    path,
    plain,
    rules,
)
from peftbench.reporting.plot import MARGIN, TITLE_LENGTH, WIDTH, Axis, mark
from peftbench.reporting.reading import shots_of
from peftbench.reporting.words import IMAGES_OF, number

HEIGHT = 190.0
SQUARE = 250.0
DOT_SIZE = 4.5
DOT = (2.5, 8.0)
"""Radius of the emptiest and of the fullest bin of a reliability curve."""


def curve_figures(section: Section) -> list[Figure]:
    """One figure a regime: MCC by number of images of the best pretrained backbone, the best untrained and the control.

    A backbone both probed and fine-tuned is there twice. The shading is 5 to 95 % of the draws of the first.
    """
    made = []
    for regime, lines in curves(section).items():
        chosen = [line for line in first_of_each_kind(lines) if not all(math.isnan(each.mcc[0]) for each in line)]
        if chosen and max(map(len, chosen)) > 1:
            caption = "MCC by number of images. Shaded: 5 to 95 % of the draws of the first."
            made.append(Figure(f"{regime.capitalize()}.", caption, _curves(section, regime, chosen)))
    return made


def reliability_figures(section: Section) -> list[Figure]:
    """The reliability curve of the best pretrained backbone, or of what stands for it, and of the best fine-tuned."""
    found = [entry for entry in lead(section) if entry.record.reliability]
    first, others = found[:1], [entry for entry in found[1:] if entry.tuned]
    return [_reliability_figure(section, entry) for entry in (*first, *others)]


def _reliability_figure(section: Section, entry: Entry) -> Figure:
    title = title_with_probe(entry, section.entries)
    caption = f"{title}: share with the event by score, all test parts together. Larger: more of them. Line: agreement."
    return Figure("Reliability.", caption, _reliability(section, entry))


def _curves(section: Section, regime: str, lines: Sequence[Sequence[Entry]]) -> str:
    top = KEY_HEIGHT * len(lines) + KEY_GAP
    values = [each for line in lines for entry in line for each in (entry.mcc[0], *_range(entry))]
    axis = Axis.over(values, (-1.0, 1.0))
    sizes = sorted({shots_of(entry) for line in lines for entry in line})
    plane = Plane(
        LEFT, top, WIDTH - LEFT - MARGIN, HEIGHT, axis.low, axis.high, (math.log2(sizes[0]), math.log2(sizes[-1]))
    )
    body = [rules(plane, axis.ticks)]
    body += [_size_tick(plane, size) for size in _spaced(plane, sizes)]
    body += [_shade(plane, lines[0]), *(_line(plane, line) for line in reversed(lines))]
    body += [_key(at, line[-1], title_with_probe(line[-1], section.sampled)) for at, line in enumerate(lines)]
    body.append(label(plane, f"images{IMAGES_OF.get(regime, ' in all')}"))
    told = "; ".join(f"{title_with_probe(line[-1], section.sampled)}: {_spoken(line)}" for line in lines)
    name = f"{section.anchor}-curve-{regime.replace(' ', '-')}"
    return drawing(f"MCC by number of images, {regime}, {section.heading}", told, name, top + HEIGHT + FOOT, body)


def _reliability(section: Section, entry: Entry) -> str:
    bins = entry.record.reliability
    axis = Axis(0.0, 1.0, 0.2)
    plane = Plane(LEFT, KEY_GAP, SQUARE, SQUARE, 0.0, 1.0, (0.0, 1.0))
    most = max(each["count"] for each in bins)
    body = [rules(plane, axis.ticks)]
    body += [across(plane, tick, plain(tick)) for tick in axis.ticks]
    body.append(f'<path class="reference" fill="none" d="{path(plane, [(0.0, 0.0), (1.0, 1.0)])}"/>')
    body.append(
        f'<path class="bar {entry.look}" d="{path(plane, [(each["score"], each["share"]) for each in bins])}"/>'
    )
    for each in bins:
        radius = DOT[0] + (DOT[1] - DOT[0]) * math.sqrt(each["count"] / most)
        told = f"mean score {number(each['score'])}, share {number(each['share'])}, {each['count']:,}"
        body.append(
            f'<circle class="mean {entry.look}" cx="{plane.x(each["score"]):.1f}" cy="{plane.y(each["share"]):.1f}" '
            f'r="{radius:.1f}"><title>{escape(told)}</title></circle>'
        )
    body.append(label(plane, "score (up: share with the event)"))
    told = "; ".join(f"score {number(each['score'])}: share {number(each['share'])}" for each in bins)
    title = f"Reliability of {title_with_probe(entry, section.entries)}, {section.heading}"
    name = f"{section.anchor}-reliability{'-tuned' if entry.tuned else ''}"
    return drawing(title, told, name, KEY_GAP + SQUARE + FOOT, body)


def _spaced(plane: Plane, sizes: Sequence[int]) -> list[int]:
    """Numbers of images whose words do not run into each other; the last is always among them."""
    kept: list[int] = []
    for size in reversed(sizes):
        if not kept or plane.x(math.log2(kept[-1])) - plane.x(math.log2(size)) >= 8.0 * len(str(kept[-1])) + 6.0:
            kept.append(size)
    return kept[::-1]


def _size_tick(plane: Plane, size: int) -> str:
    return across(plane, math.log2(size), str(size))


def _key(at: int, entry: Entry, title: str) -> str:
    y = KEY_HEIGHT * at + 10
    short = title if len(title) <= TITLE_LENGTH else title[: TITLE_LENGTH - 1] + "…"
    return (
        f'<path class="bar {entry.look}" d="M{MARGIN:g} {y:g}h22"/>{mark(entry, MARGIN + 11, y, DOT_SIZE)}'
        f'<text class="name" x="{MARGIN + 30:g}" y="{y + 4:g}">{escape(short)}</text>'
        f'<text class="value" x="{WIDTH - MARGIN:g}" y="{y + 4:g}">{number(entry.mcc[0])}</text>'
    )


def _shade(plane: Plane, line: Sequence[Entry]) -> str:
    """The range of the draws of a curve, as one area; nothing where a single draw was made."""
    ends = [(shots_of(entry), *_range(entry)) for entry in line if not math.isnan(_range(entry)[0])]
    if len(ends) < 2:
        return ""
    shade = "range tuned" if line[0].tuned else "range"
    there = [(math.log2(size), high) for size, _, high in ends]
    back = [(math.log2(size), low) for size, low, _ in reversed(ends)]
    return f'<path class="{shade}" d="{path(plane, [*there, *back])}Z"/>'


def _line(plane: Plane, line: Sequence[Entry]) -> str:
    found = [(math.log2(shots_of(entry)), entry) for entry in line if not math.isnan(entry.mcc[0])]
    line_path = path(plane, [(size, entry.mcc[0]) for size, entry in found])
    dots = "".join(mark(entry, plane.x(size), plane.y(entry.mcc[0]), DOT_SIZE) for size, entry in found)
    return f'<path class="bar {line[0].look}" d="{line_path}"/>{dots}'


def _range(entry: Entry) -> tuple[float, float]:
    return float(entry.row["mcc_q05"]), float(entry.row["mcc_q95"])


def _spoken(line: Sequence[Entry]) -> str:
    return ", ".join(f"{shots_of(entry)}: {number(entry.mcc[0])}" for entry in line)
