"""What a cohort's file declares, and what a user's YAML file says: the same words.

A column is named as it stands in the table; `dicom:KEYWORD` is a tag of the image files' headers, `path:NAME` a named
group of the pattern that their paths follow.
"""

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from peftbench.protocol.tasks import Task

Derive = Callable[[pd.DataFrame], pd.DataFrame]

DICOM = "dicom:"
PATH = "path:"

Identifiers = Literal["published", "secret"]

PUBLISHED: Identifiers = "published"
SECRET: Identifiers = "secret"  # noqa: S105 - a word, no password


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str | int | float | bool) else value


def _texts(value: Any) -> Any:
    """Values as the tables are read: all text; YAML's true and 1 are what a sheet shows as True and 1."""
    several = _several(value)
    return tuple(_text(each) for each in several) if isinstance(several, list | tuple) else several


def _text(value: Any) -> str:
    return str(value) if value is not None else ""


REFUSED = "refused"
"""What a value means that has no meaning."""

Names = Annotated[tuple[str, ...], BeforeValidator(_several)]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sheet(_Part):
    """A table of the raw folder: CSV, XLSX or Parquet.

    Attributes:
        files: names or patterns in the raw folder; whatever is found is put below each other.
        header: the row that holds the names of the columns, from 1.
        sheet: name of the sheet in a workbook; by default the first.
    """

    files: Names
    header: int = Field(default=1, ge=1)
    sheet: str = ""

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"files": value} if isinstance(value, str | list | tuple) else value

    def __str__(self) -> str:
        return " or ".join(self.files)


class Column(_Part):
    """A column and how it is to be read.

    Attributes:
        column: its name; empty for a constant.
        constant: the same value in every row.
        values: raw value to meaning, upper and lower case being one; null for unknown. Without it the text itself.
        others: what a value that is not listed means, null for unknown; by default (`refused`) the cohort is refused.
        kind: `text`, `number`, `date`, `auto`: numbers where all are, else text, or `order`: numbers, or dates where
            any looks like one.
        formats: of dates, as `strptime` writes them; by default ISO 8601 and YYYYMMDD.
        optional: whether the table may lack the column; what is then not understood is unknown.
    """

    column: str = ""
    constant: str = ""
    values: dict[str, str | None] | None = None
    others: str | None = REFUSED
    kind: Literal["text", "number", "date", "auto", "order"] = "text"
    formats: Names = ()
    optional: bool = False

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, value: Any) -> Any:
        return {"column": value} if isinstance(value, str) else value


class Keep(_Part):
    """A reason to leave rows of the table out before any image is read.

    Attributes:
        column: of the table, header or path.
        reason: why a row that fails is left out; `{value}` stands for the row's value.
        values: keep rows whose value is one of these, upper and lower case being one.
        drop: leave rows out whose value is one of these.
        pattern: keep rows in whose value this regular expression is found, upper and lower case being one.
        minimum: keep rows whose value is at least this number.
        maximum: keep rows whose value is at most this number.
    """

    column: str
    reason: str = ""
    values: Texts | None = None
    drop: Texts | None = None
    pattern: str = ""
    minimum: float | None = None
    maximum: float | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        said = (self.values, self.drop, self.pattern or None, self.minimum, self.maximum)
        if all(each is None for each in said):
            raise ValueError("expected one of values, drop, pattern, minimum, maximum")
        return self

    def told(self, value: str, identifiers: Identifiers) -> str:
        """The reason for a row with this value; of a hospital's own table values are not told unless asked for."""
        if self.reason:
            return self.reason.replace("{value}", value or "not stated")
        column = self.column.removeprefix(DICOM)
        return f"{column} is not {self._wanted}" if identifiers == SECRET else f"{column}: {value or 'not stated'}"

    @property
    def _wanted(self) -> str:
        """What the rule keeps, in words."""
        wanted = [" or ".join(self.values)] if self.values else []
        wanted += [f"other than {' or '.join(self.drop)}"] if self.drop else []
        wanted += [f"like {self.pattern}"] if self.pattern else []
        wanted += [f"at least {self.minimum:g}"] if self.minimum is not None else []
        wanted += [f"at most {self.maximum:g}"] if self.maximum is not None else []
        return " and ".join(wanted) or "anything"


class Label(_Part):
    """What an outcome's column means.

    Attributes:
        column: of the table.
        event: values of the adverse outcome: the positive class.
        no_event: values of its absence.
        unknown: values that are no label; these rows stay in the manifest and out of the tasks.
        per: `patient`: all rows of a patient must agree; `image`: each row has its own.
    """

    column: str
    event: Texts
    no_event: Texts
    unknown: Texts = ("",)
    per: Literal["patient", "image"] = "image"


