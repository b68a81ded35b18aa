"""The field of a figure on two axes, and what all such figures draw: rules, words along the axes, lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from peftbench.reporting.plot import WIDTH
from peftbench.reporting.words import number

LEFT = 46.0
"""Room for the numbers of the vertical axis."""

KEY_HEIGHT = 20.0
FOOT = 40.0
KEY_GAP = 12.0


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


def drawing(title: str, description: str, name: str, height: float, body: Sequence[str]) -> str:
    """A drawing with its title and what it says in words, for who does not see it.

    Args:
        title: of it.
        description: its content in words.
        name: of the drawing, which no other on the page has.
        height: in its own units.
        body: shapes and words.
    """
    title_id, text_id = (escape(f"{name}-{part}") for part in ("title", "desc"))
    return (
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-labelledby="{title_id} {text_id}">'
        f'<title id="{title_id}">{escape(title)}</title><desc id="{text_id}">{escape(description)}</desc>'
        f"{''.join(body)}</svg>"
    )


def rules(plane: Plane, ticks: Sequence[float]) -> str:
    """Horizontal lines with their numbers."""
    lines = [
        f'<line class="{"zero" if abs(tick) < 1e-9 else "grid"}" x1="{plane.left:g}" '
        f'x2="{plane.left + plane.width:g}" y1="{plane.y(tick):.1f}" y2="{plane.y(tick):.1f}"/>'
        f'<text class="side" x="{plane.left - 8:g}" y="{plane.y(tick) + 4:.1f}">{plain(tick)}</text>'
        for tick in ticks
    ]
    return "".join(lines)


def across(plane: Plane, value: float, text: str) -> str:
    """A word below the field, under a value."""
    return f'<text class="tick" x="{plane.x(value):.1f}" y="{plane.top + plane.height + 16:g}">{text}</text>'


def label(plane: Plane, text: str) -> str:
    """What the horizontal axis counts."""
    middle = plane.left + plane.width / 2
    return f'<text class="axis" x="{middle:g}" y="{plane.top + plane.height + 34:g}">{escape(text)}</text>'


def path(plane: Plane, points: Sequence[tuple[float, float]]) -> str:
    """A line through points (x, y) of the field."""
    return "".join(f"{'L' if at else 'M'}{_at(plane, *point)}" for at, point in enumerate(points))


def plain(value: float) -> str:
    """A number of an axis, as short as it can be said."""
    return "0" if abs(value) < 1e-9 else number(value).removesuffix("0").removesuffix(".0")


def _at(plane: Plane, x: float, y: float) -> str:
    return f"{plane.x(x):.1f} {plane.y(y):.1f}"
