"""What comes of items in their order, so many under way at a time, and nothing goes on when the loop has ended."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peftbench.imaging.ahead import in_order
from stores.errors import StoreDamagedError


class TestInOrder:
    @given(st.lists(st.integers(), max_size=30), st.integers(1, 6), st.integers(1, 4))
    def test_what_comes_of_the_items_in_their_order(self, items: list[int], ahead: int, threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            assert list(in_order(pool, lambda item: item * 2, items, ahead)) == [item * 2 for item in items]

    def test_a_slow_item_is_waited_for(self) -> None:
        def work(item: int) -> int:
            time.sleep(0.05 if item == 0 else 0)
            return item

        with ThreadPoolExecutor(3) as pool:
            assert list(in_order(pool, work, range(10), 4)) == list(range(10))

    @pytest.mark.parametrize("ahead", [1, 3])
    def test_only_so_many_are_drawn_ahead(self, ahead: int) -> None:
        drawn: list[int] = []

        def endless() -> Iterator[int]:
            while True:
                drawn.append(len(drawn))
                yield drawn[-1]

        with ThreadPoolExecutor(2) as pool:
            found = in_order(pool, abs, endless(), ahead)
            for number in range(20):
                assert next(found) == number
                assert len(drawn) == number + ahead
            found.close()  # type: ignore[attr-defined]

    @pytest.mark.parametrize("threads", [1, 4])
    def test_an_error_comes_out_where_the_item_would_and_nothing_goes_on_after_it(self, threads: int) -> None:
        begun: list[int] = []

        def work(item: int) -> int:
            begun.append(item)
            if item == 5:
                raise StoreDamagedError("shard 5")
            return item

        seen: list[int] = []
        with ThreadPoolExecutor(threads) as pool:
            with pytest.raises(StoreDamagedError, match="shard 5"):
                seen.extend(in_order(pool, work, range(100), 3))
            count = len(begun)
        assert count <= len(begun) <= 5 + 3
        assert seen == list(range(5))

    def test_an_error_of_the_items_comes_out_after_what_was_under_way_was_let_go(self) -> None:
        def failing() -> Iterator[int]:
            yield 0
            raise StoreDamagedError("no more")

        with ThreadPoolExecutor(1) as pool, pytest.raises(StoreDamagedError, match="no more"):
            list(in_order(pool, abs, failing(), 3))

    def test_who_leaves_early_leaves_nothing_waiting(self) -> None:
        begun: list[int] = []
        gate = threading.Event()

        def work(item: int) -> int:
            begun.append(item)
            if item:
                gate.wait(10)
            return item

        with ThreadPoolExecutor(1) as pool:
            found = in_order(pool, work, range(100), 5)
            assert next(found) == 0
            found.close()  # type: ignore[attr-defined]
            gate.set()
        assert begun in ([0], [0, 1])
