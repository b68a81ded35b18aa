"""Anybody's own cohort: a YAML file, options of the command line, or both, to a declaration.

What is not said is filled in where there is one sensible answer; what is said wrongly is named with what was expected.
"""

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import yaml
from pydantic import ValidationError

from peftbench.cohorts.checking import check
from peftbench.cohorts.declaration import SECRET, Cohort, Column, Keep, Label, Sheet
from peftbench.cohorts.registry import COHORTS, get_cohort
from peftbench.errors import ConfigError
from peftbench.protocol.tasks import RowRule, Task, TimeToEvent
from peftbench.protocol.workspace import Workspace

TABLE = "table"
"""The word for one's own cohort on the command line, and its name where no other is given."""

PRESETS = ("cocross",)
"""Known cohorts whose layout is the user's to say."""


class Options(TypedDict, total=False):
    """What a cohort can be described by without a file; the words of the YAML file where they are the same.

    A column is called as in the table; `dicom:KEYWORD` is a tag of the image files' headers.

    Attributes:
        name: of the cohort; its tasks are called after it.
        table: path or pattern of the CSV, XLSX or Parquet file in the raw folder.
        header: row of the table that names the columns, from 1.
        sheet: of a workbook.
        images: folder or folders of the image files.
        file: which file a row's image is, with columns in braces: `{exam}` finds `exam.dcm` and `exam.png`.
        match: where a row is a patient: what of a file is the patient's: `stem`, `folder`, `dicom:PatientID`.
        key: column of the table that `match` equals; by default that of `patient`.
        path: pattern of the files' paths, whose named groups are columns `path:NAME`.
        id: column that identifies an image; by default its file.
        patient: column that identifies a patient.
        center: column of the centre.
        view: column of the view; AP, PA, LATERAL, LL and RL are understood, all else is unknown.
        order: column of the date or number that orders a patient's images.
        order_format: how its dates are written, as `strptime` says it.
        label: column of the outcome.
        event: its values of the adverse outcome.
        no_event: its values of the absence.
        unknown: its values that are no label.
        per_image: whether images of one patient may have different outcomes.
        covariates: further columns for the manifest.
        clinical: columns that are known when the film is taken; they become covariates as well.
        keep: rules `COLUMN=VALUE,VALUE` for the rows to use.
    """

    name: str | None
    table: str | Sequence[str] | None
    header: int | None
    sheet: str | None
    images: str | Sequence[str] | None
    file: str | None
    match: str | None
    key: str | None
    path: str | None
    id: str | None
    patient: str | None
    center: str | None
    view: str | None
    order: str | None
    order_format: str | Sequence[str] | None
    label: str | None
    event: str | Sequence[str] | None
    no_event: str | Sequence[str] | None
    unknown: str | Sequence[str] | None
    per_image: bool
    covariates: str | Sequence[str] | None
    clinical: str | Sequence[str] | None
    keep: str | Sequence[str] | None


_AS_THEY_ARE = ("name", "images", "file", "match", "key", "path", "id", "patient", "center")
"""Options that are words of a description."""


def describe(
    cohort: str = TABLE,
    description: str | Path | Mapping[str, Any] | None = None,
    *,
    workspace: str | Path | Workspace | None = None,
    **options: Unpack[Options],
) -> Cohort:
    """Describe a cohort of one's own.

    Args:
        cohort: `table`, or `cocross`, whose description is begun; of any other the description is complete.
        description: a YAML file, or a mapping of the same words.
        workspace: where cohorts that were described before are found.
        options: see `Options`; they add to the description.

    Raises:
        UnknownNameError: there is no such cohort.
        ConfigError: something is missing, unknown, or contradicts itself.
    """
    given: dict[str, Any] = {word: value for word, value in options.items() if not _is_unsaid(value)}
    if cohort not in (TABLE, *PRESETS):
        return _complete(cohort, workspace, told=description is not None or bool(given))
    told = _begin(description, cohort, Workspace.at(workspace))
    if cohort in PRESETS and ("file" in given) != ("match" in given):
        # A preset says the one; who says the other means it instead.
        told |= {"match": "", "key": ""} if "file" in given else {"file": ""}
    told |= {word: given[word] for word in _AS_THEY_ARE if word in given}
    _tell_table(told, given)
    if "view" in given:
        told["view"] = _as_view(given["view"])
    _tell_order(told, given)
    _tell_label(told, cohort, given)
    if "covariates" in given:
        told["covariates"] = _covariates(_several(given["covariates"]))
    if "clinical" in given:
        told["clinical"] = _several(given["clinical"])
    if "keep" in given:
        told["keep"] = [*told.get("keep", ()), *map(_rule, _several(given["keep"]))]
    return _validated(_filled_in(told))


def _is_unsaid(value: Any) -> bool:
    """Whether an option was left as it was; 0 was not."""
    return value is None or value is False or value in ((), [])


def _complete(cohort: str, workspace: str | Path | Workspace | None, *, told: bool) -> Cohort:
    found = get_cohort(cohort, Workspace.at(workspace))
    if told:
        raise ConfigError(
            f"the cohort {cohort!r} is described already: options that describe one are for `prepare table`, "
            f"and for {', '.join(PRESETS)}"
        )
    return found


