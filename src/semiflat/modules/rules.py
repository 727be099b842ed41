"""What each operation does to labels: the table of what is known.

Operations that only move elements are done to the labels themselves. All linear layers, convolutions without
groups, products of matrices and attention are one rule, :func:`contract`. An operation that is in no table is
refused by name where a unit meets it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from semiflat.modules.flow import Flow, Rule, Value, Weight, lanes_of, name_of, salt
from semiflat.modules.ties import FIXED, UNIFORM, filled, slim

RULES: dict[str, Rule] = {}


def rule_of(node: fx.Node) -> Rule:
    """The rule of an operation."""
    name = name_of(node)
    if name in RULES:
        return RULES[name]
    tags = getattr(node.target, "tags", ())
    if torch.Tag.pointwise in tags:
        return _pointwise
    return _unknown


def _rule(*names: str) -> Callable[[Rule], Rule]:
    def keep(rule: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, rule))
        return rule

    return keep


def _tensors(value: Any) -> list[Value]:
    if isinstance(value, Tensor | Weight):
        return [value]
    if isinstance(value, tuple | list):
        return [each for part in value for each in _tensors(part)]
    return []


def _fixed(node: fx.Node, label: int = FIXED) -> Value:
    """What an operation gives where no unit enters it."""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return filled(label, value.shape)
    if isinstance(value, tuple | list):
        return [filled(label, each.shape) if isinstance(each, Tensor) else each for each in value]
    return value


def _owned(flow: Flow, values: list[Value]) -> bool:
    return any(
        not value.buffer if isinstance(value, Weight) else bool((slim(value) >= 0).any())
        for value in values
    )


def _unknown(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    operands = _tensors([args, list(kwargs.values())])
    if _owned(flow, operands):
        flow.unknown.setdefault(name_of(node), flow.where(node))
        for value in operands:
            flow.forbid(node, flow.labels(value), f"no rule is known for {name_of(node)!r}")
    return _fixed(node)


# -- element by element ----------------------------------------------------------------------------

SUMS = {"add", "sub", "rsub"}
PRODUCTS = {"mul", "div", "true_divide", "multiply"}


def _pointwise(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    operands = _tensors([args, list(kwargs.values())])
    name = name_of(node)
    what = "joined" if name in SUMS else "gated" if name in PRODUCTS else ""
    if not operands:
        return _fixed(node)
    return flow.join(node, operands, what)


for _name in (
    *(
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "relu6",
        "elu",
        "celu",
        "selu",
        "mish",
        "silu",
        "gelu",
    ),
    *("leaky_relu", "softplus", "softshrink", "hardshrink", "tanhshrink", "threshold", "glu_jvp"),
    *("masked_fill", "where", "clamp", "clip", "square", "logsigmoid", "log_sigmoid", "softsign"),
    *("add", "sub", "rsub", "mul", "div", "pow", "float_power", "nan_to_num", "fill", "lerp"),
):
    RULES[_name] = _pointwise


@_rule("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "rrelu", "bernoulli")
def _random(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    drawn = name_of(node) == "bernoulli" or (args[-1] is True and args[1] != 0)
    if drawn:
        flow.random.append(flow.where(node))
    return flow.labels(args[0])


@_rule("prelu")
def _prelu(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    x, weight = args
    if isinstance(weight, Weight) and weight.view.numel() > 1:
        flow.acts(weight)
        return flow.join(node, [x, _along_channels(flow, weight, flow.labels(x).ndim)])
    return flow.join(node, [x, weight])


@_rule("glu")
def _glu(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    axis = args[1] if len(args) > 1 else kwargs.get("dim", -1)
    return flow.join(node, list(flow.labels(args[0]).chunk(2, axis)), "gated")


def _along_channels(flow: Flow, weight: Value, ndim: int, statistics: bool = False) -> Tensor:
    """The labels of a vector, laid along axis 1."""
    return flow.labels(weight, statistics).view([1, -1] + [1] * (ndim - 2))


# -- movement --------------------------------------------------------------------------------------

# fmt: off
SAME: tuple[str, ...] = (
    "detach", "contiguous", "clone", "alias", "to", "_to_copy", "type_as", "float", "double",
    "half", "bfloat16", "lift_fresh_copy", "_assert_tensor_metadata", "positive", "lift",
    "lift_fresh", "cpu",
)
# fmt: on


@_rule(*SAME)
def _same(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    return args[0] if args and isinstance(args[0], Tensor | Weight) else _fixed(node)


# fmt: off
MOVES: tuple[str, ...] = (
    "view", "_unsafe_view", "reshape", "transpose", "permute", "t", "mT", "numpy_T", "T", "adjoint",
    "expand", "unsqueeze", "squeeze", "flatten", "unflatten", "slice", "select", "narrow", "chunk",
    "split", "split_with_sizes", "unsafe_split", "unsafe_chunk", "tensor_split", "unbind", "repeat",
    "repeat_interleave", "tile", "roll", "flip", "rot90", "movedim", "moveaxis", "swapaxes",
    "swapdims", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "diagonal", "unfold",
    "atleast_1d", "atleast_2d", "atleast_3d",
)
# fmt: on


@_rule(*MOVES)
def _move(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    value, *rest = args
    target: Any = node.target
    if any(isinstance(each, Tensor) for each in rest):
        return _unknown(flow, node, args, kwargs)
    if isinstance(value, Weight):
        moved = target(value.view, *rest, **kwargs)
        if isinstance(moved, Tensor):
            return _weight_or_labels(flow, value, moved, target, rest, kwargs)
        return [
            Weight(value.name, value.whole, each, value.buffer)
            for each in moved  # of splits, which are views
        ]
    if name_of(node) == "view":  # labels are expanded, and may have to be copied
        return (
            value.reshape(*rest)
            if len(rest) == 1 and isinstance(rest[0], list | tuple)
            else target(value, *rest)
        )
    moved = target(value, *rest, **kwargs)
    return list(moved) if isinstance(moved, tuple | list) else moved


def _weight_or_labels(
    flow: Flow, value: Weight, moved: Tensor, target: Any, rest: list[Any], kwargs: dict[str, Any]
) -> Value:
    if moved.untyped_storage().data_ptr() == value.whole.untyped_storage().data_ptr():
        return Weight(value.name, value.whole, moved, value.buffer)
    return target(flow.labels(value), *rest, **kwargs)


def is_view(node: fx.Node) -> bool:
    """Whether an operation gives a part of its first argument, or all of it, in the same storage."""
    return name_of(node) in (*MOVES, "getitem")


@_rule("getitem")
def _getitem(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    return args[0][args[1]]


@_rule("expand_as", "view_as", "reshape_as")
def _as_other(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    labels = flow.labels(args[0])
    return (
        labels.expand(flow.shape(node))
        if name_of(node) == "expand_as"
        else labels.reshape(flow.shape(node))
    )


@_rule("cat", "concat", "concatenate", "stack", "hstack", "vstack")
def _cat(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    parts = [flow.labels(each) for each in args[0]]
    target: Any = node.target
    joined: Tensor = target(parts, *args[1:], **kwargs)
    return joined


@_rule("pad", "constant_pad_nd")
def _pad(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    labels = flow.labels(args[0])
    mode = args[2] if len(args) > 2 and isinstance(args[2], str) else kwargs.get("mode", "constant")
    if mode == "constant":
        return F.pad(labels, args[1], value=UNIFORM)
    padded: Tensor = F.pad(labels.double(), args[1], mode=mode).long()
    return padded


@_rule("index", "index_select", "gather", "take_along_dim")
def _index(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    value, *rest = args
    if _owned(flow, _tensors(rest)) or kwargs:
        return _unknown(flow, node, args, kwargs)
    if not _owned(flow, [value]):
        return _fixed(node)
    real = fx.node.map_arg(node.args[1:], flow.real)
    target: Any = node.target
    labels = flow.labels(value)
    moved: Tensor = target(labels, *real)
    if _from_inputs(flow, node.all_input_nodes[1:]):
        other = target(labels, *torch.utils._pytree.tree_map_only(Tensor, torch.zeros_like, real))
        if other.shape != moved.shape or not torch.equal(other, moved):
            flow.forbid(node, labels, "an input chooses its places")
    return moved


def _from_inputs(flow: Flow, nodes: list[fx.Node]) -> bool:
    """Whether values of the model's inputs enter some nodes."""
    seen, left = set(nodes), list(nodes)
    while left:
        node = left.pop()
        if node.name in flow.captured.inputs:
            return True
        fresh = [each for each in node.all_input_nodes if each not in seen]
        seen.update(fresh)
        left += fresh
    return False


