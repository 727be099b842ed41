"""Pictures: what is drawn is what is measured, on the axes that were given, legible in grey."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from torch import Tensor

import semiflat as sf
from semiflat.costs import DENSE_LIMIT
from semiflat.curvature import sweep
from semiflat.evidence.slices import both_ways, on_line, on_plane, seen_within
from semiflat.plots.drawing import MARKS, SIGNS
from semiflat.plots.look import style
from semiflat.plots.path import SHADES, STYLES
from semiflat.plots.widths import SORTS
from test_pickling import CURVED, PROBLEM, RETURNED, channel, minimum, start


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Figures of pyplot stay open otherwise."""
    yield
    pyplot.close("all")


@cache
def saddle() -> sf.EmbeddedPoint:
    return sf.Replicate(0, 0, [2, -1])(minimum())


@cache
def far() -> sf.Point:
    """A critical point at infinity."""
    limit = channel().limit
    assert limit is not None
    return limit.point


def found() -> sf.SearchResult:
    return sf.run_search(CURVED, starts=8, seed=0)


def title(ax: Axes) -> str:
    return ax.get_title("left")


PICTURES: dict[str, Callable[[Any], Axes]] = {
    "line": lambda ax: minimum().plot_line(ax=ax),
    "line through a saddle": lambda ax: saddle().plot_line(ax=ax),
    "line through any point": lambda ax: start().plot_line(sf.gradient(start()), ax=ax),
    "line at infinity": lambda ax: far().plot_line(ax=ax),
    "plane": lambda ax: minimum().plot_plane(ax=ax),
    "plane at infinity": lambda ax: far().plot_plane(ax=ax),
    "spectrum": lambda ax: minimum().plot_spectrum(ax=ax),
    "spectrum of an embedded point": lambda ax: saddle().plot_spectrum(ax=ax),
    "spectrum at infinity": lambda ax: far().plot_spectrum(ax=ax),
    "shares": lambda ax: minimum().plot_shares(0, 0, ax=ax),
    "search": lambda ax: found().plot(ax=ax),
    "path": lambda ax: RETURNED["path to zero loss"]().plot(ax=ax),
    "way back from infinity": lambda ax: RETURNED["its way back"]().plot(ax=ax),
    "widths": lambda ax: sf.plot_widths([minimum(), saddle()], ax=ax),
    "reduced widths": lambda ax: sf.plot_widths([saddle()], tolerance=1e-3, ax=ax),
}


@pytest.mark.parametrize("what", PICTURES)
def test_axes_in_axes_out_with_a_title_that_says_what_to_see(what: str) -> None:
    before = len(pyplot.get_fignums())  # other tests leave some
    _, given = pyplot.subplots()
    assert PICTURES[what](given) is given
    assert title(given)
    assert given.get_xlabel()
    given.figure.canvas.draw()
    assert len(pyplot.get_fignums()) == before + 1


def test_without_axes_there_is_a_new_figure_and_the_users_settings_stay() -> None:
    with pyplot.rc_context({"font.size": 31.0}):
        ax = minimum().plot_line()
        assert pyplot.rcParams["font.size"] == 31.0
    assert ax.xaxis.label.get_fontsize() < 12
    with pytest.raises(sf.InputError, match="ax must be matplotlib axes"):
        minimum().plot_line(ax=ax.figure)


@pytest.mark.parametrize("what", ["line", "search", "path"])
def test_without_matplotlib_it_is_one_clear_line(what: str, monkeypatch: Any) -> None:
    RETURNED["path to zero loss"]()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(sf.InputError, match=r"need matplotlib: pip install 'semiflat\[report\]'"):
        PICTURES[what](None)


@pytest.mark.parametrize("marks", [MARKS, SIGNS, SORTS])
def test_marks_differ_in_grey(marks: dict[str, Any]) -> None:
    def grey(colour: str) -> float:
        return float(np.dot(to_rgb(colour), [0.299, 0.587, 0.114]))

    drawn = [(mark.marker, round(grey(mark.face) * 4)) for mark in marks.values()]
    assert len(set(drawn)) == len(drawn)


def test_claims_differ_in_their_strokes() -> None:
    assert set(SHADES) == set(STYLES) == {str(claim) for claim in sf.Claim}
    assert len(set(STYLES.values())) == len(STYLES)


def curves(ax: Axes) -> list[tuple[np.ndarray, np.ndarray]]:
    drawn = [line.get_data() for line in ax.get_lines()]
    return [(np.asarray(x), np.asarray(y)) for x, y in drawn]


