"""Whatever a public function returns shows itself: one line, a table that is HTML, plain data, a frame."""

from __future__ import annotations

import inspect
import json
import sys
from enum import Enum
from html.parser import HTMLParser
from typing import Any

import pytest
import torch

import semiflat as sf
from semiflat.records.shown import LINE, MOST_ROWS, Shown, brief, one_line_of, table_of
from test_pickling import CURVED, PROBLEM, RETURNED, minimum, point, separable, start

ELSEWHERE = {
    # The checker imports nothing of the house.
    "Verification": lambda: sf.Verification(True, "proved"),
    "Distinction": lambda: sf.Distinction(2, (0, 1), True, ""),
    # SciPy's own.
    "HessianOperator": lambda: sf.hessian_operator(point()),
}
"""What shows itself in another way: on one line all the same."""


class Wellformed(HTMLParser):
    """Counts what is opened and closed, and keeps the text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Wellformed:
    parser = Wellformed()
    parser.feed(html)
    parser.close()
    assert not parser.open
    assert parser.seen <= {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    return parser


def inside(value: Any, depth: int = 2) -> list[Any]:
    """A value and what of the library it is made of, an object of each class."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple) and not isinstance(value, Shown | sf.Inertia):
        return [each for item in value[:3] for each in inside(item, depth)]
    if type(value).__module__.split(".")[0] != "semiflat" or isinstance(value, Enum):
        return []
    own = list(vars(value).values()) if depth and hasattr(value, "__dict__") else []
    return [value, *(each for item in own for each in inside(item, depth - 1))]


def check(value: Shown) -> None:
    line = repr(value)
    assert "\n" not in line
    if not isinstance(value, sf.Embedding):  # that of an embedding is code that makes it
        assert len(line) <= LINE, line
    read(value._repr_html_())
    json.loads(json.dumps(value.to_json(), allow_nan=False))


@pytest.mark.parametrize("what", RETURNED)
def test_whatever_is_returned_shows_itself(what: str) -> None:
    returned = RETURNED[what]()
    seen: set[type] = set()
    for value in inside(returned):
        if type(value) not in seen and isinstance(value, Shown):
            seen.add(type(value))
            check(value)
    assert seen or isinstance(returned, float | sf.HessianOperator)


def results() -> list[type]:
    """The public classes that hold something found: neither abstract, nor enums, tuples or errors."""
    found = [getattr(sf, name) for name in sf.__all__ if inspect.isclass(getattr(sf, name))]
    return [
        kind
        for kind in found
        if not inspect.isabstract(kind)
        and not issubclass(kind, Enum | tuple | Exception)
        and not getattr(kind, "_is_protocol", False)
    ]


def test_every_public_class_shows_itself() -> None:
    # Images and their levels are facts of activations; a method is code; a logger is a tool.
    others = {*ELSEWHERE, "Image", "Levels", "StageLogger"}
    bare = {kind.__name__ for kind in results() if not issubclass(kind, Shown)}
    assert bare == others
    for make in ELSEWHERE.values():
        assert "\n" not in repr(make())


def test_text_of_others_is_escaped_on_the_table() -> None:
    hostile = sf.Point(PROBLEM, PROBLEM.net.random_params(0), note="<script>alert('&')</script>")
    html = hostile._repr_html_()
    assert "<script" not in html
    assert any("<script>alert('&')" in text for text in read(html).text)
    rows = table_of([{"<b>": "<i>"}])
    assert read(rows).text == ["<b>", "<i>"]


def test_a_line_is_cut_off_between_facts_and_holds_nothing_that_moves_the_cursor() -> None:
    line = one_line_of("Found", {"a": "x\n\x1b[31my", "b": list(range(1000)), "c": "z" * 500})
    assert line == "Found(a='x [31my', b=[1000 of int], c='…')"
    assert len(one_line_of("Found", {str(k): 0.5 for k in range(99)})) <= LINE
    assert brief(torch.ones(3, 2)) == "<3 × 2>"


def test_a_table_has_the_first_rows_and_says_how_many_there_are_more() -> None:
    text = read(table_of([{"k": k} for k in range(MOST_ROWS + 7)])).text
    assert text[-1] == "… and 7 more"
    assert len(text) == 1 + MOST_ROWS + 1


