"""The workspace: everything lies below its folder, whatever things are called."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.backbones.registry import CARDS
from peftbench.cohorts.registry import COHORTS, TASKS
from peftbench.errors import WorkspaceError
from peftbench.protocol.workspace import Workspace, path_name

NASTY = st.text(max_size=20) | st.lists(st.sampled_from(["..", ".", "/", "\\", "a", "\0", "~", "-", " "])).map("".join)


class TestPathName:
    @given(name=NASTY)
    @settings(deadline=None, max_examples=150)
    def test_it_is_one_visible_component_of_a_path(self, name: str) -> None:
        found = path_name(name)
        assert Path(found).parts == (found,)
        assert not found.startswith((".", "-"))
        assert found.isascii()

    @given(name=NASTY)
    @settings(deadline=None, max_examples=50)
    def test_naming_a_name_changes_nothing(self, name: str) -> None:
        assert path_name(path_name(name)) == path_name(name)

    def test_names_that_are_used_stay_distinct_and_readable(self) -> None:
        names = [*CARDS, *(f"{card}@random:{seed}" for card in CARDS for seed in (0, 1, 10)), *COHORTS, *TASKS]
        assert len({path_name(name) for name in names}) == len(names)
        assert all(path_name(name) == name for name in [*CARDS, *COHORTS, *TASKS])


@given(words=st.tuples(NASTY, NASTY, NASTY))
@settings(deadline=None, max_examples=100)
def test_no_name_leads_out_of_the_workspace(words: tuple[str, str, str]) -> None:
    place = Workspace(Path("/somewhere/workspace"))
    first, second, third = words
    for path, parent in (
        (place.cohort(first), "cohorts"),
        (place.manifest(first), "cohorts"),
        (place.card(first), "cohorts"),
        (place.images(first, "a" * 64), "cohorts"),
        (place.raw(first), "raw"),
        (place.features(first, "a" * 64), "features"),
        (place.splits(first), "splits"),
        (place.record(first, second, third, "run"), "results"),
    ):
        inside = path.resolve().relative_to(place.root / parent)
        assert inside.parts
        assert path.resolve() == path


class TestWhere:
    def test_the_folder_given_comes_first(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PEFTBENCH_WORKSPACE", "elsewhere")
        assert Workspace.at(tmp_path).root == Workspace.at(str(tmp_path)).root == tmp_path

    def test_then_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PEFTBENCH_WORKSPACE", "elsewhere")
        assert Workspace.at().root == Path("elsewhere")

    @pytest.mark.parametrize("value", [None, ""])
    def test_then_the_default(self, monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
        monkeypatch.delenv("PEFTBENCH_WORKSPACE", raising=False)
        if value is not None:
            monkeypatch.setenv("PEFTBENCH_WORKSPACE", value)
        assert Workspace.at().root == Path("workspace")

    def test_a_workspace_is_its_own(self, tmp_path: Path) -> None:
        place = Workspace(tmp_path)
        assert Workspace.at(place) is place


class TestWritable:
    def test_the_folder_is_made_and_left_empty(self, tmp_path: Path) -> None:
        Workspace(tmp_path / "a" / "b").ensure_writable()
        assert list((tmp_path / "a" / "b").iterdir()) == []

    def test_a_path_below_a_file_is_refused_with_the_next_step(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        root = tmp_path / "file" / "workspace"
        with pytest.raises(WorkspaceError) as caught:
            Workspace(root).ensure_writable()
        message = str(caught.value)
        assert str(root) in message
        assert "Not a directory" in message
        assert "--workspace DIR or PEFTBENCH_WORKSPACE" in message

    def test_it_can_be_caught_as_the_builtin_error(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OSError, match="cannot be written"):
            Workspace(tmp_path / "file").ensure_writable()
