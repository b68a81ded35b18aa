"""Carrying weights: what is packed arrives as it was, and whatever was done to it on the way is noticed."""

import gzip
import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
from archive_kit import Entry, adopt, entries, entry, manifest_for, packed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from progress_kit import Ear
from weights_kit import sha256, tree

from peftbench import weights
from peftbench.backbones.cache import MODEL_FILE, RECORD_FILE
from peftbench.backbones.cards import CARDS
from peftbench.errors import ConfigError, UnknownNameError, WeightsError, WeightsFolderError

pytestmark = pytest.mark.slow


@pytest.fixture
def archive(folder: Path, tmp_path: Path) -> Path:
    """Both small backbones, one with a golden embedding."""
    adopt("tiny", tmp_path / "files")
    adopt("small", tmp_path / "files", seed=1)
    (folder / "tiny" / "golden.json").write_text('{"embedding": [1.0]}')
    weights.bundle(["tiny", "small"], tmp_path / "both.tar")
    return tmp_path / "both.tar"


@pytest.fixture
def elsewhere(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Another machine's weights folder, empty."""
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


def refusal(path: Path | str, elsewhere: Path, **options: Any) -> str:
    before = tree(elsewhere)
    with pytest.raises(WeightsError) as caught:
        weights.import_(path, **options)
    assert tree(elsewhere) == before, "nothing of it was taken"
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestRoundTrip:
    def test_what_was_packed_arrives(self, archive: Path, folder: Path, elsewhere: Path) -> None:
        done = weights.import_(archive)
        assert [(each.backbone, each.how) for each in done.weights] == [("small", "imported"), ("tiny", "imported")]
        assert tree(elsewhere) == tree(folder)
        assert weights.verify().sound

    def test_again_is_skipped(self, archive: Path, elsewhere: Path) -> None:
        weights.import_(archive)
        before = {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*.safetensors")}
        assert [each.how for each in weights.import_(archive).weights] == ["cached", "cached"]
        assert {path: path.stat().st_mtime_ns for path in elsewhere.rglob("*.safetensors")} == before

    def test_a_golden_embedding_is_added_but_not_replaced(self, archive: Path, elsewhere: Path) -> None:
        weights.import_(archive)
        golden = elsewhere / "tiny" / "golden.json"
        golden.unlink()
        weights.import_(archive)
        assert json.loads(golden.read_text()) == {"embedding": [1.0]}
        golden.write_text('{"embedding": [2.0]}')
        weights.import_(archive)
        assert json.loads(golden.read_text()) == {"embedding": [2.0]}

    def test_other_weights_stay_unless_they_are_to_be_replaced(
        self, archive: Path, folder: Path, elsewhere: Path, tmp_path: Path
    ) -> None:
        adopt("tiny", tmp_path / "files", seed=7)
        (elsewhere / "tiny" / "golden.json").write_text("{}")
        text = refusal(archive, elsewhere)
        assert "other weights of tiny are cached" in text
        assert "--again" in text
        rows = weights.import_(archive, again=True).weights
        assert [each.how for each in rows] == ["imported", "replaced"]
        assert tree(elsewhere) == tree(folder)

    def test_lost_bytes_are_mended_by_the_way(self, archive: Path, folder: Path, elsewhere: Path) -> None:
        weights.import_(archive)
        path = elsewhere / "tiny" / MODEL_FILE
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        weights.import_(archive)
        assert tree(elsewhere) == tree(folder)

    def test_the_same_weights_give_the_same_bytes(self, archive: Path, tmp_path: Path) -> None:
        os.utime(archive, (0, 0))
        done = weights.bundle(["small", "tiny", "small"], tmp_path / "again.tar")
        assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()
        assert (done.sha256, done.bytes) == (sha256(archive.read_bytes()), archive.stat().st_size)

    def test_a_stranger_can_read_it(self, archive: Path, folder: Path) -> None:
        with tarfile.open(archive) as tar:
            infos = tar.getmembers()
        assert infos[0].name == "manifest.json"
        assert [each.name for each in infos[1:]] == sorted(
            f"{name}/{file}"
            for name, more in (("tiny", ["golden.json"]), ("small", []))
            for file in ["card.json", MODEL_FILE, RECORD_FILE, *more]
        )
        assert {(each.mtime, each.uid, each.gid, each.mode) for each in infos} == {(0, 0, 0, 0o644)}
        found = {info.name: data for info, data in entries(archive)}
        assert found[f"tiny/{MODEL_FILE}"] == (folder / "tiny" / MODEL_FILE).read_bytes()
        assert json.loads(found["tiny/card.json"]) == CARDS["tiny"].to_json()

    def test_a_stated_digest(self, archive: Path, elsewhere: Path) -> None:
        assert "expected 00000000" in refusal(f"{archive}#sha256=00000000", elsewhere)
        assert weights.import_(f"{archive}#sha256={sha256(archive.read_bytes())}").weights

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        seeds=st.dictionaries(st.sampled_from(["tiny", "small"]), st.integers(0, 50), min_size=1),
        golden=st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False), max_size=3),
    )
    def test_whatever_it_is(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seeds: dict[str, int], golden: Any
    ) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(folder))
        for name, seed in seeds.items():
            adopt(name, tmp_path / "files", seed)
        (folder / next(iter(seeds)) / "golden.json").write_text(json.dumps(golden))
        weights.bundle(list(seeds), tmp_path / "x.tar", overwrite=True)
        shutil.rmtree(tmp_path / "far", ignore_errors=True)
        monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "far"))
        weights.import_(tmp_path / "x.tar")
        assert tree(tmp_path / "far") == tree(folder)