def test_plain_data_hold_the_numbers_in_full() -> None:
    margin = sf.judge(point()).margin
    assert sf.judge(point()).to_json()["margin"] == margin.to_json() == vars(margin)
    assert start().to_json()["loss"] == start().loss
    blocks = sf.unit_blocks(point(), 0, 0)
    assert torch.equal(torch.tensor(blocks.to_json()["F"], dtype=torch.float64), blocks.F)


def test_a_search_is_a_list_and_a_frame() -> None:
    x = torch.linspace(-2, 2, 10, dtype=torch.float64)[:, None]
    found = sf.run_search(sf.Problem(sf.MLP([1, 2, 1]), x, torch.cos(2 * x)), starts=12, seed=0)
    assert len(found) < len(found.with_infinity)
    frame = found.to_dataframe()
    assert list(frame["loss"]) == [float(each.loss) for each in found.with_infinity]
    assert list(frame["found"].dropna()) == found.frequencies
    assert [found[k] for k in range(len(found))] == list(found)
    assert len(sf.to_dataframe(found)) == len(found.with_infinity)
    beyond = separable().to_dataframe()
    assert len(beyond) == 0


def test_lists_of_results_are_frames() -> None:
    wide = [sf.Replicate(0, 0, [share, 1 - share])(minimum()) for share in (0.25, 2)]
    verdicts = sf.judge_all(wide)
    frame = sf.to_dataframe(verdicts)
    assert list(frame["kind"]) == [str(verdict.kind) for verdict in verdicts]
    assert list(frame["curvature"].isna()) == [verdict.curvature is None for verdict in verdicts]
    flat = verdicts[0].flat_directions
    assert list(flat.to_dataframe()["dimension"]) == [family.dimension for family in flat]
    assert flat[0] is next(iter(flat))
    small = sf.reduce(wide[0])
    assert list(small.to_dataframe()["rule"]) == [merge.rule for merge in small.merges]
    widths = sf.widths_by_tolerance(wide[0], [0, 1e-2])
    assert list(widths.to_dataframe()["units"]) == [sum(each) for _, each, _ in widths]
    assert len(sf.to_dataframe([sf.escape(minimum())])) == 1
    for wrong in (3, [3], "points"):
        with pytest.raises(sf.InputError, match="a list of results"):
            sf.to_dataframe(wrong)


def test_a_path_is_a_list_of_its_pieces() -> None:
    path = RETURNED["path to zero loss"]()
    assert list(path) == [path[k] for k in range(len(path))] == list(path.pieces)
    frame = path.to_dataframe()
    assert list(frame["claim"]) == [str(piece.claim) for piece in path]
    assert frame["loss_from"][0] == path.check.start
    assert frame["loss_to"].iloc[-1] == path.check.end


def test_a_frame_without_pandas_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(sf.InputError, match=r"needs pandas: pip install 'semiflat\[tables\]'"):
        sf.to_dataframe([start()])


def test_a_class_of_ones_own_shows_itself() -> None:
    class Mine(sf.Embedding):
        def extend(self, widening: Any) -> Any:
            return widening

        def to_json(self) -> list[dict[str, Any]]:
            return [{"type": "Mine"}]

        def __repr__(self) -> str:
            return "Mine(<1>)"

    assert any("Mine(<1>)" in text for text in read(Mine()._repr_html_()).text)


def test_a_point_is_read_with_its_data_or_as_what_the_file_holds(tmp_path: Any) -> None:
    file = tmp_path / "p.safetensors"
    sf.save_point(minimum(), file)
    read_again = sf.load_point(file, CURVED.X, CURVED.y)
    assert isinstance(read_again, sf.Point)
    assert read_again.loss == minimum().loss
    assert isinstance(sf.load_point(file), sf.StoredPoint)
    with pytest.raises(sf.InputError, match="both X and y"):
        sf.load_point(file, CURVED.X)  # type: ignore[call-overload]
    with pytest.raises(sf.InputError, match="are not those"):
        sf.load_point(file, CURVED.X + 1, CURVED.y)
