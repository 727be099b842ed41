"""Numbers from files and command lines: what is no share, scale, bias or count is refused at once.

Each refusal costs next to nothing: a number is never written out, and none are added up, before it is
known to be short.
"""

import json
from fractions import Fraction

import pytest
import torch

import semiflat as sf
from semiflat.cli.steps import parse_step
from semiflat.embeddings import embedding_from_json
from semiflat.embeddings.exact import DIGITS, fraction, short, total

MILLION = "1" * 1_000_000
LONG = [
    "1e9999999",
    "1E-9999999",
    "1e99999999999",
    f"1/{MILLION}",
    MILLION,
    f"0.{MILLION}",
    "9" * 2000,
]
NONE = ["nan", "inf", "-inf", "1/0", "1e999", "1e-999", "", "abc", "0x1p3", None, True, [1], {}]
NET = sf.MLP([2, 3, 1], "relu")


@pytest.fixture(autouse=True)
def nothing_long_is_written_out(monkeypatch):
    """Numbers of more than so many digits are never made, however long that would take."""

    class Short(Fraction):
        def __new__(cls, text="0", *more):
            assert len(str(text)) <= 3 * DIGITS
            power = str(text).lower().partition("e")[2]
            assert not power or abs(int(power)) <= DIGITS
            return Fraction(text, *more)

    monkeypatch.setattr("semiflat.embeddings.exact.Fraction", Short)


def refused(call):
    with pytest.raises(sf.InputError) as error:
        call()
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("given", [*LONG, *NONE], ids=lambda given: str(given)[:12])
def test_what_is_no_short_number_is_refused_wherever_one_is_read(given):
    entry = {"layer": 0, "unit": 0}
    for one in (
        {"type": "Replicate", **entry, "weights": [[given, 1], ["1", 1]]},
        {"type": "ScaledReplicate", **entry, "incoming": [given], "outgoing": ["1"]},
        {
            "type": "ScaledReplicate",
            **entry,
            "incoming": ["1", "1"],
            "outgoing": [given or "x", "1"],
        },
        {"type": "NullUnits", "layer": 0, "biases": [[given, 1]]},
        {"type": "Split", "layer": 0, "sources": [0, 1, 2], "shares": [given, 1, 1]},
        {"type": "Split", "layer": 0, "sources": [0], "shares": [1], "scales": [given]},
        {"type": "GlobalSplit", "shares": [given, 1]},
        {"type": "GlobalNull", "biases": [[given]]},
        {"type": "Rescale", **entry, "factor": given},
    ):
        refused(lambda one=one: embedding_from_json([one]))
    if isinstance(given, str):
        for step in ("replicate:0:0:{},rest", "scaled:0:0:{}:1", "scaled:0:0:1,1:{},rest", "null:0:{}",
                     "split-all:{},1", "null-all:{}", "rescale:0:0:{}"):  # fmt: skip
            refused(lambda step=step: parse_step(step.format(given), NET))


@pytest.mark.parametrize("count", [0, -1, 2.5, "2", None, True, float("inf"), "9" * 10_000])
def test_a_count_of_a_file_is_a_whole_number_from_1_up(count):
    for one in (
        {"type": "Replicate", "layer": 0, "unit": 0, "weights": [["0", count], ["1", 1]]},
        {"type": "NullUnits", "layer": 0, "biases": [["0", count]]},
    ):
        refused(lambda one=one: embedding_from_json([one]))


def test_a_trillion_copies_are_one_run_and_no_stored_point_has_them(tmp_path):
    copies = [["1/1000000000000", 10**12]]
    entry = {"type": "Replicate", "layer": 0, "unit": 0, "weights": copies}
    assert embedding_from_json([entry]).widen(NET).hidden == (10**12 + 2,)
    problem = sf.Problem(sf.MLP([1, 1, 1]), [[0.0], [1.0]], [0.0, 1.0])
    wide = sf.Replicate(0, 0, [1])(sf.Point(problem, problem.net.random_params(0)))
    path = tmp_path / "p.safetensors"
    sf.save_point(wide, path)
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"]["embedding"] = json.dumps([entry])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + size :])
    with pytest.raises(sf.InputError, match="1000000000000"):
        sf.load_point(path)


@pytest.mark.parametrize(
    "step", ["compatible:1000000000000", "compatible:99999999", "compatible:100000000,100000000"]
)
def test_what_would_have_to_be_drawn_weight_by_weight_has_a_limit(step):
    net = sf.MLP([2, 3, 1]) if "," not in step else sf.MLP([2, 3, 3, 1])
    refused(lambda: parse_step(step, net))


