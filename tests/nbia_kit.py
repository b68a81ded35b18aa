"""What every download of the NBIA Data Retriever has: its index, one row a series, and its names of folders.

A series folder is `<collection>/<patient>/<study>/<number-description-last 5 of the UID>`, a study folder
`<MM-DD-YYYY-[StudyID-]description-last 5 of the UID>`; an empty StudyID or description reads `NA`, and downloads of
older versions leave the StudyID's `NA-` out.
"""

import csv
import datetime as dt
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dicom_kit import SOP_CLASSES

INDEX_COLUMNS = (
    "Series UID", "Collection", "3rd Party Analysis", "Data Description URI", "Subject ID", "Study UID",
    "Study Description", "Study Date", "Series Description", "Manufacturer", "Modality", "SOP Class Name",
    "SOP Class UID", "Number of Images", "File Size", "File Location", "Download Timestamp",
)  # fmt: skip


class Series(NamedTuple):
    """One row of the index."""

    collection: str
    patient: str
    study_uid: str
    series_uid: str
    date: dt.date
    study: str
    series: str
    number: int
    modality: str
    images: int = 1
    older: bool = False
    """Downloaded by a version that leaves `NA-` out of the study's folder."""

    @property
    def location(self) -> str:
        """The series' folder below the manifest's, with slashes."""
        study_id = "" if self.older else "NA-"
        study = f"{self.date:%m-%d-%Y}-{study_id}{self.study}-{self.study_uid[-5:]}"
        series = f"{self.number}.000000-{self.series or 'NA'}-{self.series_uid[-5:]}"
        return f"{self.collection}/{self.patient}/{study}/{series}"

    def headers(self) -> dict[str, Any]:
        """What its files say of themselves."""
        return {
            "SOPClassUID": SOP_CLASSES[self.modality],
            "Modality": self.modality,
            "PatientID": self.patient,
            "PatientName": self.patient,
            "StudyInstanceUID": self.study_uid,
            "SeriesInstanceUID": self.series_uid,
            "StudyDate": f"{self.date:%Y%m%d}",
            "StudyDescription": self.study,
            "SeriesDescription": self.series,
            "SeriesNumber": self.number,
            "StudyID": "",
        }


def write_index(path: Path, rows: Iterable[Series], *, doi: str, windows: bool) -> None:
    """Write `metadata.csv`; paths have backslashes if it was downloaded on Windows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\r\n" if windows else "\n")
        writer.writerow(INDEX_COLUMNS)
        writer.writerows(_cells(row, doi, windows=windows).values() for row in rows)


def _cells(row: Series, doi: str, *, windows: bool) -> Mapping[str, Any]:
    location = f"./{row.location}"
    values = (
        row.series_uid, row.collection, "NO", f"https://doi.org/{doi}", row.patient, row.study_uid, row.study,
        f"{row.date:%m-%d-%Y}", row.series, "", row.modality, SOP_CLASSES[row.modality].name,
        str(SOP_CLASSES[row.modality]), row.images, f"{0.5 * row.images:.2f} MB",
        location.replace("/", "\\") if windows else location, "2021-08-17T10:11:12.345",
    )  # fmt: skip
    return dict(zip(INDEX_COLUMNS, values, strict=True))
