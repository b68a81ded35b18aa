"""torchvision's networks from a downloaded checkpoint: names of all ages, the digest, and no classification layer."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import torchvision
from torch import nn

from peftbench.backbones import cards
from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import parse_backbone
from peftbench.errors import WeightsError
from stores.keys import file_digest

pytestmark = pytest.mark.slow

Tensors = dict[str, torch.Tensor]


class Network(NamedTuple):
    """A backbone, torchvision's network for it, and the name of its classification layer."""

    name: str
    make: Callable[[], nn.Module]
    head: str


RESNET18 = Network("resnet18", torchvision.models.resnet18, "fc")
DENSENET = Network("densenet121", torchvision.models.densenet121, "classifier")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's, an empty one of ours, and no network."""
    monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("PEFTBENCH_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


def tensors_of(network: Network) -> Tensors:
    """A checkpoint with torchvision's names, classification layer among them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = network.make()
    # Untrained statistics are zeros and ones; a tensor in the wrong place must show.
    for index, buffer in enumerate(module.buffers()):
        buffer.add_(index % 7 + 1)
    return dict(module.state_dict())


@pytest.fixture(scope="module")
def published() -> Tensors:
    return tensors_of(RESNET18)


def publish(hub: Path, name: str, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a checkpoint into torch's cache under a name with its digest, as torchvision's server has it."""
    scratch = hub / "scratch.pth"
    torch.save(tensors, scratch)
    digest = file_digest(scratch)[:8]
    path = scratch.rename(hub / f"{name}-{digest}.pth")
    checkpoint = cards.CARDS[name].checkpoint
    assert checkpoint is not None
    address = f"https://download.pytorch.org/models/{path.name}"
    changed = checkpoint.model_copy(update={"address": address, "file": path.name, "sha256": digest})
    monkeypatch.setitem(cards.CARDS, name, cards.CARDS[name].model_copy(update={"checkpoint": changed}))
    return path


class TestPretrained:
    def test_the_cached_checkpoint_is_loaded_without_its_classification_layer(
        self, hub: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(hub, "resnet18", published, monkeypatch)
        loaded = load_encoder(parse_backbone("resnet18")).module.state_dict()
        kept = {name: tensor for name, tensor in published.items() if not name.startswith("fc.")}
        assert len(published) - len(kept) == 2
        assert loaded.keys() == kept.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in kept.items())

    @pytest.mark.parametrize("network", [RESNET18, DENSENET], ids=lambda each: each.name)
    def test_the_embedding_is_what_the_classification_layer_saw(
        self, hub: Path, monkeypatch: pytest.MonkeyPatch, network: Network
    ) -> None:
        tensors = tensors_of(network)
        publish(hub, network.name, tensors, monkeypatch)
        whole = network.make()
        whole.load_state_dict(tensors)
        batch = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            encoder = load_encoder(parse_backbone(network.name))
            embedding = encoder.loader.outputs(encoder.module, batch)["embedding"]
            assert torch.equal(embedding, encoder.module(batch))
            logits = embedding @ tensors[f"{network.head}.weight"].T + tensors[f"{network.head}.bias"]
            torch.testing.assert_close(logits, whole.eval()(batch), rtol=1e-4, atol=1e-4)

    def test_a_checkpoint_of_before_batch_norm_counted_its_batches_is_loaded(
        self, hub: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """torchvision's first ImageNet weights (102 tensors) have no `num_batches_tracked`; torch fills in zeros."""
        old = {name: tensor for name, tensor in published.items() if not name.endswith("num_batches_tracked")}
        assert len(old) == 102
        torchvision.models.resnet18().load_state_dict(old)
        publish(hub, "resnet18", old, monkeypatch)
        loaded = load_encoder(parse_backbone("resnet18")).module.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in old.items() if not name.startswith("fc."))

    def test_the_second_time_torchs_cache_is_not_needed(
        self, hub: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = publish(hub, "resnet18", published, monkeypatch)
        first = load_encoder(parse_backbone("resnet18")).weights_digest
        path.unlink()
        assert load_encoder(parse_backbone("resnet18")).weights_digest == first

    def test_the_checkpoint_of_another_architecture_is_refused(
        self, hub: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(hub, "resnet18", torchvision.models.resnet34().state_dict(), monkeypatch)
        with pytest.raises(WeightsError, match=r"resnet18: the weights do not fit the architecture.*unexpected layer1"):
            load_encoder(parse_backbone("resnet18"))

    @pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
    def test_a_digest_that_does_not_fit_is_refused(
        self, hub: Path, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        path = publish(hub, "resnet18", {"conv1.weight": torch.ones(1000)}, monkeypatch)
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle] ^= 0xFF
        path.write_bytes({"flipped": bytes(content), "truncated": bytes(content[:middle]), "empty": b""}[damage])
        expected = path.stem.removeprefix("resnet18-")
        with pytest.raises(WeightsError, match=rf"{path.name} is not .* or is damaged.*expected {expected}.*delete"):
            load_encoder(parse_backbone("resnet18"))

    @pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121"])
    def test_the_card_names_the_file_that_torchvision_downloads(self, name: str) -> None:
        """If torchvision renames the file, this tells before a user does."""
        checkpoint = cards.CARDS[name].checkpoint
        assert checkpoint is not None
        weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
        assert checkpoint.address == weights.url
        assert checkpoint.file == Path(weights.url).name
        assert checkpoint.sha256 in checkpoint.file

    def test_offline_the_error_names_file_source_and_next_step(self, hub: Path) -> None:
        with pytest.raises(WeightsError) as caught:
            load_encoder(parse_backbone("resnet18"))
        message = str(caught.value)
        assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
        assert "peftbench weights fetch resnet18" in message
        assert list(hub.iterdir()) == []

    def test_untrained_weights_ask_for_nothing(self, hub: Path, tmp_path: Path) -> None:
        assert load_encoder(parse_backbone("resnet18@random:0")).module is not None
        assert list(hub.iterdir()) == []
        assert not (tmp_path / "weights").exists()


class TestOwnCheckpoint:
    @pytest.mark.parametrize("network", [RESNET18, DENSENET], ids=lambda each: each.name)
    def test_it_may_have_a_head_of_any_width(self, hub: Path, tmp_path: Path, network: Network) -> None:
        """What a user fine-tuned ends with two classes."""
        tensors = tensors_of(network)
        for part in ("weight", "bias"):
            tensors[f"{network.head}.{part}"] = tensors[f"{network.head}.{part}"][:2].clone()
        torch.save(tensors, tmp_path / "mine.pt")
        loaded = load_encoder(parse_backbone(f"{network.name}@file:{tmp_path / 'mine.pt'}")).module.state_dict()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in loaded.items())
