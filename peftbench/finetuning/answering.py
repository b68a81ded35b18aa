"""From records to the rows that `finetune` answers."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from peftbench.analysis.answers import as_number, compared, score_fields
from peftbench.protocol.names import CONTROL_PREFIX
from peftbench.protocol.progress import Progress
from peftbench.protocol.records import RECORD_FILE, Record, finished
from peftbench.protocol.results import FinetuneRow
from peftbench.protocol.workspace import Workspace, path_name


def answer_rows(records: Sequence[Record], place: Workspace, told: Progress) -> list[FinetuneRow]:
    """One row a record, in the order given; each set against the strongest control that `probe` has recorded.

    Args:
        records: of one call.
        place: the workspace.
        told: hears where no control is recorded.
    """
    controls = [
        each for task in dict.fromkeys(record.config.task for record in records) for each in _controls(task, place)
    ]
    table = compared([*records, *controls], place)
    lacking = [record.config for record in records if not table[record.identity]["control"]]
    for task, external in dict.fromkeys((config.task, config.external) for config in lacking):
        where, words = (f" on {external}", f" --external {external}") if external else ("", "")
        told.note(
            f"{task}{where}: no control is recorded for these folds, and a score means nothing without: `peftbench "
            f"probe {task}{words}` with the same split, seed and regime makes them in seconds"
        )
    return [_row(record, table[record.identity], place) for record in records]


def _controls(task: str, place: Workspace) -> list[Record]:
    prefix = path_name(f"{CONTROL_PREFIX}x").removesuffix("x")
    folders = sorted(path.parent for path in (place.results / path_name(task)).glob(f"{prefix}*/*/*/{RECORD_FILE}"))
    return [record for record in map(finished, folders) if record is not None]


def _row(record: Record, row: "pd.Series[Any]", place: Workspace) -> FinetuneRow:
    cost, settings = record.cost, record.config.settings
    return FinetuneRow(
        **score_fields(record, row, place),
        strategy=settings["strategy"],
        rank=settings["rank"],
        trainable_parameters=int(cost["trainable_parameters"]),
        trainable_percent=float(cost["trainable_percent"]),
        epochs=int(cost["epochs"]),
        seconds=sum(cost["seconds"].values()),
        images_per_second=as_number(cost["images_per_second"]),
        peak_memory_mb=float(cost["peak_memory_mb"]),
    )