class TestBundleRefuses:
    def test_a_file_that_is_there(self, archive: Path) -> None:
        with pytest.raises(ConfigError, match="--overwrite"):
            weights.bundle("tiny", archive)
        weights.bundle("tiny", archive, overwrite=True)
        assert "small/card.json" not in [info.name for info, _ in entries(archive)]

    @pytest.mark.parametrize("name", ["x.tar.gz", "x.zip", "x", "nowhere/x.tar"])
    def test_names_of_no_use(self, archive: Path, tmp_path: Path, name: str) -> None:
        with pytest.raises(ConfigError):
            weights.bundle("tiny", tmp_path / name)

    def test_a_folder(self, archive: Path, tmp_path: Path) -> None:
        (tmp_path / "x.tar").mkdir()
        with pytest.raises(ConfigError, match="is a folder"):
            weights.bundle("tiny", tmp_path / "x.tar")

    def test_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="no backbone is named"):
            weights.bundle([], tmp_path / "x.tar")

    def test_weights_that_are_not_cached(self, archive: Path, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="`peftbench weights fetch resnet18`, then bundle"):
            weights.bundle("resnet18", tmp_path / "x.tar")
        with pytest.raises(UnknownNameError):
            weights.bundle("resnet", tmp_path / "x.tar")

    @pytest.mark.parametrize("offset", [-1, 20, -40])
    def test_damaged_weights_and_leaves_nothing(self, archive: Path, folder: Path, tmp_path: Path, offset: int) -> None:
        path = folder / "tiny" / MODEL_FILE
        data = bytearray(path.read_bytes())
        data[offset] ^= 1
        path.write_bytes(data)
        before = set(tmp_path.iterdir())
        with pytest.raises(WeightsError, match="--again"):
            weights.bundle("tiny", tmp_path / "x.tar")
        assert set(tmp_path.iterdir()) == before

    def test_what_stops_it_leaves_the_old_archive(self, archive: Path, tmp_path: Path) -> None:
        class Stop(Ear):
            def advance(self, count: int = 1) -> None:
                raise KeyboardInterrupt

        before, data = set(tmp_path.iterdir()), archive.read_bytes()
        with pytest.raises(KeyboardInterrupt):
            weights.bundle("tiny", archive, overwrite=True, progress=Stop())
        assert (set(tmp_path.iterdir()), archive.read_bytes()) == (before, data)


