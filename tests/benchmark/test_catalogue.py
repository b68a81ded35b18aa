"""What can be named: the listings are the registries, and the package's own names are lazy."""

import pytest

import peftbench
from peftbench.backbones.cards import CARDS
from peftbench.benchmark.catalogue import list_names
from peftbench.cohorts.registry import COHORTS, TASKS
from peftbench.errors import UnknownNameError
from peftbench.probing.registry import CONTROLS, PROBES, SETS, SURVIVAL, classical_titles, expand
from peftbench.strategies.registry import STRATEGIES


class TestListing:
    @pytest.mark.parametrize(
        ("kind", "registry"),
        [
            ("cohorts", COHORTS),
            ("tasks", TASKS),
            ("backbones", CARDS),
            ("strategies", STRATEGIES),
            ("probes", PROBES | classical_titles() | SURVIVAL | SETS | CONTROLS),
        ],
    )
    def test_a_kind_lists_its_registry_whole(self, kind: str, registry: dict[str, object]) -> None:
        listing = list_names(kind)  # type: ignore[arg-type]
        assert [entry["name"] for entry in listing.entries] == list(registry)
        assert list(listing.to_json()) == [kind]
        assert listing.frame["name"].tolist() == list(registry)

    @pytest.mark.parametrize(
        ("kind", "name"), [("cohorts", "hannover"), ("tasks", "HAN_icu"), ("strategies", "LP"), ("probes", "logistic")]
    )
    def test_one_name_lists_its_entry_alone(self, kind: str, name: str) -> None:
        (entry,) = list_names(kind, name).entries  # type: ignore[arg-type]
        assert entry == next(each for each in list_names(kind).entries if each["name"] == name)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("kind", "name", "said"),
        [
            ("tasks", "HAN_icy", "unknown task 'HAN_icy': did you mean HAN_icu"),
            ("strategies", "LORAS", "unknown strategy or backbone 'LORAS': did you mean LoRA"),
            ("backbones", "resnet81", "unknown backbone 'resnet81': did you mean resnet18"),
        ],
    )
    def test_an_unknown_name_of_a_kind_is_answered_with_the_nearest(self, kind: str, name: str, said: str) -> None:
        with pytest.raises(UnknownNameError, match=said):
            list_names(kind, name)  # type: ignore[arg-type]

    def test_an_unknown_kind_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(UnknownNameError, match="unknown kind 'backbone': did you mean backbones"):
            list_names("backbone")  # type: ignore[arg-type]

    def test_a_task_says_which_cohort_it_asks(self) -> None:
        tasks = {entry["name"]: entry["cohort"] for entry in list_names("tasks").entries}
        named = {name: cohort["name"] for cohort in list_names("cohorts").entries for name in cohort["tasks"]}
        assert tasks == named

    def test_linear_probing_has_two_doors_and_the_others_one(self) -> None:
        runs = {entry["name"]: entry["runs_in"] for entry in list_names("strategies").entries}
        others = dict.fromkeys(["FFT", "LoRA", "VeRA", "BitFit", "IA3"], "finetune")
        assert runs == {"LP": "probe, finetune", **others}

    def test_every_probe_says_what_it_is(self) -> None:
        entries = list_names("probes").entries
        assert {entry["kind"] for entry in entries} == {"probe", "classical", "survival", "set", "control"}
        assert all(entry["what"] for entry in entries)
        named = {entry["name"] for entry in entries if entry["kind"] in ("probe", "classical")}
        assert set(expand(["all"])) == named

    def test_a_change_of_an_answer_does_not_change_the_registry(self) -> None:
        list_names("strategies").entries[0]["name"] = "changed"
        assert list_names("strategies").entries[0]["name"] == "LP"


class TestPackage:
    def test_every_public_name_can_be_had(self) -> None:
        rooms = {"splits", "store", "weights"}
        assert {"prepare", "extract", "probe", "report", "list", "doctor", *rooms} <= set(peftbench.__all__)
        assert all(callable(getattr(peftbench, name)) for name in peftbench.__all__ if name not in rooms)
        assert set(peftbench.__all__) <= set(dir(peftbench))

    def test_the_verbs_of_the_stores_have_a_room_of_their_own(self) -> None:
        assert {"ls", "info", "verify", "repair", "export", "prune"} == set(peftbench.store.__all__)
        assert all(callable(getattr(peftbench.store, name)) for name in peftbench.store.__all__)

    def test_so_have_those_of_the_weights(self) -> None:
        assert {"ls", "fetch", "verify", "bundle", "import_"} == set(peftbench.weights.__all__)
        assert all(callable(getattr(peftbench.weights, name)) for name in peftbench.weights.__all__)

    def test_any_other_name_is_an_attribute_error(self) -> None:
        with pytest.raises(AttributeError, match="module 'peftbench' has no attribute 'train'"):
            _ = peftbench.train
