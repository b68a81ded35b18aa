"""The figure of a training: losses and MCC of the head that was kept, epoch by epoch, and the epoch that was kept.

On the page the style sheet colours it; `write_curve` writes it into a record's folder as a file of its own.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from peftbench.finetuning.history import HISTORY_FILE
from peftbench.protocol.records import Record, read_record
from peftbench.reporting.content import Section
from peftbench.reporting.courses import QUANTITIES, Course, read_courses
from peftbench.reporting.finetuned import full_name
from peftbench.reporting.plane import FOOT, KEY_HEIGHT, LEFT, Figure, Plane, across, drawing, label, path, rules
from peftbench.reporting.plot import MARGIN, WIDTH, Axis, diamond
from peftbench.reporting.style import drawing_style
from peftbench.reporting.words import backbone_title, learner, number, plural
from stores.atomic import write_atomic

CURVE_FILE = "history.svg"

MOST_FIGURES = 24
"""Trainings that a task's section draws; every record's folder holds its own."""

MOST_LINES = 12
"""Trainings that have a line each; of more, or of several draws, median and range are drawn."""

MOST_POINTS = 150
"""Of a line: about as many as the eye tells apart in its width; of more epochs every n-th is drawn."""

STRIP_HEIGHT = 30.0
"""Of the strip that tells when several trainings were at their best."""

PANEL_TITLE = 26.0
"""Room above a panel for what it shows."""

KEPT = 5.5
"""Of the mark at the epoch that was kept, from its middle to its corners."""

MOST_TICKS = 5
STEPS = tuple(digit * 10.0**power for power in range(-2, 6) for digit in (1, 2, 5))
EPOCH_STEPS = tuple(digit * 10**power for power in range(6) for digit in (1, 2, 5))
MOST_EPOCH_TICKS = 8

FAR_OUT = 3.0
"""A loss beyond so many times the 95 % quantile of all is drawn at the edge: one bad epoch would flatten the rest."""


def training_figures(section: Section) -> list[Figure]:
    """One figure a fine-tuned record that has a history, in the order of the table."""
    found = [entry for entry in section.tuned if entry.courses]
    return [
        Figure(
            f"{full_name(entry)}.",
            caption(entry.courses),
            training_drawing(entry.record, entry.courses, f"{section.anchor}-training-{entry.record.identity[:12]}"),
        )
        for entry in found[:MOST_FIGURES]
    ]


def write_curve(folder: Path) -> Path | None:
    """Write the figure of a record's trainings into its folder, where it is not there yet.

    Args:
        folder: of a complete record.

    Returns:
        The figure's path; None where the folder holds no history: an external validation trains nothing.

    Raises:
        RecordError: the record or its history is damaged.
    """
    history, target = folder / HISTORY_FILE, folder / CURVE_FILE
    if not history.is_file():
        return None
    if not target.is_file() or target.stat().st_mtime < history.stat().st_mtime:
        record = read_record(folder)
        if courses := read_courses(folder, record):
            write_atomic(target, standalone(record, courses))
    return target if target.is_file() else None


def standalone(record: Record, courses: Sequence[Course]) -> str:
    """The figure as a file of its own: with its title, its colours and a ground."""
    height, body = _body(courses, 2 * KEY_HEIGHT + 8)
    title, under = _title(record), _where(record)
    head = [
        f'<rect class="paper" width="{WIDTH:g}" height="{height:g}"/>',
        f'<text class="name" x="{MARGIN:g}" y="22" font-weight="600">{_safe(title, 58)}</text>',
        f'<text class="aside" x="{MARGIN:g}" y="39">{_safe(under, 70)}</text>',
    ]
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n'
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH:g} {height:g}" width="{1.5 * WIDTH:g}" '
        'role="img" style="max-width: 100%; height: auto" aria-labelledby="title desc">'
        f'<title id="title">{_safe(f"{title}, {under}")}</title><desc id="desc">{_safe(spoken(courses))}</desc>\n'
        f"<style>\n{drawing_style()}</style>\n{''.join([*head, *body])}</svg>\n"
    )


def training_drawing(record: Record, courses: Sequence[Course], name: str) -> str:
    """The figure as a part of a page.

    Args:
        record: whose trainings.
        courses: of them.
        name: of the drawing, which no other on the page has.
    """
    height, body = _body(courses, 0.0)
    return drawing(f"Training of {_title(record)}, {_where(record)}", spoken(courses), name, height, body)


def caption(courses: Sequence[Course]) -> str:
    """What the figure shows, and how it is read."""
    if _has_lines(courses):
        lines = "a line a fold" if len(courses) > 1 else "one training"
        return f"Loss in training and on validation by epoch, {lines}; the diamond is the epoch that was kept."
    return (
        f"Loss by epoch: median of {len(courses):,} trainings, shaded from 5 to 95 % of them, as far as half of them "
        "went. Below: when the kept epochs were, median and 5 to 95 %."
    )


def spoken(courses: Sequence[Course]) -> str:
    """The figure in words: the epochs that were kept, with the losses there."""
    if _has_lines(courses):
        return "; ".join(map(_spoken_course, courses))
    kept = _kept_epochs(courses)
    low, middle, high = kept.quantile([0.05, 0.5, 0.95])
    return (
        f"{plural(len(courses), 'training')}: kept epochs from {kept.min()} to {kept.max()}, median {middle:g}, "
        f"5 to 95 % {low:g} to {high:g}; the longest took {plural(_last(courses), 'epoch')}"
    )


def _spoken_course(course: Course) -> str:
    at = course.frame.reindex([course.kept]).iloc[0]
    loss, held, mcc = (number(float(at[quantity])) for quantity in QUANTITIES)
    told = f"fold {course.fold + 1}: kept epoch {course.kept} of {course.epochs}"
    return f"{told}, training loss {loss}, validation loss {held}, MCC {mcc}"


def _title(record: Record) -> str:
    config = record.config
    return f"{backbone_title(config.backbone)} ({learner(config.strategy, config.probe)})"


def _where(record: Record) -> str:
    return f"{record.config.task}, {record.config.scheme}{_sampled(record)}"


def _sampled(record: Record) -> str:
    config = record.config
    return "" if config.shots is None else f", {config.regime} {config.shots}"


def _safe(text: str, most: int = 0) -> str:
    """Text that any reader of XML accepts: no control characters, no markup; shortened where asked for."""
    bare = "".join(each for each in text if each.isprintable())
    return escape(bare if not most or len(bare) <= most else bare[: most - 1] + "…")


def _has_lines(courses: Sequence[Course]) -> bool:
    return len(courses) <= MOST_LINES and all(course.draw == 0 for course in courses)


def _last(courses: Sequence[Course]) -> int:
    return max(course.epochs for course in courses)


class _Panel(NamedTuple):
    """A field of the figure: what it is called, how high it is, what it shows, within which bounds."""

    title: str
    height: float
    quantities: tuple[str, ...]
    limits: tuple[float, float]


_LOSS = _Panel("Loss", 150.0, QUANTITIES[:2], (0.0, math.inf))
_MCC = _Panel("MCC on validation", 110.0, QUANTITIES[2:], (-1.0, 1.0))


def _body(courses: Sequence[Course], top: float) -> tuple[float, list[str]]:
    """The height of the figure, and its shapes from `top` on."""
    # Where validation has one class only, nobody knows an MCC.
    known = any(course.frame["validation_mcc"].notna().any() for course in courses)
    body, at = [_key(top)], top + KEY_HEIGHT
    for panel in (_LOSS, _MCC) if known else (_LOSS,):
        plane, shapes = _panel(panel, courses, at + PANEL_TITLE)
        body += shapes
        at = plane.top + plane.height
    if not _has_lines(courses):
        plane = replace(plane, top=at + PANEL_TITLE, height=STRIP_HEIGHT)
        body += _strip(plane, courses)
    body += [across(plane, float(epoch), f"{epoch:,}") for epoch in _epoch_ticks(_last(courses))]
    return plane.top + plane.height + FOOT, [*body, label(plane, "epoch")]


def _panel(panel: _Panel, courses: Sequence[Course], top: float) -> tuple[Plane, list[str]]:
    lines = _has_lines(courses)
    spreads = {} if lines else {quantity: _spread(courses, quantity) for quantity in panel.quantities}
    drawn = spreads.values() if spreads else [course.frame[list(panel.quantities)] for course in courses]
    axis, cut = _axis(np.concatenate([each.to_numpy().ravel() for each in drawn]), panel.limits)
    span = (1.0, float(_last(courses)))
    plane = Plane(LEFT, top, WIDTH - LEFT - MARGIN, panel.height, axis.low, axis.high, span)
    shapes = [_panel_title(plane, f"{panel.title} (what is higher lies at the edge)" if cut else panel.title)]
    shapes.append(rules(plane, axis.ticks))
    for quantity in panel.quantities:
        if lines:
            shapes += [_line(plane, course, quantity) for course in courses]
        else:
            shapes += _median(plane, spreads[quantity], quantity)
    return plane, [*shapes, *(_kept(plane, course, panel.quantities[-1]) for course in courses if lines)]


def _panel_title(plane: Plane, text: str) -> str:
    return f'<text class="aside" x="{plane.left:g}" y="{plane.top - 8:g}">{escape(text)}</text>'


def _key(top: float) -> str:
    """What each line and mark is; the same shapes as in the panels."""
    y = top + 10
    return (
        f'<path class="course train" d="M{MARGIN:g} {y:g}h22"/>{_word(MARGIN + 28, y, "training")}'
        f'<path class="course" d="M{MARGIN + 108:g} {y:g}h22"/>{_word(MARGIN + 136, y, "validation")}'
        f'<path class="kept" d="{diamond(MARGIN + 232, y, KEPT)}"/>{_word(MARGIN + 244, y, "kept epoch")}'
    )


def _word(x: float, y: float, text: str) -> str:
    return f'<text class="name" x="{x:g}" y="{y + 4:g}">{text}</text>'


def _line(plane: Plane, course: Course, quantity: str) -> str:
    """A training's line, or a point where there is one value only."""
    found = _thinned(course.frame[[quantity]].dropna(), course.kept)
    points = list(zip(found.index.astype(float), found[quantity], strict=True))
    told = f"<title>{escape(_spoken_course(course))}</title>"
    if len(points) == 1:
        ((x, y),) = points
        return (
            f'<circle class="point {_side(quantity)}" cx="{plane.x(x):.1f}" cy="{plane.y(y):.1f}" r="3">{told}</circle>'
        )
    return f'<path class="course {_side(quantity)}" d="{path(plane, points)}">{told}</path>' if points else ""


