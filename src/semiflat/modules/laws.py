"""What scaling the weights that write a unit does to its outputs: read off the operations on the way."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from semiflat.modules.flow import Flow, name_of
from semiflat.modules.rules import MOVES, SAME, rule_of

SIGN, CONSTANT = 2, 1
"""How a value answers to the opposite weights: by the opposite value; by that and a constant."""


@dataclass(frozen=True)
class Law:
    """How a value changes when some weights are multiplied by c.

    Attributes:
        degree: it is multiplied by c to this power; 0 if it does not depend on them.
        positive: whether that holds for every c > 0.
        opposite: what c = −1 does: ``SIGN``, ``CONSTANT``, or 0 for anything else.
    """

    degree: int
    positive: bool
    opposite: int

    @property
    def homogeneous(self) -> bool:
        """Whether weights of 0 make the value 0."""
        return self.degree > 0 and (self.positive or self.opposite == SIGN)


STILL = Law(0, True, SIGN)
LINEAR = Law(1, True, SIGN)

_SUMS = {"add", "sub", "cat", "concat", "concatenate", "stack", "hstack", "vstack"}
_PRODUCTS = {"mul", "multiply", "matmul", "mm", "bmm", "mv", "dot", "einsum"}
WITH_ADDEND = {"linear": 2, "addmm": 0, "baddbmm": 0, "convolution": 2}
WITH_ADDEND |= {f"conv{across}{count}d": 2 for across in ("", "_transpose") for count in (1, 2, 3)}
_EVEN = {"mean", "sum", "dropout", "feature_dropout", "neg", "expand_as", "view_as", "reshape_as"}
LINEAR_NAMES = {*MOVES, *SAME, *_EVEN, "getitem", "index_select"}


def law(flow: Flow, names: Iterable[str], sources: Iterable[fx.Node]) -> Law | None:
    """How the values of some nodes change when the weights of these names are scaled; None if unknown.

    Each operation on the way is linear, or a product, or its function of one number is tried on numbers of all
    sizes, up to 1e60.
    """
    known = set(names)
    found: dict[fx.Node, Law | None] = {}
    for node in flow.captured.graph.nodes:
        if node.op == "placeholder":
            own = flow.captured.owners.get(node.name, ())
            found[node] = LINEAR if known & set(own) else STILL
        elif node.op == "call_function":
            found[node] = _after(node, found)
            _in_place(node, found)
        else:
            found[node] = STILL
    laws = {found[node] for node in sources}
    if len(laws) != 1:
        return None
    (only,) = laws
    return only if only is not None and only.degree > 0 else None


def _in_place(node: fx.Node, found: dict[fx.Node, Law | None]) -> None:
    """What an operation writes over is what it gives."""
    schema = getattr(node.target, "_schema", None)
    if schema is not None and schema.is_mutable and node.args and isinstance(node.args[0], fx.Node):
        found[node.args[0]] = found[node]


def _after(node: fx.Node, found: dict[fx.Node, Law | None]) -> Law | None:
    entering = [found[each] for each in _entering(node)]
    if any(each is None for each in entering):
        return None
    laws = [each for each in entering if each is not None]
    if all(each == STILL for each in laws):
        return STILL
    name = name_of(node)
    if name in LINEAR_NAMES or "avg_pool" in name or name.startswith("upsample"):
        return laws[0] if len(laws) == 1 or all(each == STILL for each in laws[1:]) else None
    if name in ("pad", "constant_pad_nd"):
        zero = [value for value in node.args[2:] if value not in ("constant", 0, 0.0, None)]
        return None if zero else laws[0]
    if name in _SUMS:
        return _same(laws) if _all_tensors(node) else _by_trial(node, laws)
    if name in _PRODUCTS:
        return _product(laws) if _all_tensors(node) else laws[0]
    if name == "div":
        return laws[0] if len(laws) == 1 or laws[1] == STILL else None
    if name in WITH_ADDEND:
        return _with_addend(node, found, WITH_ADDEND[name])
    if "max_pool" in name or name == "amax":
        return Law(laws[0].degree, laws[0].positive, 0) if laws[0].positive else None
    if name == "prelu":
        return (
            Law(laws[0].degree, laws[0].positive, 0)
            if laws[0].positive and laws[1] == STILL
            else None
        )
    if name == "batch_norm":
        training = node.args[5]
        alone = all(each == STILL for each in laws[1:])
        fits = alone and not training and laws[0].degree == 1 and laws[0].opposite
        return Law(1, False, CONSTANT) if fits else None
    if name == "scaled_dot_product_attention":
        value = found[node.args[2]]  # type: ignore[index]
        others = [found[each] for each in _entering(node) if each is not node.args[2]]
        return value if all(each == STILL for each in others) else None
    return _by_trial(node, laws)


def _entering(node: fx.Node) -> list[fx.Node]:
    """The operands, each as often as it enters."""
    operands: list[fx.Node] = []
    fx.node.map_arg((node.args, node.kwargs), operands.append)
    return operands


def _all_tensors(node: fx.Node) -> bool:
    return name_of(node) not in ("add", "sub", "mul", "multiply") or all(
        isinstance(each, fx.Node) for each in node.args[:2]
    )


def _same(laws: list[Law]) -> Law | None:
    if len({each.degree for each in laws}) > 1:
        return None
    positive = all(each.positive for each in laws)
    opposite = min(each.opposite for each in laws)
    return Law(laws[0].degree, positive, opposite) if positive or opposite else None


def _product(laws: list[Law]) -> Law | None:
    depend = [each for each in laws if each != STILL]
    if len(depend) == 1:
        return depend[0]
    positive = all(each.positive for each in depend)
    return Law(sum(each.degree for each in depend), True, 0) if positive else None


def _with_addend(node: fx.Node, found: dict[fx.Node, Law | None], place: int) -> Law | None:
    added = node.args[place] if place < len(node.args) else node.kwargs.get("bias")
    factors = [found[each] for each in _entering(node) if each is not added]
    product = _product([each for each in factors if each is not None])
    if not isinstance(added, fx.Node) or product is None:
        return product
    own = found[added]
    return None if own is None else _same([product, own])


def _by_trial(node: fx.Node, laws: list[Law]) -> Law | None:
    """The law of a function of one number, from that of the number."""
    if len(laws) != 1 or not is_function_of_one(node):
        return None
    within = laws[0]
    own = _tried(node)
    positive = within.positive and own.positive
    opposite = 0
    if within.degree == 1 and (within.opposite == SIGN or own == LINEAR):
        opposite = min(within.opposite, own.opposite)
    degree = within.degree * own.degree
    return Law(degree, positive, opposite) if positive or opposite else None


def is_function_of_one(node: fx.Node) -> bool:
    """Whether an operation does the same to each element of its only operand."""
    pointwise = torch.Tag.pointwise in getattr(node.target, "tags", ())
    return len(_entering(node)) == 1 and (pointwise or rule_of(node).__name__ == "_pointwise")


@functools.cache
def numbers() -> Tensor:
    """Numbers of all sizes from 0 up."""
    sizes = torch.logspace(-12, 60, 289, dtype=torch.float64)
    near = torch.linspace(0, 30, 301, dtype=torch.float64)
    return torch.cat([near, sizes]).sort().values


def _tried(node: fx.Node) -> Law:
    """How a function of one number answers to its number being scaled."""

    def of(numbers: Tensor) -> Tensor:
        def put(each: Any) -> Any:
            return numbers.clone() if isinstance(each, fx.Node) else each

        args, kwargs = fx.node.map_arg((node.args, node.kwargs), put)
        made: Tensor = node.target(*args, **kwargs)  # type: ignore[operator]
        return made.double()  # of a comparison they are truth values

    z = numbers()
    both = torch.cat([z, -z])
    above, below = of(z), of(-z)
    degree, positive = 1, False
    for power in (1, 2):
        if all(_equal(of(c * both), c**power * of(both)) for c in (1e-3, 0.5, 3.0, 1e3)):
            degree, positive = power, True
            break
    opposite = 0
    if degree == 1:
        if _equal(above, -below):
            opposite = SIGN
        elif _equal(above - above[0], above[0] - below, float(above[0].abs())):
            opposite = CONSTANT
    return Law(degree, positive, opposite)


def _equal(one: Tensor, other: Tensor, size: float = 0.0) -> bool:
    if not bool((torch.isfinite(one) & torch.isfinite(other)).all()):
        return False
    allowed = 1e-13 * (one.abs() + other.abs() + size)
    return bool(((one - other).abs() <= allowed).all())
