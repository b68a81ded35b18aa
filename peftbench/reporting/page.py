"""The report as one page: no script, no reference to anything outside it; light, dark, on a phone and on paper."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from peftbench.protocol.records import Record
from peftbench.reporting.content import Card, Section
from peftbench.reporting.curves import curve_figures, reliability_figures
from peftbench.reporting.further import Further, further
from peftbench.reporting.markdown import TITLE
from peftbench.reporting.methods import methods
from peftbench.reporting.plane import Figure
from peftbench.reporting.plot import folds_figure, gains_figure, shaded_control
from peftbench.reporting.reading import overall, reading
from peftbench.reporting.sheets import (
    Cell,
    Column,
    Sheet,
    exclusions,
    features_sheet,
    glance_sheet,
    headline,
    parted,
    scores_sheet,
    versions_text,
    views_sheet,
)
from peftbench.reporting.style import STYLE
from peftbench.reporting.training import training_figures
from peftbench.reporting.words import plural, sentence

POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The browser is told that the page loads nothing and runs nothing."""


def page(parts: Sequence[Section], records: Sequence[Record], cards: Mapping[str, Card], stamp: str) -> str:
    """The whole page.

    Args:
        parts: one section a task.
        records: all that are shown.
        cards: cohort to its card.
        stamp: when and by what it was written.
    """
    body = [
        _header(stamp, len(records)),
        "<main>",
        _glance(parts),
        *(_task(part) for part in parts),
        _methods(records),
        _cohorts(cards),
        _provenance(records),
        "</main>",
        "<footer>Scores are rounded here; results.csv beside this page holds them in full.</footer>",
    ]
    shown = "\n".join(filter(None, body))
    return f'<!doctype html>\n<html lang="en">\n{_head()}\n<body>\n{shown}\n</body>\n</html>\n'


def table(sheet: Sheet, *, wide: bool = True, links: Sequence[str] = ()) -> str:
    """A table with its caption and footnotes.

    Args:
        sheet: what it says.
        wide: whether it takes the whole width.
        links: anchor of each row's name; empty for none.
    """
    head = "".join(map(_head_cell, sheet.columns))
    rows = "\n".join(_row(sheet, at, links[at] if links else "") for at in range(len(sheet.rows)))
    kind = ' class="wide"' if wide else ""
    notes = "".join(f"<li><sup>{mark}</sup> {escape(sentence(text))}</li>" for mark, text in sheet.footnotes.items())
    caption = escape(sheet.caption)
    return (
        f'<div class="scroll" role="region" aria-label="{caption}" tabindex="0"><table{kind} role="table">'
        f'<caption>{caption}</caption>\n<thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{rows}\n</tbody>'
        f"</table></div>{f'<ul class=footnotes>{notes}</ul>' if notes else ''}"
    )


def _head() -> str:
    return (
        '<head>\n<meta charset="utf-8">\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(TITLE)}</title>\n<style>{STYLE}</style>\n</head>"
    )


def _header(stamp: str, count: int) -> str:
    # A hyphen that does not break keeps "X-rays" in one line.
    title = escape(TITLE).replace("-", "&#8209;")
    shown = "1 record" if count == 1 else f"{count:,} records"
    return f'<header class="top"><h1>{title}</h1>\n<p class="stamp">{escape(stamp)} {shown}.</p></header>'


def _glance(parts: Sequence[Section]) -> str:
    told = overall(parts)
    verdict = f'<div class="reading">{_paragraphs([told])}</div>' if told else ""
    glance = glance_sheet(parts)
    if not glance.rows:
        return ""
    drawn = table(glance, links=[part.anchor for part in parts for _ in part.told_first])
    return f'<section id="at-a-glance"><h2>At a glance</h2>{verdict}{drawn}</section>'


def _task(section: Section) -> str:
    title, told = (section.card or {}).get("title", section.facts["cohort"]), reading(section)
    parts = [
        f'<section id="{escape(section.anchor)}">',
        f'<p class="eyebrow"><b>{escape(section.heading)}</b> · {escape(str(title))}</p>',
        f"<h2>{escape(str(section.facts['question']))}</h2>",
        _facts(section),
        f'<div class="reading">{_paragraphs(told)}</div>' if told else "",
        _remarks(section),
        _scores(section),
        _figures(section),
        *(_further(section, part) for part in further(section)),
        _views(section),
        "</section>",
    ]
    return "\n".join(filter(None, parts))


def _facts(section: Section) -> str:
    pairs = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in headline(section))
    return f'<dl class="facts">{pairs}</dl>'


def _remarks(section: Section) -> str:
    caveat = sentence(str(section.facts["caveat"]))
    told = [f"<p><b>Caveat.</b> {escape(caveat)}</p>"] if caveat else []
    told += [f"<p><b>Note.</b> {escape(sentence(note))}</p>" for note in section.notes]
    return "\n".join(told)


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts)


def _scores(section: Section) -> str:
    if not section.entries:
        return ""
    leading = section.leading
    if len(leading) == len(section.entries):
        return table(scores_sheet(section))
    first = {entry.record.identity for entry in leading}
    rest = [entry for entry in section.entries if entry.record.identity not in first]
    return table(scores_sheet(section, leading)) + _folded(scores_sheet(section, rest))


def _folded(sheet: Sheet) -> str:
    """A table that is shown when it is asked for."""
    return f"<details><summary>{plural(len(sheet.rows), 'more row')}</summary>{table(sheet)}</details>"


