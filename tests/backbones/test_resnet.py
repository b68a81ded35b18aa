"""ResNet-18 from torch's cache: torchvision's names, its digest, and what is said when it is not there."""

from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import pytest
import torch
import torchvision

from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import parse_backbone
from peftbench.backbones.resnet import ResNet18
from peftbench.errors import WeightsError
from stores.keys import file_digest

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's, and no network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def offline(url: str, *_: object, **__: object) -> None:
        raise URLError("no network in this test")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    checkpoints = tmp_path / "hub" / "checkpoints"
    checkpoints.mkdir(parents=True)
    return checkpoints


@pytest.fixture(scope="module")
def published() -> Tensors:
    """A checkpoint with torchvision's names, classification layer among them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        module = torchvision.models.resnet18()
    # Untrained statistics are zeros and ones; a tensor in the wrong place must show.
    for index, buffer in enumerate(module.buffers()):
        buffer.add_(index + 1)
    return dict(module.state_dict())


def publish(hub: Path, tensors: Tensors, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a checkpoint into the cache under a name with its digest, as torchvision's server does."""
    scratch = hub / "scratch.pth"
    torch.save(tensors, scratch)
    path = scratch.rename(hub / f"resnet18-{file_digest(scratch)[:8]}.pth")
    monkeypatch.setattr(ResNet18, "weights", SimpleNamespace(url=f"https://download.pytorch.org/models/{path.name}"))
    return path


class TestPretrained:
    def test_the_cached_checkpoint_is_loaded_without_its_classification_layer(
        self, hub: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = publish(hub, published, monkeypatch)
        assert ResNet18().located() == path
        loaded = load_encoder(parse_backbone("resnet18")).module.state_dict()
        kept = {name: tensor for name, tensor in published.items() if not name.startswith("fc.")}
        assert len(published) - len(kept) == 2
        assert loaded.keys() == kept.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in kept.items())

    def test_the_embedding_is_what_the_classification_layer_saw(
        self, hub: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(hub, published, monkeypatch)
        whole = torchvision.models.resnet18()
        whole.load_state_dict(published)
        batch = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            embedding = load_encoder(parse_backbone("resnet18")).module(batch)
            logits = embedding @ published["fc.weight"].T + published["fc.bias"]
            torch.testing.assert_close(logits, whole.eval()(batch), rtol=1e-4, atol=1e-4)

    def test_a_checkpoint_of_before_batch_norm_counted_its_batches_is_loaded(
        self, hub: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """torchvision's first ImageNet weights (102 tensors) have no `num_batches_tracked`; torch fills in zeros."""
        old = {name: tensor for name, tensor in published.items() if not name.endswith("num_batches_tracked")}
        assert len(old) == 102
        torchvision.models.resnet18().load_state_dict(old)
        publish(hub, old, monkeypatch)
        loaded = load_encoder(parse_backbone("resnet18")).module.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in old.items() if not name.startswith("fc."))

    def test_the_checkpoint_of_another_architecture_is_refused(
        self, hub: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        publish(hub, torchvision.models.resnet34().state_dict(), monkeypatch)
        with pytest.raises(WeightsError, match=r"do not fit the architecture of 'resnet18'.*unexpected layer1\.2"):
            load_encoder(parse_backbone("resnet18"))

    @pytest.mark.parametrize("damage", ["flipped", "truncated", "empty"])
    def test_a_digest_that_does_not_fit_is_refused(
        self, hub: Path, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        path = publish(hub, {"conv1.weight": torch.ones(1000)}, monkeypatch)
        content = bytearray(path.read_bytes())
        middle = len(content) // 2
        content[middle] ^= 0xFF
        path.write_bytes({"flipped": bytes(content), "truncated": bytes(content[:middle]), "empty": b""}[damage])
        expected = path.stem.removeprefix("resnet18-")
        with pytest.raises(WeightsError, match=rf"{path.name} is damaged.*expected {expected}.*delete"):
            load_encoder(parse_backbone("resnet18"))

    def test_the_published_name_holds_a_digest(self) -> None:
        """What `check_digest` reads; if torchvision renames the file, this tells before a user does."""
        assert ResNet18.weights.url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"


class TestDownload:
    def test_an_absent_checkpoint_is_downloaded_into_torchs_cache(
        self, hub: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = publish(hub, published, monkeypatch)
        server = path.rename(tmp_path / path.name)
        asked = []

        def fetch(url: str, dst: str, *_: object, **__: object) -> None:
            asked.append(url)
            Path(dst).write_bytes(server.read_bytes())

        monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
        digests = [load_encoder(parse_backbone("resnet18")).weights_digest for _ in range(2)]
        assert asked == [ResNet18.weights.url], "once, the second time it is there"
        assert digests[0] == digests[1]
        assert ResNet18().located() == path

    def test_offline_the_error_names_file_source_and_next_step(self, hub: Path) -> None:
        with pytest.raises(WeightsError) as caught:
            load_encoder(parse_backbone("resnet18"))
        message = str(caught.value)
        assert "resnet18-f37072fd.pth" in message
        assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in message
        assert f"put that file into {hub}" in message
        assert "resnet18@random:0" in message
        assert list(hub.iterdir()) == []

    def test_asking_where_it_is_never_downloads(self, hub: Path) -> None:
        with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth is not on this machine.*downloads it"):
            ResNet18().located()

    def test_a_download_that_was_cut_short_can_be_tried_again(
        self, hub: Path, published: Tensors, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        path = publish(hub, published, monkeypatch)
        server = path.rename(tmp_path / path.name)
        length = [1000, None]

        def fetch(url: str, dst: str, *_: object, **__: object) -> None:
            Path(dst).write_bytes(server.read_bytes()[: length.pop(0)])

        monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
        with pytest.raises(WeightsError, match=r"is damaged.*delete.*run again"):
            load_encoder(parse_backbone("resnet18"))
        path.unlink(missing_ok=True)
        assert load_encoder(parse_backbone("resnet18")).module.fc is not None

    def test_a_cache_that_cannot_be_written_is_a_matter_of_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "file" / "hub"))
        with pytest.raises(WeightsError, match=r"resnet18-f37072fd\.pth"):
            load_encoder(parse_backbone("resnet18"))

    def test_untrained_weights_ask_for_nothing(self, hub: Path) -> None:
        assert load_encoder(parse_backbone("resnet18@random:0")).module is not None
        assert list(hub.iterdir()) == []
