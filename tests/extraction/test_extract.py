"""Extraction: an image is embedded once ever, what changes a feature is another store, and rows are what they say."""

import fcntl
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from extraction_kit import TINY, TinyLoader, by_image, images_of, run, stores_of
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from peftbench.backbones import loading
from peftbench.backbones.card import Output
from peftbench.backbones.device import FAITHFUL_COSINE, device_kind
from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import CARDS, parse_backbone
from peftbench.cohorts.prepare import prepare
from peftbench.errors import ConfigError, DeviceError, NotPreparedError, UnknownNameError, WeightsError
from peftbench.extraction import embed
from peftbench.extraction import extract as module
from peftbench.extraction.extract import extract
from peftbench.imaging.decode import PixelPolicy, canonical_pixels
from peftbench.imaging.transform import InputTransform
from peftbench.protocol.workspace import Workspace
from stores.errors import StoreDamagedError
from stores.features import FeatureStore
from stores.images import ImageStore
from stores.keys import pixels_digest


class Watching:
    """A progress that remembers."""

    def __init__(self) -> None:
        self.total, self.done = 0, 0

    def start(self, label: str, total: int) -> None:
        self.total += total

    def advance(self, count: int = 1) -> None:
        self.done += count

    def note(self, message: str) -> None:
        pass


class TestOnceEver:
    def test_all_images_are_embedded_and_the_answer_says_so(self, place: Workspace) -> None:
        watching = Watching()
        row = run(place, progress=watching)
        images = images_of(place)
        assert (row.cohort, row.backbone, row.dim) == ("phantom", "tiny", 16)
        assert (row.total, row.embedded, row.reused) == (len(images), len(images), 0)
        assert row.seconds > 0
        assert row.images_per_second == pytest.approx(len(images) / row.seconds)
        assert set(by_image(row.store)) == set(images)
        # Loading the backbone is a step of its own.
        assert watching.total == watching.done == len(images) + 1

    def test_the_second_time_all_are_reused(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        first = run(place)
        digest = FeatureStore.open(Path(first.store)).digest

        def refuse(*_: object) -> None:
            raise AssertionError("something was embedded again")

        monkeypatch.setattr(embed.Engine, "forward", refuse)
        again = run(place)
        assert (again.total, again.embedded, again.reused) == (first.total, 0, first.total)
        assert (again.seconds, again.images_per_second) == (0, 0)
        assert again.store == first.store
        assert FeatureStore.open(Path(first.store)).digest == digest

    def test_only_the_new_images_of_a_cohort_that_grew_are_embedded(self, small_raw: Path, tmp_path: Path) -> None:
        raw, place = Path(shutil.copytree(small_raw, tmp_path / "raw")), Workspace(tmp_path / "workspace")
        table = pd.read_csv(raw / "phantom.csv")
        table.iloc[:7].to_csv(raw / "phantom.csv", index=False)
        prepare("phantom", raw, workspace=place)
        before = by_image(run(place, batch_size=4).store)
        table.to_csv(raw / "phantom.csv", index=False)
        prepare("phantom", raw, workspace=place)
        row = run(place, batch_size=4)
        assert (row.total, row.embedded, row.reused) == (len(table), len(table) - 7, 7)
        after = by_image(row.store)
        assert all((after[image] == before[image]).all() for image in before)

    def test_the_same_image_in_another_cohort_is_reused(
        self, place: Workspace, small_raw: Path, tmp_path: Path
    ) -> None:
        """A download of Hannover's form whose pictures are the phantom's, saved anew."""
        raw = tmp_path / "hannover"
        (raw / "png").mkdir(parents=True)
        lines = [
            "patient_id,image_id,sex,admission_offset,icu_admission_offset,icu_release_offset,death_offset,modality,projection"
        ]
        files = sorted((small_raw / "images").iterdir())
        for number, path in enumerate(files[:9]):
            Image.open(path).save(raw / "png" / f"{number}.png", compress_level=9)
            lines.append(f"p{number},{number},f,0,{number},,,CR,ap")
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50), dtype=np.uint8)).save(raw / "png" / "9.png")
        lines.append("p9,9,f,0,,,,CR,pa")
        (raw / "data.csv").write_text("\n".join(lines) + "\n")
        assert prepare("hannover", raw, workspace=place).images == 10
        run(place, "tiny", "phantom")
        row = run(place, "tiny", "hannover")
        assert (row.total, row.embedded, row.reused) == (10, 1, 9)
        assert set(images_of(place, "hannover")) - set(images_of(place, "phantom")) < set(by_image(row.store))
        assert len(stores_of(place)) == 1

    def test_a_backbone_named_twice_is_run_once_and_answers_keep_their_order(self, place: Workspace) -> None:
        names = ["tiny@random:2", "tiny", "tiny@random:2"]
        result = extract("phantom", names, workspace=place, precision="fp32", device="cpu")
        assert [row.backbone for row in result.results] == ["tiny@random:2", "tiny"]

    def test_the_raw_download_is_no_longer_needed(self, small_raw: Path, tmp_path: Path) -> None:
        raw, place = Path(shutil.copytree(small_raw, tmp_path / "raw")), Workspace(tmp_path / "workspace")
        prepare("phantom", raw, workspace=place)
        shutil.rmtree(raw)
        assert run(place).embedded == len(images_of(place))