def _median(plane: Plane, spread: pd.DataFrame, quantity: str) -> list[str]:
    """The median of all trainings, and the area from 5 to 95 % of them."""
    found = _thinned(spread, 0)
    epochs = found.index.astype(float)
    there, back = zip(epochs, found["high"], strict=True), list(zip(epochs, found["low"], strict=True))[::-1]
    area = path(plane, [*there, *back])
    line = path(plane, list(zip(epochs, found["middle"], strict=True)))
    shade = "band" if _side(quantity) == "train" else "range"
    return [f'<path class="{shade}" d="{area}Z"/><path class="course {_side(quantity)}" d="{line}"/>'] if area else []


def _side(quantity: str) -> str:
    return "train" if quantity.startswith("train") else "validation"


def _kept(plane: Plane, course: Course, quantity: str) -> str:
    value = float(course.frame[quantity].get(course.kept, math.nan))
    if math.isnan(value):
        return ""
    return f'<path class="kept" d="{diamond(plane.x(course.kept), plane.y(value), KEPT)}"/>'


def _strip(plane: Plane, courses: Sequence[Course]) -> list[str]:
    """When the kept epochs were: their median, and a bar from 5 to 95 %."""
    low, middle, high = (plane.x(each) for each in _kept_epochs(courses).quantile([0.05, 0.5, 0.95]))
    y, bottom = plane.top + STRIP_HEIGHT / 2 - 4, plane.top + STRIP_HEIGHT
    ends = f'x1="{plane.left:g}" x2="{plane.left + plane.width:g}"'
    return [
        _panel_title(plane, "Kept epochs"),
        f'<line class="base" {ends} y1="{bottom:g}" y2="{bottom:g}"/>',
        f'<path class="course" d="M{low:.1f} {y:g}H{high:.1f}M{low:.1f} {y - 5:g}v10M{high:.1f} {y - 5:g}v10"/>',
        f'<path class="kept" d="{diamond(middle, y, KEPT)}"/>',
    ]