def _figures(section: Section) -> str:
    if not section.entries:
        return ""
    some = "" if len(section.leading) == len(section.entries) else " The best rows only."
    folds = Figure(
        "Score.",
        "Small dots: folds. Bold mark and bar: mean ± 1 standard deviation over folds."
        f"{_diamonds(section)} {_shading(section)}{some}",
        folds_figure(section),
    )
    gains = Figure(
        "Gain over the strongest control.",
        "Mean of the paired differences and 95 % interval; where the interval holds 0, no difference is shown. "
        f"Open marks: random weights.{_diamonds(section)}{some}",
        gains_figure(section),
    )
    return _drawn([folds, gains])


def _drawn(figures: Iterable[Figure]) -> str:
    told = "".join(
        f"<figure><figcaption><b>{escape(each.lead)}</b> {escape(each.caption)}</figcaption>{each.drawing}</figure>"
        for each in figures
        if each.drawing
    )
    return f'<div class="figures">{told}</div>' if told else ""


def _diamonds(section: Section) -> str:
    return " Diamonds: fine-tuned." if any(entry.tuned for entry in section.leading) else ""


def _shading(section: Section) -> str:
    several = sum(entry.kind == "control" for entry in section.entries) > 1
    which = "the strongest control" if several else "the control"
    return "" if shaded_control(section) is None else f"Shaded: {which}, mean ± 1 standard deviation."


DRAWN = {"curve": curve_figures, "calibration": reliability_figures, "fine-tuning": training_figures}
"""Parts that follow the scores to the figures beside their tables."""

MOST_FIGURES = 3
"""Figures of a part that are shown at once."""


def _further(section: Section, part: Further) -> str:
    first, rest = parted(part.sheet, part.leading)
    figures = DRAWN[part.key](section) if part.key in DRAWN else []
    drawn = _drawn(figures[:MOST_FIGURES])
    if len(figures) > MOST_FIGURES:
        more = plural(len(figures) - MOST_FIGURES, "more figure")
        drawn += f"<details><summary>{more}</summary>{_drawn(figures[MOST_FIGURES:])}</details>"
    shown = table(first, wide=len(first.columns) > MOST_NARROW) + ("" if rest is None else _folded(rest))
    if part.detail is not None:
        shown += f"<details><summary>Settings</summary>{table(part.detail)}</details>"
    # A curve is seen before it is read.
    both = drawn + shown if part.key == "curve" else shown + drawn
    return f"<h3>{escape(part.heading)}</h3>{_paragraphs(part.texts)}{both}"


MOST_NARROW = 3
"""Columns of a table that needs not the whole width."""


def _views(section: Section) -> str:
    sheet, left_out = views_sheet(section), exclusions(section)
    if sheet is None:
        return ""
    told = f'<p class="aside-note">Left out: {escape(left_out)}.</p>' if left_out else ""
    return f"<h3>View and outcome</h3>{table(sheet, wide=False)}{told}"


def _methods(records: Sequence[Record]) -> str:
    pairs = "".join(f"<dt>{escape(each.term)}</dt><dd>{escape(each.text)}</dd>" for each in methods(records))
    return f'<section id="methods"><h2>Methods in short</h2><dl class="methods">{pairs}</dl></section>'


def _cohorts(cards: Mapping[str, Card]) -> str:
    told = []
    for card in cards.values():
        caveat = f" {escape(sentence(card['caveat']))}" if card.get("caveat") else ""
        source = f"{escape(sentence(card['source']))} Licence: {escape(sentence(card['licence']))}"
        told.append(f"<p><b>{escape(card['title'])}.</b> {source}{caveat}</p>")
    return f'<section id="cohorts"><h2>Cohorts</h2>{"".join(told)}</section>' if told else ""


def _provenance(records: Sequence[Record]) -> str:
    made = dict.fromkeys(_software(record.provenance) for record in records)
    software = "".join(f'<p class="aside-note">{escape(each)}</p>' for each in made)
    return (
        '<section id="provenance"><h2>Provenance</h2>'
        f"{table(features_sheet(records))}<h3>Software of the records</h3>{software}</section>"
    )


def _software(provenance: Mapping[str, Any]) -> str:
    commit = provenance.get("commit")
    told = [f"peftbench {provenance['peftbench']}" + (f" (commit {commit})" if commit else "")]
    packages = {**provenance["packages"], **provenance.get("training", {}).get("libraries", {})}
    told += [f"Python {provenance['python']}", versions_text(packages), str(provenance["platform"])]
    return sentence("; ".join(filter(None, told)))


def _head_cell(column: Column) -> str:
    detail = f" <small>{escape(column.detail)}</small>" if column.detail else ""
    return f'<th scope="col" role="columnheader"{_number(column)}>{escape(column.head)}{detail}</th>'


def _row(sheet: Sheet, at: int, anchor: str) -> str:
    name, *rest = sheet.rows[at]
    text = _cell(name)
    title = f'<a href="#{escape(anchor)}">{text}</a>' if anchor else text
    cells = "".join(_data_cell(cell, column) for cell, column in zip(rest, sheet.columns[1:], strict=True))
    quiet = ' class="quiet"' if at in sheet.quiet else ""
    return f'<tr role="row"{quiet}><th scope="row" role="rowheader">{title}</th>{cells}</tr>'


def _data_cell(cell: Cell, column: Column) -> str:
    # On a phone each row is a block, and the style sheet writes the column's head before each cell.
    detail = f' data-detail="{escape(column.detail)}"' if column.detail else ""
    return (
        f'<td role="cell"{_number(column)} data-label="{escape(column.head)}"{detail}><span>{_cell(cell)}</span></td>'
    )


def _cell(cell: Cell) -> str:
    return escape(cell.text) + (f"<sup>{cell.mark}</sup>" if cell.mark else "")


def _number(column: Column) -> str:
    return ' class="number"' if column.numeric else ""
