"""A user's own split file: read in whatever form it comes, and refused in one sentence where it would leak."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from split_kit import made_up

from peftbench.errors import SplitError, UnknownNameError
from peftbench.protocol.manifest import pseudonym
from peftbench.protocol.splits import (
    UNUSED,
    Split,
    find_split,
    k_fold,
    load_own,
    loco,
    own_names,
    own_path,
    split_from_file,
)
from peftbench.protocol.tasks import TaskRows

ROWS = made_up(3, patients=24)

PATIENTS = sorted(set(ROWS.frame["patient_id"]))

ROLES = k_fold(ROWS, 3).frame.query("fold == 0").drop_duplicates("patient_id").set_index("patient_id")["role"].to_dict()
"""A sound division of the patients."""


def write(path: Path, entries: list[dict[str, object]]) -> Path:
    pd.DataFrame(entries).to_csv(path, index=False)
    return path


def file_of(folder: Path, **changes: str) -> Path:
    """A sound file, but for the roles of some patients."""
    return write(folder / "own.csv", [{"patient_id": each, "role": {**ROLES, **changes}[each]} for each in PATIENTS])


def refusal(path: Path, rows: TaskRows = ROWS) -> str:
    with pytest.raises(SplitError) as caught:
        split_from_file(rows, path, "mine")
    text = str(caught.value)
    assert str(path) in text, "the message names the file"
    assert ": " in text
    return text


class TestRead:
    def test_a_file_by_patient(self, tmp_path: Path) -> None:
        split = split_from_file(ROWS, file_of(tmp_path), "mine")
        assert (split.task, split.scheme, split.seed, split.folds, split.names) == ("TOY", "mine", 0, 1, ("0",))
        assert split.notes == ()
        assert split.own
        assert split.rows_digest == ROWS.digest
        assert split.frame["role"].tolist() == [ROLES[each] for each in ROWS.frame["patient_id"]]

    @pytest.mark.parametrize("made", [k_fold(ROWS, 4, 1), loco(ROWS)], ids=["k-fold", "LOCO"])
    @pytest.mark.parametrize("ending", ["csv", "parquet"])
    def test_what_another_scheme_made_comes_back(self, tmp_path: Path, made: Split, ending: str) -> None:
        table = made.frame.assign(fold_name=made.frame["fold"].map(dict(enumerate(made.names))))
        path = tmp_path / f"own.{ending}"
        table.to_csv(path, index=False) if ending == "csv" else table.to_parquet(path, index=False)
        split = split_from_file(ROWS, path, "mine")
        pd.testing.assert_frame_equal(split.frame, made.frame)
        assert split.names == made.names

    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    def test_separators_and_a_mark_of_the_encoding(self, tmp_path: Path, separator: str) -> None:
        path = file_of(tmp_path)
        path.write_bytes(b"\xef\xbb\xbf" + path.read_text().replace(",", separator).encode() + b"\n\n")
        assert split_from_file(ROWS, path, "mine").digest == split_from_file(ROWS, file_of(tmp_path), "mine").digest

    @pytest.mark.parametrize(
        ("train", "validation", "test"),
        [("TRAIN", "Val", " test "), ("training", "valid", "Testing"), ("Train", "DEV", "TEST")],
    )
    def test_words_for_roles(self, tmp_path: Path, train: str, validation: str, test: str) -> None:
        words = {"train": train, "validation": validation, "test": test}
        path = write(tmp_path / "own.csv", [{" Patient ": each, "ROLE": words[ROLES[each]]} for each in PATIENTS])
        assert split_from_file(ROWS, path, "mine").digest == split_from_file(ROWS, file_of(tmp_path), "mine").digest

    @pytest.mark.parametrize("header", ["sample_id", "sample", "id"])
    def test_a_file_by_image(self, tmp_path: Path, header: str) -> None:
        pairs = zip(ROWS.frame["sample_id"], ROWS.frame["patient_id"], strict=True)
        path = write(tmp_path / "own.csv", [{header: sample, "role": ROLES[patient]} for sample, patient in pairs])
        assert split_from_file(ROWS, path, "mine").frame["role"].tolist() == [
            ROLES[each] for each in ROWS.frame["patient_id"]
        ]

    def test_folds_are_sorted_as_numbers_are(self, tmp_path: Path) -> None:
        split = k_fold(made_up(3, patients=90), 11)
        rows = made_up(3, patients=90)
        split.frame.to_csv(tmp_path / "own.csv", index=False)
        assert split_from_file(rows, tmp_path / "own.csv", "mine").names == tuple(map(str, range(11)))

    def test_whole_numbers_in_parquet_are_ids(self, tmp_path: Path) -> None:
        names = {each: str(number) for number, each in enumerate(PATIENTS, start=100)}
        rows = ROWS._replace(frame=ROWS.frame.assign(patient_id=ROWS.frame["patient_id"].map(names)))
        table = pd.DataFrame(
            {"id": [float(names[each]) for each in PATIENTS], "role": [ROLES[each] for each in PATIENTS]}
        )
        table.to_parquet(tmp_path / "own.parquet")
        assert split_from_file(rows, tmp_path / "own.parquet", "mine").notes == ()


class TestIds:
    def raw(self) -> TaskRows:
        """Rows whose patients are pseudonyms of `p-...`."""
        renamed = [pseudonym("toy", "patient", each) for each in ROWS.frame["patient_id"]]
        return ROWS._replace(frame=ROWS.frame.assign(patient_id=renamed))

    def test_raw_ids_are_found_by_their_pseudonyms_and_never_told(self, tmp_path: Path) -> None:
        split = split_from_file(self.raw(), file_of(tmp_path), "mine")
        assert split.frame["role"].tolist() == [ROLES[each] for each in ROWS.frame["patient_id"]]
        split.write(tmp_path / "split.parquet")
        assert b"p-001" not in (tmp_path / "split.parquet").read_bytes()

    def test_pseudonyms_may_be_made_by_another_rule(self, tmp_path: Path) -> None:
        rows = ROWS._replace(frame=ROWS.frame.assign(patient_id="secret " + ROWS.frame["patient_id"].astype(str)))
        split = split_from_file(
            rows, file_of(tmp_path), "mine", lambda kind, raw: f"secret {raw}" * (kind == "patient")
        )
        assert split.notes == ()

    def test_ids_of_nobody_are_counted(self, tmp_path: Path) -> None:
        entries = [{"patient_id": each, "role": ROLES[each]} for each in PATIENTS]
        entries += [{"patient_id": f"raw {number}", "role": "test"} for number in range(3)]
        (note,) = split_from_file(ROWS, write(tmp_path / "own.csv", entries), "mine").notes
        assert note == "TOY: 3 of 27 ids of the split file are not in the task"

    def test_ids_of_nobody_at_all_are_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path / "own.csv", [{"id": f"raw {number}", "role": "test"} for number in range(3)])
        told = refusal(path)
        assert "none of the 3 ids" in told
        assert "is a sample or patient of TOY" in told
        assert "peftbench splits export TOY" in told
        assert "raw 0" not in told

    def test_rows_that_are_not_named_are_left_out_and_counted(self, tmp_path: Path) -> None:
        named = [each for each in PATIENTS if ROLES[each] != "train"]
        rest = [each for each in PATIENTS if ROLES[each] == "train"]
        entries = [{"patient_id": each, "role": ROLES[each]} for each in [*named, *rest[2:]]]
        split = split_from_file(ROWS, write(tmp_path / "own.csv", entries), "mine")
        out = ROWS.frame["patient_id"].isin(rest[:2]).to_numpy()
        assert (split.frame["role"] == UNUSED).tolist() == out.tolist()
        assert split.notes == (
            f"TOY: images that the split file does not name play no role: {out.sum()} in fold '0' (of {ROWS.images})",
        )
        assert not set(split.positions(0, "train")) & set(out.nonzero()[0])


class TestRefused:
    def test_missing_columns(self, tmp_path: Path) -> None:
        path = write(tmp_path / "own.csv", [{"patient_id": "p-001", "set": "train"}])
        assert "lacks the column role; it has patient_id, set" in refusal(path)
        path = write(tmp_path / "own.csv", [{"who": "p-001", "role": "train"}])
        assert "lacks a column of ids (sample_id or patient_id); it has who, role" in refusal(path)
        (tmp_path / "own.csv").write_text("")
        assert "it has none" in refusal(tmp_path / "own.csv")

    def test_no_rows(self, tmp_path: Path) -> None:
        (tmp_path / "own.csv").write_text("patient_id,role\n")
        assert "has a header but no row" in refusal(tmp_path / "own.csv")

    def test_unknown_roles(self, tmp_path: Path) -> None:
        told = refusal(file_of(tmp_path, **{PATIENTS[4]: "tset", PATIENTS[9]: "tset", PATIENTS[7]: ""}))
        assert "unknown roles: 'tset' (2 times), '' (1 times), first in line 6; expected train" in told

    def test_a_patient_twice_with_different_roles(self, tmp_path: Path) -> None:
        path = file_of(tmp_path)
        other = "test" if ROLES["p-002"] != "test" else "train"
        path.write_text(path.read_text() + f"p-002,{other}\np-002,{other}\n")
        told = refusal(path)
        assert f"gives 1 id (p-002) several roles in a fold (line 4: {ROLES['p-002']} and line 26: {other})" in told
        assert "a column fold" in told

    def test_a_patient_twice_with_the_same_role_is_no_contradiction(self, tmp_path: Path) -> None:
        path = file_of(tmp_path)
        path.write_text(path.read_text() + f"p-002,{ROLES['p-002']}\n")
        assert split_from_file(ROWS, path, "mine").notes == ()

    def test_images_of_a_patient_in_two_roles(self, tmp_path: Path) -> None:
        sizes = ROWS.frame.groupby("patient_id").size()
        torn = sizes.index[sizes > 2][0]
        entries = [
            {"sample_id": sample, "role": ROLES[patient]}
            for sample, patient in zip(ROWS.frame["sample_id"], ROWS.frame["patient_id"], strict=True)
        ]
        at = ROWS.frame.index[ROWS.frame["patient_id"] == torn][0]
        entries[at]["role"] = "test" if ROLES[torn] != "test" else "train"
        told = refusal(write(tmp_path / "own.csv", entries))
        assert f"TOY, fold '0': 1 patient ({torn}) is in more than one role, so that what is learnt" in told

    def test_patients_who_share_images_in_two_roles(self, tmp_path: Path) -> None:
        train, test = (next(each for each in PATIENTS if ROLES[each] == role) for role in ("train", "test"))
        group = ROWS.frame["patient_id"].map({train: "g", test: "g"})
        told = refusal(file_of(tmp_path), ROWS._replace(frame=ROWS.frame.assign(group=group)))
        assert f"2 patients ({', '.join(sorted([train, test]))}) are in more than one role (patients who share" in told

    def test_testing_in_two_folds(self, tmp_path: Path) -> None:
        entries = [{"patient_id": each, "role": ROLES[each], "fold": fold} for each in PATIENTS for fold in "ab"]
        told = refusal(write(tmp_path / "own.csv", entries))
        assert "in the test part of more than one fold" in told
        assert "splits of their own names" in told

    @pytest.mark.parametrize("role", ["train", "validation", "test"])
    def test_a_role_that_nobody_plays(self, tmp_path: Path, role: str) -> None:
        other = "train" if role != "train" else "test"
        path = file_of(tmp_path, **{each: other for each in PATIENTS if ROLES[each] == role})
        assert f"fold '0' has no image of TOY with the role {role}: every fold needs" in refusal(path)

    @pytest.mark.parametrize(("value", "told"), [(1, "have the event"), (0, "have no event")])
    @pytest.mark.parametrize("role", ["train", "validation"])
    def test_a_class_that_is_not_learnt_or_not_chosen_on(
        self, tmp_path: Path, role: str, value: int, told: str
    ) -> None:
        plays = ROWS.frame["patient_id"].map(ROLES) == role
        rows = ROWS._replace(frame=ROWS.frame.assign(event=ROWS.frame["event"].mask(plays, value)))
        assert f"images with the role {role} {told}, and a model" in refusal(file_of(tmp_path), rows)

    def test_a_class_that_is_not_tested_is_a_note(self, tmp_path: Path) -> None:
        plays = ROWS.frame["patient_id"].map(ROLES) == "test"
        rows = ROWS._replace(frame=ROWS.frame.assign(event=ROWS.frame["event"].mask(plays, 0)))
        (note,) = split_from_file(rows, file_of(tmp_path), "mine").notes
        assert "the test part of fold '0' has no image with the event: MCC" in note

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("own.xlsx", b"", "does not end like a split file: expected .csv or .parquet"),
            ("own.csv", b"patient_id,role\np-1,train,x\n", "line 2 has 3 cells, the header 2"),
            ("own.csv", b"patient_id,role,role\np-1,train,test\n", "it has several columns 'role'"),
            ("own.csv", b'patient_id,role\n"p-1,train\n', "cannot be read as a table"),
            ("own.csv", b"patient_id,role\n\xff\xfe,train\n", "save it again as CSV in UTF-8"),
            ("own.parquet", b"patient_id,role\np-1,train\n", "cannot be read as a table"),
        ],
    )
    def test_what_is_no_table(self, tmp_path: Path, name: str, content: bytes, told: str) -> None:
        (tmp_path / name).write_bytes(content)
        assert told in refusal(tmp_path / name)

    def test_no_file_and_a_folder(self, tmp_path: Path) -> None:
        assert "there is no file" in refusal(tmp_path / "own.csv")
        (tmp_path / "folder.csv").mkdir()
        assert "cannot be read" in refusal(tmp_path / "folder.csv")


@pytest.mark.slow
@given(choices=st.lists(st.sampled_from(["train", "validation", "test", None]), min_size=24, max_size=24))
@settings(deadline=None, max_examples=25)
def test_whatever_the_roles_the_split_is_lawful_or_refused(
    choices: list[str | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("own") / "own.csv"
    given_roles = {each: role for each, role in zip(PATIENTS, choices, strict=True) if role}
    write(
        path, [{"patient_id": each, "role": role} for each, role in given_roles.items()] or [{"id": 1, "role": "test"}]
    )
    try:
        split = split_from_file(ROWS, path, "mine")
    except SplitError as error:
        told = str(error)
    else:
        told = ""
    if told:
        assert str(path) in told
        return
    found = dict(zip(ROWS.frame["patient_id"], split.frame["role"], strict=True))
    assert found == {each: given_roles.get(each, UNUSED) for each in PATIENTS}
    event = ROWS.frame["event"].to_numpy()
    assert all(set(event[split.positions(0, role)]) == {0, 1} for role in ("train", "validation"))


class TestKept:
    def kept(self, tmp_path: Path) -> Split:
        split = split_from_file(ROWS, file_of(tmp_path), "mine")
        (tmp_path / "splits").mkdir()
        split.write(own_path("mine", tmp_path / "splits"))
        return split

    def test_it_is_found_by_its_name(self, tmp_path: Path) -> None:
        split, folder = self.kept(tmp_path), tmp_path / "splits"
        assert own_names(folder) == ["mine"]
        assert find_split(ROWS, "mine", 7, folder).digest == split.digest
        assert find_split(ROWS, None, 0, folder).digest == k_fold(ROWS).digest
        with pytest.raises(UnknownNameError, match="unknown split 'mina': did you mean mine"):
            find_split(ROWS, "mina", 0, folder)

    def test_it_holds_for_its_rows_alone(self, tmp_path: Path) -> None:
        self.kept(tmp_path)
        flipped = ROWS._replace(frame=ROWS.frame.assign(event=1 - ROWS.frame["event"]))
        with pytest.raises(SplitError, match=r"imported for other rows of TOY.*splits import TOY FILE --name mine"):
            load_own(flipped, "mine", tmp_path / "splits")

    def test_patients_who_are_joined_later_are_noticed(self, tmp_path: Path) -> None:
        self.kept(tmp_path)
        joined = ROWS._replace(frame=ROWS.frame.assign(group="g"))
        with pytest.raises(SplitError, match="patients who share images count as one"):
            load_own(joined, "mine", tmp_path / "splits")

    @pytest.mark.parametrize("name", ["", "../up", ".hidden", "a b", "x" * 65, "a/b"])
    def test_names_that_are_none(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(SplitError, match="a split cannot be called"):
            own_path(name, tmp_path)
