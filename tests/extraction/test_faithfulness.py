"""The verb `fidelity`: short ways of computing features against the long ones, and where it cannot compare."""

from pathlib import Path

import numpy as np
import pytest
import torch
from extraction_kit import by_image, images_of, run

from peftbench.cohorts.prepare import prepare
from peftbench.cohorts.registry import get_cohort
from peftbench.cohorts.sources import files_of
from peftbench.errors import ConfigError, DeviceError, NotPreparedError, RawDataError, UnknownNameError
from peftbench.extraction.extract import open_pictures
from peftbench.extraction.faithfulness import fidelity
from peftbench.extraction.fidelity import cosines
from peftbench.imaging.decode import PixelPolicy, canonical_pixels
from peftbench.protocol.results import FidelityRow
from peftbench.protocol.workspace import Workspace

pytestmark = pytest.mark.slow

PRECISION = "bf16 against fp32"
STORE = "image store against raw file"


def compared(place: Workspace, backbone: str = "tiny", **options: object) -> dict[str, FidelityRow]:
    result = fidelity("phantom", backbone, workspace=place, device="cpu", **options)  # type: ignore[arg-type]
    return {row.comparison: row for row in result.results}


class TestPrecision:
    def test_the_figures_are_those_of_two_extractions(self, place: Workspace) -> None:
        found = compared(place)[PRECISION]
        exact, faster = (by_image(run(place, precision=each, batch_size=16).store) for each in ("fp32", "bf16"))
        expected = cosines(np.stack(list(exact.values())), np.stack([faster[image] for image in exact]))
        assert found.images == len(exact) == len(images_of(place))
        assert found.lowest == pytest.approx(expected.min(), abs=1e-7)
        assert found.median == pytest.approx(np.median(expected), abs=1e-7)
        assert found.share == pytest.approx((expected >= 0.999).mean())
        assert found.lowest < 1

    def test_without_raw_files_only_precisions_are_compared(self, place: Workspace) -> None:
        assert list(compared(place)) == [PRECISION]

    def test_so_many_images_as_asked_for_evenly_chosen(self, place: Workspace) -> None:
        assert compared(place, images=3)[PRECISION].images == 3

    def test_several_backbones_are_rows_one_behind_the_other(self, place: Workspace) -> None:
        result = fidelity("phantom", ["tiny", "tiny@random:3", "tiny"], workspace=place, device="cpu")
        assert [row.backbone for row in result.results] == ["tiny", "tiny@random:3"]
        assert list(result.frame["backbone"]) == ["tiny", "tiny@random:3"]

    def test_nothing_is_written(self, place: Workspace) -> None:
        before = sorted(place.root.rglob("*"))
        fidelity("phantom", "tiny", workspace=place, device="cpu")
        assert sorted(place.root.rglob("*")) == before


class TestRawFiles:
    def test_a_store_that_keeps_every_pixel_keeps_every_feature(self, place: Workspace, small_raw: Path) -> None:
        found = compared(place, raw=small_raw)[STORE]
        assert found.lowest == pytest.approx(1, abs=1e-6)
        assert found.share == 1

    def test_a_store_of_reduced_pictures_does_not(self, small_raw: Path, tmp_path: Path) -> None:
        place = Workspace(tmp_path / "reduced")
        prepare("phantom", small_raw, workspace=place, policy=PixelPolicy(side=40))
        assert compared(place, raw=small_raw)[STORE].lowest < 0.99999

    def test_the_phantom_that_prepare_drew_is_found(self, place: Workspace, small_raw: Path) -> None:
        place.raw("phantom").parent.mkdir(exist_ok=True)
        place.raw("phantom").symlink_to(small_raw)
        assert list(compared(place)) == [PRECISION, STORE]

    def test_files_are_those_that_the_images_were_decoded_from(self, place: Workspace, small_raw: Path) -> None:
        pictures = open_pictures(place, "phantom")
        found = files_of(get_cohort("phantom"), small_raw, pictures, pictures.images)
        assert found
        assert set(found) == set(pictures.images)
        for image, file in found.items():
            (stored,) = pictures.gather([image])
            np.testing.assert_array_equal(canonical_pixels(file, PixelPolicy()), stored)

    def test_another_download_is_refused(self, place: Workspace, small_raw: Path, tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.mkdir()
        (other / "phantom.csv").write_bytes((small_raw / "phantom.csv").read_bytes())
        with pytest.raises(RawDataError, match=r"\d+ of \d+ images come from files that are not in .*other"):
            compared(place, raw=other)


class TestAsked:
    def test_no_images(self, place: Workspace) -> None:
        with pytest.raises(ConfigError, match="--images is 0, expected at least 1"):
            compared(place, images=0)

    @pytest.mark.parametrize("precision", ["fp32", "auto"])
    def test_fp32_against_itself(self, place: Workspace, precision: str) -> None:
        with pytest.raises(ConfigError, match="expected bf16 or fp16"):
            compared(place, precision=precision)

    def test_fp16_on_the_processor(self, place: Workspace) -> None:
        with pytest.raises(DeviceError, match="fp16 needs a GPU"):
            compared(place, precision="fp16")

    def test_unknown_names(self, place: Workspace, tmp_path: Path) -> None:
        with pytest.raises(UnknownNameError, match="unknown backbone"):
            compared(place, "tyni")
        with pytest.raises(UnknownNameError, match="unknown cohort"):
            fidelity("fantom", "tiny", workspace=place)
        with pytest.raises(NotPreparedError):
            fidelity("phantom", "tiny", workspace=tmp_path / "empty")


def test_torch_keeps_its_threads(place: Workspace) -> None:
    before = torch.get_num_threads()
    compared(place)
    assert torch.get_num_threads() == before
