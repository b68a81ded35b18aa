"""A cohort's card: what a reader should know before believing a score on it."""

from collections import Counter
from typing import Any

import pandas as pd

from peftbench.cohorts.declaration import Cohort
from peftbench.imaging.decode import PixelPolicy
from peftbench.protocol.manifest import Manifest
from peftbench.protocol.tasks import EmptyTaskError, Task, rows_of

CARD_SCHEMA = 1


def cohort_card(
    declared: Cohort, manifest: Manifest, rejected: list[str], policy: PixelPolicy, image_store: str
) -> dict[str, Any]:
    """Counts, exclusions and views by label of a prepared cohort, as JSON's types.

    Args:
        declared: the cohort.
        manifest: its table.
        rejected: the reason of each file that was left out; their names stay with the raw data.
        policy: how its files became pixels.
        image_store: name of the image store's folder.
    """
    frame = manifest.frame
    return {
        "schema": CARD_SCHEMA,
        "cohort": declared.name,
        "title": declared.title,
        "source": declared.source,
        "licence": declared.licence,
        "caveat": declared.caveat,
        "images": len(frame),
        "patients": int(frame["patient_id"].nunique()),
        "centers": {str(name): int(count) for name, count in frame["center"].value_counts().sort_index().items()},
        "rejected": dict(sorted(Counter(rejected).items())),
        "shared_between_patients": shared_between_patients(manifest),
        "policy": policy.recipe,
        "image_store": image_store,
        "tasks": {task.name: _task_card(task, manifest) for task in declared.tasks},
    }


def shared_between_patients(manifest: Manifest) -> int:
    """How many pictures (by their pixels) stand under more than one patient."""
    owners = manifest.frame[["image_digest", "patient_id"]].drop_duplicates()["image_digest"]
    return len(set(owners[owners.duplicated()]))


def _task_card(task: Task, manifest: Manifest) -> dict[str, Any]:
    try:
        rows = rows_of(task, manifest)
    except EmptyTaskError as error:
        return {"question": task.question, "images": 0, "note": str(error)}
    views = pd.crosstab(rows.frame["view"].fillna("unknown"), rows.frame["event"])
    return {
        "question": task.question,
        "caveat": task.caveat,
        "images": rows.images,
        "patients": rows.patients,
        "events": rows.events,
        "event_patients": rows.event_patients,
        "prevalence": rows.prevalence,
        "excluded": {each.reason: each.images for each in rows.exclusions},
        "views": {
            str(view): {"event": int(row.get(1, 0)), "no event": int(row.get(0, 0))} for view, row in views.iterrows()
        },
    }
