"""A cohort in somebody's own words: file, options and mapping mean the same, and what is said wrongly is named."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from peftbench.cohorts.declaration import Cohort
from peftbench.cohorts.describe import describe
from peftbench.cohorts.prepare import prepare, refuse_taken_names
from peftbench.errors import ConfigError, PeftbenchError, UnknownNameError
from peftbench.protocol.workspace import Workspace

WHOLE: dict[str, Any] = {
    "name": "mercy",
    "table": "t.csv",
    "images": "films",
    "file": "{exam}",
    "patient": "patient",
    "center": "site",
    "view": "projection",
    "order": {"column": "day", "formats": ["%d.%m.%Y"]},
    "keep": [{"column": "modality", "values": ["CR", "DX"]}],
    "labels": {"died": {"column": "died", "event": "yes", "no_event": "no", "unknown": ["?"]}},
    "covariates": {"age": {"column": "age"}},
}

OPTIONS: dict[str, Any] = {
    "name": "mercy", "table": "t.csv", "images": "films", "file": "{exam}", "patient": "patient", "center": "site",
    "view": "projection", "order": "day", "order_format": "%d.%m.%Y", "keep": "modality=CR,DX", "label": "died",
    "event": "yes", "no_event": "no", "unknown": "?", "covariates": "age",
}  # fmt: skip


def said(description: Mapping[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    return describe("table", description, **options).model_dump(mode="json")


def without(*words: str, **more: Any) -> dict[str, Any]:
    return {**{word: value for word, value in WHOLE.items() if word not in words}, **more}


class TestOneCohort:
    def test_by_file_by_options_and_by_mapping_it_is_the_same(self, tmp_path: Path) -> None:
        path = tmp_path / "mercy.yaml"
        path.write_text(yaml.safe_dump(WHOLE), encoding="utf-8")
        assert said(WHOLE) == said(**OPTIONS) == describe("table", path).model_dump(mode="json")

    @pytest.mark.parametrize("option", ["name", "images", "file", "patient", "center", "view", "order", "covariates"])
    def test_an_option_adds_to_the_description(self, option: str) -> None:
        words = (option, "order_format") if option == "order" else (option,)
        rest = without(option)
        if option == "patient":
            assert said(rest, patient="patient") == said(WHOLE)
            return
        assert said(rest, **{word: OPTIONS[word] for word in words}) == said(WHOLE)

    def test_an_option_is_stronger_than_the_description(self) -> None:
        found = said(WHOLE, name="other", label="icu", event=("1", "2"), no_event="0", per_image=True)
        assert found["name"] == "other"
        assert found["labels"]["icu"]["event"] == ["1", "2"]
        assert found["labels"]["icu"]["per"] == "image"
        assert [task["name"] for task in found["tasks"]] == ["other_icu", "other_icu_all"]

    def test_what_it_is_not_told_it_fills_in(self) -> None:
        found = describe("table", WHOLE)
        assert [(task.name, task.first_image_only) for task in found.tasks] == [
            ("mercy_died", True),
            ("mercy_died_all", False),
        ]
        assert found.labels["died"].per == "patient"
        assert found.labels["died"].unknown == ("", "?")
        assert found.identifiers == "secret"
        assert all(task.question.endswith("?") for task in found.tasks)

    def test_in_yaml_yes_and_no_are_words(self, tmp_path: Path) -> None:
        path = tmp_path / "mercy.yaml"
        path.write_text(
            "name: mercy\ntable: t.csv\nfile: '{exam}'\npatient: patient\n"
            "labels:\n  icu: {column: icu, event: yes, no_event: [no, off]}\n"
            "keep:\n  - {column: ventilated, drop: no}\n"
        )
        found = describe("table", path)
        assert (found.labels["icu"].event, found.labels["icu"].no_event) == (("yes",), ("no", "off"))
        assert found.keep[0].drop == ("no",)

    @pytest.mark.parametrize("name", ["my icu", "../evil", "_icu", "icu.", "1", ""])
    def test_names_that_become_folders_and_columns_are_plain(self, name: str) -> None:
        label = {"column": "died", "event": "yes", "no_event": "no"}
        with pytest.raises(ConfigError, match="needs another name"):
            describe("table", without("labels", labels={name: label}))
        with pytest.raises(ConfigError, match="needs another name"):
            describe("table", without(tasks=[{"name": name, "label": "died"}]))

    @pytest.mark.parametrize(
        "role", [{"center": "patient"}, {"view": "patient"}, {"covariates": "patient"}, {"order": "dicom:PatientName"}]
    )
    def test_what_identifies_people_is_nothing_else(self, role: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match="identif"):
            describe("table", WHOLE, **role)

    def test_a_rule_says_what_it_keeps(self) -> None:
        with pytest.raises(ConfigError, match="values, drop, pattern, minimum, maximum"):
            describe("table", without("keep", keep=[{"column": "ward"}]))

    def test_yaml_has_its_own_idea_of_true_and_of_numbers(self, tmp_path: Path) -> None:
        path = tmp_path / "mercy.yaml"
        path.write_text(
            "name: mercy\ntable: t.csv\nfile: '{exam}'\npatient: patient\n"
            "labels:\n  icu: {column: icu, event: true, no_event: [false, 0]}\n"
            "  died: {column: died, event: 1, no_event: 0}\n"
        )
        found = describe("table", path)
        assert found.labels["icu"].event == ("True",)
        assert found.labels["icu"].no_event == ("False", "0")
        assert found.labels["died"].event == ("1",)

    def test_what_was_resolved_says_the_same_again(self) -> None:
        found = describe("table", WHOLE)
        assert Cohort.model_validate(json.loads(found.model_dump_json())) == found

    def test_a_task_of_ones_own(self) -> None:
        task = {"name": "M_f", "label": "died", "unit": "patient", "scheme": "LOCO",
                "rules": [{"column": "view", "values": ["AP", "PA"], "reason": "lateral"}]}  # fmt: skip
        (found,) = describe("table", {**WHOLE, "tasks": [task]}).tasks
        assert (found.cohort, found.outcome, found.scheme, found.unit) == ("mercy", "died", "LOCO", "patient")


RULE = {"column": "view", "values": ["AP"], "reason": "not AP"}


def task(**more: Any) -> dict[str, Any]:
    return {**WHOLE, "tasks": [{"name": "M", "label": "died", **more}]}


def label(**more: Any) -> dict[str, Any]:
    return {**WHOLE, "labels": {"died": {"column": "died", "event": "yes", "no_event": "no", **more}}}


WRONG: dict[str, tuple[Any, list[str]]] = {
    "nothing": ({}, ["'table'", "--table", "'patient'", "--patient"]),
    "no patient": (without("patient"), ["'patient'", "--patient COLUMN"]),
    "no table": (without("table"), ["'table'", "--table FILE"]),
    "no file and no match": (without("file"), ["which files are whose", "--file", "--match"]),
    "no label": (without("labels"), ["no outcome", "--label COLUMN"]),
    "file and match": ({**WHOLE, "match": "stem"}, ["file", "match"]),
    "an unknown word": (without("labels", labls={}), ["'labls'", "did you mean labels"]),
    "an unknown word within": (label(evnt="x"), ["evnt", "did you mean event"]),
    "an unknown word of a task": (task(first_image=True), ["first_image", "did you mean first_image_only"]),
    "an unknown word of a rule": (task(rules=[{**RULE, "colunm": "x"}]), ["colunm", "did you mean column"]),
    "a number for a name": ({**WHOLE, "name": 5}, ["name", "5", "string"]),
    "a name with blanks": ({**WHOLE, "name": "mercy hospital"}, ["name", "mercy hospital"]),
    "a name that is a path": ({**WHOLE, "name": "../mercy"}, ["name", "../mercy"]),
    "a name that shares a folder": ({**WHOLE, "name": "mercy."}, ["name", "mercy."]),
    "a list for labels": ({**WHOLE, "labels": ["died"]}, ["labels", "died"]),
    "a text for labels": ({**WHOLE, "labels": "died"}, ["labels", "died"]),
    "a text for a label": ({**WHOLE, "labels": {"died": "yes"}}, ["labels.died", "yes"]),
    "no tasks": ({**WHOLE, "tasks": 5}, ["tasks", "5"]),
    "a text for a task": ({**WHOLE, "tasks": ["M"]}, ["tasks", "'M'"]),
    "a number for covariates": ({**WHOLE, "covariates": 5}, ["covariates", "5"]),
    "a text for keep": ({**WHOLE, "keep": "modality"}, ["keep", "modality"]),
    "a header of row 0": ({**WHOLE, "table": {"files": "t.csv", "header": 0}}, ["header", "0", "1"]),
    "an unknown kind": ({**WHOLE, "order": {"column": "day", "kind": "dates"}}, ["order.kind", "'dates'", "'date'"]),
    "an event that is none": (label(no_event=["No", "YES"]), ["'died'", "yes", "event"]),
    "an event with a blank that is none": (label(no_event="yes "), ["'died'", "yes", "event"]),
    "no event": (label(event=[]), ["died", "event"]),
    "a task of no label": (task(label="icu"), ["'M'", "'icu'", "died"]),
    "a task of no scheme": (task(scheme="6-folds"), ["scheme", "6-folds", "LOCO"]),
    "a task of another cohort": (task(cohort="hannover"), ["'M'", "'hannover'", "'mercy'"]),
    "a task whose rule has no column": (task(rules=[{**RULE, "column": "nosuch"}]), ["nosuch", "view"]),
    "two tasks of one name": (
        {**WHOLE, "tasks": [{"name": "M", "label": "died"}] * 2},
        ["two tasks of one name", "M"],
    ),
    "LOCO without a centre": (without("center", tasks=task(scheme="LOCO")["tasks"]), ["'M'", "center"]),
    "a covariate that is a column already": (
        {**WHOLE, "covariates": {"patient_id": {"column": "patient"}}},
        ["patient_id"],
    ),
    "a label that is a column already": (
        {**WHOLE, "labels": {"view": {"column": "died", "event": "1", "no_event": "0"}}},
        ["view"],
    ),
    "a label and a covariate of one name": ({**WHOLE, "covariates": {"died": {"column": "age"}}}, ["died"]),
    "a pattern of paths that is none": (without("file", match="path:p", path="("), ["path", "("]),
    "a match on no group": (without("file", match="path:p", path="(?P<q>.*)"), ["path:p", "q"]),
    "a centre of no group": ({**WHOLE, "center": "path:site"}, ["path:site"]),
    "a match on a column": (without("file", match="patient"), ["patient", "stem", "folder", "dicom:"]),
    "a match that is none": (without("file", match="banana"), ["banana", "stem", "folder", "dicom:"]),
    "a rule whose pattern is none": ({**WHOLE, "keep": [{"column": "age", "pattern": "("}]}, ["pattern", "("]),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_said_wrongly_is_one_sentence_with_what_was_expected(case: str) -> None:
    description, parts = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        describe("table", description)
    assert [part for part in parts if part.lower() not in str(caught.value).lower()] == []
    assert "\n" not in str(caught.value)
    assert "validation error" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"event": ()}, ["'died'", "--event", "--no-event"]),
        ({"no_event": ()}, ["--no-event"]),
        ({"keep": "modality"}, ["'modality'", "COLUMN=VALUE"]),
        ({"keep": "=CR"}, ["'=CR'", "COLUMN=VALUE"]),
        ({"covariates": "Patient_ID"}, ["patient_id"]),
        ({"covariates": ("view",)}, ["view"]),
        ({"header": 0}, ["header", "0"]),
        ({"order": None, "order_format": "%Y"}, ["order"]),
    ],
)
def test_wrong_options_are_one_sentence(options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        describe("table", **{**OPTIONS, **options})
    assert [part for part in parts if part.lower() not in str(caught.value).lower()] == []


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"name: [mercy\n", "is no YAML in line"),
        (b"- mercy\n", "holds list, expected `word: value` lines"),
        (b"mercy", "holds str"),
        (b"", "expected `word: value` lines"),
        (b"name: \xff\xfe\x00", "is no YAML"),
        (b"!!python/object/apply:os.system ['echo']", "is no YAML"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_is_no_description_is_named(tmp_path: Path, content: bytes | None, part: str) -> None:
    path = tmp_path / "mercy.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        describe("table", path)
    assert part in str(caught.value)
    assert "mercy.yaml" in str(caught.value)


class TestNames:
    @pytest.mark.parametrize("name", ["hannover", "phantom", "aiforcovid"])
    def test_of_a_known_cohort_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError, match=f"'{name}'.*give your cohort another"):
            refuse_taken_names(describe("table", {**WHOLE, "name": name}), Workspace(tmp_path))

    def test_of_a_known_task_is_refused(self, tmp_path: Path) -> None:
        own = describe("table", {**WHOLE, "tasks": [{"name": "AFC", "label": "died"}]})
        with pytest.raises(ConfigError, match="'AFC' of cohort 'mercy' has the name of a task of 'aiforcovid'"):
            prepare(own, tmp_path, workspace=tmp_path / "workspace")
        assert not (tmp_path / "workspace").exists()

    def test_options_for_a_known_cohort_are_refused(self) -> None:
        with pytest.raises(ConfigError, match=r"'hannover' is described already: .*`prepare table`"):
            describe("hannover", label="icu")

    @pytest.mark.parametrize("name", ["hanover", "tables", "mercy"])
    def test_an_unknown_cohort_is_answered_with_the_nearest(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UnknownNameError, match=f"unknown cohort '{name}'"):
            describe(name, workspace=tmp_path)

    def test_a_description_in_the_workspace_that_is_damaged_is_named(self, tmp_path: Path) -> None:
        path = Workspace(tmp_path).description("mercy")
        path.parent.mkdir(parents=True)
        path.write_text('{"name": "mercy"')
        with pytest.raises(PeftbenchError, match=r"cohort\.json cannot be read.*`peftbench prepare`"):
            describe("mercy", workspace=tmp_path)
