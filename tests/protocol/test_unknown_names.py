"""An unknown name is answered with the nearest that is known, or with all of them, and the command that lists them."""

import pytest

from peftbench.errors import PeftbenchError, unknown_name

KNOWN = ["efficientnet-lite0", "resnet18", "resnet50", "HAN_icu"]


NEAREST = {"resnet81": "resnet18", "RESNET18": "resnet18", "han_icu": "HAN_icu", "efficientnet": "efficientnet-lite0"}


@pytest.mark.parametrize(("name", "nearest"), NEAREST.items())
def test_the_nearest_name_is_proposed_whatever_its_case(name: str, nearest: str) -> None:
    message = str(unknown_name("backbone", name, KNOWN, "peftbench list backbones"))
    assert f"unknown backbone {name!r}: did you mean {nearest}" in message
    assert "`peftbench list backbones`" in message


def test_without_a_near_name_all_are_listed() -> None:
    message = str(unknown_name("backbone", "zzzzzz", KNOWN, "peftbench list backbones"))
    assert all(name in message for name in KNOWN)


def test_it_can_be_caught_as_the_builtin_and_as_the_project_s_error() -> None:
    error = unknown_name("task", "x", KNOWN, "peftbench list tasks")
    assert isinstance(error, ValueError)
    assert isinstance(error, PeftbenchError)
