"""The options of `prepare`; those of a panel of their own describe anybody's own table."""

from pathlib import Path
from typing import Annotated, Any

import typer

_OWN = "Your own table (`table`, `cocross`)"


def own(help_text: str, *names: str) -> Any:
    """An option that describes a cohort of one's own."""
    return typer.Option(*names, help=help_text, rich_help_panel=_OWN, show_default=False)


Cohort = Annotated[
    str,
    typer.Argument(help="Name of a cohort (`peftbench list cohorts`), or `table` for a table and images of your own."),
]
Raw = Annotated[
    Path | None,
    typer.Option("--raw", help="Folder of the download. Without it the phantom is generated.", show_default=False),
]
Policy = Annotated[
    str | None,
    typer.Option(
        help="How samples become pixels: minmax (as the paper), window, percentile or equalize.",
        show_default="as the last time, else minmax",
    ),
]
Side = Annotated[
    int | None,
    typer.Option(
        help="Longest side of the stored pixels; larger images are reduced.",
        show_default="as the last time, else 512",
    ),
]
MaxRejected = Annotated[
    float | None,
    typer.Option(help="Share of rejected images, 0 to 1, above which it fails.", show_default=False),
]
Workers = Annotated[int | None, typer.Option(help="Processes that decode; by default one a core.", show_default=False)]
Reread = Annotated[
    bool, typer.Option("--reread", help="Read every file again, also those unchanged by name, size and date.")
]
Describe = Annotated[Path | None, own("YAML file that describes your cohort; options add to it.")]
Name = Annotated[str | None, own("Name of your cohort; its tasks are called after it.")]
Table = Annotated[list[str] | None, own("CSV, XLSX or Parquet file in the raw folder.")]
Header = Annotated[int | None, own("Row of the table that names the columns.")]
Sheet = Annotated[str | None, own("Sheet of a workbook; by default the first.")]
Images = Annotated[list[str] | None, own("Folder of the images in the raw folder; may be repeated.")]
File = Annotated[str | None, own("A row's file, columns in braces: '{exam}' finds exam.dcm, exam.png.")]
Match = Annotated[str | None, own("If a row is a patient: what of a file names it: stem, folder, dicom:PatientID.")]
Key = Annotated[str | None, own("Column that --match equals; by default that of --patient.")]
PathPattern = Annotated[str | None, own("Pattern of paths; its named groups are columns path:NAME.")]
ImageId = Annotated[str | None, own("Column that identifies an image; by default its file.", "--id")]
Patient = Annotated[str | None, own("Column that identifies a patient.")]
Center = Annotated[str | None, own("Column of the centre.")]
View = Annotated[str | None, own("Column of the view (AP, PA, LATERAL), or dicom:ViewPosition.")]
Order = Annotated[str | None, own("Column of the date or number that orders a patient's images.")]
OrderFormat = Annotated[list[str] | None, own("How its dates are written, e.g. %d.%m.%Y.")]
Label = Annotated[str | None, own("Column of the outcome.")]
Event = Annotated[list[str] | None, own("Its value of the adverse outcome; may be repeated.")]
NoEvent = Annotated[list[str] | None, own("Its value of the absence; may be repeated.")]
Unknown = Annotated[list[str] | None, own("Its value that is no label; may be repeated.")]
PerImage = Annotated[bool, own("Images of one patient may have different outcomes.", "--per-image")]
Covariate = Annotated[list[str] | None, own("Further column for the manifest; may be repeated.")]
Clinical = Annotated[
    list[str] | None, own("Column of the manifest that is known when the film is taken, e.g. age; may be repeated.")
]
Keep = Annotated[list[str] | None, own("Rows to use: COLUMN=VALUE,VALUE; may be repeated.")]
KeyFile = Annotated[
    Path | None,
    own("Secret that pseudonyms of your patients are made with; by default in the raw folder.", "--key-file"),
]
