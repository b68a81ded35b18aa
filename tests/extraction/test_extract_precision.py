"""In what precision features are computed, and what a faster way keeps of them."""

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

from peftbench.backbones import device as module
from peftbench.backbones.device import GOLDEN_COSINE
from peftbench.backbones.golden import golden_pictures
from peftbench.backbones.loading import Encoder, load_encoder
from peftbench.backbones.registry import CARDS, parse_backbone
from peftbench.errors import DeviceError
from peftbench.extraction import fidelity
from peftbench.extraction.engine import Engine
from peftbench.extraction.extract import extract
from peftbench.extraction.fidelity import cosines, precision_cosine
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore

CPU = torch.device("cpu")


def test_devices_of_two_models_stop_before_any_work(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    models = {"cuda:0": "H100", "cuda:1": "A100"}
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(models))
    monkeypatch.setattr(module, "device_kind", lambda device: models[str(device)])
    with pytest.raises(DeviceError, match="several models"):
        run(place, device="cuda:all")
    assert not place.features_of("tiny").exists()


class TestAuto:
    """`extract` with `--precision auto`, on hardware that has bf16."""

    @pytest.fixture(autouse=True)
    def hardware(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(module, "has_bf16", lambda _: True)

    @pytest.fixture
    def measured(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The backbones that were measured; all keep nothing in bf16."""
        seen: list[str] = []

        def measure(encoder: Encoder, *_: object) -> float:
            seen.append(encoder.spec.name)
            return 0.5

        monkeypatch.setattr(fidelity, "precision_cosine", measure)
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
        monkeypatch.setattr(fidelity, "precision_cosine", lambda *_: cosine)
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

    def test_on_another_device_the_encoder_stays_where_it_was(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = load_encoder(parse_backbone("vit"))
        features = {"embedding": np.ones((3, 4), dtype=np.float32)}
        monkeypatch.setattr(Engine, "embed", lambda *_: features)
        precision_cosine(encoder, torch.device("meta"), "bf16")
        assert {each.device for each in encoder.module.parameters()} == {CPU}
