"""Where features are computed, in what precision, and what a faster way keeps of them."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from extraction_kit import TINY, run, saved_weights
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.metrics.pairwise import cosine_similarity

from peftbench.backbones.golden import golden_pictures
from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import CARDS, parse_backbone
from peftbench.errors import ConfigError, DeviceError
from peftbench.extraction import device as module
from peftbench.extraction import extract as extract_module
from peftbench.extraction.device import (
    FAITHFUL_COSINE,
    GOLDEN_COSINE,
    check_precision,
    has_bf16,
    pick_device,
    pick_devices,
    pick_precision,
)
from peftbench.extraction.engine import Engine
from peftbench.extraction.extract import extract
from peftbench.extraction.fidelity import cosines, precision_cosine
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore

CPU = torch.device("cpu")


def never() -> float:
    raise AssertionError("it was measured, and decides nothing")


def with_gpus(monkeypatch: pytest.MonkeyPatch, *models: str) -> None:
    """Pretend that GPUs of these models are there."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(models))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(models))
    monkeypatch.setattr(module, "_cudnn", lambda: 91_000)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: models[torch.device(device).index or 0])


class TestDevices:
    def test_auto_is_the_first_gpu_where_there_is_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for present, expected in ((False, "cpu"), (True, "cuda")):
            monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
            assert pick_device("auto").type == expected

    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("auto", ["cuda"]),
            ("cpu", ["cpu"]),
            ("cuda:1", ["cuda:1"]),
            ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]),
            (" cuda:1 , cuda:0 ", ["cuda:1", "cuda:0"]),
            ("cuda:all", ["cuda:0", "cuda:1", "cuda:2"]),
            ("cpu,cpu", ["cpu", "cpu"]),
        ],
    )
    def test_one_or_several(self, monkeypatch: pytest.MonkeyPatch, name: str, expected: list[str]) -> None:
        with_gpus(monkeypatch, "H100", "H100", "H100")
        assert [str(each) for each in pick_devices(name)] == expected

    @pytest.mark.parametrize("name", ["cuda:0,cuda:1", "cuda:all"])
    def test_two_models_are_refused_for_their_last_bits_differ(
        self, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        with_gpus(monkeypatch, "H100", "A100")
        with pytest.raises(DeviceError, match=r"several models \(cuda/A100, .*cuda/H100, .*name devices of one"):
            pick_devices(name)

    def test_a_gpu_and_the_processor_are_two_models(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_gpus(monkeypatch, "H100")
        with pytest.raises(DeviceError, match="several models"):
            pick_devices("cuda:0,cpu")

    @pytest.mark.parametrize("name", ["cuda:1,cuda:1", "cuda:0,cuda:1,cuda:0", "cuda,cuda:0", "auto,cuda:0"])
    def test_the_same_gpu_twice_however_it_is_called(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        with_gpus(monkeypatch, "H100", "H100")
        with pytest.raises(DeviceError, match=r"cuda:[01] stands twice.*expected each device once"):
            pick_devices(name)

    @pytest.mark.parametrize("name", ["cuda:all", "cuda:0", "cpu,cuda:0"])
    def test_gpus_where_there_are_none(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        with_gpus(monkeypatch)
        with pytest.raises(DeviceError, match=r"asked for and there are 0 CUDA devices here.*--device cpu"):
            pick_devices(name)

    @pytest.mark.parametrize("name", ["cpu,", ",", "cpu,gpu", "cpu;cpu", "all"])
    def test_names_that_are_not_understood(self, name: str) -> None:
        with pytest.raises(DeviceError, match="expected auto, cpu, cuda"):
            pick_devices(name)

    def test_devices_of_two_models_stop_before_any_work(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with_gpus(monkeypatch, "H100", "A100")
        with pytest.raises(DeviceError, match="several models"):
            run(place, device="cuda:all")
        assert not place.features_of("tiny").exists()


class TestPrecision:
    @pytest.mark.parametrize(
        ("keeps", "expected"),
        [(True, "bf16"), (False, "fp32")],
    )
    def test_auto_is_bf16_where_the_features_keep(
        self, monkeypatch: pytest.MonkeyPatch, keeps: bool, expected: str
    ) -> None:
        monkeypatch.setattr(module, "has_bf16", lambda _: True)
        for device in (CPU, torch.device("cuda")):
            assert pick_precision("auto", device, lambda: keeps) == expected

    def test_what_is_asked_of_it(self) -> None:
        assert FAITHFUL_COSINE == 0.999
        assert GOLDEN_COSINE == 0.9999

    def test_it_is_measured_only_where_that_decides(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "has_bf16", lambda _: False)
        assert pick_precision("auto", CPU, never) == "fp32"
        monkeypatch.setattr(module, "has_bf16", lambda _: True)
        assert [pick_precision(name, torch.device("cuda"), never) for name in ("fp32", "bf16", "fp16")] == [
            "fp32",
            "bf16",
            "fp16",
        ]

    @pytest.mark.parametrize(
        ("capability", "instructions", "expected"),
        [("AVX512", True, True), ("AVX512", False, False), ("DEFAULT", True, False)],
    )
    def test_emulated_bf16_does_not_count(
        self, monkeypatch: pytest.MonkeyPatch, capability: str, instructions: bool, expected: bool
    ) -> None:
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
        assert has_bf16(CPU) == expected

    def test_a_gpu_is_asked_for_what_it_does_in_hardware(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
        monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
        assert not has_bf16(torch.device("cuda"))

    def test_what_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="unknown precision 'tf32'"):
            check_precision("tf32", CPU)
        with pytest.raises(DeviceError, match="fp16 needs a GPU"):
            pick_precision("fp16", CPU, never)
        check_precision("fp16", torch.device("cuda"))


class TestAuto:
    """`extract` with `--precision auto`, on hardware that has bf16."""

    @pytest.fixture(autouse=True)
    def hardware(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "has_bf16", lambda _: True)

    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The backbones that were measured; all keep nothing in bf16."""
        seen: list[str] = []

        def measure(encoder: extract_module.Encoder, *_: object) -> float:
            seen.append(encoder.spec.name)
            return 0.5

        monkeypatch.setattr(extract_module, "precision_cosine", measure)
        return seen

    def test_what_the_card_says_decides_for_published_weights(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch, measured: list[str]
    ) -> None:
        for name, cosine in (("good", 0.9995), ("bad", 0.9985)):
            monkeypatch.setitem(CARDS, name, TINY.model_copy(update={"name": name, "bf16_cosine": cosine}))
        rows = extract("phantom", ["good", "bad"], workspace=place, device="cpu", precision="auto").results
        assert [(row.backbone, row.precision) for row in rows] == [("good", "bf16"), ("bad", "fp32")]
        assert [FeatureStore.open(Path(row.store)).recipe.precision for row in rows] == ["bf16", "fp32"]
        assert measured == []

    def test_what_the_card_says_is_not_of_other_weights(
        self, place: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measured: list[str]
    ) -> None:
        monkeypatch.setitem(CARDS, "tiny", TINY.model_copy(update={"bf16_cosine": 1.0}))
        file = saved_weights(tmp_path / "mine.pt", seed=5)
        rows = [run(place, name, precision="auto") for name in ("tiny@random:0", f"tiny@file:{file}")]
        assert [row.precision for row in rows] == ["fp32", "fp32"]
        assert measured == [row.backbone for row in rows]

    def test_what_no_card_says_is_measured(self, place: Workspace, measured: list[str]) -> None:
        assert run(place, precision="auto").precision == "fp32"
        assert measured == ["tiny"]

    @pytest.mark.parametrize(
        ("cosine", "expected"), [(1.0, "bf16"), (GOLDEN_COSINE, "bf16"), (0.9998, "fp32"), (float("nan"), "fp32")]
    )
    def test_more_is_asked_of_the_golden_pictures(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch, cosine: float, expected: str
    ) -> None:
        monkeypatch.setattr(extract_module, "precision_cosine", lambda *_: cosine)
        assert run(place, precision="auto").precision == expected

    def test_a_faithful_backbone_is_computed_in_bf16(self, place: Workspace) -> None:
        row = run(place, precision="auto")
        assert row.precision == FeatureStore.open(Path(row.store)).recipe.precision == "bf16"


Matrix = npt.NDArray[np.float32]

MATRICES = st.integers(1, 6).flatmap(
    lambda width: st.integers(1, 5).flatmap(
        lambda rows: st.tuples(
            *[arrays.arrays(np.float32, (rows, width), elements=st.floats(-100, 100, width=16)) for _ in range(2)]
        )
    )
)


class TestCosines:
    @pytest.mark.slow
    @given(MATRICES)
    def test_they_are_those_of_scikit_learn(
        self, pair: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
    ) -> None:
        one, other = pair
        expected = np.diagonal(cosine_similarity(one.astype(np.float64), other.astype(np.float64)))
        np.testing.assert_allclose(cosines(one, other), expected, atol=1e-12)

    def test_a_row_of_zeros_is_like_nothing(self) -> None:
        one = np.array([[0, 0], [0, 0], [3, 4]], dtype=np.float32)
        other = np.array([[0, 0], [1, 0], [0, 0]], dtype=np.float32)
        assert cosines(one, other).tolist() == [0, 0, 0]

    def test_float16_is_summed_up_in_double_precision(self) -> None:
        """Squares of 300 overflow in float16."""
        rows = np.full((2, 5000), 300, dtype=np.float16)
        found = cosines(rows, -rows)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, [-1, -1], rtol=1e-12)

    @pytest.mark.parametrize("backbone", ["tiny", "tiny@random:1", "vit"])
    def test_the_lowest_over_the_golden_pictures(self, backbone: str) -> None:
        encoder = load_encoder(parse_backbone(backbone))
        pictures = encoder.card.transform.shape(golden_pictures())
        exact, rough = (Engine(encoder, CPU, name, 3).embed(pictures)["embedding"] for name in ("fp32", "bf16"))
        found = precision_cosine(encoder, CPU, "bf16")
        assert found == pytest.approx(np.diagonal(cosine_similarity(exact, rough)).min(), abs=1e-6)
        assert 0.99 < found < 1
        assert precision_cosine(encoder, CPU, "fp32") == pytest.approx(1, abs=1e-12)
