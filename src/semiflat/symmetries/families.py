"""Directions along which the loss is constant on the data, family by family and with the reason.

Two uses. A zero eigenvalue of a Hessian is explained if its direction lies in one of the families.
And a point whose positive semidefinite Hessian has a kernel is a minimum if a manifold of *critical*
points runs through it whose tangent space is the whole kernel (Morse–Bott). That the loss is constant
on the manifold is not enough: y² + yx² is 0 on y = 0 and negative on y = −x²/2. So besides the kernel
two things are asked of the families marked ``joint``: that their moves compose, and that they lead
from critical points to critical points.

- The shift that softmax ignores, dead units, dependent inputs, scaling of positively homogeneous
  units and mixing of units that are linear on the data leave the loss as it is at *every* nearby
  point. They compose with anything, and carry critical points to critical points.
- Moves of ``[W_l, b_l]`` in the null space of what a layer is fed with leave every activation on the
  data as it is, in all layers at once; and a unit nobody listens to may change its incoming weights.
  These hold at this point only, so whether the points they lead to are critical is measured
  (:func:`semiflat.symmetries.flatness.steepest_on_moves`). They are marked ``affine``.
- Where the loss is convex and at its lowest on the targets of every distinct input, and the Jacobian has
  full row rank on these, the networks with the same outputs form a manifold of global minima whose
  tangent space is the Jacobian's kernel, and all else lies inside it.

With weight decay of all parameters none of them is flat. Along a straight line of constant outputs the risk
curves by λ; what is left are lines that move none but parameters without decay, such as a softmax's shift of
biases, and families that keep ‖θ‖, too. Those known to are rotations: units of one
layer with one pattern of slopes on the data act through V·W, which ``QW, VQᵀ`` leaves as it is, and Q
orthogonal keeps all lengths. Risk and penalty are constant along these orbits at every nearby point, so
they carry critical points to critical points as the other symmetries do without decay.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor

from semiflat.curvature.gradient import in_layer, output_jacobian
from semiflat.evidence import Fed, OnData
from semiflat.limits.network import AtInfinity, Form, LimitMLP
from semiflat.networks import MLP, weight_key
from semiflat.problem import Problem
from semiflat.records.shown import Shown

# Two tangents closer than this in angle are one: structural ones differ by rounding or by far more.
SAME_DIRECTION = 1e-9
# A smallest singular value above this part of the largest tells that a Jacobian's rows are independent.
INDEPENDENT = 1e-8


@dataclass(frozen=True)
class FlatFamily(Shown):
    """Directions along which the loss is constant on the data, for one reason.

    Attributes:
        name: short name, such as ``"duplicate units"``.
        reason: one sentence.
        dimension: number of independent directions in this family alone.
        joint: whether moves along it compose with those of all other joint families.
        affine: whether its moves are straight lines that hold at this point only, so that it has
            to be measured whether they lead to critical points.

    >>> import semiflat as sf
    >>> X, y = [[-1.0], [-0.5], [0.0], [1.0], [2.0]], [-0.5, -0.4, 0.0, 0.6, 0.7]
    >>> point = sf.find_critical_point(sf.Problem(sf.MLP([1, 1, 1], "tanh"), X, y), starts=8)
    >>> flat = sf.judge(sf.NullUnits(0, [0.5])(point)).flat_directions
    >>> [(family.name, family.dimension) for family in flat]
    [('null units: incoming', 2), ('null units: outgoing', 1)]
    """

    name: str
    reason: str
    dimension: int
    joint: bool = True
    affine: bool = False


@dataclass(frozen=True)
class TangentFamily(FlatFamily):
    """A family with its directions: ``tangents`` of shape (k, P), flat order, k ≥ dimension."""

    tangents: Tensor = field(kw_only=True)


def flat_families(data: OnData) -> list[TangentFamily]:
    """All families of flat directions at a point, critical or not.

    Returns:
        The families that are not empty. They may overlap; :func:`span` counts overlaps once.
    """
    data = data.where_felt
    hidden = range(len(data.net.hidden))
    families = _in_straight_lines(data)
    if not data.problem.outputs_alone:
        families += [_bias_shifts(data, layer) for layer in hidden]
        families = [None if f is None else _undecayed(data.problem, f) for f in families]
        families += [_rotations(data, layer) for layer in hidden]
    elif data.problem.samples:
        for layer in hidden:
            families += [_constant_bias(data, layer), *_linear_mixing(data, layer)]
            families += _at_infinity(data, layer)
        families.append(_exact_fits(data))
    return [family for family in families if family is not None]


def _in_straight_lines(data: OnData) -> list[TangentFamily | None]:
    """The families that lead from the point in straight lines, so that a part of one is flat, too."""
    if not data.problem.samples:
        everything = torch.eye(data.net.parameter_count, dtype=torch.float64)
        reason = "every sample is beyond its margin, where the loss does not change"
        return [_family("nothing left to learn", reason, everything)]
    families = [
        family for layer in range(data.net.depth) for family in _null_space_moves(data, layer)
    ]
    families += [_unheard(data, layer) for layer in range(len(data.net.hidden))]
    return [*families, _softmax_shift(data)]


def _undecayed(problem: Problem, family: TangentFamily) -> TangentFamily | None:
    """What of a family moves no parameter that weight decay holds back."""
    held = problem.decays > 0
    if bool(held.all()):
        return None
    decayed = family.tangents[:, held]
    left, sizes, _ = torch.linalg.svd(decayed, full_matrices=True)
    largest = float(sizes[0]) if len(sizes) else 0.0
    rank = int((sizes > 1e-12 * max(largest, 1e-300)).sum())
    free = left[:, rank:].mT @ family.tangents
    free[:, held] = 0.0
    return _family(family.name, family.reason, free, family.joint, family.affine)


def span(families: list[TangentFamily], unit: Tensor) -> Tensor:
    """An orthonormal basis (P, k) of all directions of ``families``, overlaps counted once.

    Args:
        unit: what each parameter is measured in, (P,).
    """
    basis = torch.zeros((len(unit), 0), dtype=torch.float64)
    for family in families:
        basis = torch.cat([basis, _fresh(family.tangents / unit, basis)], dim=1)
    return basis


def _fresh(tangents: Tensor, basis: Tensor) -> Tensor:
    columns = tangents.mT.to(torch.float64)
    columns = columns / torch.linalg.vector_norm(columns, dim=0).clamp(min=1e-300)
    for _ in range(2):  # once more, because the first projection leaves rounding behind
        columns = columns - basis @ (basis.mT @ columns)
    left, sizes, _ = torch.linalg.svd(columns, full_matrices=False)
    kept: Tensor = left[:, sizes > SAME_DIRECTION * max(1.0, columns.shape[1] ** 0.5)]
    return kept


def _family(
    name: str,
    reason: str,
    tangents: Tensor | list[Tensor],
    joint: bool = True,
    affine: bool = False,
) -> TangentFamily | None:
    if isinstance(tangents, list):
        if not tangents:
            return None
        tangents = torch.cat([t.reshape(-1, t.shape[-1]) for t in tangents])
    lengths = torch.linalg.vector_norm(tangents, dim=-1)
    tangents = tangents[lengths > 0]
    if not len(tangents):
        return None
    empty = torch.zeros((tangents.shape[-1], 0), dtype=torch.float64)
    dimension = _fresh(tangents, empty).shape[1]
    return TangentFamily(name, reason, dimension, joint, affine, tangents=tangents)


def _every_row(net: MLP, layer: int, vectors: Tensor, rows: Tensor | None = None) -> Tensor:
    """Each row of ``[W_l, b_l]`` moved along each of ``vectors`` (q, D): flat, (out·q, P)."""
    eye = torch.eye(net.widths[layer + 1], dtype=vectors.dtype)
    eye = eye if rows is None else eye[rows]
    moves = eye[:, None, :, None] * vectors[None, :, None, :]
    return in_layer(net, layer, moves.flatten(0, 1))


def _null_space_moves(data: OnData, layer: int) -> list[TangentFamily | None]:
    """Moves of ``[W_l, b_l]`` that no activation on the data notices."""
    net, fed = data.net, data.inputs[layer]

    def every(vectors: Tensor) -> Tensor:
        return _every_row(net, layer, vectors)

    if layer == 0:
        constant = data.constant_directions(layer)
        return [
            _family(
                "constant inputs",
                "input features that are constant on the data act as the bias does",
                every(constant),
            ),
            _family(
                "collinear inputs",
                "input features are linearly dependent on the data",
                every(_beyond(fed.null_space, constant)),
            ),
        ]
    below = layer - 1
    free = data.unheard[below] & ~data.dead[below]
    dead = _units(net, layer, data.dead[below])
    duplicate = data.duplicate_directions(layer)
    constant = data.constant_directions(layer)
    explained = torch.cat([dead, duplicate, constant])
    families: list[TangentFamily | None] = []
    if len(dead):
        reason = f"units of hidden layer {below} that are zero on every sample"
        incoming = _every_row(net, below, torch.eye(net.fan_in(below)).double(), data.dead[below])
        families.append(_family("dead units", reason, [incoming, every(dead)]))
    for name, reason, vectors in (
        (
            "duplicate units",
            f"units of hidden layer {below} with the same output on every sample may share out "
            "their outgoing weights in any way",
            duplicate,
        ),
        (
            "constant units",
            f"units of hidden layer {below} that are constant on the data act as the bias above",
            constant,
        ),
        (
            "dependent activations",
            f"activations of hidden layer {below} are linearly dependent on the data",
            _beyond(fed.null_space, explained),
        ),
    ):
        touching = _touching(vectors, free)
        families.append(_family(name, reason, every(vectors[~touching]), affine=True))
        families.append(
            _family(f"{name} nobody listens to", reason, every(vectors[touching]), joint=False)
        )
    return families


def _units(net: MLP, layer: int, chosen: Tensor) -> Tensor:
    """Unit vectors of the chosen inputs of linear layer ``layer``, (q, D)."""
    return torch.eye(net.fan_in(layer), dtype=torch.float64)[: len(chosen)][chosen]


def _touching(vectors: Tensor, units: Tensor) -> Tensor:
    return (vectors[:, : len(units)][:, units] != 0).any(-1)


def fresh_directions(vectors: Tensor, known: Tensor) -> Tensor:
    """An orthonormal basis (D, k) of what rows ``vectors`` (q, D) add to the span of ``known``."""
    empty = torch.zeros((vectors.shape[1], 0), dtype=torch.float64)
    return _fresh(vectors, _fresh(known, empty))


def _beyond(vectors: Tensor, known: Tensor) -> Tensor:
    return fresh_directions(vectors, known).mT


def _unheard(data: OnData, layer: int) -> TangentFamily | None:
    net = data.net
    units = data.unheard[layer] & ~data.dead[layer]
    vectors = torch.eye(net.fan_in(layer), dtype=torch.float64)
    return _family(
        "zero outgoing weights",
        f"units of hidden layer {layer} that nothing above listens to may change their incoming "
        "weights",
        _every_row(net, layer, vectors, units),
        affine=True,
    )


def _constant_bias(data: OnData, layer: int) -> TangentFamily | None:
    """A unit with constant input may shift it, if the bias above makes up for it."""
    net = data.net
    if not (net.biases[layer] and net.biases[layer + 1]):
        return None
    tangents = []
    for unit in (data.constant[layer] & ~data.unheard[layer]).nonzero().flatten().tolist():
        lower = torch.zeros((net.widths[layer + 1], net.fan_in(layer)), dtype=torch.float64)
        upper = torch.zeros((net.widths[layer + 2], net.fan_in(layer + 1)), dtype=torch.float64)
        lower[unit, -1] = 1
        outgoing = data.params[weight_key(layer + 1)][:, unit]
        upper[:, -1] = -outgoing * data.slopes[layer][0, unit]
        tangents.append(in_layer(net, layer, lower[None]) + in_layer(net, layer + 1, upper[None]))
    return _family(
        "bias of constant units",
        f"units of hidden layer {layer} that are constant on the data may shift their bias against "
        "the bias above",
        tangents,
        joint=False,  # curved and at this point only: where it leads is not measured
    )


def _linear_mixing(data: OnData, layer: int) -> list[TangentFamily | None]:
    """Units linear on the data with one pattern of slopes: only the product V·W matters."""
    net = data.net
    if not (net.activations[layer].homogeneous and bool(net.plain_units(layer).all())):
        return []
    scalings, mixings = [], []
    for group in data.same_pattern(layer):
        live = [unit for unit in group if not data.dead[layer][unit]]
        if not live:
            continue
        shift = data.one_slope(layer, live[0]) and net.biases[layer] and net.biases[layer + 1]
        for unit in live:
            scalings.append(_orbit(data, layer, [unit], shift=False))
        if len(live) > 1 or shift:
            fibre = _fibre(data, layer, live, shift)
            mixings.append(_orbit(data, layer, live, shift) if fibre is None else fibre)
    return [
        _family(
            "positive scaling",
            f"units of hidden layer {layer} are positively homogeneous: incoming weights times β, "
            "outgoing divided by β",
            scalings,
        ),
        _family(
            "units linear on the data",
            f"units of hidden layer {layer} with the same slope on every sample act through the "
            "product of outgoing and incoming weights alone",
            mixings,
        ),
    ]


def _at_infinity(data: OnData, layer: int) -> list[TangentFamily | None]:
    """What changes no function of a limiting network: exact at every nearby point (theory §5)."""
    net, problem = data.net, data.problem
    if not isinstance(net, LimitMLP) or not isinstance(problem, AtInfinity):
        return []
    row = net.forms[layer]
    gates: list[Tensor] = []
    for unit in net.plain_units(layer).nonzero().flatten().tolist():
        beside = net.branch(layer, unit)[1:]
        gates += [_orbit(data, layer, beside, shift=False)] if beside else []
    linear = [unit for unit, form in enumerate(row) if form is Form.LINEAR]
    shift = net.biases[layer] and net.biases[layer + 1]
    tails = []
    for unit in (unit for unit, form in enumerate(row) if form is Form.TAIL):
        lower, upper = _blank(net, layer), _blank(net, layer + 1)
        lower[unit, -1] = 1
        upper[:, unit] = -data.params[weight_key(layer + 1)][:, unit]
        tails.append(in_layer(net, layer, lower[None]) + in_layer(net, layer + 1, upper[None]))
    steps = []
    for unit in (unit for unit, form in enumerate(row) if form is Form.STEP):
        edge = problem.offsets[layer][unit] == 0
        chosen = torch.arange(len(row)) == unit
        unseen = Fed(data.inputs[layer].values[edge]).null_space
        steps.append(_every_row(net, layer, unseen, chosen))
    return [
        _family(
            "gates of one unit",
            f"gates of one unit of hidden layer {layer} act through the sum of outgoing times incoming weights",
            gates,
        ),
        _family(
            "linear units at infinity",
            f"units of hidden layer {layer} that have become linear act through the product of their weights",
            [_orbit(data, layer, linear, shift)] if linear else [],
        ),
        _family(
            "tails",
            f"units of hidden layer {layer} in their exponential tails may shift their bias against the size "
            "of their outgoing weights",
            tails,
        ),
        _family(
            "steps",
            f"incoming weights of steps of hidden layer {layer} are noticed by the samples on their edges "
            "alone",
            steps,
        ),
    ]


def _bias_shifts(data: OnData, layer: int) -> TangentFamily | None:
    """Biases of units with one slope on all samples, against the biases above: straight lines."""
    net = data.net
    if not (net.activations[layer].homogeneous and net.biases[layer] and net.biases[layer + 1]):
        return None
    tangents = []
    for unit in range(net.hidden[layer]):
        if data.one_slope(layer, unit):
            tangents.append(_orbit(data, layer, [unit], shift=True)[-1:])
    return _family(
        "biases of units linear on the data",
        f"units of hidden layer {layer} with one slope on every sample may shift their biases against those "
        "above",
        tangents,
    )


def _rotations(data: OnData, layer: int) -> TangentFamily | None:
    """Rotations of units linear on the data with one pattern of slopes: W → QW, V → VQᵀ."""
    net = data.net
    if not net.activations[layer].homogeneous:
        return None
    rows, outgoing = net.layer(data.params, layer), data.params[weight_key(layer + 1)]
    sizes = torch.cat([rows.abs(), outgoing.mT.abs()], dim=1).amax(1)
    largest = max(float(tensor.abs().max()) for tensor in data.params.values())
    tangents = []
    for group in data.same_pattern(layer):
        live = [unit for unit in group if not data.dead[layer][unit]]
        for i, j in combinations(live, 2):
            if max(sizes[i], sizes[j]) <= SAME_DIRECTION * largest:
                continue  # decay has taken both to 0 but for rounding, and there is nothing to turn
            lower, upper = _blank(net, layer), _blank(net, layer + 1)
            lower[i], lower[j] = rows[j], -rows[i]
            upper[:, i], upper[:, j] = outgoing[:, j], -outgoing[:, i]
            tangents.append(
                in_layer(net, layer, lower[None]) + in_layer(net, layer + 1, upper[None])
            )
    return _family(
        "rotations of units linear on the data",
        f"units of hidden layer {layer} with the same slope on every sample act through the product "
        "of outgoing and incoming weights alone, and turning both keeps their lengths",
        tangents,
    )


def _orbit(data: OnData, layer: int, units: list[int], shift: bool) -> Tensor:
    """Tangents of W → EW, V → VE⁻¹ (and z → z + c against the bias above), flat, (k, P)."""
    net = data.net
    rows, outgoing = net.layer(data.params, layer), data.params[weight_key(layer + 1)]
    tangents = []
    for i in units:
        for j in units:
            lower, upper = _blank(net, layer), _blank(net, layer + 1)
            lower[i] = rows[j]
            upper[:, j] = -outgoing[:, i]
            tangents.append((lower, upper))
        if shift:
            lower, upper = _blank(net, layer), _blank(net, layer + 1)
            lower[i, -1] = 1
            upper[:, -1] = -outgoing[:, i] * data.slopes[layer][0, i]
            tangents.append((lower, upper))
    lowers = torch.stack([lower for lower, _ in tangents])
    uppers = torch.stack([upper for _, upper in tangents])
    return in_layer(net, layer, lowers) + in_layer(net, layer + 1, uppers)


def _fibre(data: OnData, layer: int, units: list[int], shift: bool) -> Tensor | None:
    """Tangents of ``{V·W = const}``, if that set is a manifold here: the differential is onto."""
    net = data.net
    W = net.layer(data.params, layer)[units]
    V = data.params[weight_key(layer + 1)][:, units]
    (s, D), M = W.shape, V.shape[0]
    if M * D * s * (M + D) > 4_000_000:
        return None
    slope = data.slopes[layer][0, units[0]] if shift else 1.0
    # d(VW) = dV·W + V·dW, plus the bias above in the column of the bias, if the slope is constant.
    by_V = torch.einsum("mi,sd->mdis", torch.eye(M, dtype=W.dtype), W).reshape(M * D, M * s)
    by_W = torch.einsum("ms,de->mdse", V, torch.eye(D, dtype=W.dtype)).reshape(M * D, s * D)
    by_b = torch.zeros((M, D, M if shift else 0), dtype=W.dtype)
    if shift:
        by_b[:, -1, :] = torch.eye(M, dtype=W.dtype) / slope
    differential = torch.cat([by_V, by_W, by_b.reshape(M * D, -1)], dim=1)
    # In natural units: rank and kernel are those of any data, whatever units they are in.
    natural = data.natural
    below, above = (net.layer(net.unflatten(natural.unit), each) for each in (layer, layer + 1))
    own = torch.cat(
        [above[:, units].flatten(), below[units].flatten(), above[:, -1] if shift else V[:0, 0]]
    )
    by = (natural.gain[layer + 1][:, None] * natural.fed[layer]).flatten()
    _, sizes, right = torch.linalg.svd(by[:, None] * differential * own)
    if len(sizes) < M * D or sizes[M * D - 1] <= 1e-8 * sizes[0]:
        return None
    kernel = right[M * D :] * own
    k = len(kernel)
    lowers = torch.zeros((k, net.widths[layer + 1], D), dtype=W.dtype)
    uppers = torch.zeros((k, M, net.fan_in(layer + 1)), dtype=W.dtype)
    uppers[:, :, units] = kernel[:, : M * s].reshape(k, M, s)
    lowers[:, units] = kernel[:, M * s : M * s + s * D].reshape(k, s, D)
    if shift:
        uppers[:, :, -1] = kernel[:, M * s + s * D :]
    return in_layer(net, layer, lowers) + in_layer(net, layer + 1, uppers)


def _blank(net: MLP, layer: int) -> Tensor:
    return torch.zeros((net.widths[layer + 1], net.fan_in(layer)), dtype=torch.float64)


def _softmax_shift(data: OnData) -> TangentFamily | None:
    if not data.problem.loss.shift_invariant:
        return None
    last = data.net.depth - 1
    vectors = torch.eye(data.net.fan_in(last), dtype=torch.float64)
    rows = torch.ones((1, data.net.outputs, 1), dtype=torch.float64) * vectors[:, None, :]
    return _family(
        "softmax shift",
        "the loss ignores what is added to all outputs alike",
        in_layer(data.net, last, rows),
    )


def _exact_fits(data: OnData) -> TangentFamily | None:
    """The manifold of networks whose outputs are the best there are on each distinct input."""
    problem, net = data.problem, data.net
    each = net.outputs - problem.loss.shift_invariant
    rows = each * (int(data.distinct.max()) + 1)
    if rows > net.parameter_count or not data.fits_best:
        return None
    unit = data.natural.unit
    jacobian = _of_distinct_inputs(data)
    _, sizes, right = torch.linalg.svd(jacobian)
    if sizes[-1] <= INDEPENDENT * sizes[0]:
        return None
    # Best outputs are near if the Jacobian is the same as far away as what is left, and rounding, may put them.
    off = data.per_input(data.natural.residual).abs() + data.per_input(data.natural.output_noise)
    step = right[:rows].mT @ (torch.linalg.vector_norm(off * data.natural.gain[-1]) / sizes)
    there = OnData(problem, net.unflatten(net.flatten(data.params) + unit * step))
    change = torch.linalg.matrix_norm(_of_distinct_inputs(there, data) - jacobian, ord=2)
    if not change <= sizes[-1] / 4:
        return None
    return _family(
        "exact fits",
        "the outputs are the best there are on every input, and the networks that do so form a manifold",
        right[rows:] * unit,
    )


def _of_distinct_inputs(data: OnData, measured: OnData | None = None) -> Tensor:
    """``∂f/∂θ`` on each distinct input, (rows, P), parameters and outputs in natural units.

    Where the loss ignores what is added to all outputs alike, of the outputs less the last one.
    """
    sizes = (measured or data).natural
    full = output_jacobian(data.problem, data.params) * sizes.unit
    jacobian = data.per_input(full * sizes.gain[-1][:, None])
    if data.problem.loss.shift_invariant:
        jacobian = jacobian[:, :-1] - jacobian[:, -1:]
    return jacobian.flatten(0, 1)