class TestFlippedBytes:
    def test_every_byte_of_it_counts(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Not a sample: the archive of one small backbone has some thousand bytes."""
        adopt("tiny", tmp_path / "files")
        weights.bundle("tiny", tmp_path / "x.tar")
        monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "far"))
        data = (tmp_path / "x.tar").read_bytes()
        # All of the headers, texts and the end; every fifth byte in between.
        for offset in range(0, len(data), 5):
            broken = bytearray(data)
            broken[offset] ^= 1 << (offset % 8)
            (tmp_path / "y.tar").write_bytes(broken)
            with pytest.raises(WeightsError):
                weights.import_(tmp_path / "y.tar")
        assert tree(tmp_path / "far") == {}

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_anywhere_in_it(self, archive: Path, elsewhere: Path, data: st.DataObject) -> None:
        whole = archive.read_bytes()
        offset = data.draw(st.integers(0, len(whole) - 1))
        broken = bytearray(whole)
        broken[offset] ^= data.draw(st.integers(1, 255))
        path = archive.with_name("broken.tar")
        path.write_bytes(broken)
        assert "refused" in refusal(path, elsewhere)

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(share=st.floats(0, 1, exclude_max=True))
    def test_cut_short_anywhere(self, archive: Path, elsewhere: Path, share: float) -> None:
        whole = archive.read_bytes()
        path = archive.with_name("short.tar")
        path.write_bytes(whole[: int(len(whole) * share)])
        assert "cut short" in refusal(path, elsewhere)

    @pytest.mark.parametrize("more", [b"\0", b"\0" * 512, b"x"])
    def test_anything_behind_its_end(self, archive: Path, elsewhere: Path, more: bytes) -> None:
        archive.write_bytes(archive.read_bytes() + more)
        assert "goes on behind its end" in refusal(archive, elsewhere)


def member(kind: bytes, name: str = f"tiny/{MODEL_FILE}", link: str = "") -> Entry:
    return entry(name, type=kind, linkname=link)


ATTACKS: dict[str, tuple[Entry, str]] = {
    "absolute": (entry("/tmp/owned", b"x"), "absolute path"),  # noqa: S108 - an attacker's choice
    "home": (entry("~/owned", b"x"), "absolute path"),
    "drive": (entry("C:/owned", b"x"), "absolute path"),
    "climbing": (entry("../owned", b"x"), "climbs out"),
    "climbing inside": (entry("tiny/../../owned", b"x"), "climbs out"),
    "backslash": (entry("..\\owned", b"x"), "backslash"),
    "symlink": (member(tarfile.SYMTYPE, link="/etc/passwd"), "is a link"),
    "hard link": (member(tarfile.LNKTYPE, link="manifest.json"), "is a link"),
    "device": (member(tarfile.CHRTYPE), "is a device"),
    "block device": (member(tarfile.BLKTYPE), "is a device"),
    "pipe": (member(tarfile.FIFOTYPE), "is a device"),
    "folder": (member(tarfile.DIRTYPE, "tiny"), "is a folder"),
    "sparse": (member(tarfile.GNUTYPE_SPARSE), "is no plain file"),
    "long name": (entry("././@LongLink", b"tiny/x", type=tarfile.GNUTYPE_LONGNAME), "is no plain file"),
    "pax": (entry("tiny/x", b"20 path=../owned\n", type=tarfile.XHDTYPE), "is no plain file"),
    "unlisted": (entry("tiny/more.bin", b"x"), "not in its manifest"),
    "manifest again": (entry("manifest.json", b"{}"), "not in its manifest"),
    "control character": (entry("tiny/\x07", b"x"), "character"),
}


class TestAttacks:
    @pytest.mark.parametrize("name", ATTACKS)
    @pytest.mark.parametrize("where", ["first", "between", "last"])
    def test_an_entry_too_many(self, archive: Path, elsewhere: Path, tmp_path: Path, name: str, where: str) -> None:
        attack, said = ATTACKS[name]
        inside = entries(archive)
        inside.insert({"first": 1, "between": 3, "last": len(inside)}[where], attack)
        text = refusal(packed(tmp_path / "evil.tar", inside), elsewhere)
        assert said in text
        assert not list(tmp_path.rglob("owned"))

    @pytest.mark.parametrize("name", ATTACKS)
    def test_in_place_of_the_weights(self, archive: Path, elsewhere: Path, tmp_path: Path, name: str) -> None:
        attack, said = ATTACKS[name]
        inside = [attack if info.name == f"tiny/{MODEL_FILE}" else (info, data) for info, data in entries(archive)]
        assert said in refusal(packed(tmp_path / "evil.tar", inside), elsewhere)

    def test_a_link_to_be_written_through(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        inside = entries(archive)
        inside.insert(1, entry("tiny", type=tarfile.SYMTYPE, linkname=str(outside)))
        refusal(packed(tmp_path / "evil.tar", inside), elsewhere)
        assert list(outside.iterdir()) == []

    def test_a_file_twice(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        inside = entries(archive)
        assert "stands twice" in refusal(packed(tmp_path / "evil.tar", [*inside, inside[-1]]), elsewhere)

    def test_a_file_missing(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        inside = entries(archive)
        assert "ends before tiny/weights.json" in refusal(packed(tmp_path / "evil.tar", inside[:-1]), elsewhere)
        assert "another's place" in refusal(packed(tmp_path / "evil.tar", [*inside[:3], *inside[4:]]), elsewhere)

    def test_another_order(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        first, second, third, *rest = entries(archive)
        assert "place" in refusal(packed(tmp_path / "evil.tar", [first, third, second, *rest]), elsewhere)

    def test_longer_than_declared(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        inside = [entry(info.name, data + b"x") if "tiny/card" in info.name else (info, data)
                  for info, data in entries(archive)]  # fmt: skip
        assert "its manifest says" in refusal(packed(tmp_path / "evil.tar", inside), elsewhere)

    def test_another_content(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        inside = [entry(info.name, bytes(len(data))) if MODEL_FILE in info.name else (info, data)
                  for info, data in entries(archive)]  # fmt: skip
        assert "has the SHA-256" in refusal(packed(tmp_path / "evil.tar", inside), elsewhere)

    def test_other_rights_than_bundle_gives(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        inside = entries(archive)
        inside[2][0].mode = 0o4755
        assert "does not write" in refusal(packed(tmp_path / "evil.tar", inside), elsewhere)


class TestManifest:
    def forged(self, tmp_path: Path, files: list[Entry], **changes: Any) -> Path:
        return packed(tmp_path / "forged.tar", [manifest_for(files, **changes), *files])

    def test_a_forged_one_that_lists_what_leads_elsewhere(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        files = entries(archive)[1:]
        beside = ("/owned", "../owned", "tiny/../owned", "tiny\\owned", "owned", "tiny/run.sh", "tiny/sub/card.json")
        for name in (*beside, ".import/card.json"):
            text = refusal(self.forged(tmp_path, [*files, entry(name, b"x")]), elsewhere)
            assert "its manifest is refused" in text
        assert not list(tmp_path.rglob("owned"))

    def test_one_without_the_record(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        files = [(info, data) for info, data in entries(archive)[1:] if info.name != f"tiny/{RECORD_FILE}"]
        assert "lacks tiny/weights.json" in refusal(self.forged(tmp_path, files), elsewhere)

    def test_one_that_lists_a_file_twice(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        files = entries(archive)[1:]
        assert "stand twice" in refusal(self.forged(tmp_path, [*files, files[-1]]), elsewhere)

    def test_an_empty_one(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        assert "lacks every file" in refusal(self.forged(tmp_path, []), elsewhere)

    def test_a_backbone_that_is_not_known_here(
        self, archive: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delitem(CARDS, "small")
        assert "weights of small, which this peftbench does not know" in refusal(archive, elsewhere)

    def test_a_card_of_another_model(self, archive: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(CARDS, "tiny", CARDS["tiny"].model_copy(update={"architecture": "tests:Other"}))
        assert "another model than the one here (tests:Other)" in refusal(archive, elsewhere)

    def test_a_record_of_other_weights(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        files = entries(archive)[1:]
        by_name = {info.name: data for info, data in files}
        swapped = [
            entry(info.name, by_name["tiny/weights.json"].replace(b'"tensors": 3', b'"tensors": 4'))
            if info.name == "tiny/weights.json"
            else (info, data)
            for info, data in files
        ]
        assert "not of the weights beside it" in refusal(self.forged(tmp_path, swapped), elsewhere)

    @pytest.mark.parametrize("file", [RECORD_FILE, "card.json", "golden.json"])
    @pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 50_000])
    def test_texts_that_are_none(self, archive: Path, elsewhere: Path, tmp_path: Path, file: str, data: bytes) -> None:
        files = [entry(info.name, data) if info.name == f"tiny/{file}" else (info, old)
                 for info, old in entries(archive)[1:]]  # fmt: skip
        assert "not what they should be" in refusal(self.forged(tmp_path, files), elsewhere)

    def test_weights_that_are_no_safetensors(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        files = [entry(info.name, b"\x80\x02pickle") if info.name == f"tiny/{MODEL_FILE}" else (info, data)
                 for info, data in entries(archive)[1:]]  # fmt: skip
        assert "not what they should be" in refusal(self.forged(tmp_path, files), elsewhere)

    @pytest.mark.parametrize("schema", [2, 0, "1", None, True])
    def test_another_schema(self, archive: Path, elsewhere: Path, tmp_path: Path, schema: object) -> None:
        (info, data), *files = entries(archive)
        value = {**json.loads(data), "schema": schema}
        text = refusal(packed(tmp_path / "x.tar", [entry(info.name, json.dumps(value).encode()), *files]), elsewhere)
        assert f"has schema {schema!r}, this version of peftbench reads 1" in text

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 50_000, b'{"schema": 1}'])
    def test_what_is_none(self, archive: Path, elsewhere: Path, tmp_path: Path, data: bytes) -> None:
        files = entries(archive)[1:]
        assert "manifest" in refusal(packed(tmp_path / "x.tar", [entry("manifest.json", data), *files]), elsewhere)

    def test_one_of_gigabytes(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        info = tarfile.TarInfo("manifest.json")
        info.size = 10**12
        (tmp_path / "x.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"{")
        assert "at most" in refusal(tmp_path / "x.tar", elsewhere)

    def test_huge_numbers(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        files = entries(archive)[1:]
        with pytest.raises(WeightsFolderError, match="MB are free"):
            weights.import_(self.forged(tmp_path, files, model={"bytes": 10**15}))
        assert tree(elsewhere) == {}
        assert "at most" in refusal(self.forged(tmp_path, files, card={"bytes": 10**9}), elsewhere)


class TestWhatIsNoArchive:
    @pytest.mark.parametrize("data", [b"x" * 600, b"<html>" * 200, b"\0" * 2000])
    def test_other_files(self, elsewhere: Path, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "x.tar").write_bytes(data)
        assert "no tar archive" in refusal(tmp_path / "x.tar", elsewhere)

    def test_a_compressed_one(self, archive: Path, elsewhere: Path, tmp_path: Path) -> None:
        (tmp_path / "x.tar.gz").write_bytes(gzip.compress(archive.read_bytes()))
        assert "refused" in refusal(tmp_path / "x.tar.gz", elsewhere)

    def test_a_tar_of_something_else(self, elsewhere: Path, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT) as tar:
            tar.add(__file__, "code.py")
        assert "begins with 'code.py', expected manifest.json" in refusal(tmp_path / "x.tar", elsewhere)

    @pytest.mark.parametrize("name", ["nowhere.tar", "."])
    def test_nothing(self, elsewhere: Path, name: str) -> None:
        assert "no file" in refusal(name, elsewhere)


def test_a_stop_between_two_blocks_leaves_nothing(archive: Path, elsewhere: Path) -> None:
    class Stop(Ear):
        def advance(self, count: int = 1) -> None:
            super().advance(1)
            if self.done > 5:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.import_(archive, progress=Stop())
    assert tree(elsewhere) == {}
    assert weights.import_(archive).weights


def test_the_digest_of_the_whole_is_told(archive: Path, elsewhere: Path) -> None:
    assert weights.import_(archive).sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
