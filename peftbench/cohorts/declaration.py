"""What a cohort's file declares."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from peftbench.protocol.tasks import Task

Harmonise = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class Cohort:
    """A cohort: where its table is, what its columns mean, which questions are asked of it.

    Attributes:
        name: in the registry.
        title: for people.
        source: where to download it, as a citation.
        licence: of the images.
        table: path of the table in the raw folder.
        id_column: of the table: the image's identifier.
        patient_column: of the table: the patient's identifier.
        required: columns without which the table is not this cohort's.
        file: path of an image in the raw folder, with the table's columns in braces.
        harmonise: the table (all columns as text, empty for missing) to canonical columns, one row an image, in the
            same order: `patient`, `center`, `view`, `acquired`, then labels and covariates.
        tasks: the questions.
        caveat: what a reader of any result on it must know.
    """

    name: str
    title: str
    source: str
    licence: str
    table: str
    id_column: str
    patient_column: str
    required: tuple[str, ...]
    file: str
    harmonise: Harmonise
    tasks: tuple[Task, ...]
    caveat: str = ""
