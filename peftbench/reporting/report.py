"""The verb `report`: all complete records of a workspace to tables and one self-contained page."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from peftbench.analysis.results import results_table
from peftbench.errors import NotPreparedError, WorkspaceError
from peftbench.protocol import provenance
from peftbench.protocol.kept import KEPT
from peftbench.protocol.progress import Progress, Silent
from peftbench.protocol.records import Record, iter_records, read_predictions
from peftbench.protocol.results import ReportResult
from peftbench.protocol.workspace import Workspace
from peftbench.reporting.content import Card, sections
from peftbench.reporting.courses import read_courses
from peftbench.reporting.markdown import markdown
from peftbench.reporting.page import page
from stores.atomic import write_atomic

MARKDOWN, CSV, HTML = "results.md", "results.csv", "report.html"


def report(
    *,
    workspace: str | Path | Workspace | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
) -> ReportResult:
    """Write what the records of a workspace say: `results.md`, `results.csv` (unrounded) and `report.html`.

    Args:
        workspace: folder that peftbench writes to; by default PEFTBENCH_WORKSPACE, else `./workspace`.
        out: folder to write into; by default `report` in the workspace.
        progress: who is told how far it is.

    Raises:
        NotPreparedError: there is no complete record yet; the message names the command to run.
        RecordError: a record is damaged.
        WorkspaceError: the folder cannot be written, or a cohort's card cannot be read.
    """
    place, told = Workspace.at(workspace), progress or Silent()
    folders = {record.identity: (folder, record) for folder, record in iter_records(place)}
    records = [record for _, record in folders.values()]
    if not records:
        raise NotPreparedError(f"the workspace {place.root} holds no complete record: run {_next_step(place)} first")
    told.start("writing the report", 3)
    table = results_table(records, lambda record: read_predictions(folders[record.identity][0]))
    cards = read_cards(place, records)
    courses = {identity: read_courses(where, record) for identity, (where, record) in folders.items()}
    parts, stamp = sections(records, table, cards, courses), _stamp()
    folder = place.report if out is None else Path(out)
    documents = {
        MARKDOWN: markdown(parts, records, cards, stamp),
        # pandas writes the shortest text that reads back as the same number.
        CSV: table.to_csv(index=False),
        HTML: page(parts, records, cards, stamp),
    }
    for name, text in documents.items():
        _write(folder / name, text)
        told.advance()
    return ReportResult(
        records=len(records), tables=[str(folder / MARKDOWN), str(folder / CSV)], html=str(folder / HTML)
    )


def read_cards(place: Workspace, records: Iterable[Record]) -> dict[str, Card]:
    """The cards of the records' cohorts, of those that have one.

    Raises:
        WorkspaceError: a card cannot be read.
    """
    cards: dict[str, Card] = {}
    for cohort in sorted({str(record.task["cohort"]) for record in records}):
        path = place.card(cohort)
        if not path.is_file():
            continue
        try:
            cards[cohort] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise WorkspaceError(
                f"the cohort's card {path} cannot be read: run `peftbench prepare {cohort}` again"
            ) from error
    return cards


def _next_step(place: Workspace) -> str:
    if any(place.results.rglob(f"{KEPT}/*")):
        return "`peftbench probe` or `peftbench finetune` again, which was stopped,"
    if not any(place.root.glob("cohorts/*/manifest.parquet")):
        return "`peftbench prepare COHORT --raw DIR`"
    if not place.committed_features():
        return "`peftbench extract COHORT --backbone NAME`"
    return "`peftbench probe TASK --backbone NAME`"


def _stamp() -> str:
    commit = provenance.commit()
    built = f", commit {commit[:12]}{'+dirty' if commit.endswith('+dirty') else ''}" if commit else ""
    return f"Generated on {datetime.now(UTC):%Y-%m-%d} (UTC) by peftbench {provenance.version()}{built}."


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as error:
        raise WorkspaceError(
            f"the report cannot be written to {path.parent} ({error.strerror or error}): "
            "name another folder with --out DIR"
        ) from error
