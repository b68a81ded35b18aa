"""What the tests of protocol and probing share: small cohorts whose truth is written out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from peftbench.protocol.manifest import REQUIRED
from peftbench.protocol.tasks import Task, TaskRows

TASK = Task(
    name="TOY", cohort="toy", question="Will it happen?", label="outcome", event="yes", no_event="no", outcome="icu"
)


def manifest_frame(patients: Sequence[str], **columns: Sequence[object]) -> pd.DataFrame:
    """A manifest's table, one row for each entry of `patients`, with the columns given beside or in place of these."""
    count = len(patients)
    made: dict[str, Sequence[object]] = {
        "sample_id": [f"s-{row:03d}" for row in range(count)],
        "patient_id": list(patients),
        "center": ["A"] * count,
        "view": ["AP", "PA"] * (count // 2) + ["AP"] * (count % 2),
        "acquired": list(range(count)),
        "file_digest": [f"{row:064x}" for row in range(count)],
        "image_digest": [f"{row:063x}f" for row in range(count)],
    }
    assert set(made) == set(REQUIRED)
    return pd.DataFrame({**made, **columns})


def task_rows(patients: Sequence[str], events: Sequence[int], task: Task = TASK) -> TaskRows:
    """The rows of a task, one for each image."""
    return TaskRows(task, manifest_frame(patients, event=np.asarray(events, dtype=np.int64)), ())


def cohort_rows(with_event: int, without: int, images: int = 1, task: Task = TASK) -> TaskRows:
    """So many patients of each class, with so many images each."""
    names = [f"p-{number:03d}" for number in range(with_event + without) for _ in range(images)]
    return task_rows(names, [1] * with_event * images + [0] * without * images, task)