def _kept_epochs(courses: Sequence[Course]) -> "pd.Series[int]":
    return pd.Series([course.kept for course in courses])


def _spread(courses: Sequence[Course], quantity: str) -> pd.DataFrame:
    """A quantity by epoch over the trainings that went so far: columns `low`, `middle` and `high`.

    As far as half of the trainings went: what is left later is no sample of all.
    """
    table = pd.concat([course.frame[quantity] for course in courses], axis=1)
    table = table[table.notna().sum(axis=1) * 2 >= len(courses)]
    parts = {"low": 0.05, "middle": 0.5, "high": 0.95}
    return pd.DataFrame({name: table.quantile(part, axis=1) for name, part in parts.items()})


def _thinned(found: pd.DataFrame, kept: int) -> pd.DataFrame:
    """Every n-th row, the last and the kept one, so that there are about `MOST_POINTS`."""
    every = -(-len(found) // MOST_POINTS)
    places = np.arange(len(found))
    wanted = (places % max(every, 1) == 0) | (places == len(found) - 1) | (found.index.to_numpy() == kept)
    return found.iloc[np.flatnonzero(wanted)]


def _axis(values: npt.NDArray[np.float64], limits: tuple[float, float]) -> tuple[Axis, bool]:
    """A round scale that holds zero and the values, and whether some lie so far out that it leaves them out."""
    found = values[~np.isnan(values)]
    low, high = (min(found.min(), 0.0), max(found.max(), 0.2)) if len(found) else (0.0, 1.0)
    far = FAR_OUT * float(np.quantile(found, 0.95)) if len(found) else math.inf
    cut = math.isinf(limits[1]) and high > far > 0
    high = far if cut else high
    step = next((step for step in STEPS if (high - low) / step <= MOST_TICKS), STEPS[-1])
    bottom, top = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return Axis(max(bottom, limits[0]), min(top, limits[1]), step), cut


def _epoch_ticks(last: int) -> list[int]:
    step = next((step for step in EPOCH_STEPS if last / step <= MOST_EPOCH_TICKS), EPOCH_STEPS[-1])
    return list(range(step, last + 1, step))
