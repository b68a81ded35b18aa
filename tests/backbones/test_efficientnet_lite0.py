"""EfficientNet-Lite0: the shipped weights, renamed, are the network that was trained."""

from pathlib import Path

import pytest
import timm
import torch
from sklearn.datasets import load_sample_image
from torchvision.transforms import InterpolationMode, v2

from peftbench.backbones.cards import CARDS
from peftbench.backbones.checkpoints import obtain, originals
from peftbench.backbones.efficientnet_lite0 import BLOCKS_PER_STAGE, EfficientNetLite0, convert, renamed
from peftbench.backbones.loading import load_encoder, load_strictly
from peftbench.backbones.registry import parse_backbone
from peftbench.errors import WeightsError
from peftbench.imaging.transform import HALF
from peftbench.protocol.progress import Silent

PALACE, DAISY = 698, 985
"""ImageNet's numbers of these classes."""


@pytest.fixture(scope="module")
def shipped() -> dict[str, torch.Tensor]:
    (found,) = originals(CARDS["efficientnet-lite0"])
    assert found.place == "package"
    tensors: dict[str, torch.Tensor] = torch.load(found.path, map_location="cpu", weights_only=True)
    return tensors


@pytest.fixture(scope="module")
def classifier(shipped: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network with the classification layer that the benchmark drops."""
    module: torch.nn.Module = timm.create_model("tf_efficientnet_lite0", pretrained=False, num_classes=1000)
    head = {f"classifier.{part}": shipped[f"_fc.{part}"] for part in ("weight", "bias")}
    load_strictly(module, {**convert(shipped), **head})
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
    def test_they_fit_to_the_last_tensor(self, shipped: dict[str, torch.Tensor]) -> None:
        loaded = load_encoder(parse_backbone("efficientnet-lite0")).module.state_dict()
        tensors = convert(shipped)
        assert loaded.keys() == tensors.keys()
        assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())

    def test_they_are_converted_once_and_then_read_from_our_cache(
        self, shipped: dict[str, torch.Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PEFTBENCH_WEIGHTS", str(tmp_path / "weights"))
        card = CARDS["efficientnet-lite0"]
        first = obtain(card, Silent())
        monkeypatch.setattr("peftbench.backbones.locating._shipped", lambda _: None)
        again = obtain(card, Silent())
        assert first.keys() == again.keys() == shipped.keys()
        assert all(torch.equal(again[name], tensor) for name, tensor in shipped.items())

    def test_a_block_is_missing(self, shipped: dict[str, torch.Tensor]) -> None:
        less = {name: tensor for name, tensor in shipped.items() if not name.startswith("_blocks.15.")}
        with pytest.raises(WeightsError, match=r"missing blocks\.6\.0"):
            EfficientNetLite0().load(less)

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
        encoder = load_encoder(parse_backbone("efficientnet-lite0")).module
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