class TestKey:
    def differs(self, place: Workspace, first: str, second: str) -> None:
        """Assert that the second extraction embedded all anew, into a store beside the first, which is untouched."""
        assert first != second
        assert by_image(first).keys() == by_image(second).keys() == set(images_of(place))
        assert FeatureStore.open(Path(first)).recipe.key != FeatureStore.open(Path(second)).recipe.key

    def test_another_precision(self, place: Workspace) -> None:
        first = run(place, precision="fp32").store
        self.differs(place, first, run(place, precision="bf16").store)
        assert len(stores_of(place)) == 2

    def test_another_transform(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        first = run(place).store
        other = InputTransform(36, 32, "bilinear", TINY.transform.mean, TINY.transform.std)
        monkeypatch.setitem(CARDS, "tiny", TINY.model_copy(update={"transform": other}))
        second = run(place).store
        self.differs(place, first, second)
        assert any((by_image(first)[image] != row).any() for image, row in by_image(second).items())

    def test_other_weights(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        first = run(place).store
        monkeypatch.setattr(TinyLoader, "gain", 1.0001)
        self.differs(place, first, run(place).store)

    @pytest.mark.parametrize("other", ["tiny", "tiny@random:1"])
    def test_another_seed(self, place: Workspace, other: str) -> None:
        self.differs(place, run(place, "tiny@random:0").store, run(place, other).store)

    def test_another_version_of_a_library(self, place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
        first = run(place).store
        monkeypatch.setattr(module, "library_versions", lambda card: dict.fromkeys(card.libraries, "0.0.1"))
        self.differs(place, first, run(place).store)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"architecture": "test:other"}, id="architecture"),
            pytest.param({"outputs": (Output("embedding", "4|maxpool", (16,)), TINY.outputs[1])}, id="embedding"),
            pytest.param({"outputs": (TINY.outputs[0], Output("stages", "2+4|maxpool", (24,)))}, id="another output"),
        ],
    )
    def test_another_architecture_or_output(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch, change: dict[str, object]
    ) -> None:
        first = run(place).store
        monkeypatch.setitem(CARDS, "tiny", TINY.model_copy(update=change))
        self.differs(place, first, run(place).store)

    def test_the_batch_size_is_part_of_it(self, place: Workspace) -> None:
        """Libraries choose their kernels by shape: another batch size may give other last bits."""
        self.differs(place, run(place, batch_size=3).store, run(place, batch_size=5).store)

    def test_the_recipe_in_the_store_says_what_made_it(self, place: Workspace) -> None:
        recipe = FeatureStore.open(Path(run(place, precision="bf16").store)).recipe
        encoder = load_encoder(parse_backbone("tiny"))
        assert recipe.weights == encoder.weights_digest
        assert recipe.transform == str(TINY.transform)
        assert recipe.architecture == TINY.architecture
        assert recipe.outputs == {output.name: output.tensor for output in TINY.outputs}
        assert (recipe.precision, recipe.device, recipe.dtype) == (
            "bf16",
            device_kind(torch.device("cpu")),
            "float32",
        )
        assert set(recipe.libraries) == {"torch", "numpy"}