class Cohort(_Part):
    """A cohort: where its table is, what its columns mean, which questions are asked of it.

    Attributes:
        name: of the cohort.
        title: for people.
        source: where to download it, as a citation.
        licence: of the images.
        caveat: what a reader of any result on it must know.
        identifiers: `published`: the raw identifiers are pseudonyms already; `secret`: they are a hospital's own, and
            pseudonyms are made with a key that stays with the raw data.
        table: one row an image; with `match` one row a patient.
        index: where the images are listed in a table of their own (as NBIA's metadata.csv): that table.
        images: folders of the image files, in the raw folder.
        file: a row's image, with columns in braces (`png/{image_id}.png`): a path in the raw folder or in one of
            `images`, with or without its ending. With an asterisk: every file that matches, a row each.
        path: pattern of the files' paths, with named groups (`(?P<patient>[^/]+)/.*`).
        match: what of an image equals `key`: a column of the index, `dicom:KEYWORD`, `path:NAME`, or of the file's path
            the `stem` (also before a suffix: P12_2.png is P12's) or a `folder`. Without an index, rows are the files.
        key: column of the table that `match` equals; by default the patient's.
        id: column that identifies an image; by default the path of its file.
        patient: column that identifies a patient.
        center: where the image was taken.
        view: how: AP, PA or LATERAL; empty where unknown.
        order: what a patient's images are ordered by: a number of days or a date.
        keep: rows that are used at all.
        labels: outcome to its column's meaning; in the manifest `yes` and `no`.
        covariates: further columns of the manifest.
        needs: further columns that `derive` reads.
        derives: columns that `derive` adds.
        derive: computes columns from the raw table's (text, empty for missing); it may reorder rows, and drops none.
        tasks: the questions.
        clinical: covariates that are known when the film is taken (age, a blood value drawn before it): what a model of
            clinical data may see. Never an outcome, nor a time to one.
    """

    name: str = Field(pattern=r"^[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?$")
    title: str = ""
    source: str = ""
    licence: str = ""
    caveat: str = ""
    identifiers: Identifiers = PUBLISHED
    table: Sheet
    index: Sheet | None = None
    images: Names = (".",)
    file: str = ""
    path: str = ""
    match: str = ""
    key: str = ""
    id: str = ""
    patient: str
    center: Column = Column()
    view: Column = Column()
    order: Column = Column()
    keep: tuple[Keep, ...] = ()
    labels: dict[str, Label] = {}
    covariates: dict[str, Column] = {}
    needs: Names = ()
    derives: Names = ()
    derive: Derive | None = Field(default=None, exclude=True)
    tasks: tuple[Task, ...] = ()
    clinical: Names = ()

    @field_validator("tasks")
    @classmethod
    def _times_are_covariates(cls, value: tuple[Task, ...], info: ValidationInfo) -> tuple[Task, ...]:
        covariates = info.data.get("covariates", {})
        for task in value:
            for column in task.time.columns if task.time else ():
                if column not in covariates:
                    raise ValueError(
                        f"the task {task.name!r} reads its time from {column!r}, which is no covariate: "
                        f"expected one of {', '.join(covariates) or 'none'}; name the column among `covariates`"
                    )
        return value

    @field_validator("clinical")
    @classmethod
    def _known_at_the_film(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        """Refuse what is no covariate, and what tells the outcome: a model that sees it would only repeat it."""
        covariates, labels = info.data.get("covariates", {}), info.data.get("labels", {})
        outcomes = {label.column for label in labels.values()}
        times = {column for task in info.data.get("tasks", ()) if task.time for column in task.time.columns}
        for name in value:
            if name in labels or (name in covariates and covariates[name].column in outcomes):
                raise ValueError(f"{name!r} is an outcome, which nobody knows when the film is taken: leave it out")
            if name in times:
                raise ValueError(f"{name!r} is the time to an outcome, unknown when the film is taken: leave it out")
            if name not in covariates:
                raise ValueError(
                    f"{name!r} is no covariate: expected one of {', '.join(covariates) or 'none'}; name the column "
                    "among `covariates`"
                )
        return tuple(dict.fromkeys(value))

    @property
    def rows_are_files(self) -> bool:
        """Whether each file found is a row, rather than each row of a table."""
        return self.index is None and bool(self.match)

    @property
    def joined(self) -> bool:
        """Whether the table is joined to a list of images."""
        return bool(self.match)

    @property
    def join_key(self) -> str:
        """Column of the table that the images' `match` equals."""
        return self.key or self.patient

    def columns(self) -> Iterator[str]:
        """Every column that the declaration needs of tables, headers and paths; not those that it derives."""
        named = [self.id, self.patient, self.match, *self.needs, *(rule.column for rule in self.keep)]
        several = [self.center, self.view, self.order, *self.covariates.values()]
        named += [each.column for each in several if not each.optional] + [
            label.column for label in self.labels.values()
        ]
        yield from dict.fromkeys(name for name in named if name and name not in self.derives)

    @property
    def optional_columns(self) -> list[str]:
        """Columns that a table may lack."""
        return [each.column for each in self.covariates.values() if each.optional]

    def tags(self) -> list[str]:
        """Keywords of the DICOM tags that the declaration reads."""
        return [name.removeprefix(DICOM) for name in self.columns() if name.startswith(DICOM)]
