"""What every store of jobs has to do. A backend's tests inherit :class:`OneWriter` or :class:`ManyWriters`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import pytest

import semiflat as sf
from semiflat.jobs import Contents, JobStore

Value = tuple[str, float]


def _value(plain: dict[str, Any]) -> Value:
    if plain.keys() != {"name", "number"}:
        raise ValueError("it is no named number")
    return plain["name"], float(plain["number"])


def contents(**header: Any) -> Contents[Value]:
    """Numbers by name."""
    return Contents(
        "a count",
        {"format": "count-1", "seed": 0, **header},
        "count elsewhere",
        lambda value: value[0],
        lambda value: {"name": value[0], "number": repr(value[1])},
        _value,
    )


def holds(store: JobStore[Value], values: list[Value]) -> None:
    """Just these, in their order."""
    assert list(store.keys()) == [name for name, _ in values]
    # repr tells −0.0 from 0.0.
    assert [repr(store.get(name)) for name, _ in values] == [repr(value) for value in values]
    assert store.get("another") is None


class JobStoreContract(ABC):
    """The laws, for whatever :meth:`open` opens."""

    @abstractmethod
    def open(self, place: Any, kept: Contents[Value], anew: bool = False) -> JobStore[Value]:
        """The store of that place: what is put there is there when it is opened again."""

    @pytest.fixture
    def place(self, tmp_path):
        """Where a store can be; each test has its own."""
        return tmp_path / "place"

    def test_what_is_put_is_there_at_once_and_later_to_the_last_bit(self, place):
        values = [("a", 0.1), ("b", 5e-324), ("ℓ “x”\n", -0.0), ("c", math.inf), ("d", 1e308)]
        with self.open(place, contents()) as store:
            store.put(values[:2])
            store.put([])
            store.put(values[2:])
            holds(store, values)
        with self.open(place, contents()) as store:
            holds(store, values)
            store.close()

    def test_an_empty_store_has_nothing(self, place):
        with self.open(place, contents()) as store:
            holds(store, [])

    def test_what_has_a_name_stays_as_it_was(self, place):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
            store.put([("a", 2.0), ("b", 3.0), ("b", 5.0)])
            assert (store.get("a"), store.get("b")) == (("a", 1.0), ("b", 3.0))
        with self.open(place, contents()) as store:
            assert (store.get("a"), store.get("b")) == (("a", 1.0), ("b", 3.0))
            store.put([("b", 4.0)])
            assert store.get("b") == ("b", 3.0)

    @pytest.mark.parametrize(
        ("other", "message"),
        [
            ({"seed": 1}, "holds a count with seed 0, this one has 1; count elsewhere"),
            ({"more": {"runs": 3}}, "with more runs none, this one has 3"),
            ({"format": "count-2"}, "of format 'count-1', this version writes 'count-2'"),
        ],
    )
    def test_another_runs_values_are_refused_and_kept(self, place, other, message):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
        with pytest.raises(sf.InputError) as error:
            self.open(place, contents(**other))
        assert message in str(error.value)
        assert str(place) in str(error.value)
        with self.open(place, contents()) as store:
            assert store.get("a") == ("a", 1.0)

    def test_a_header_is_the_same_as_json_would_have_it(self, place):
        with self.open(place, contents(widths=(1, 2))) as store:
            store.put([("a", 1.0)])
        with self.open(place, contents(widths=[1, 2])) as store:
            assert list(store.keys()) == ["a"]

    def test_a_run_that_nothing_came_of_binds_to_nothing(self, place):
        with self.open(place, contents(seed=1)) as store:
            store.put([])
        with self.open(place, contents(seed=2)) as store:
            store.put([("a", 1.0)])
        with pytest.raises(sf.InputError, match="seed 2, this one has 1"):
            self.open(place, contents(seed=1))

    def test_anew_it_holds_nothing_whatever_it_held(self, place):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
        with self.open(place, contents(seed=1), anew=True) as store:
            assert list(store.keys()) == []
            store.put([("b", 2.0)])
        with self.open(place, contents(seed=1)) as store:
            assert list(store.keys()) == ["b"]


class OneWriter(JobStoreContract):
    """Of a store that one process holds at a time."""

    def test_two_writers_at_once_are_refused(self, place):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
            for anew in (False, True):
                with pytest.raises(sf.InputError, match="another process is writing to"):
                    self.open(place, contents(), anew)
            store.put([("b", 1.0)])
            store.close()
            with self.open(place, contents()) as again:
                assert list(again.keys()) == ["a", "b"]


class ManyWriters(JobStoreContract):
    """Of a store that several processes may write to at once."""

    def test_what_was_put_first_stays_and_all_see_it(self, place):
        with self.open(place, contents()) as one, self.open(place, contents()) as other:
            one.put([("a", 1.0), ("b", 1.0)])
            other.put([("c", 2.0), ("b", 2.0), ("a", 2.0)])
            one.put([("c", 1.0)])
            for store in (one, other):
                holds(store, [("a", 1.0), ("b", 1.0), ("c", 2.0)])

    def test_whoever_puts_first_says_which_run_it_is(self, place):
        with self.open(place, contents()) as one, self.open(place, contents(seed=1)) as other:
            one.put([("a", 1.0)])
            with pytest.raises(sf.InputError, match="with seed 0, this one has 1; count elsewhere"):
                other.put([("b", 2.0)])
            holds(one, [("a", 1.0)])
