"""Stores of jobs: the one in files, and one in memory, which holds the interface to what it says."""

import json

import pytest

import semiflat as sf
from job_store_contract import OneWriter, contents
from semiflat.jobs import JobStore, LinesStore


class TestLines(OneWriter):
    """JSON lines in a file."""

    def open(self, place, kept, anew=False):
        return LinesStore(place / "lines.jsonl", kept, anew)

    @pytest.mark.parametrize("cut", range(1, 60, 7))
    def test_a_file_cut_off_anywhere_holds_the_whole_lines(self, place, cut):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0), ("b", 2.0)])
        file = place / "lines.jsonl"
        content = file.read_bytes()
        file.write_bytes(content[:-cut])
        whole = max(0, content[:-cut].count(b"\n") - 1)
        with self.open(place, contents()) as store:
            assert list(store.keys()) == ["a", "b"][:whole]
            store.put([("a", 1.0), ("b", 2.0)])
        assert file.read_bytes() == content

    def test_a_file_of_somebody_else_is_left_alone(self, place):
        place.mkdir()
        for text in ("notes", '{"format": "other-', "notes\n", '{"name": "a"}\n'):
            (place / "lines.jsonl").write_text(text)
            with pytest.raises(sf.InputError, match=r"lines\.jsonl"):
                self.open(place, contents())
            assert (place / "lines.jsonl").read_text() == text

    def test_a_line_that_is_no_value_is_named(self, place):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
        with (place / "lines.jsonl").open("a") as file:
            file.write('{"name": "b"}\n')
        with pytest.raises(
            sf.InputError, match="damaged in line 3: it is no named number; delete that line"
        ):
            self.open(place, contents())


PLACES: dict[str, dict] = {}


class Memory(JobStore):
    """A store in a dict of this process, as text; the second backend."""

    def __init__(self, place, kept, anew=False):
        held = PLACES.setdefault(str(place), {"open": False, "header": None, "values": {}})
        if held["open"]:
            raise sf.InputError(f"another process is writing to {str(place)!r}")
        if anew:
            held["values"] = {}
        if held["values"]:
            kept.check(place, json.loads(held["header"]))
        self.held, self.kept = held, kept
        held.update(open=True, header=json.dumps(kept.header))

    def put(self, values):
        for value in values:
            self.held["values"].setdefault(self.kept.key(value), json.dumps(self.kept.plain(value)))

    def get(self, key):
        text = self.held["values"].get(key)
        return None if text is None else self.kept.value(json.loads(text))

    def keys(self):
        return self.held["values"].keys()

    def close(self):
        self.held["open"] = False


class TestMemory(OneWriter):
    """A dict."""

    def open(self, place, kept, anew=False):
        return Memory(place, kept, anew)
