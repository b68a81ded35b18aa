"""Nothing but `fetch` asks a network: every way to one is closed, and the rest goes on."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from archive_kit import adopt

from peftbench import weights

pytestmark = pytest.mark.slow

CLOSED = """
import socket, sys

def closed(*words, **options):
    raise AssertionError("the network was asked")

class Closed(socket.socket):
    connect = connect_ex = sendto = closed

socket.socket = Closed
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = closed
"""

HEAVY = {"torch", "torchvision", "timm", "transformers", "safetensors.torch", "httpx", "requests"}


def run(body: str, *words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", CLOSED + body, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


COMMAND = "from cli.main import main\ntry:\n    main()\nfinally:\n    print(*sorted(sys.modules), file=sys.stderr)\n"


@pytest.mark.parametrize(
    "words",
    [
        ("weights", "ls", "--json"),
        ("weights", "ls", "resnet18", "dinov2-s", "efficientnet-lite0", "--json"),
        ("list", "backbones", "--json"),
    ],
)
def test_listings(words: tuple[str, ...]) -> None:
    done = run(COMMAND, *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])
    assert HEAVY.isdisjoint(done.stderr.split())


@pytest.mark.slow
def test_verify_bundle_and_import_need_neither_network_nor_torch(tmp_path: Path) -> None:
    """Of backbones that every process knows."""
    path = tmp_path / "tiny.pt"
    from weights_kit import tensors, torch_bytes

    path.write_bytes(torch_bytes(tensors(prefix="")))
    weights.fetch("dinov2-b", file=f"{path}#sha256={_digest(path)}")
    archive = str(tmp_path / "x.tar")
    for words in (
        ("verify",),
        ("verify", "dinov2-b"),
        ("bundle", "dinov2-b", "--to", archive),
        ("import", archive),
    ):
        done = run(COMMAND, "weights", *words, "--json")
        assert done.returncode == 0, done.stderr
        assert HEAVY.isdisjoint(done.stderr.split())


def _digest(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_imports() -> None:
    body = """
import importlib, pkgutil
import peftbench.weights, cli.weights
names = [each.name for room in (peftbench.weights, cli.weights)
         for each in pkgutil.walk_packages(room.__path__, room.__name__ + ".")]
names += ["peftbench.backbones." + each for each in
          ("cache", "card", "cards", "checkpoints", "conversion", "download", "locating", "registry", "tensorfile")]
for name in names:
    importlib.import_module(name)
print(len(names), *sorted(sys.modules))
"""
    done = run(body)
    assert done.returncode == 0, done.stderr
    count, *loaded = done.stdout.split()
    assert int(count) > 15
    assert (HEAVY | {"huggingface_hub", "safetensors"}).isdisjoint(loaded)


def test_cached_weights_are_loaded_without_it(tmp_path: Path) -> None:
    adopt("tiny", tmp_path)
    body = """
sys.path.insert(0, sys.argv[1])
from weights_kit import tiny_card
from peftbench.backbones.checkpoints import obtain
from peftbench.protocol.progress import Silent
print(len(obtain(tiny_card(), Silent())))
"""
    done = run(body, str(Path(__file__).parents[1]))
    assert done.stdout.strip() == "3", done.stderr
