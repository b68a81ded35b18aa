"""Patients who share images: joined, kept, read back, applied to rows, undone."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.protocol import groups
from peftbench.protocol.groups import Groups, GroupsError, apply_groups, join

NAMES = st.sampled_from([f"p-{number}" for number in range(8)])


def components(pairs: list[tuple[str, str]]) -> set[frozenset[str]]:
    """The slow way: sets grow together until nothing changes."""
    sets = [{one, other} for one, other in pairs]
    while True:
        for each in sets:
            meeting = [other for other in sets if other & each]
            if len(meeting) > 1:
                sets = [other for other in sets if not other & each] + [set().union(*meeting)]
                break
        else:
            return {frozenset(each) for each in sets if len(each) > 1}


@given(st.lists(st.tuples(NAMES, NAMES), max_size=12))
def test_joined_are_the_connected_components(pairs: list[tuple[str, str]]) -> None:
    members = join(pairs)
    found: dict[str, set[str]] = {}
    for name, group in members.items():
        found.setdefault(group, set()).add(name)
    assert {frozenset(each) for each in found.values()} == components(pairs)
    assert all(group == min(each) for group, each in found.items())


def test_what_was_written_is_read(tmp_path: Path) -> None:
    written = Groups({"p-1": "p-1", "p-2": "p-1"}, {"near": 0.8, "manifest": "f00"})
    path = groups.write(tmp_path, written)
    assert path == tmp_path / "groups.parquet"
    assert groups.read(tmp_path) == written
    assert written.size == 1
    assert pd.read_parquet(path).to_dict("list") == {"patient_id": ["p-1", "p-2"], "group": ["p-1", "p-1"]}
    assert [each.name for each in tmp_path.iterdir()] == ["groups.parquet"], "no scratch is left"


def test_removing_undoes_it(tmp_path: Path) -> None:
    groups.write(tmp_path, Groups({"p-1": "p-1", "p-2": "p-1"}, {}))
    assert groups.remove(tmp_path)
    assert groups.read(tmp_path) is None
    assert not groups.remove(tmp_path)


def test_never_joined_is_none(tmp_path: Path) -> None:
    assert groups.read(tmp_path) is None
    assert groups.read(tmp_path / "nowhere") is None


def test_rubbish_is_refused_with_the_way_out(tmp_path: Path) -> None:
    groups.path_of(tmp_path).write_bytes(b"rubbish")
    with pytest.raises(GroupsError, match=r"groups\.parquet are damaged.*delete the file.*--group"):
        groups.read(tmp_path)


def test_altered_rows_are_refused(tmp_path: Path) -> None:
    path = groups.write(tmp_path, Groups({"p-1": "p-1", "p-2": "p-1"}, {}))
    table = pq.read_table(path)
    altered = pa.table({"patient_id": ["p-1", "p-3"], "group": ["p-1", "p-1"]})
    pq.write_table(altered.replace_schema_metadata(table.schema.metadata), path)
    with pytest.raises(GroupsError, match="not those that were written"):
        groups.read(tmp_path)


def test_a_file_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "GROUPS_SCHEMA", groups.GROUPS_SCHEMA + 1)
    groups.write(tmp_path, Groups({"p-1": "p-1", "p-2": "p-1"}, {}))
    monkeypatch.undo()
    with pytest.raises(GroupsError, match="another version"):
        groups.read(tmp_path)


def test_rows_get_their_group_and_others_none() -> None:
    frame = pd.DataFrame({"patient_id": ["p-3", "p-1", "p-2", "p-1"]}, index=[7, 8, 9, 10])
    applied = apply_groups(frame, Groups({"p-1": "p-1", "p-2": "p-1", "p-9": "p-8", "p-8": "p-8"}, {}))
    assert applied["group"].tolist() == ["", "p-1", "p-1", "p-1"]
    assert applied.index.tolist() == [7, 8, 9, 10]
    assert "group" not in frame.columns, "the rows given stay as they were"


@pytest.mark.parametrize("given_groups", [None, Groups({}, {}), Groups({"p-1": "p-1", "p-7": "p-1"}, {})])
def test_where_nobody_present_is_joined_the_rows_stay_as_they_are(given_groups: Groups | None) -> None:
    frame = pd.DataFrame({"patient_id": ["p-1", "p-2"]})
    assert apply_groups(frame, given_groups) is frame
