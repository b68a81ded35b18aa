"""The commit record: it says what counts, and that it was not altered."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from stores.commit import COMMIT_FILE, COMMIT_SCHEMA, Commit
from stores.errors import StoreDamagedError, StoreMismatchError, StoreNotFoundError

COMMIT = Commit({"kind": "test", "side": 7}, 1500, {"pixels": (4294967295, 12), "count": (7,)})


def parsed(text: str | bytes | None) -> Commit:
    return Commit.parse(text.encode() if isinstance(text, str) else text, "there")


def test_a_record_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    COMMIT.write(tmp_path)
    assert parsed((tmp_path / COMMIT_FILE).read_bytes()) == COMMIT


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": 1499},
        {"attributes": {"kind": "test", "side": 8}},
        {"checksums": {"pixels": (4294967295, 13), "count": (7,)}},
        {"checksums": {"pixels": (12, 4294967295), "count": (7,)}},
        {"checksums": {"pixels": (4294967295, 12), "other": (7,)}},
    ],
)
def test_everything_in_it_counts_for_the_digest(changes: dict[str, Any]) -> None:
    assert replace(COMMIT, **changes).digest != COMMIT.digest


def test_the_order_of_columns_and_attributes_does_not_count() -> None:
    turned = Commit({"side": 7, "kind": "test"}, 1500, dict(reversed(COMMIT.checksums.items())))
    assert turned.text() == COMMIT.text()


@pytest.mark.parametrize("turn", range(3))
def test_every_altered_byte_is_noticed(turn: int) -> None:
    text = COMMIT.text().encode()
    # The schema is a word of its own: see the next test.
    first = text.index(b'"schema"')
    free = range(first, first + len(b'"schema":2'))
    masks = np.random.default_rng(turn).integers(1, 256, len(text))
    for position in set(range(len(text))) - set(free):
        altered = bytearray(text)
        altered[position] ^= 1 if not turn else int(masks[position])
        with pytest.raises(StoreDamagedError):
            parsed(bytes(altered))


def test_a_digit_that_became_an_exponent_is_noticed() -> None:
    text = COMMIT.text()
    assert "[4294967295,12]" in text
    with pytest.raises(StoreDamagedError):
        parsed(text.replace("[4294967295,12]", "[4e94967295,12]"))


def test_a_flipped_bit_in_the_number_of_the_form_is_damage_and_not_another_form() -> None:
    text = COMMIT.text()
    with pytest.raises(StoreDamagedError, match="peftbench store repair"):
        parsed(text.replace(f'"schema":{COMMIT_SCHEMA}', f'"schema":{COMMIT_SCHEMA ^ 1}'))


@pytest.mark.parametrize("schema", [1, COMMIT_SCHEMA + 1, None, "2"])
def test_a_record_of_another_form_is_not_taken_for_this_one(schema: object) -> None:
    text = json.dumps({**json.loads(COMMIT.text()), "schema": schema, "digest": "0" * 64})
    with pytest.raises(
        StoreMismatchError, match=r"was written in form .*, this version reads form 2: .* make it again"
    ):
        parsed(text)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"7",
        b"null",
        b'"schema"',
        b'{"rows": 1',
        b"\xff",
        b'{"schema":2}',
        b'{"schema":2,"attributes":[],"rows":0,"checksums":{},"digest":""}',
        b'{"schema":2,"attributes":{},"rows":0,"checksums":[],"digest":""}',
        b'{"schema":2,"attributes":{},"rows":null,"checksums":{},"digest":""}',
        b'{"schema":2,"attributes":{},"rows":Infinity,"checksums":{},"digest":""}',
        b'{"schema":2,"attributes":{"a":NaN},"rows":0,"checksums":{},"digest":""}',
        b'{"schema":2,"attributes":{},"rows":0,"checksums":{"a":["b"]},"digest":""}',
    ],
)
def test_a_record_that_says_something_else_is_noticed_and_the_next_step_named(text: bytes) -> None:
    with pytest.raises(StoreDamagedError, match=r"the commit record of there .*`peftbench store repair`"):
        parsed(text)


@pytest.mark.parametrize("harm", [lambda text: text + " ", lambda text: text.replace(":", ": ")])
def test_a_record_counts_in_its_one_form_only(harm: Callable[[str], str]) -> None:
    with pytest.raises(StoreDamagedError, match="its own digest"):
        parsed(harm(COMMIT.text()))


def test_an_absent_record_means_no_store() -> None:
    with pytest.raises(StoreNotFoundError, match="there holds no committed store"):
        parsed(None)
