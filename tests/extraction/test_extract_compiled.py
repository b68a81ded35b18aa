"""The network compiled by torch: features of their own store, as close to the others as the last bits."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from extraction_kit import BATCH, TINY, assert_equal_to_the_bit, by_image, faults, images_of, run, stores_of

from peftbench.backbones.cards import CARDS
from peftbench.backbones.loading import load_encoder
from peftbench.backbones.registry import parse_backbone
from peftbench.extraction.engine import graph_of
from peftbench.protocol.workspace import Workspace
from stores.features import FeatureStore

CPU = torch.device("cpu")

pytestmark = pytest.mark.slow

THREADS = 3


@pytest.fixture(scope="module")
def compiled(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A workspace with the compiled tiny network's features, made by several threads."""
    place = Workspace(Path(shutil.copytree(prepared, tmp_path_factory.mktemp("compiled") / "workspace")))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(CARDS, TINY.name, TINY)
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        # The processor's vector instructions are taken as its flags say; else inductor compiles a program to try each.
        patch.setattr(torch._inductor.config.cpp, "vec_isa_ok", True)
        before = torch.get_num_threads()
        torch.set_num_threads(THREADS)
        try:
            row = run(place, "tiny@random:1", batch_size=BATCH, compiled=True)
            assert torch.get_num_threads() == THREADS
        finally:
            torch.set_num_threads(before)
        assert row.embedded == row.total == len(images_of(place))
        yield place
        torch._dynamo.reset()


def test_features_are_those_of_the_other_graph_but_for_the_last_bits(compiled: Workspace) -> None:
    (store,) = stores_of(compiled, "tiny@random:1")
    recipe = FeatureStore.open(store).recipe
    assert recipe.graph == "folded+compiled"
    assert faults(store) == []
    other = run(compiled, "tiny@random:1", batch_size=BATCH)
    assert other.embedded == other.total
    plain = FeatureStore.open(Path(other.store)).recipe
    assert [each.ingredient for each in recipe.differences(plain)] == ["graph"]
    for output in ("embedding", "stages"):
        found, expected = by_image(store, output), by_image(other.store, output)
        assert found.keys() == expected.keys()
        for image, row in expected.items():
            assert np.abs(found[image] - row).max() <= 1e-5 * np.abs(row).max()


def test_one_thread_gives_the_same_bits_as_several(compiled: Workspace, prepared: Path, tmp_path: Path) -> None:
    (several,) = (
        each
        for each in stores_of(compiled, "tiny@random:1")
        if FeatureStore.open(each).recipe.graph == "folded+compiled"
    )
    alone = Workspace(Path(shutil.copytree(prepared, tmp_path / "alone")))
    row = run(alone, "tiny@random:1", batch_size=BATCH, compiled=True)
    assert Path(row.store).name == several.name
    assert_equal_to_the_bit(by_image(row.store), by_image(several))


def test_what_was_done_to_a_network_is_said() -> None:
    folds, plain = (load_encoder(parse_backbone(name)) for name in ("tiny", "vit"))
    assert [graph_of(folds.card, CPU, "fp32", compiled=each) for each in (False, True)] == ["folded", "folded+compiled"]
    assert [graph_of(plain.card, CPU, "fp32", compiled=each) for each in (False, True)] == ["eager", "compiled"]
