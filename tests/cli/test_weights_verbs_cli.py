"""The verbs of `peftbench weights` as a user types them: tables, JSON, exit codes, one sentence for what is wrong."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_kit import Done, invoke, start
from weights_kit import Server, serving, sha256, tensors, tiny_card, torch_bytes

from peftbench.backbones.cards import CARDS

pytestmark = pytest.mark.slow

DATA = torch_bytes(tensors(rows=300_000))

PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from weights_kit import tiny_card
from peftbench.backbones.cards import CARDS
CARDS["tiny"] = tiny_card(address={address!r})
from cli.main import main
main()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("PEFTBENCH_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "weights"


@pytest.fixture(autouse=True)
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with serving() as served:
        served.files["/tiny.pt"] = DATA
        monkeypatch.setitem(CARDS, "tiny", tiny_card(address=f"{served.address}/tiny.pt"))
        yield served


def weights(*words: str) -> Done:
    return invoke("weights", *words)


def test_the_whole_way(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = weights("ls", "tiny")
    assert (shown.code, "absent" in shown.stdout) == (0, True)
    assert weights("fetch", "tiny", "--json").answer["weights"][0]["how"] == "downloaded"
    assert "cached already" in weights("fetch", "tiny").stdout
    assert weights("ls", "tiny", "--json").answer["weights"][0]["state"] == "cached"
    assert "sound" in weights("verify").stdout
    packed = weights("bundle", "tiny", "--to", "tiny.tar", "--json").answer
    assert packed["sha256"] == sha256(Path("tiny.tar").read_bytes())
    assert packed["sha256"] in weights("bundle", "tiny", "--to", "tiny.tar", "--overwrite").stdout
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "far"))
    monkeypatch.setenv("PEFTBENCH_OFFLINE", "1")
    (row,) = weights("import", f"tiny.tar#sha256={packed['sha256']}", "--json").answer["weights"]
    assert (row["backbone"], row["how"]) == ("tiny", "imported")
    assert "cached already" in weights("import", "tiny.tar").stdout
    assert weights("verify", "tiny").code == 0


@pytest.mark.parametrize("words", [(), ("--json",), ("tiny",)])
def test_verify_exits_with_1_where_something_is_damaged(folder: Path, words: tuple[str, ...]) -> None:
    assert weights("fetch", "tiny").code == 0
    path = folder / "tiny" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    done = weights("verify", *words)
    assert done.code == 1
    assert "--again" in done.stdout
    assert "Traceback" not in done.stderr
    assert weights("fetch", "tiny", "--again").code == 0
    assert weights("verify").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("ls", "nonsense"), "unknown backbone 'nonsense'"),
        (("fetch",), "no backbone is named"),
        (("fetch", "nonsense"), "unknown backbone"),
        (("fetch", "tiny", "--all"), "contradict"),
        (("fetch", "tiny", "resnet18", "--from", "x"), "--from takes the file of one"),
        (("fetch", "tiny", "--from", "nowhere.pt"), "there is no file nowhere.pt"),
        (("fetch", "tiny", "--from", "page.html"), "web page"),
        (("fetch", "tiny", "--from", "page.html#sha256=xyz"), "no SHA-256"),
        (("verify",), "no weights are cached"),
        (("verify", "tiny"), "not cached"),
        (("bundle", "tiny", "--to", "x.tar"), "not cached"),
        (("bundle", "--to", "x.tar"), "no backbone is named"),
        (("bundle", "tiny", "--to", "x.zip"), "does not end with .tar"),
        (("import", "nowhere.tar"), "there is no file"),
        (("import", "page.html"), "refused"),
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else "",
)
def test_what_is_wrong_is_one_sentence(words: tuple[str, ...], said: str) -> None:
    Path("page.html").write_text("<html>" * 200)
    assert said in weights(*words).error


def test_absent_weights_name_every_way_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTBENCH_OFFLINE", "1")
    text = weights("fetch", "resnet18").error
    for word in (
        "resnet18-f37072fd.pth (47 MB)",
        "download.pytorch.org",
        "weights bundle",
        "weights import",
        "--from FILE",
    ):
        assert word in text


def test_a_folder_that_cannot_be_written(folder: Path) -> None:
    folder.write_bytes(b"in the way")
    assert "PEFTBENCH_WEIGHTS" in weights("fetch", "tiny").error


@pytest.mark.parametrize("verb", ["ls", "fetch", "verify", "bundle", "import"])
def test_every_verb_explains_itself(verb: str) -> None:
    done = weights(verb, "--help")
    assert done.code == 0
    assert all(option in done.stdout for option in ("--workspace", "--json", "--debug"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_download_stopped_by_a_signal_goes_on(
    server: Server, folder: Path, number: signal.Signals, code: int
) -> None:
    server.wait = 0.05
    program = PROGRAM.format(tests=str(Path(__file__).parents[1]), address=f"{server.address}/tiny.pt")
    part = folder / "tiny" / ".incoming" / "file" / "tiny.pt.part"
    with start("weights", "fetch", "tiny", program=program) as process:
        while not part.exists() or part.stat().st_size < 500_000:
            time.sleep(0.01)
            assert process.poll() is None
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == code
    assert stdout == ""
    assert stderr.splitlines()[-1].startswith("interrupted")
    kept = os.stat(part).st_size  # noqa: PTH116
    server.wait = 0
    assert weights("fetch", "tiny", "--json").answer["weights"][0]["how"] == "downloaded"
    assert server.ranges_asked[-1] == f"bytes={kept}-"
