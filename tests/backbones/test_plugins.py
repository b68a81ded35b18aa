"""Backbones of other packages: installed, listed, used; and what is broken takes nobody with it."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from plugin_kit import BROKEN, NAME, WIDTH, forget, install

from peftbench.backbones.cards import CARDS
from peftbench.backbones.golden import golden_rows
from peftbench.backbones.loading import library_versions, load_encoder
from peftbench.backbones.plugins import plugged_in
from peftbench.backbones.registry import all_cards, get_card, parse_backbone
from peftbench.benchmark.catalogue import list_names
from peftbench.benchmark.doctor import doctor
from peftbench.errors import UnknownNameError, WeightsError

Installing = Callable[..., None]

GOOD = [NAME, f"{NAME}-a", f"{NAME}-b"]


@pytest.fixture
def installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installing]:
    def installed(*broken: str, good: bool = True) -> None:
        monkeypatch.syspath_prepend(str(install(tmp_path / "site", *broken, good=good)))
        plugged_in.cache_clear()

    yield installed
    monkeypatch.undo()
    plugged_in.cache_clear()
    forget()


class TestGood:
    def test_a_card_and_a_function_that_answers_several_are_found(self, installing: Installing) -> None:
        installing()
        assert sorted(plugged_in().cards) == GOOD
        assert plugged_in().faults == ()
        assert list(all_cards()) == [*CARDS, *plugged_in().cards]
        assert get_card(NAME).title == "Tiny, plugged in"

    def test_it_is_listed_and_named_like_any_other(self, installing: Installing) -> None:
        installing()
        assert [each["name"] for each in list_names("backbones").entries][-3:] == list(plugged_in().cards)
        (entry,) = list_names("backbones", NAME).entries
        assert (entry["architecture"], entry["weights"]) == ("lab:Tiny", "none")
        assert parse_backbone(f"{NAME}@random:0").title == "Tiny, plugged in, random weights (seed 0)"
        with pytest.raises(UnknownNameError, match=f"did you mean {NAME}"):
            parse_backbone("tiny-pluged")

    def test_it_embeds(self, installing: Installing) -> None:
        installing()
        encoder = load_encoder(parse_backbone(f"{NAME}@random:0"))
        assert sum(each.numel() for each in encoder.module.parameters()) == encoder.card.parameters
        assert golden_rows(encoder).shape == (3, WIDTH)

    def test_a_checkpoint_of_ones_own_is_loaded_into_it(self, installing: Installing, tmp_path: Path) -> None:
        installing()
        first = load_encoder(parse_backbone(f"{NAME}@random:0"))
        torch.save(first.module.state_dict(), tmp_path / "mine.pt")
        again = load_encoder(parse_backbone(NAME, str(tmp_path / "mine.pt")))
        assert again.weights_digest == first.weights_digest

    def test_without_pretrained_weights_the_other_ways_are_named(self, installing: Installing) -> None:
        installing()
        with pytest.raises(WeightsError, match=rf"no pretrained weights: name some as {NAME}@file:PATH, or {NAME}@ran"):
            load_encoder(parse_backbone(NAME))

    def test_its_package_is_an_ingredient_of_the_key(self, installing: Installing) -> None:
        installing()
        card = get_card(NAME)
        assert card.libraries[0] == "torch"
        assert len(card.libraries) == 2
        assert set(library_versions(card)) == set(card.libraries)

    def test_looking_twice_imports_once(self, installing: Installing) -> None:
        installing()
        assert plugged_in() is plugged_in()

    def test_without_any_there_is_nothing(self) -> None:
        plugged_in.cache_clear()
        assert not [name for name in plugged_in().cards if name.startswith(NAME)]


class TestBroken:
    @pytest.mark.parametrize("name", BROKEN)
    def test_it_is_told_in_one_sentence_and_left_out(self, installing: Installing, name: str) -> None:
        installing(name)
        (fault,) = plugged_in().faults
        assert fault.startswith(f"the plug-in '{name}' of lab-broken is broken and left out (")
        assert BROKEN[name][2] in fault
        assert "\n" not in fault
        assert sorted(plugged_in().cards) == GOOD, "the others are there"
        assert all_cards()["resnet18"] is CARDS["resnet18"]

    def test_a_module_that_is_not_there(self, installing: Installing, tmp_path: Path) -> None:
        installing("missing", good=False)
        (tmp_path / "site" / "lab_missing.py").unlink()
        plugged_in.cache_clear()
        assert "No module named 'lab_missing'" in plugged_in().faults[0]

    def test_each_has_its_sentence(self, installing: Installing) -> None:
        installing(*BROKEN)
        assert len(plugged_in().faults) == len(BROKEN)

    def test_an_unknown_name_is_answered_with_them_too(self, installing: Installing) -> None:
        """The name that is not found may be the broken one's."""
        installing("raises")
        with pytest.raises(UnknownNameError, match=r"unknown backbone 'labnet'.*plug-in 'raises' of lab-broken"):
            parse_backbone("labnet")

    def test_the_doctor_advises(self, installing: Installing, tmp_path: Path) -> None:
        installing("raises", "taken")
        found = doctor(tmp_path / "workspace")
        assert [each for each in found.advice if "plug-in" in each] == list(plugged_in().faults)
        advice = f"it has none: use it as {NAME}@random:0, or as {NAME}@file:PATH"
        assert found.weights[NAME] == {"present": False, "where": None, "advice": advice}
        (fetching,) = (each for each in found.advice if "weights fetch" in each)
        assert f" of {len(CARDS)} backbones" in fetching, "what has none is not to be fetched"

    def test_the_listing_says_so_beside_the_entries(self, installing: Installing) -> None:
        installing("nonsense")
        listing = list_names("backbones")
        assert listing.faults == list(plugged_in().faults)
        assert listing.to_json()["faults"] == listing.faults
        assert "faults" not in list_names("tasks").to_json()