UNIFORMS = (
    "zeros",
    "ones",
    "full",
    "zeros_like",
    "ones_like",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_full",
)


@_rule(*UNIFORMS, "scalar_tensor", "empty", "empty_like", "new_empty")
def _uniform(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    return _fixed(node, UNIFORM)


# -- contractions ----------------------------------------------------------------------------------


def contract(flow: Flow, node: fx.Node, a: Value, b: Value, letters: str) -> Value:
    """Sum of products, as ``einsum`` writes it: ``"ik,jk->ij"``.

    Where one factor is a weight, it reads the units of the other, and what it gives are new units. Where both
    are computed, the units that meet are tied: those of a query, a key and the value that they weigh.
    """
    inputs, out = letters.split("->")
    first, second = inputs.split(",")
    if isinstance(a, Weight) and not a.buffer and not isinstance(b, Weight):
        a, b, first, second = b, a, second, first
    if isinstance(b, Weight) and not b.buffer and not isinstance(a, Weight):
        return _read(flow, node, a, b, first, second, out)
    return _meet(
        flow, node, flow.labels(a), flow.labels(b), f"{first},{second}->{out}", flow.shape(node)
    )


def _meet(
    flow: Flow, node: fx.Node, a: Tensor, b: Tensor, letters: str, shape: tuple[int, ...]
) -> Tensor:
    """The contraction of two computed factors: what is summed over, and what meets, is tied."""
    inputs, out = letters.split("->")
    every = "".join(dict.fromkeys(out + inputs.replace(",", "")))
    summed = tuple(range(len(out), len(every)))
    whole = [
        _in_order(each, own, every) for each, own in zip((a, b), inputs.split(","), strict=True)
    ]
    owned = [bool((slim(each) >= 0).any()) for each in whole]
    why = "" if all(owned) else FIXED_SUM
    thin = [flow.mix(node, each, summed, why) for each in whole]
    if all(owned):
        flow.ties.tie(*thin)
        for each in thin:
            flow.ties.mark("attends", each, flow.where(node), node.name)
    elif any(owned):
        units, constant = whole if owned[0] else whole[::-1]
        if bool((slim(constant) == FIXED).any()):
            flow.ties.meets(units, constant.shape, salt(node), flow.where(node))
    labels = torch.maximum(*torch.broadcast_tensors(*thin))
    return labels[(...,) + (0,) * len(summed)].expand(shape)


def _in_order(labels: Tensor, letters: str, every: str) -> Tensor:
    """Labels with axes in another order, and of size 1 where they have none."""
    present = [letter for letter in every if letter in letters]
    labels = labels.permute([letters.index(letter) for letter in present])
    for place, letter in enumerate(every):
        if letter not in letters:
            labels = labels.unsqueeze(place)
    return labels


def _read(
    flow: Flow, node: fx.Node, x: Value, weight: Weight, of_x: str, of_weight: str, out: str
) -> Value:
    labels = flow.labels(x)
    free = tuple(place for place, letter in enumerate(of_x) if letter not in of_weight)
    taken = tuple(place for place, letter in enumerate(of_x) if letter not in out)
    read = _one_for_each(flow, node, labels, free, taken)
    for place in sorted(free, reverse=True):
        read = read.select(place, 0)
    kept = [letter for letter in of_x if letter in of_weight]
    reads = _in_order(read, "".join(kept), of_weight).expand(weight.view.shape)
    written = [letter for letter in of_weight if letter in out]
    sizes = dict(zip(of_weight, weight.view.shape, strict=True))
    made = flow.ties.fresh(*(sizes[letter] for letter in written))
    writes = _in_order(made, "".join(written), of_weight)
    shared = [letter for letter in written if letter in of_x]
    if shared:  # a block for each place: what it reads and what it writes are one
        summed = tuple(of_weight.index(letter) for letter in of_weight if letter not in shared)
        one, two = flow.ties.along(reads, summed), flow.ties.along(writes, summed)
        flow.ties.tie(one, two)
        flow.ties.mark("block", made, flow.where(node), node.name)
        flow.use(weight, "between", writes.expand(weight.view.shape), node)
    else:
        flow.use(weight, "reads", reads, node, _only(of_weight, "".join(kept)))
        made_at = _only(of_weight, "".join(written))
        flow.use(weight, "writes", writes.expand(weight.view.shape), node, made_at)
    result = _in_order(made, "".join(written), out)
    return result.expand(flow.shape(node))


def _only(letters: str, of: str) -> int | None:
    """The axis of the only letter, if there is one alone."""
    return letters.index(of) if len(of) == 1 else None


def _one_for_each(
    flow: Flow, node: fx.Node, labels: Tensor, axes: tuple[int, ...], taken: tuple[int, ...]
) -> Tensor:
    """What a weight's place reads has to be one unit wherever it is applied; it is summed along axes taken."""
    thin = slim(labels)
    several = len(axes) and bool((thin.amax(axes, keepdim=True) != thin).any())
    if several and all(thin.shape[axis] == 1 for axis in taken):
        flow.forbid(node, thin, "the same weights are applied to every unit by itself")
    fixed = (thin == FIXED).any(dim=axes, keepdim=True) if axes else thin == FIXED
    owned = (thin >= 0).any(dim=axes, keepdim=True) if axes else thin >= 0
    if bool((fixed & owned).any()):
        flow.forbid(
            node,
            torch.where(fixed, thin, UNIFORM),
            "one weight reads it in some places and what no unit owns in others",
        )
    return flow.ties.along(labels, axes)


LETTERS = "abcdefghijklmnopqrstuvw"


def _matmul_letters(one: int, two: int) -> str:
    """Of ``torch.matmul`` for tensors with so many axes."""
    batch = LETTERS[: max(one, two) - 2] if max(one, two) > 2 else ""
    left = batch[len(batch) - max(one - 2, 0) :] + ("y" if one > 1 else "") + "z"
    right = batch[len(batch) - max(two - 2, 0) :] + "z" + ("x" if two > 1 else "")
    return f"{left},{right}->{batch}{'y' if one > 1 else ''}{'x' if two > 1 else ''}"


def _ndim(flow: Flow, value: Value) -> int:
    return int(value.view.ndim if isinstance(value, Weight) else value.ndim)


@_rule("matmul", "mm", "bmm", "mv", "dot")
def _matmul(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    a, b = args[:2]
    return contract(flow, node, a, b, _matmul_letters(_ndim(flow, a), _ndim(flow, b)))


@_rule("addmm", "baddbmm", "addbmm")
def _addmm(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    if kwargs or len(args) > 3 or name_of(node) == "addbmm":
        return _unknown(flow, node, args, kwargs)
    bias, a, b = args
    out = contract(flow, node, a, b, _matmul_letters(_ndim(flow, a), _ndim(flow, b)))
    return flow.join(node, [out, bias], "joined")


@_rule("einsum")
def _einsum(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    letters, operands = args[0].replace(" ", ""), args[1]
    inputs = letters.split("->")[0].split(",")
    if (
        "." in letters
        or "->" not in letters
        or len(operands) != 2
        or any(len(set(each)) < len(each) for each in inputs)
    ):
        return _unknown(flow, node, args, kwargs)
    return contract(flow, node, operands[0], operands[1], letters)


@_rule("linear")
def _linear(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    x, weight, *bias = args
    bias = [each for each in [*bias, kwargs.get("bias")] if each is not None]
    batch = LETTERS[: _ndim(flow, x) - 1]
    of_weight = node.args[1]
    if (
        isinstance(weight, Tensor)
        and isinstance(of_weight, fx.Node)
        and _owned(flow, [weight])
        and not _from_inputs(flow, [of_weight])
    ):
        flow.forbid(node, weight, _computed(flow, of_weight))
    out = contract(flow, node, x, weight, f"{batch}z,yz->{batch}y")
    return flow.join(node, [out, *bias], "joined")


def _computed(flow: Flow, weight: fx.Node) -> str:
    return f"its weights are computed from parameters, by {flow.where(weight)}"


@_rule("scaled_dot_product_attention")
def _attention(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    query, key, value, *more = args
    names = ("attn_mask", "dropout_p", "is_causal")
    options = dict(zip(names, more, strict=False)) | kwargs
    if options.get("dropout_p"):
        flow.random.append(flow.where(node))
    q, k, v = (flow.labels(each) for each in (query, key, value))
    if options.get("enable_gqa"):
        times = q.shape[-3] // k.shape[-3]
        k, v = (each.repeat_interleave(times, -3) for each in (k, v))
    batch = LETTERS[: q.ndim - 2]
    shape = (*q.shape[:-1], k.shape[-2])
    scores = _meet(flow, node, q, k, f"{batch}yz,{batch}xz->{batch}yx", shape)
    mask = options.get("attn_mask")
    if mask is not None:
        flow.ties.tie(scores, flow.labels(mask))
        if not _owned(flow, [mask]):
            flow.ties.meets(scores, flow.labels(mask).shape, salt(node), flow.where(node))
    scores = flow.ties.along(scores, (-1,)).expand(shape)
    return contract(flow, node, scores, v, f"{batch}yx,{batch}xz->{batch}yz")


# -- convolutions ----------------------------------------------------------------------------------


@_rule(
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
    "convolution",
)
def _convolve(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    named = {each.name: place for place, each in enumerate(node.target._schema.arguments)}  # type: ignore[union-attr]

    def given(name: str, default: Any) -> Any:
        place = named.get(name, len(args))
        return args[place] if place < len(args) else kwargs.get(name, default)

    x, weight, bias = args[0], args[1], given("bias", None)
    groups = given("groups", 1)
    across = "transpose" in name_of(node) or bool(given("transposed", False))
    of_weight = node.args[1]
    if isinstance(weight, Tensor) and isinstance(of_weight, fx.Node) and _owned(flow, [weight]):
        for value in _tensors([x, weight, bias]):
            flow.forbid(node, flow.labels(value), _computed(flow, of_weight))
        return _fixed(node)
    if not isinstance(weight, Weight) or weight.buffer or not weight.untouched:
        return _unknown(flow, node, args, kwargs)
    labels = flow.labels(x)
    spatial = weight.view.ndim - 2
    batched = labels.ndim == weight.view.ndim
    channel = labels.ndim - 1 - spatial
    axes = tuple(axis for axis in range(labels.ndim) if axis != channel)
    read = _one_for_each(flow, node, labels, axes, (channel,)).reshape(-1)
    inputs = labels.shape[channel]
    read = read.expand(inputs) if len(read) == 1 else read
    shape = weight.view.shape
    outputs = shape[1] * groups if across else shape[0]
    made = flow.ties.fresh(outputs)
    per_in, per_out = inputs // groups, outputs // groups
    if groups > 1:  # groups are blocks: what one reads and what it writes are one
        wide_in, wide_out = read.reshape(groups, per_in), made.view(groups, per_out)
        one, two = flow.ties.along(wide_in, (1,)), flow.ties.along(wide_out, (1,))
        flow.ties.tie(one, two)
        if per_in > 1 or per_out > 1:
            flow.ties.mark("block", made, flow.where(node), node.name)
        fixed = (read == FIXED).any()
        if bool(fixed):
            flow.forbid(node, made, "each group of the convolution reads inputs of its own")
        owner = read if across else made
        flow.use(weight, "between", _along(owner, 0, shape), node, 0, conv=True)
    else:
        inner, outer = (0, 1) if across else (1, 0)
        flow.use(weight, "reads", _along(read, inner, shape), node, inner, conv=True)
        flow.use(weight, "writes", _along(made, outer, shape), node, outer, conv=True)
    out = made.view([1] * batched + [outputs] + [1] * spatial).expand(flow.shape(node))
    if bias is None:
        return out
    laid = flow.labels(bias).view([1] * batched + [-1] + [1] * spatial)
    return flow.join(node, [out, laid])  # a bias: its atoms are those of a weight that is added


def _along(labels: Tensor, axis: int, shape: torch.Size) -> Tensor:
    return labels.view([-1 if place == axis else 1 for place in range(len(shape))]).expand(shape)


@_rule("embedding")
def _embedding(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    weight, where = args[:2]
    if not isinstance(weight, Weight) or _owned(flow, _tensors(where)):
        return _unknown(flow, node, args, kwargs)
    if weight.buffer:
        return _fixed(node)
    made = flow.ties.fresh(weight.view.shape[1])
    flow.use(weight, "writes", made.expand(weight.view.shape), node, 1, lookup=True)
    return made.expand(flow.shape(node))


# -- norms, pooling, reductions --------------------------------------------------------------------


@_rule("batch_norm", "instance_norm", "_native_batch_norm_legit", "cudnn_batch_norm")
def _batch_norm(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    labels = flow.labels(args[0])
    flow.mix(node, labels, tuple(axis for axis in range(labels.ndim) if axis != 1), MIXES)
    for vector, role in zip(args[1:5], ("between", "shifts", *["statistics"] * 2), strict=True):
        if vector is not None:
            flow.acts(vector, role)
            own = _along_channels(flow, vector, labels.ndim, role == "statistics")
            labels = flow.join(node, [labels, own])
    flow.normalised(node, labels, 1)
    return labels.expand(flow.shape(node))


@_rule("group_norm")
def _group_norm(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    x, groups, *rest = args
    labels = flow.labels(x)
    thin = flow.mix(node, labels, tuple(axis for axis in range(labels.ndim) if axis != 1), MIXES)
    if thin.shape[1] > 1:
        wide = thin.reshape(thin.shape[1]).view(groups, -1)
        flow.ties.along(wide, (1,))
        if wide.shape[1] > 1:
            flow.ties.mark("block", thin, flow.where(node), node.name)
    flow.normalised(node, labels, 1)
    for vector, role in zip(rest[:2], ("between", "shifts"), strict=False):
        if vector is not None:
            flow.acts(vector, role)
            labels = flow.join(node, [labels, _along_channels(flow, vector, labels.ndim)])
    return labels


@_rule("layer_norm", "rms_norm")
def _layer_norm(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    x, shape, *rest = args
    labels = flow.labels(x)
    axes = tuple(range(labels.ndim - len(shape), labels.ndim))
    if len(shape) > 1:
        labels = flow.mix(node, labels, axes, "a norm over several axes mixes it").expand(
            labels.shape
        )
    elif slim(labels).shape[-1] > 1:
        what = "layer norm" if name_of(node) == "layer_norm" else "rms norm"
        lanes = lanes_of(slim(labels), (labels.ndim - 1,))
        flow.ties.mark(what, labels, flow.where(node), node.name, lanes=lanes)
        flow.normalised(node, labels, labels.ndim - 1)
    vectors = [each for each in rest[:2] if isinstance(each, Tensor | Weight)]
    for vector, role in zip(vectors, ("between", "shifts"), strict=False):
        flow.acts(vector, role)
    return flow.join(node, [labels, *vectors])


POOLS = {
    "1d": 1,
    "2d": 2,
    "3d": 3,
    "linear1d": 1,
    "bilinear2d": 2,
    "nearest1d": 1,
    "nearest2d": 2,
    "trilinear3d": 3,
}
POOLS |= {"bicubic2d": 2, "nearest3d": 3}


def _pool(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    count = next(n for end, n in POOLS.items() if end in name_of(node))
    labels = flow.labels(args[0])
    thin = flow.mix(node, labels, tuple(range(-count, 0)), MIXES)
    value = node.meta["val"]
    shapes = [each.shape for each in value] if isinstance(value, tuple | list) else [value.shape]
    found = [thin.expand(shape) for shape in shapes]
    return found if isinstance(value, tuple | list) else found[0]


for _kind in (
    "max_pool",
    "avg_pool",
    "adaptive_avg_pool",
    "adaptive_max_pool",
    "_adaptive_avg_pool",
):
    for _count in ("1d", "2d", "3d"):
        RULES[f"{_kind}{_count}"] = RULES[f"{_kind}{_count}_with_indices"] = _pool
for _end in (
    "linear1d",
    "bilinear2d",
    "bicubic2d",
    "nearest1d",
    "nearest2d",
    "nearest3d",
    "trilinear3d",
):
    RULES[f"upsample_{_end}"] = _pool

FIXED_SUM = "it is summed with others by fixed weights, so units there are no copies of one another"
MIXES = "it is mixed with others along an axis, so none can be added or left out alone"


@_rule(
    "softmax",
    "log_softmax",
    "_softmax",
    "_log_softmax",
    "cumsum",
    "cumprod",
    "logcumsumexp",
    "normalize",
)
def _along_axis(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    axis: int = args[1] if len(args) > 1 else kwargs["dim"]
    return flow.mix(node, args[0], (axis,), MIXES).expand(flow.shape(node))


def _is_rms(node: fx.Node, axes: tuple[int, ...], ndim: int) -> bool:
    """Whether ``mean(x²)`` over the last axis goes into ``x · rsqrt(· + eps)`` and nowhere else.

    Units are then normalised together, as by ``rms_norm``.
    """
    source = node.args[0]
    if name_of(node) != "mean" or [axis % ndim for axis in axes] != [ndim - 1]:
        return False
    if not isinstance(source, fx.Node) or not _is_square(source):
        return False
    at, passed = node, []
    while len(at.users) == 1 and name_of(at) not in ("mul", "div"):
        at = next(iter(at.users))
        if name_of(at) not in SAME:
            passed.append(name_of(at))
    if passed not in (["add", "rsqrt", "mul"], ["add", "sqrt", "div"]):
        return False
    of = _without_casts(source.all_input_nodes[0])
    return any(_scaled_from(each, of) for each in at.all_input_nodes)


def _scaled_from(node: fx.Node, of: fx.Node) -> bool:
    """Whether a node is another one, but for casts and factors."""
    node = _without_casts(node)
    if node is of:
        return True
    return name_of(node) == "mul" and any(_scaled_from(each, of) for each in node.all_input_nodes)


def _is_square(node: fx.Node) -> bool:
    if name_of(node) == "mul":
        return node.args[0] is node.args[1]
    return name_of(node) == "square" or (name_of(node) == "pow" and node.args[1:] == (2,))


def _without_casts(node: fx.Node) -> fx.Node:
    while name_of(node) in SAME and node.all_input_nodes:
        node = node.all_input_nodes[0]
    return node


@_rule(
    "mean",
    "sum",
    "amax",
    "amin",
    "var",
    "std",
    "logsumexp",
    "prod",
    "norm",
    "linalg_vector_norm",
    "max",
    "min",
)
def _reduce(flow: Flow, node: fx.Node, args: list[Any], kwargs: dict[str, Any]) -> Value:
    x = args[0]
    labels = flow.labels(x)
    value = node.meta["val"]
    named = {each.name: place for place, each in enumerate(node.target._schema.arguments)}  # type: ignore[union-attr]
    if len(_tensors(args)) > 1:  # the larger of two, element by element
        rule = _pointwise if name_of(node) in ("max", "min") else _unknown
        return rule(flow, node, args, kwargs)
    place = named.get("dim", len(args))
    axes = args[place] if place < len(args) else kwargs.get("dim")
    axes = tuple(range(labels.ndim)) if axes is None or axes == [] else axes
    axes = (axes,) if isinstance(axes, int) else tuple(axes)
    if _is_rms(node, axes, labels.ndim):
        lanes = lanes_of(slim(labels), (labels.ndim - 1,))
        flow.ties.mark("rms norm", labels, flow.where(node), node.name, lanes=lanes)
        return _fixed(node, UNIFORM)
    thin = flow.mix(node, labels, axes, FIXED_SUM if name_of(node) in ("mean", "sum") else MIXES)
    first = value if isinstance(value, Tensor) else value[0]
    if first.ndim < labels.ndim:
        for axis in sorted((axis % labels.ndim for axis in axes), reverse=True):
            thin = thin.select(axis, 0)
    out = thin.expand(first.shape)
    return out if isinstance(value, Tensor) else [out, filled(FIXED, value[1].shape)]