def test_shares_without_a_short_common_denominator_are_refused_before_they_are_added_up():
    """A thousand denominators of a thousand digits: their sum has a million."""
    primes = [10**900 + k for k in range(1, 2000, 2)]
    shares = [Fraction(1, prime) for prime in primes]
    refused(lambda: total((share, 1) for share in shares))
    refused(lambda: sf.Replicate(0, 0, [*shares, None]))
    refused(lambda: sf.Split(0, [0] * len(shares), shares))
    refused(lambda: sf.GlobalSplit(shares))
    refused(lambda: sf.ScaledReplicate(0, 0, [1] * (len(shares) + 1), [*shares, None]))


def test_numbers_that_are_short_stay_exactly_what_they_are():
    for text in ("1/3", "-7", "1e-300", "1e300", "0", "1_000", f"{10**999}/{10**999 - 1}"):
        assert short(fraction(text)) == Fraction(text)
    sevens = sf.Replicate(0, 0, [*[Fraction(1, p) for p in (3, 7, 11, 13)], None])
    assert sum(sevens.weights) == 1
    assert embedding_from_json(json.loads(json.dumps(sevens.to_json()))) == sevens


@pytest.mark.parametrize("entries", [None, "abc", 7, [None], [["x"]], {}, [{"type": ["x"]}], [{}]])
def test_what_is_no_list_of_steps_is_refused(entries):
    refused(lambda: embedding_from_json(entries))


# -- embeddings of one's own -------------------------------------------------------------------------


class ReflectEach(sf.Embedding):
    """Takes nothing: to_json needs no more than its name."""

    def extend(self, widening):
        steps = [sf.Reflect(0, unit) for unit in range(widening.wide.hidden[0])]
        return sf.Composition(steps).extend(widening)

    def to_json(self):
        return [{"type": "ReflectEach"}]


class Halves(sf.Embedding):
    """Takes what its entry holds."""

    def __init__(self, unit: int) -> None:
        self.unit = unit

    def extend(self, widening):
        return sf.Replicate(0, self.unit, ["1/2", "1/2"]).extend(widening)

    def to_json(self):
        return [{"type": "Halves", "unit": self.unit}]


class Forgets(Halves):
    """Another unit is read back than was written."""

    def to_json(self):
        return [{"type": "Forgets", "unit": 0}]


class Narrower(Halves):
    """Another network is read back."""

    def to_json(self):
        return [{"type": "Reflect", "layer": 0, "unit": 0}]


class Raises(Halves):
    def to_json(self):
        raise RuntimeError("no way")


class Unknown(Halves):
    def to_json(self):
        return [{"type": "NeverDefined"}]


class NoData(Halves):
    def to_json(self):
        return [{"type": "NoData", "unit": torch.zeros(1)}]


def narrow():
    X = torch.linspace(-2, 2, 20, dtype=torch.float64)[:, None]
    problem = sf.Problem(sf.MLP([1, 2, 1], "tanh"), X, X**2)
    return sf.Point(problem, problem.net.random_params(0))


@pytest.mark.parametrize(
    "embedding",
    [
        ReflectEach() >> sf.Replicate(0, 0, [0.5, 0.5]),
        Halves(1),
        Forgets(0),
        Halves(0) >> Halves(1),
    ],
)
def test_an_embedding_of_ones_own_is_stored_and_read_back(tmp_path, embedding):
    point, path = narrow(), tmp_path / "p.safetensors"
    wide = embedding(point)
    sf.save_point(wide, path)
    stored = sf.load_point(path)
    assert stored.embedding == embedding
    back = stored.point(point.problem.X, point.problem.y)
    assert all(torch.equal(back.params[key], wide.params[key]) for key in wide.params)


@pytest.mark.parametrize("kind", [Forgets, Narrower, Raises, Unknown, NoData])
def test_what_would_not_be_read_back_is_not_stored(tmp_path, kind):
    path = tmp_path / "p.safetensors"
    with pytest.raises(sf.InputError, match=r"cannot be stored: .*from_json.*Point\(point.problem"):
        sf.save_point(kind(1)(narrow()), path)
    assert not path.exists()
    wide = kind(1)(narrow())
    sf.save_point(sf.Point(wide.problem, wide.params), path)
    assert sf.load_point(path).net.hidden == (3,)


@pytest.mark.parametrize("name", ["Replicate", "Composition", "Compatible"])
def test_no_class_takes_the_name_of_one_of_the_library(name):
    with pytest.raises(sf.InputError, match=f"semiflat has an embedding '{name}' already"):
        type(name, (sf.Embedding,), {})
    entry = {"type": "Replicate", "layer": 0, "unit": 0, "weights": [["1/2", 2]]}
    assert type(embedding_from_json([entry])) is sf.Replicate


def test_a_class_that_is_not_defined_here_is_not_looked_for(tmp_path, monkeypatch):
    from semiflat.embeddings.base import KINDS

    path = tmp_path / "p.safetensors"
    sf.save_point(Halves(1)(narrow()), path)
    monkeypatch.delitem(KINDS, "Halves")
    with pytest.raises(sf.InputError, match=r"unknown embedding 'Halves'.* once it is defined"):
        sf.load_point(path)
