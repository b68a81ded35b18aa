"""What a description of one's own cohort must fulfil beyond its form; each fault a sentence, before a file is read."""

import re
from collections.abc import Iterator

from peftbench.cohorts.declaration import DICOM, PATH, SECRET, Cohort, Label
from peftbench.errors import ConfigError
from peftbench.protocol.manifest import REQUIRED

RESERVED = frozenset({*REQUIRED, "event", "group", "fold", "role"})
"""Columns that have a meaning of their own; nothing else may be called so."""

_TELLING = frozenset({"AccessionNumber", "PatientAddress", "PatientTelephoneNumbers", "PatientComments"})

PARTS_OF_A_PATH = ("stem", "folder")
"""What of a file's path may name its patient."""


def check(cohort: Cohort) -> None:
    """Refuse a description that contradicts itself or lacks something.

    Raises:
        ConfigError: it does.
    """
    for examine in (_files, _patterns, _spelling, _names, _labels, _secrets, _tasks):
        examine(cohort)


def _files(cohort: Cohort) -> None:
    if not cohort.file and not cohort.match:
        raise ConfigError(
            f"the description of {cohort.name!r} does not say which files are whose: give `file` (--file '{{column}}') "
            "where a row is an image, or `match` (--match stem, folder or dicom:PatientID) where a row is a patient"
        )
    if cohort.index is None and cohort.file and cohort.match:
        raise ConfigError(
            f"the description of {cohort.name!r} gives both `file` (a row is an image) and `match` (a row is a "
            "patient): leave one out"
        )
    if cohort.index is None and cohort.match and not _is_of_a_file(cohort.match):
        raise ConfigError(
            f"`match` is {cohort.match!r}, expected {', '.join(PARTS_OF_A_PATH)}, {DICOM}KEYWORD or {PATH}NAME: "
            "what of a file names its patient"
        )


def _is_of_a_file(name: str) -> bool:
    return name in PARTS_OF_A_PATH or name.startswith((DICOM, PATH))


def _patterns(cohort: Cohort) -> None:
    groups = set(_compiled(cohort.path, "path").groupindex)
    for column in [name for name in cohort.columns() if name.startswith(PATH)]:
        if column.removeprefix(PATH) not in groups:
            known = f"it has {', '.join(sorted(groups))}" if groups else "it has none"
            raise ConfigError(f"{column!r} needs a group (?P<{column.removeprefix(PATH)}>...) in `path`; {known}")
    for rule in cohort.keep:
        _compiled(rule.pattern, "pattern of `keep`")


def _compiled(pattern: str, what: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"the {what} {pattern!r} is no regular expression ({error})") from error


def _names(cohort: Cohort) -> None:
    both = set(cohort.labels) & set(cohort.covariates)
    if both:
        raise ConfigError(f"{sorted(both)[0]!r} is both a label and a covariate: give one of them another name")
    taken = {*cohort.labels, *cohort.covariates} & RESERVED
    if taken:
        raise ConfigError(
            f"a label or covariate is called {sorted(taken)[0]!r}, which means something else in a manifest: "
            "give it another name, as `name: {column: ...}`"
        )


_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


def _spelling(cohort: Cohort) -> None:
    """Names become folders and columns."""
    names = [("task", task.name) for task in cohort.tasks] + [("label", name) for name in cohort.labels]
    for kind, name in [*names, *(("covariate", name) for name in cohort.covariates)]:
        if not _NAME.fullmatch(name):
            raise ConfigError(
                f"the {kind} {name!r} needs another name: letters, digits, dot, dash and underscore, a letter first"
            )


def _labels(cohort: Cohort) -> None:
    if not cohort.labels:
        raise ConfigError(f"the description of {cohort.name!r} has no outcome: give `labels`, or --label COLUMN")
    for name, label in cohort.labels.items():
        if not label.event or not label.no_event:
            raise ConfigError(
                f"the label {name!r} has no value of `{'no_event' if label.event else 'event'}`: name one"
            )
        for value in _twice(label):
            raise ConfigError(
                f"the label {name!r} gives {value!r} two meanings: it may stand in one of event, no_event and unknown"
            )


def _twice(label: Label) -> list[str]:
    plain = [{value.strip().lower() for value in values} for values in (label.event, label.no_event, label.unknown)]
    event, no_event, unknown = plain
    return sorted((event & no_event) | (event & unknown) | (no_event & unknown))


def _secrets(cohort: Cohort) -> None:
    """Refuse columns of identifiers where their values would enter the workspace, or the screen."""
    if cohort.identifiers != SECRET:
        return
    raw = {cohort.patient, cohort.id, cohort.join_key, cohort.match} - {""}
    for role, column in _shown(cohort):
        if column in raw or _identifies(column):
            raise ConfigError(
                f"{role} is the column {column!r}, whose values identify people and may not enter the workspace: "
                "name another, or leave those rows out of the table"
            )
    if cohort.order.column in raw or (_identifies(cohort.order.column) and not _is_date(cohort.order.column)):
        raise ConfigError(
            f"`order` is the column {cohort.order.column!r}, which identifies people: name a date or number"
        )


def _shown(cohort: Cohort) -> Iterator[tuple[str, str]]:
    """Columns whose values are kept as they stand, and as what."""
    yield "`center`", cohort.center.column
    yield "`view`", cohort.view.column
    yield from ((f"the label {name!r}", label.column) for name, label in cohort.labels.items())
    yield from ((f"the covariate {name!r}", column.column) for name, column in cohort.covariates.items())
    for rule in cohort.keep:
        # What it keeps is written down, and a date is somebody's.
        yield "a rule of `keep`", rule.column
        if rule.column and rule.column == cohort.order.column:
            raise ConfigError(
                f"`keep` names {rule.column!r}, the column of `order`: dates may not enter the workspace, leave those "
                "rows out of the table instead"
            )


def _identifies(column: str) -> bool:
    """Whether a header's tag tells who somebody is, or when they were there."""
    tag = column.removeprefix(DICOM)
    return column.startswith(DICOM) and (_is_date(column) or tag.endswith(("UID", "Name", "ID")) or tag in _TELLING)


def _is_date(column: str) -> bool:
    return column.startswith(DICOM) and column.endswith(("Date", "DateTime", "Time"))


def _tasks(cohort: Cohort) -> None:
    columns = {*REQUIRED, *cohort.labels, *cohort.covariates}
    for task in cohort.tasks:
        if task.label not in cohort.labels:
            raise ConfigError(
                f"the task {task.name!r} asks for the label {task.label!r}; there are {', '.join(cohort.labels)}"
            )
        if task.cohort != cohort.name:
            raise ConfigError(f"the task {task.name!r} is of cohort {task.cohort!r}, expected {cohort.name!r}")
        if task.scheme == "LOCO" and not (cohort.center.column or cohort.center.constant):
            raise ConfigError(f"the task {task.name!r} leaves one centre out: say which column is the `center`")
        for rule in task.rules:
            if rule.column not in columns:
                raise ConfigError(
                    f"a rule of the task {task.name!r} names the column {rule.column!r}; the manifest will have "
                    f"{', '.join(sorted(columns))}: name it among the covariates"
                )
    names = [task.name.lower() for task in cohort.tasks]
    if len(set(names)) < len(names):
        raise ConfigError(f"the description of {cohort.name!r} has two tasks of one name: {', '.join(names)}")