def plain_features(raw: Path, backbone: str) -> dict[str, npt.NDArray[np.float32]]:
    """The features of a raw phantom by torchvision alone, one picture at a time."""
    encoder = load_encoder(parse_backbone(backbone))
    transform = encoder.card.transform
    mode = {"bilinear": InterpolationMode.BILINEAR, "bicubic": InterpolationMode.BICUBIC}[transform.interpolation]
    steps = v2.Compose(
        [
            v2.Resize(transform.resize, interpolation=mode, antialias=True),
            v2.CenterCrop(transform.crop),
            v2.RGB(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(transform.mean), list(transform.std)),
        ]
    )
    found = {}
    for path in sorted((raw / "images").iterdir()):
        canonical = canonical_pixels(path, PixelPolicy())
        with torch.inference_mode():
            embedding = encoder.module(steps(torch.from_numpy(canonical)[None])[None])[0]
        found[pixels_digest(canonical)] = embedding.numpy()
    return found


class TestNumbers:
    @pytest.mark.parametrize(
        "backbone",
        [
            "tiny",
            "tiny@random:0",
            pytest.param("efficientnet-lite0", marks=pytest.mark.slow),
            pytest.param("resnet18@random:0", marks=pytest.mark.slow),
        ],
    )
    def test_features_are_those_of_a_plain_loop(self, place: Workspace, small_raw: Path, backbone: str) -> None:
        expected = plain_features(small_raw, backbone)
        found = by_image(run(place, backbone, batch_size=8).store)
        assert found.keys() == expected.keys()
        for image, row in expected.items():
            assert row.std() > 1e-3
            np.testing.assert_allclose(found[image], row, rtol=1e-5, atol=1e-5)

    def test_no_two_images_have_the_same_features(self, place: Workspace) -> None:
        """A row that belongs to its neighbour would pass every check of shape."""
        matrix = np.stack(list(by_image(run(place).store).values()))
        distances = np.abs(matrix[:, None] - matrix[None]).max(axis=2)
        assert (distances + np.eye(len(matrix)) > 1e-4).all()

    @pytest.mark.parametrize("backbone", ["tiny", pytest.param("resnet18@random:0", marks=pytest.mark.slow)])
    def test_the_batch_size_does_not_change_them(self, prepared: Path, tmp_path: Path, backbone: str) -> None:
        found = []
        for size in (3, 32):
            place = Workspace(Path(shutil.copytree(prepared, tmp_path / str(size))))
            found.append(by_image(run(place, backbone, batch_size=size).store))
        for other in found[1:]:
            for image, row in found[0].items():
                np.testing.assert_allclose(other[image], row, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(
        "backbone",
        ["tiny"] + [pytest.param(name, marks=pytest.mark.slow) for name in ("efficientnet-lite0", "resnet18@random:0")],
    )
    def test_bf16_points_the_same_way_as_fp32_as_far_as_the_card_says(self, place: Workspace, backbone: str) -> None:
        # Measured on another cohort.
        expected = (parse_backbone(backbone).card.bf16_cosine or FAITHFUL_COSINE) - 0.005
        exact, rough = (by_image(run(place, backbone, precision=name).store) for name in ("fp32", "bf16"))
        for image, row in exact.items():
            other = rough[image]
            assert (other != row).any(), "it was computed in another precision"
            assert float(row @ other / (np.linalg.norm(row) * np.linalg.norm(other))) > expected

    def test_rows_are_stored_as_float32_unless_asked_otherwise(self, place: Workspace) -> None:
        assert {row.dtype for row in by_image(run(place, precision="bf16").store).values()} == {np.dtype("float32")}

    @pytest.mark.parametrize("damage", [torch.nan, torch.inf])
    def test_features_that_are_no_numbers_are_refused(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch, damage: float
    ) -> None:
        monkeypatch.setattr(TinyLoader, "gain", damage)
        monkeypatch.setattr(loading, "_refuse_what_is_no_number", lambda _: None)
        with pytest.raises(ValueError, match=r"holds NaN or infinity.*nothing was stored"):
            run(place)
        assert by_image(stores_of(place)[0]) == {}

    @pytest.mark.parametrize("damage", [torch.nan, torch.inf])
    def test_weights_that_are_no_numbers_are_refused_before_anything_is_written(
        self, place: Workspace, monkeypatch: pytest.MonkeyPatch, damage: float
    ) -> None:
        monkeypatch.setattr(TinyLoader, "gain", damage)
        with pytest.raises(WeightsError, match=r"tiny: the tensor 0.weight holds NaN or infinity"):
            run(place)
        assert stores_of(place) == []

    def test_a_damaged_picture_is_not_embedded(self, place: Workspace) -> None:
        pictures = module.open_pictures(place, "phantom")
        (shard,) = (path for path in (pictures._pictures.folder / "pixels").glob("c.*"))
        content = bytearray(shard.read_bytes())
        content[1000] ^= 1
        shard.write_bytes(content)
        with pytest.raises(StoreDamagedError, match="pixels"):
            run(place)
        assert by_image(stores_of(place)[0]) == {}


class TestAsked:
    def test_a_lock_of_the_past_holds_nobody_up(self, place: Workspace) -> None:
        store = Path(run(place).store)
        assert (store / "writer.lock").is_file()
        with (store / "writer.lock").open("r+") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            assert run(place).reused == len(images_of(place)), "who has nothing to write needs no lock"

    def test_fp16_needs_a_gpu(self, place: Workspace) -> None:
        with pytest.raises(DeviceError, match="fp16 needs a GPU; on the processor use --precision bf16, fp32 or auto"):
            run(place, precision="fp16")

    @pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
    def test_a_gpu_that_is_not_there(self, place: Workspace, monkeypatch: pytest.MonkeyPatch, device: str) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
        with pytest.raises(DeviceError, match=rf"'{device}' was asked for and there are 0 CUDA devices.*--device cpu"):
            run(place, device=device)

    @pytest.mark.parametrize("device", ["gpu", "", "mps", "meta", "cuda:x"])
    def test_a_device_that_is_not_understood(self, place: Workspace, device: str) -> None:
        with pytest.raises(DeviceError, match=rf"device '{device}'.*expected auto, cpu, cuda"):
            run(place, device=device)

    @pytest.mark.parametrize("dtype", ["float64", "int8", "bf16", ""])
    def test_a_dtype_that_is_not_understood(self, place: Workspace, dtype: str) -> None:
        with pytest.raises(ConfigError, match=f"unknown dtype '{dtype}': expected float32 or float16"):
            run(place, dtype=dtype)
        assert stores_of(place) == []

    def test_a_precision_that_is_not_understood(self, place: Workspace) -> None:
        with pytest.raises(ConfigError, match="unknown precision 'fp8': expected auto, fp32, bf16 or fp16"):
            run(place, precision="fp8")

    @pytest.mark.parametrize("size", [0, -1])
    def test_a_batch_of_nothing(self, place: Workspace, size: int) -> None:
        with pytest.raises(ConfigError, match=f"--batch-size is {size}, expected at least 1"):
            run(place, batch_size=size)

    def test_no_backbone(self, place: Workspace) -> None:
        with pytest.raises(ConfigError, match=r"no backbone named.*peftbench list backbones"):
            extract("phantom", [], workspace=place)

    def test_one_wrong_name_among_several_stops_before_any_work(self, place: Workspace) -> None:
        with pytest.raises(UnknownNameError, match="did you mean tiny"):
            extract("phantom", ["tiny", "tinny"], workspace=place)
        assert stores_of(place) == []

    def test_a_cohort_that_was_not_prepared(self, tmp_path: Path) -> None:
        with pytest.raises(NotPreparedError, match=r"'hannover' is not prepared.*peftbench prepare hannover"):
            run(Workspace(tmp_path / "workspace"), cohort="hannover")

    def test_an_unknown_cohort(self, place: Workspace) -> None:
        with pytest.raises(UnknownNameError, match="did you mean phantom"):
            run(place, cohort="phantm")


def test_pictures_are_read_in_the_order_of_their_rows_and_each_once(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    original = ImageStore.gather

    def noting(self: ImageStore, images: Sequence[str]) -> list[npt.NDArray[np.uint8]]:
        rows.extend(self.rows_of(images))
        return original(self, images)

    monkeypatch.setattr(ImageStore, "gather", noting)
    run(place, batch_size=4)
    assert rows == list(range(len(images_of(place))))
