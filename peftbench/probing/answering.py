"""From records to the rows that `probe` answers."""

from collections.abc import Sequence

from peftbench.analysis.answers import compared, score_fields
from peftbench.protocol.records import Record
from peftbench.protocol.results import ProbeRow
from peftbench.protocol.workspace import Workspace


def answer_rows(records: Sequence[Record], place: Workspace) -> list[ProbeRow]:
    """One row a record, in the order given; each set against the strongest control among them.

    Args:
        records: of one call.
        place: the workspace.
    """
    table = compared(records, place)
    return [ProbeRow(**score_fields(record, table[record.identity], place)) for record in records]