@pytest.mark.parametrize("make", [minimum, saddle, start, far])
def test_a_line_is_the_loss_along_it_and_touches_its_parabola(make: Callable[[], sf.Point]) -> None:
    p = make()
    net = p.problem.net
    direction = torch.linspace(1, 2, net.parameter_count, dtype=torch.float64)
    lines = curves(p.plot_line(3 * direction, reach=0.4))
    unit = direction / direction.norm()
    (t, parabola), (_, change) = [pair for pair in lines if len(pair[0]) > 100]
    for at in (3, 50, 120):
        moved = net.unflatten(net.flatten(p.params) + float(t[at]) * unit)
        assert change[at] == pytest.approx(float(p.problem.risk(moved)) - p.loss, abs=1e-14)
    assert (t[0], t[-1]) == (-0.4, 0.4)
    near = abs(t) < 0.02
    gap = abs(change - parabola)[near]
    assert gap.max() < 5e-2 * abs(parabola[near]).max()


def test_a_line_towards_a_point_holds_its_loss() -> None:
    p = minimum()
    other = sf.Point(p.problem, p.problem.net.random_params(3))
    ax = p.plot_line(other)
    (t, change), *_ = [pair for pair in curves(ax)[::-1] if len(pair[0]) > 100]
    vectors = [p.problem.net.flatten(each.params) for each in (p, other)]
    length = float((vectors[0] - vectors[1]).norm())
    assert np.interp(length, t, change) == pytest.approx(other.loss - p.loss, rel=1e-2)
    assert t[0] < 0 < length < t[-1]


def test_a_plane_is_the_loss_on_it_in_whatever_parts_it_is_taken(monkeypatch: Any) -> None:
    p = start()
    net = p.problem.net
    basis = torch.linalg.qr(
        torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )[0]
    s, t = torch.linspace(-1, 1, 5).double(), torch.linspace(-2, 2, 4).double()
    whole = on_plane(p.problem, net.flatten(p.params), basis[:, 0], basis[:, 1], s, t)
    assert whole.shape == (4, 5)
    at = net.flatten(p.params) + s[3] * basis[:, 0] + t[1] * basis[:, 1]
    assert float(whole[1, 3]) == pytest.approx(float(p.problem.risk(net.unflatten(at))), rel=1e-14)
    asked: list[int] = []
    risk = p.problem.risk

    def counting(params: dict[str, Tensor]) -> Tensor:
        asked.append(1)
        return risk(params)

    monkeypatch.setattr(p.problem, "risk", counting)
    monkeypatch.setattr(sweep.chunks, "__defaults__", (8 * 2 * (7 + 12 * 2) * 3,))
    parts = on_plane(p.problem, net.flatten(p.params), basis[:, 0], basis[:, 1], s, t)
    assert len(asked) == 7  # three places at a time
    assert torch.allclose(whole, parts, rtol=1e-14)


def test_the_way_down_is_in_the_picture() -> None:
    p = saddle()
    down = p.problem.net.flatten(sf.judge(p).descent_direction)
    steps, losses = both_ways(p.problem, p.problem.net.flatten(p.params), down)
    reach = seen_within(steps, losses)
    lowest = float(steps[losses.argmin()])
    assert reach == 1.5 * abs(lowest)
    assert "falls by up to" in title(p.plot_line(down))
    line = on_line(p.problem, p.problem.net.flatten(p.params), down, steps[losses.argmin()][None])
    assert float(line) == float(losses.min())


def test_a_spectrum_has_a_mark_for_each_eigenvalue() -> None:
    ax = saddle().plot_spectrum()
    dense = torch.linalg.eigvalsh(sf.hessian(saddle().materialize())).numpy()
    up, zero, down = saddle().evidence.spectrum.count()
    assert f"{up} positive, {zero} zero, {down} negative" in title(ax)
    assert down > 0
    wide = [(x, y) for x, y in curves(ax) if len(y) and np.all(y == 0.0) and len(x) in (up, down)]
    drawn = np.sort(np.concatenate([x for x, _ in wide]))
    big = dense[abs(dense) > 1e-9 * abs(dense).max()]
    assert np.allclose(np.sort(big), drawn, rtol=1e-6)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["narrow", "wide"]


def marked(ax: Axes) -> dict[str, np.ndarray]:
    """Where marks of each sort of sign are drawn."""
    found: dict[str, list[np.ndarray]] = {}
    for marks in ax.collections:
        offsets = np.asarray(marks.get_offsets())
        if not len(offsets):
            continue
        for name, mark in SIGNS.items():
            same_face = np.allclose(np.atleast_2d(marks.get_facecolor())[0, :3], to_rgb(mark.face))
            same_edge = np.allclose(np.atleast_2d(marks.get_edgecolor())[0, :3], to_rgb(mark.edge))
            if same_face and same_edge:
                found.setdefault(name, []).append(offsets)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def critical_points() -> list[sf.Point]:
    tanh = sf.find_critical_point(PROBLEM.with_net(sf.MLP([1, 1, 1])), starts=8)
    return [minimum(), tanh, saddle().materialize()]


