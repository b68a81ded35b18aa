"""kill -9 at the worst moments: nothing half-written counts, and the same command finishes the work."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from archive_kit import adopt
from forking import Forked, fork
from weights_kit import Server, noise, same, serving, sha256, tensors, tiny_card, torch_bytes, tower_of, tree, zip_bytes

from peftbench import weights
from peftbench.backbones.cards import CARDS
from peftbench.backbones.checkpoints import locate, obtain
from peftbench.protocol.progress import Silent

pytestmark = pytest.mark.slow

SETUP = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from weights_kit import tiny_card
from peftbench.backbones.cards import CARDS
CARDS["tiny"] = tiny_card("tiny", address=sys.argv[2], sha256=sys.argv[3])
CARDS["small"] = tiny_card("small")

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def die_at(count, function):
    calls = []
    def counted(*words, **options):
        calls.append(1)
        return die() if len(calls) == count else function(*words, **options)
    return counted

import peftbench.backbones.cache as cache
import peftbench.backbones.conversion as conversion
import peftbench.backbones.download as download
import peftbench.weights.importing as importing
import peftbench.weights.unpacking as unpacking
from pathlib import Path
from peftbench import weights
"""


def started(body: str, address: str = "http://127.0.0.1:9/x", digest: str = "") -> Forked:
    return fork(SETUP + body, str(Path(__file__).parents[1]), address, digest)


def killed(body: str, *words: str) -> None:
    with started(body, *words) as process:
        assert process.wait(60) == -signal.SIGKILL


DATA = torch_bytes({**tensors(rows=400_000), "visual.noise": tensors(seed=3)["visual.weight"]})


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as served:
        served.files["/tiny.pt"] = DATA
        card = tiny_card("tiny", address=f"{served.address}/tiny.pt", sha256=sha256(DATA)[:8])
        monkeypatch.setitem(CARDS, "tiny", card)
        yield served


def test_a_download(server: Server, folder: Path) -> None:
    server.wait = 0.02
    part = folder / "tiny" / ".incoming" / "file" / "tiny.pt.part"
    with started("weights.fetch('tiny')", f"{server.address}/tiny.pt", sha256(DATA)[:8]) as process:
        while not part.exists() or part.stat().st_size < 1_000_000:
            time.sleep(0.01)
            assert process.poll() is None
        process.kill()
    kept = part.stat().st_size
    assert 1_000_000 <= kept < len(DATA)
    assert locate(CARDS["tiny"]) is None
    server.wait = 0
    assert weights.fetch("tiny").weights[0].how == "downloaded"
    assert server.ranges_asked == [None, f"bytes={kept}-"]
    assert weights.verify("tiny").sound
    assert {path.name for path in (folder / "tiny").iterdir()} == {"model.safetensors", "weights.json", "writer.lock"}


MOMENTS = {
    "while it is unpacked": "import tempfile; conversion._unpickled = die",
    "before it is written": "conversion._write = die",
    "before it is moved": "conversion.put_in_place = die",
    "after the old record went": "cache.sync_file = die",
    "after it was moved": "cache.sync_folder = die",
    "before the record is written": "cache.write_atomic = die",
    "while the record is written": "import stores.atomic as atomic; atomic._write_all = die",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_conversion(server: Server, folder: Path, tmp_path: Path, moment: str) -> None:
    killed(f"{MOMENTS[moment]}\nweights.fetch('tiny')", f"{server.address}/tiny.pt", sha256(DATA)[:8])
    assert locate(CARDS["tiny"]) is None
    weights.fetch("tiny")
    assert len(server.requests) == 1, "what was downloaded is not asked for again"
    assert weights.verify("tiny").sound
    assert {path.name for path in (folder / "tiny").iterdir()} == {"model.safetensors", "weights.json", "writer.lock"}


@pytest.mark.parametrize("moment", list(MOMENTS)[1:])
def test_a_replacement_leaves_the_old_or_nothing(folder: Path, tmp_path: Path, moment: str) -> None:
    adopt("tiny", tmp_path / "files")
    adopt_other = tmp_path / "other.pt"
    adopt_other.write_bytes(torch_bytes(tensors(seed=1)))
    killed(f"{MOMENTS[moment]}\nweights.fetch('tiny', file={str(adopt_other)!r}, again=True)")
    found = locate(CARDS["tiny"])
    if found is not None:
        assert weights.verify("tiny").sound
        assert same(obtain(CARDS["tiny"], Silent()), tower_of(tensors()))
    weights.fetch("tiny", file=str(adopt_other), again=True)
    assert same(obtain(CARDS["tiny"], Silent()), tower_of(tensors(seed=1)))


def test_an_archives_member(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tiny_card(file="tiny.zip", member="inner.bin")
    monkeypatch.setitem(CARDS, "tiny", card)
    (folder / "tiny").mkdir(parents=True)
    (folder / "tiny" / "tiny.zip").write_bytes(zip_bytes({"inner.bin": torch_bytes(tensors()), "x": noise(10)}))
    killed(
        "CARDS['tiny'] = tiny_card(file='tiny.zip', member='inner.bin')\nconversion._unpickled = die\n"
        "weights.fetch('tiny')"
    )
    assert list((folder / "tiny" / ".scratch").iterdir()), "the unpacked member was left behind"
    assert same(obtain(card, Silent()), tower_of(tensors()))
    assert not (folder / "tiny" / ".scratch").exists()


IMPORT_MOMENTS = {
    "at the first file": "unpacking.Reader._unpack_one = die",
    "between files": "unpacking.Reader._unpack_one = die_at(4, unpacking.Reader._unpack_one)",
    "before the end is read": "unpacking.Reader._end = die",
    "before anything is moved": "importing._place = die",
    "between two backbones": "importing.put_in_place = die_at(2, importing.put_in_place)",
    "before a golden embedding": "cache.write_atomic = die_at(2, cache.write_atomic)",
    "before a record": "cache.write_atomic = die",
    "before it sweeps": "importing.clear = die_at(2, importing.clear)",
}


@pytest.mark.parametrize("moment", IMPORT_MOMENTS)
def test_an_import(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    adopt("tiny", tmp_path / "files")
    adopt("small", tmp_path / "files", seed=1)
    (folder / "tiny" / "golden.json").write_text("{}")
    archive = tmp_path / "both.tar"
    weights.bundle(["tiny", "small"], archive)
    far = tmp_path / "far"
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(far))
    killed(f"{IMPORT_MOMENTS[moment]}\nweights.import_({str(archive)!r})")
    for name in ("tiny", "small"):
        if locate(CARDS[name]) is not None:
            assert weights.verify(name).sound, "whatever counts is whole"
    weights.import_(archive)
    assert tree(far) == tree(folder)


def test_a_dead_imports_leavings_are_swept_by_the_next_fetch(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adopt("tiny", tmp_path / "files")
    archive = tmp_path / "tiny.tar"
    weights.bundle("tiny", archive)
    far = tmp_path / "far"
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(far))
    killed(f"importing._place = die\nweights.import_({str(archive)!r})")
    assert tree(far)
    (far / "small").mkdir()
    (far / "small" / "tiny.pt").write_bytes(torch_bytes(tensors()))
    weights.fetch("small")
    assert list((far / ".import").iterdir()) == [far / ".import" / "writer.lock"]
