"""The smallest limiting network that equal branches and null units leave."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from semiflat.embeddings import Composition, Embedding, NullGates, NullUnits, Permute, Replicate
from semiflat.limits import AtInfinity, Form, Limit, LimitMLP
from semiflat.networks import Params, bias_key, weight_key
from semiflat.points import Point
from semiflat.reduction.record import Merge, Reduction
from semiflat.reduction.state import GIVEN, ROUNDING
from semiflat.unit_surgery import merged

EPS = float(torch.finfo(torch.float64).eps)


@dataclass
class _Layer:
    """What becomes of a hidden layer's units.

    Attributes:
        copies: for each branch that is kept, by its first unit, those that are merged into it.
        shares: of the branch itself and of each of these.
        null_units, null_gates: that are dropped; gates by the first units of their branches.
    """

    copies: dict[int, list[int]] = field(default_factory=dict)
    shares: dict[int, list[float]] = field(default_factory=dict)
    null_units: list[int] = field(default_factory=list)
    null_gates: dict[int, list[int]] = field(default_factory=dict)


def reduced_at_infinity(point: Point) -> Reduction:
    """Branches with equal incoming weights and proportional outgoing ones are merged, null ones dropped.

    Units of other kinds of dependence are left alone, and so is every unit that has run to infinity in a
    way of its own.
    """
    problem = point.problem
    assert isinstance(problem, AtInfinity)
    net, params, far = problem.net, dict(point.params), dict(problem.far)
    steps: list[Embedding] = []
    merges: list[Merge] = []
    for layer in range(len(net.hidden)):
        found = _found(net, params, problem.offsets[layer], layer)
        kept, back = _way_back(net, found, layer, params)
        if len(kept) == net.hidden[layer]:
            continue
        merges += _merges(found, layer)
        steps += back
        source = _sources(net, found, kept, layer)
        params, far = (
            merged(net, each, layer, net.layer(each, layer)[kept], source) for each in (params, far)
        )
        forms = [list(row) for row in net.forms]
        forms[layer] = [forms[layer][unit] for unit in kept]
        net = LimitMLP(net.finite.with_hidden([len(row) for row in forms]), forms)
    finite = problem.finite.with_net(net.finite)
    small = Limit(finite, net, params, far).point if steps else point
    return Reduction(small, Composition(steps), 0.0, tuple(merges))


def _found(net: LimitMLP, params: Params, offsets: Tensor, layer: int) -> _Layer:
    found = _Layer()
    rows, columns = net.layer(params, layer), params[weight_key(layer + 1)]
    width = net.widths[layer]
    silent = (rows[:, :width] == 0).all(1) & (columns == 0).all(0)
    for head in net.heads(layer):
        first, *gates = net.branch(layer, head)
        null = [gate for gate in gates if bool(silent[gate]) and not bool(rows[gate].any())]
        if null:
            found.null_gates[head] = null
        if silent[first] and not gates and net.forms[layer][first] is Form.UNIT:
            found.null_units.append(head)
    heads = [head for head in net.heads(layer) if head not in found.null_units]
    for head in heads:
        for leader in found.copies:
            one, other = (_kept(net, found, layer, each) for each in (leader, head))
            alike = len(one) == len(other) and all(
                net.forms[layer][a] is net.forms[layer][b] for a, b in zip(one, other, strict=True)
            )
            if alike and torch.equal(offsets[one], offsets[other]):
                apart = (rows[one] - rows[other]).abs()
                if bool((apart <= GIVEN * EPS * (rows[one].abs() + rows[other].abs())).all()):
                    found.copies[leader].append(head)
                    break
        else:
            found.copies[head] = []
    for leader, copies in list(found.copies.items()):
        stacks = [columns[:, _kept(net, found, layer, each)] for each in (leader, *copies)]
        total = torch.stack(stacks).sum(0)
        size = float(total.square().sum())
        shares = [float((stack * total).sum()) / size if size else 0.0 for stack in stacks]
        terms = torch.stack(stacks).abs().sum(0)
        proportional = size > 0 and all(
            bool(((stack - share * total).abs() <= ROUNDING * EPS * terms).all())
            for stack, share in zip(stacks, shares, strict=True)
        )
        if not proportional:
            for copy in copies:
                found.copies[copy] = []
            found.copies[leader], shares = [], [1.0]
        found.shares[leader] = shares
    return found


def _kept(net: LimitMLP, found: _Layer, layer: int, head: int) -> list[int]:
    """A branch without its null gates."""
    null = found.null_gates.get(head, [])
    return [unit for unit in net.branch(layer, head) if unit not in null]


def _way_back(
    net: LimitMLP, found: _Layer, layer: int, params: Params
) -> tuple[list[int], list[Embedding]]:
    """The units that are kept, in order, and the embeddings that make the others again."""
    merged = [copy for copies in found.copies.values() for copy in copies]
    leaders = [head for head in sorted(found.copies) if head not in merged]
    kept = [unit for head in leaders for unit in _kept(net, found, layer, head)]
    if not kept:  # a layer keeps one unit
        kept, found.null_units = [found.null_units[0]], found.null_units[1:]
    places = list(kept)
    steps: list[Embedding] = []
    for leader in leaders:
        copies = found.copies[leader]
        if copies:
            shares = [*found.shares[leader][:-1], None]
            steps.append(Replicate(layer, places.index(leader), shares))
            places += [unit for head in copies for unit in _kept(net, found, layer, head)]
    for head, gates in found.null_gates.items():
        at = places.index(head)
        steps.append(NullGates(layer, at, len(gates)))
        end = at + len(_kept(net, found, layer, head))
        places[end:end] = gates
    if found.null_units:
        biases = params.get(bias_key(layer))
        alphas = [0.0 if biases is None else float(biases[unit]) for unit in found.null_units]
        steps.append(NullUnits(layer, alphas))
        places += found.null_units
    if places != sorted(places):
        steps.append(Permute(layer, [places.index(unit) for unit in range(len(places))]))
    return kept, steps


def _merges(found: _Layer, layer: int) -> list[Merge]:
    given = [
        Merge(
            layer, (leader, *copies), "twins", "branches with the same incoming weights: one does"
        )
        for leader, copies in found.copies.items()
        if copies
    ]
    null = [*found.null_units, *(gate for gates in found.null_gates.values() for gate in gates)]
    if null:
        given.append(Merge(layer, tuple(sorted(null)), "constant", "constant or 0, and unheard"))
    return given


def _sources(net: LimitMLP, found: _Layer, kept: list[int], layer: int) -> Tensor:
    """For each unit the place of the kept one that it becomes; −1 where it is dropped."""
    source = torch.full((net.hidden[layer],), -1)
    source[kept] = torch.arange(len(kept))
    for leader, copies in found.copies.items():
        for copy in copies:
            source[_kept(net, found, layer, copy)] = source[_kept(net, found, layer, leader)]
    return source
