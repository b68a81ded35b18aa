"""Downloads over real connections: cut, lied about, moved, and gone on with."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from progress_kit import Ear
from weights_kit import Server, noise, serving, sha256

from peftbench.backbones import download as module
from peftbench.backbones.card import Checkpoint
from peftbench.backbones.download import Remote, download, is_offline, resolve
from peftbench.errors import DownloadError

pytestmark = pytest.mark.slow

DATA = noise(2_500_000)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as served:
        served.files["/tiny.pt"] = DATA
        yield served


def remote(server: Server, **facts: object) -> Remote:
    return Remote(f"{server.address}/tiny.pt", "tiny.pt", **facts)  # type: ignore[arg-type]


def refusal(what: Remote, folder: Path) -> str:
    with pytest.raises(DownloadError) as caught:
        download(what, folder, Ear())
    return str(caught.value)


def test_the_file_comes_whole_and_nothing_else_stays(server: Server, tmp_path: Path) -> None:
    path = download(remote(server), tmp_path, Ear())
    assert path.read_bytes() == DATA
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.pt"]


def test_progress_counts_megabytes(server: Server, tmp_path: Path) -> None:
    ear = Ear()
    download(remote(server), tmp_path, ear)
    assert (ear.expected, ear.done) == (3, 3)


class TestGoingOn:
    def test_a_cut_connection_is_taken_up_where_it_was_cut(self, server: Server, tmp_path: Path) -> None:
        server.cuts = [1_000_000, 700_000]
        ear = Ear()
        assert download(remote(server), tmp_path, ear).read_bytes() == DATA
        assert server.ranges_asked == [None, "bytes=1000000-", "bytes=1700000-"]
        assert (ear.expected, ear.done) == (3, 3), "counted once, however often it was cut"

    def test_it_is_the_same_file_or_it_begins_anew(self, server: Server, tmp_path: Path) -> None:
        server.cuts = [1_000_000, 0]
        assert "1000000 bytes are kept" in refusal(remote(server), tmp_path)
        server.files["/tiny.pt"] = other = noise(2_000_000, seed=1)
        assert download(remote(server), tmp_path, Ear()).read_bytes() == other
        assert "If-Range" in server.requests[-1][2]

    def test_a_server_without_tags_is_not_trusted_to_go_on(self, server: Server, tmp_path: Path) -> None:
        server.etags["/tiny.pt"] = ""
        server.cuts = [1_000_000, 0]
        refusal(remote(server), tmp_path)
        assert download(remote(server), tmp_path, Ear()).read_bytes() == DATA
        assert server.ranges_asked[-1] is None

    def test_without_tags_but_with_a_digest_it_goes_on(self, server: Server, tmp_path: Path) -> None:
        server.etags["/tiny.pt"] = ""
        server.cuts = [1_000_000]
        assert download(remote(server, sha256=sha256(DATA)), tmp_path, Ear()).read_bytes() == DATA
        assert server.ranges_asked == [None, "bytes=1000000-"]

    def test_a_weak_tag_is_none(self, server: Server, tmp_path: Path) -> None:
        server.etags["/tiny.pt"] = 'W/"abc"'
        server.cuts = [1_000_000, 0]
        refusal(remote(server), tmp_path)
        assert server.ranges_asked[-1] is None

    def test_a_server_without_ranges_sends_all_again(self, server: Server, tmp_path: Path) -> None:
        server.ranges = False
        server.cuts = [1_000_000]
        assert download(remote(server), tmp_path, Ear()).read_bytes() == DATA

    def test_a_part_that_is_the_whole_is_finished(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "tiny.pt.part").write_bytes(DATA)
        (tmp_path / "tiny.pt.part.tag").write_text(f'"{sha256(DATA)[:16]}"')
        assert download(remote(server), tmp_path, Ear()).read_bytes() == DATA

    def test_a_part_longer_than_the_file_is_dropped(self, server: Server, tmp_path: Path) -> None:
        server.statuses["/tiny.pt"] = 416
        (tmp_path / "tiny.pt.part").write_bytes(DATA + b"more")
        assert "begins anew" in refusal(remote(server, sha256="00"), tmp_path)
        assert not (tmp_path / "tiny.pt.part").exists()

    def test_a_finished_file_asks_nobody(self, server: Server, tmp_path: Path) -> None:
        (tmp_path / "tiny.pt").write_bytes(DATA)
        download(remote(server), tmp_path, Ear())
        assert server.requests == []

    def test_it_gives_up_on_a_line_that_is_cut_for_ever(self, server: Server, tmp_path: Path) -> None:
        server.cuts = [1000] * 50
        assert "cut 20 times; 20000 bytes are kept" in refusal(remote(server), tmp_path)

    def test_what_stops_it_between_blocks_loses_no_block(self, server: Server, tmp_path: Path) -> None:
        class Stop(Ear):
            def advance(self, count: int = 1) -> None:
                super().advance(count)
                if self.done:
                    raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            download(remote(server), tmp_path, Stop())
        kept = (tmp_path / "tiny.pt.part").stat().st_size
        assert kept >= 1_000_000
        assert download(remote(server), tmp_path, Ear()).read_bytes() == DATA
        assert server.ranges_asked == [None, f"bytes={kept}-"]


class TestRefusals:
    @pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
    def test_the_status_is_said(self, server: Server, tmp_path: Path, status: int) -> None:
        server.statuses["/tiny.pt"] = status
        assert f"HTTP {status}" in refusal(remote(server), tmp_path)

    def test_a_web_page(self, server: Server, tmp_path: Path) -> None:
        server.files["/login"] = b"<html>"
        server.types["/login"] = "text/html; charset=utf-8"
        server.redirects["/tiny.pt"] = "/login"
        assert "web page" in refusal(remote(server), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_host_that_is_not_there(self, tmp_path: Path) -> None:
        assert "refused" in refusal(Remote("http://127.0.0.1:9/tiny.pt", "tiny.pt"), tmp_path)

    def test_a_name_that_is_no_host(self, tmp_path: Path) -> None:
        assert refusal(Remote("http://nowhere.invalid/tiny.pt", "tiny.pt"), tmp_path)

    @pytest.mark.parametrize("address", ["file:///etc/hostname", "ftp://127.0.0.1/x", "tiny.pt", "data:,x"])
    def test_addresses_of_other_kinds(self, tmp_path: Path, address: str) -> None:
        assert "http or https" in refusal(Remote(address, "tiny.pt"), tmp_path)

    def test_a_redirect_to_a_local_file(self, server: Server, tmp_path: Path) -> None:
        server.redirects["/tiny.pt"] = "file:///etc/hostname"
        refusal(remote(server), tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_less_than_was_announced(self, server: Server, tmp_path: Path) -> None:
        server.lengths["/tiny.pt"] = len(DATA) + 10
        server.ranges = False
        assert "cut" in refusal(remote(server), tmp_path)

    def test_another_length_than_the_hub_said(self, server: Server, tmp_path: Path) -> None:
        assert "expected 10" in refusal(remote(server, size=10), tmp_path)

    def test_another_part_than_was_asked_for(self, server: Server, tmp_path: Path) -> None:
        server.statuses["/tiny.pt"] = 206
        assert "not asked for" in refusal(remote(server), tmp_path)
        server.headers["/tiny.pt"] = {"Content-Range": f"bytes 5-{len(DATA) - 1}/{len(DATA)}"}
        assert "not asked for" in refusal(remote(server), tmp_path)

    def test_a_full_disk_is_said_before_it_is_full(
        self, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 1000))
        with pytest.raises(OSError, match="2 MB are to come"):
            download(remote(server), tmp_path, Ear())

    def test_without_encryption_where_there_was_some(self, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        answer = type("Answer", (), {"url": "http://elsewhere/x", "headers": None})
        with pytest.raises(DownloadError, match="without encryption"):
            module._refuse_detour(Remote("https://here/x", "x"), answer)  # type: ignore[arg-type]


def test_headers_for_one_host_are_not_carried_to_another(server: Server, tmp_path: Path) -> None:
    server.files["/moved"] = DATA
    server.redirects["/tiny.pt"] = "/moved"
    download(remote(server, headers={"Authorization": "Bearer secret"}), tmp_path, Ear())
    first, second = (headers for _, _, headers in server.requests)
    assert first["Authorization"] == "Bearer secret"
    assert "Authorization" not in second


@pytest.mark.parametrize("name", ["PEFTBENCH_OFFLINE", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize(("value", "offline"), [("1", True), ("TRUE", True), ("yes", True), ("0", False), ("", False)])
def test_offline(monkeypatch: pytest.MonkeyPatch, name: str, value: str, *, offline: bool) -> None:
    for each in ("PEFTBENCH_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, value)
    assert is_offline() is offline


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """The hub's own client asks this server, which answers as the hub does."""
    import huggingface_hub.constants
    import huggingface_hub.file_download

    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    for revision in ("main", COMMIT):
        path = f"/org/repo/resolve/{revision}/model.bin"
        server.files[path] = DATA
        server.etags[path] = f'"{sha256(DATA)}"'
        server.headers[path] = {"X-Repo-Commit": COMMIT}
    return server


CHECKPOINT = Checkpoint(kind="hub", address="org/repo", file="model.bin", revision="main", megabytes=3)


class TestHub:
    def test_what_the_hub_says_is_pinned(self, hub: Server, tmp_path: Path) -> None:
        found = resolve(CHECKPOINT)
        assert found.url == f"{hub.address}/org/repo/resolve/{COMMIT}/model.bin"
        assert (found.revision, found.sha256, found.size) == (COMMIT, sha256(DATA), len(DATA))
        assert download(found, tmp_path, Ear()).read_bytes() == DATA

    def test_a_repository_that_is_not_there(self, hub: Server) -> None:
        with pytest.raises(DownloadError, match="404"):
            resolve(CHECKPOINT.model_copy(update={"address": "org/other"}))

    def test_a_hub_that_cannot_be_reached(self, hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        import huggingface_hub.constants
        import huggingface_hub.file_download

        template = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        with pytest.raises(DownloadError, match="refused"):
            resolve(CHECKPOINT)

    def test_without_the_hubs_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "huggingface_hub", None)
        with pytest.raises(DownloadError, match=r"pip install 'peftbench\[models\]'"):
            resolve(CHECKPOINT)