def _begin(description: str | Path | Mapping[str, Any] | None, cohort: str, place: Workspace) -> dict[str, Any]:
    """What is said already: of a preset its words, or those of its last preparation."""
    begun = get_cohort(cohort, place).model_dump(mode="json") if cohort in PRESETS else {}
    if description is None:
        return begun
    found = description if isinstance(description, Mapping) else _read(Path(description))
    return {**begun, **found}


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, in which yes and no are words, as in YAML 1.2: they are what outcomes are called."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:bool"]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))


def _read(path: Path) -> dict[str, Any]:
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - it is a safe one
    except OSError as error:
        raise ConfigError(f"the description {path} cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        at = f" in line {where.line + 1}" if where is not None else ""
        raise ConfigError(f"the description {path} is no YAML{at}: {getattr(error, 'problem', error)}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"the description {path} holds {type(found).__name__}, expected `word: value` lines")
    return {str(word): value for word, value in found.items()}


def _several(value: str | Sequence[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def _tell_table(told: dict[str, Any], given: Mapping[str, Any]) -> None:
    now = told.get("table", {})
    now = dict(now) if isinstance(now, Mapping) else {"files": now}
    if "table" in given:
        now["files"] = _several(given["table"])
    now |= {word: given[word] for word in ("header", "sheet") if word in given}
    if now:
        told["table"] = now


def _tell_order(told: dict[str, Any], given: Mapping[str, Any]) -> None:
    if "order" not in given and "order_format" not in given:
        return
    column = given.get("order") or _column_of(told.get("order"))
    if not column:
        raise ConfigError("--order-format needs the column whose dates it describes: --order COLUMN")
    told["order"] = {"column": column, "formats": _several(given.get("order_format", ())), "kind": "order"}


def _tell_label(told: dict[str, Any], cohort: str, given: Mapping[str, Any]) -> None:
    """The outcome by options: the only one, under its column's name; a preset's tasks keep asking for theirs."""
    if not {"label", "event", "no_event"} & set(given):
        return
    if cohort in PRESETS:
        (name, before), *_ = told["labels"].items()
        told["labels"] = {name: {**before, **_label({"label": before["column"], **given})}}
        return
    if "label" not in given:
        raise ConfigError("--event and --no-event need the column that holds them: --label COLUMN")
    told["labels"] = {_plain_name(given["label"]): _label(given)}
    told.pop("tasks", None)


def _column_of(told: Any) -> Any:
    return told.get("column", "") if isinstance(told, Mapping) else (told or "")


_LATERAL = ("LATERAL", "LAT", "LL", "RL", "L")

_VIEWS = {"AP": "AP", "PA": "PA", **dict.fromkeys(_LATERAL, "LATERAL")}
"""What tables and headers call a view, as the benchmark does."""


def _as_view(told: Any) -> Any:
    """A bare column of views is read with the usual words; what is something else is unknown."""
    if isinstance(told, str):
        return {"column": told, "values": _VIEWS, "others": ""}
    return told


def _label(given: Mapping[str, Any]) -> dict[str, Any]:
    if "event" not in given or "no_event" not in given:
        raise ConfigError(
            f"the label {given['label']!r} needs its values: --event for the adverse outcome, --no-event for its "
            "absence; each may be repeated"
        )
    return {
        "column": given["label"],
        "event": _several(given["event"]),
        "no_event": _several(given["no_event"]),
        "unknown": ("", *_several(given.get("unknown", ()))),
        "per": "image" if given.get("per_image") else "patient",
    }


def _rule(text: str) -> dict[str, Any]:
    column, sign, values = text.partition("=")
    if not sign or not column.strip() or not values:
        raise ConfigError(f"--keep is {text!r}, expected COLUMN=VALUE or COLUMN=VALUE,VALUE")
    return {"column": column.strip(), "values": [value.strip() for value in values.split(",")]}


def _plain_name(column: str) -> str:
    kept = "".join(sign if sign.isalnum() else "_" for sign in column.rpartition(":")[2].lower())
    return "_".join(part for part in kept.split("_") if part) or "outcome"


def _covariates(columns: Sequence[str]) -> dict[str, Any]:
    """Columns under plain names: letters, digits and underscores."""
    named = {_plain_name(column): {"column": column, "kind": "auto"} for column in columns}
    if len(named) < len(columns):
        raise ConfigError(
            f"the covariates {', '.join(columns)} would have one name in the manifest: describe them in YAML, as "
            "`covariates: {name: {column: ...}}`"
        )
    return named


def _filled_in(told: dict[str, Any]) -> dict[str, Any]:
    """What need not be said: of one's own cohort nearly everything, of any its tasks' cohort and question."""
    name = str(told.setdefault("name", TABLE))
    if name not in COHORTS:
        _fill_own(told, name)
    if "clinical" in told:
        _fill_clinical(told)
    tasks = told["tasks"] if told.get("tasks") is not None else []
    if not isinstance(tasks, list | tuple):
        raise ConfigError(
            f"`tasks` of the description is {tasks!r}, expected a list of tasks, each with name and label"
        )
    labels = told.get("labels") or {}
    told["tasks"] = [_task(task, name, labels) if isinstance(task, Mapping) else task for task in tasks]
    return told


def _fill_own(told: dict[str, Any], name: str) -> None:
    """Title, secrecy, labels that are the patient's, short forms, and two tasks a label."""
    told.setdefault("title", f"the cohort {name}")
    told.setdefault("identifiers", SECRET)
    labels = told.get("labels") or {}
    if not isinstance(labels, Mapping):
        raise ConfigError(f"`labels` of the description is {labels!r}, expected a name with column, event, no_event")
    told["labels"] = {str(label): _own_label(said) for label, said in labels.items()}
    if "view" in told:
        told["view"] = _as_view(told["view"])
    if "order" in told:
        told["order"] = _own_order(told["order"])
    if "covariates" in told:
        told["covariates"] = _own_covariates(told["covariates"])
    if told.get("tasks") is None:
        told["tasks"] = [task for label in told["labels"] for task in _usual_tasks(name, label)]


def _fill_clinical(told: dict[str, Any]) -> None:
    """Clinical variables by the names of their covariates; a column that is no covariate yet becomes one."""
    covariates, labels = told.get("covariates", {}), told.get("labels") or {}
    if not isinstance(covariates, Mapping) or not isinstance(told["clinical"], str | list | tuple):
        return  # Their form is wrong, and said to be so when the whole is validated.
    # An outcome stays as it is named, so that it is refused rather than kept a second time as a covariate.
    outcomes = {*labels, *map(_column_of, labels.values())}
    by_column = {_column_of(said): name for name, said in covariates.items()}
    asked = [str(name) for name in _listed(told["clinical"])]
    new = _covariates([name for name in asked if name not in {*covariates, *by_column, *outcomes}])
    by_column |= {said["column"]: name for name, said in new.items()}
    told["covariates"] = {**covariates, **new}
    told["clinical"] = [name if name in {*covariates, *outcomes} else by_column[name] for name in asked]


def _own_order(said: Any) -> Any:
    told = {"column": said} if isinstance(said, str) else said
    return {"kind": "order", **told} if isinstance(told, Mapping) else told


def _own_covariates(said: Any) -> Any:
    if isinstance(said, Mapping):
        return {str(name): _own_covariate(column) for name, column in said.items()}
    return _covariates([str(column) for column in _listed(said)]) if isinstance(said, str | list | tuple) else said


def _own_covariate(said: Any) -> Any:
    """Numbers where all are, unless it is said what the values mean."""
    told = {"column": said} if isinstance(said, str) else said
    return {"kind": "text" if told.get("values") else "auto", **told} if isinstance(told, Mapping) else told


def _own_label(said: Any) -> Any:
    if not isinstance(said, Mapping):
        return said
    unknown = [str(value) for value in _listed(said.get("unknown", ()))]
    return {"per": "patient", **said, "unknown": list(dict.fromkeys(["", *unknown]))}


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _usual_tasks(name: str, label: str) -> list[dict[str, Any]]:
    return [
        {"name": f"{name}_{label}", "label": label, "first_image_only": True},
        {"name": f"{name}_{label}_all", "label": label},
    ]


def _task(told: Mapping[str, Any], name: str, labels: Mapping[str, Any]) -> dict[str, Any]:
    label = str(told.get("label", ""))
    said = labels.get(label)
    event = " or ".join(map(str, _listed(said.get("event", label)))) if isinstance(said, Mapping) else label
    which = "the patient's first image" if told.get("first_image_only") else "any image"
    return {"cohort": name, "outcome": label, "question": f"Will {label} be {event}, from {which}?", **told}


def _validated(told: dict[str, Any]) -> Cohort:
    try:
        cohort = Cohort.model_validate(told)
    except ValidationError as error:
        raise ConfigError("; ".join(dict.fromkeys(map(_fault, error.errors())))) from error
    check(cohort)
    return cohort


_PARTS = (Cohort, Sheet, Column, Keep, Label, Task, RowRule, TimeToEvent)


def _fault(found: Any) -> str:
    """One fault of pydantic's as part of a sentence."""
    where = ".".join(str(part) for part in found["loc"])
    if found["type"] == "extra_forbidden":
        words = {word for part in _PARTS for word in part.model_fields}
        near = difflib.get_close_matches(str(found["loc"][-1]), sorted(words), n=1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(Cohort.model_fields)}"
        return f"the description has an unknown word {where!r}: {hint}"
    if found["type"] == "missing":
        option = {"patient": "--patient COLUMN", "table": "--table FILE"}.get(where, "")
        return f"the description does not say {where!r}" + (f": add it, or give {option}" if option else "")
    told = str(found["msg"]).removeprefix("Value error, ")
    if found["type"] == "value_error" and where in ("tasks", "clinical"):
        return f"`{where}` of the description: {told}"
    return f"{where} of the description is {found['input']!r}: {told}"