@pytest.mark.parametrize("which", range(3))
def test_the_law_of_shares_agrees_with_the_wide_hessian_and_with_judge(which: int) -> None:
    p = critical_points()[which]
    signs = marked(p.plot_shares(0, 0))
    assert sum(map(len, signs.values())) == 61
    floor = 1e-9 * float(sf.hessian(p).abs().max())
    assert (signs.get("negative", np.zeros((0, 2)))[:, 1] < -floor).all()
    assert (abs(signs.get("flat", np.zeros((0, 2)))[:, 1]) < floor).all()
    for share in (-0.5, 0.25, 0.5, 1.5):
        kind = sf.judge(sf.Replicate(0, 0, [share, 1 - share])(p)).kind
        here = {name for name, at in signs.items() if np.isclose(at[:, 0], share).any()}
        if kind is sf.Kind.STRICT_SADDLE:
            assert here == {"negative"}
        if kind is sf.Kind.MINIMUM:
            assert here == {"flat"}


def test_pictures_that_would_not_be_true_are_refused() -> None:
    decayed = sf.find_critical_point(CURVED.with_weight_decay(0.01), starts=4)
    large = sf.Replicate.uniform(0, 0, DENSE_LIMIT)(minimum())
    for make, message in (
        (lambda: start().plot_shares(0, 0), "the law of shares is one of critical points"),
        (lambda: decayed.plot_shares(0, 0), "with weight decay"),
        (lambda: far().plot_shares(0, 0), "at infinity"),
        (lambda: minimum().plot_shares(0, 5), "unit"),
        (lambda: large.plot_spectrum(), f"up to {DENSE_LIMIT} parameters"),
        (lambda: large.plot_line(), f"up to {DENSE_LIMIT} parameters"),
        (lambda: minimum().plot_line([0.0] * 4), "not 0"),
        (lambda: minimum().plot_line(minimum()), "the other point is this one"),
        (lambda: minimum().plot_line([1.0] * 3), r"shape \(4,\)"),
        (lambda: minimum().plot_line(saddle()), "points of one network"),
        (lambda: minimum().plot_line("down"), "not str"),
        (lambda: minimum().plot_line([1.0] * 4, reach=-1), "reach must be positive"),
        (lambda: minimum().plot_plane([1.0] * 4, [2.0] * 4), "parallel"),
        (lambda: separable_search().plot(), "nothing to draw"),
        (lambda: sf.plot_widths([]), "a list of points"),
        (lambda: sf.plot_widths([minimum(), start()]), "do not compare"),
        (lambda: sf.plot_widths([minimum()], tolerance=-1), "tolerance must be"),
    ):
        before = pyplot.get_fignums()
        with pytest.raises(sf.InputError, match=message):
            make()
        assert pyplot.get_fignums() == before  # nothing half drawn is left


def separable_search() -> sf.SearchResult:
    return RETURNED["search that ends at infinity"]()


def test_a_large_point_has_a_line() -> None:
    large = sf.Replicate.uniform(0, 0, DENSE_LIMIT)(minimum())
    direction = torch.zeros(large.problem.net.parameter_count, dtype=torch.float64)
    direction[0] = 1.0
    assert "slope 0" in title(large.plot_line(direction, reach=1.0))


def test_a_search_is_drawn_with_all_its_points() -> None:
    result = found()
    ax = result.plot()
    heights = np.concatenate([at[:, 1] for at in marked(ax).values()])
    assert sorted(heights) == [float(each.loss) for each in result.with_infinity]
    texts = {text.get_text() for text in ax.texts}
    assert {f"×{count}" for count in result.frequencies} == texts
    assert "8 starts" in title(ax)


def test_widths_join_an_embedded_point_to_its_source_and_a_reduced_one_to_the_given() -> None:
    ax = sf.plot_widths([minimum(), saddle()])
    (x, y), *rest = curves(ax)
    assert not rest
    assert x.tolist() == [1, 2]
    assert y == pytest.approx([minimum().loss] * 2)
    ax = sf.plot_widths([saddle().materialize()], tolerance=1e-9)
    (x, _), *rest = curves(ax)
    assert not rest
    assert x.tolist() == [1, 2]


def test_a_path_is_drawn_piece_by_piece() -> None:
    path = RETURNED["path to zero loss"]()
    ax = path.plot(places=9)
    drawn = [(t, losses) for t, losses in curves(ax) if len(t) == 9]
    assert len(drawn) == len(path)
    for t, losses in drawn:
        assert np.array_equal(losses, path.losses(t).numpy())
    with pytest.raises(sf.InputError, match="places"):
        path.plot(places=1)


def test_a_picture_leaves_interactive_drawing_as_its_first_figure_made_it() -> None:
    # As in a notebook, where the first figure turns it on, and nothing is shown without it.
    pyplot.ioff()
    try:
        with style():
            pyplot.ion()
        assert pyplot.isinteractive()
        with style():
            pyplot.ioff()
        assert not pyplot.isinteractive()
    finally:
        pyplot.ioff()
