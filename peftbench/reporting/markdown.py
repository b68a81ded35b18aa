"""The report as Markdown that reads well unrendered: padded columns, one table a task."""

from collections.abc import Mapping, Sequence

from peftbench.protocol.records import Record
from peftbench.reporting.content import Card, Section
from peftbench.reporting.further import further
from peftbench.reporting.methods import methods
from peftbench.reporting.reading import overall, reading
from peftbench.reporting.sheets import (
    Cell,
    Column,
    Sheet,
    exclusions,
    features_sheet,
    glance_sheet,
    headline,
    scores_sheet,
    views_sheet,
)
from peftbench.reporting.words import sentence

TITLE = "Prognosis from chest X-rays: what the scores show"


def markdown(parts: Sequence[Section], records: Sequence[Record], cards: Mapping[str, Card], stamp: str) -> str:
    """The whole document.

    Args:
        parts: one section a task.
        records: all that are shown.
        cards: cohort to its card.
        stamp: when and by what it was written.
    """
    blocks, glance = [f"# {TITLE}", escape(stamp)], glance_sheet(parts)
    if glance.rows:
        blocks += ["## At a glance", *filter(None, [overall(parts)]), *table(glance)]
    for part in parts:
        blocks += task_blocks(part)
    blocks += ["## Methods in short"]
    blocks += ["\n".join(f"- **{each.term}.** {escape(each.text)}" for each in methods(records))]
    if cards:
        blocks += ["## Cohorts", "\n".join(_cohort_line(card) for card in cards.values())]
    blocks += ["## Provenance", *table(features_sheet(records))]
    return "\n\n".join(blocks) + "\n"


def task_blocks(section: Section) -> list[str]:
    """A task's paragraphs and tables."""
    facts = ", ".join(f"{what.lower()} {value}" for what, value in headline(section))
    blocks = [f"## {escape(section.heading)}", f"**{escape(str(section.facts['question']))}**"]
    blocks += [facts[0].upper() + facts[1:] + "."]
    left_out = exclusions(section)
    if left_out:
        blocks.append(f"Left out: {escape(left_out)}.")
    blocks += [escape(paragraph) for paragraph in reading(section)]
    if section.facts["caveat"]:
        blocks.append(f"**Caveat.** {escape(sentence(section.facts['caveat']))}")
    blocks += [f"**Note.** {escape(sentence(note))}" for note in section.notes]
    if section.entries:
        blocks += table(scores_sheet(section))
    for part in further(section):
        blocks += [f"### {escape(part.heading)}", *map(escape, (*part.texts, sentence(part.sheet.caption)))]
        blocks += table(part.sheet)
        if part.detail is not None:
            blocks += [f"{escape(sentence(part.detail.caption))}", *table(part.detail)]
    views = views_sheet(section)
    return blocks if views is None else [*blocks, f"{sentence(views.caption)}", *table(views)]


def table(sheet: Sheet) -> list[str]:
    """A table as Markdown, and its footnotes."""
    cells = [[_head(column) for column in sheet.columns]]
    cells += [[_cell(cell) for cell in row] for row in sheet.rows]
    widths = [max(len(row[at]) for row in cells) for at in range(len(sheet.columns))]
    rule = [
        "-" * (width - 1) + ":" if column.numeric else "-" * width
        for width, column in zip(widths, sheet.columns, strict=True)
    ]
    padded = [_pad(row, widths, sheet) for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in (padded[0], rule, *padded[1:])]
    notes = [f"({mark}) {escape(sentence(text))}" for mark, text in sheet.footnotes.items()]
    return ["\n".join(lines), *notes]


def escape(text: str) -> str:
    """Text that Markdown shows as it is: no markup, no HTML, one line."""
    plain = " ".join(text.split())
    for character in "\\`*|[":
        plain = plain.replace(character, f"\\{character}")
    return plain.replace("&", "&amp;").replace("<", "&lt;")


def _head(column: Column) -> str:
    return escape(column.head + (f" ({column.detail})" if column.detail else ""))


def _cell(cell: Cell) -> str:
    return escape(cell.text) + (f" ({cell.mark})" if cell.mark else "")


def _pad(row: Sequence[str], widths: Sequence[int], sheet: Sheet) -> list[str]:
    aligned = zip(row, widths, sheet.columns, strict=True)
    return [text.rjust(width) if column.numeric else text.ljust(width) for text, width, column in aligned]


def _cohort_line(card: Card) -> str:
    told = f"{card['title']}: {card['source']}. Licence: {card['licence']}."
    return f"- {escape(told)}" + (f" {escape(sentence(card['caveat']))}" if card.get("caveat") else "")
