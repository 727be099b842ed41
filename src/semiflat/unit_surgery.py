"""Surgery on hidden units: they are turned round, put in order, left out, and made one.

Each function takes parameters, or what moves as they do (a direction, the sizes of terms), with any leading
batch axes, and gives others; a tensor that stays as it is is shared. Gradients move otherwise, and copies of
units with exact shares are :mod:`semiflat.embeddings`.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from semiflat.networks import MLP, Params, bias_key, weight_key

Units = Sequence[int] | Tensor
"""Places of units in a hidden layer, or a mask of them."""


def with_layer(net: MLP, params: Params, layer: int, rows: Tensor) -> Params:
    """``params`` with other weights in a linear layer: the inverse of :meth:`MLP.layer`.

    Args:
        rows: ``[W_l, b_l]``, (*batch, out, D); there may be more of them than before, or fewer.
    """
    width = rows.shape[-1] - net.biases[layer]
    out = params | {weight_key(layer): rows[..., :width].contiguous()}
    if net.biases[layer]:
        out[bias_key(layer)] = rows[..., width].contiguous()
    return out


def with_rows(net: MLP, params: Params, layer: int, units: Units | int, rows: Tensor) -> Params:
    """``params`` with other incoming weights, the biases last, of some units: (*batch, k, D)."""
    whole = net.layer(params, layer).clone()
    whole[..., units, :] = rows
    return with_layer(net, params, layer, whole)


def chosen(net: MLP, params: Params, layer: int, units: Units) -> Params:
    """The units named of a hidden layer, in that order, and no others of it.

    >>> net = MLP([2, 3, 1]); params = net.random_params(0)
    >>> fewer = chosen(net, params, 0, [2, 0])
    >>> [(key, tuple(tensor.shape)) for key, tensor in fewer.items()]
    [('0.weight', (2, 2)), ('0.bias', (2,)), ('2.weight', (1, 2)), ('2.bias', (1,))]
    """
    above = weight_key(layer + 1)
    rows = net.layer(params, layer)[..., units, :]
    return with_layer(net, params, layer, rows) | {above: params[above][..., units]}


def may_reflect(net: MLP, layer: int) -> bool:
    """Whether units can be turned round: σ(−z) = c − σ(z), and c, if not 0, has a bias to go to."""
    constant = net.activations[layer].reflection
    return constant == 0 or (constant is not None and net.biases[layer + 1])


def reflected(net: MLP, params: Params, layer: int, units: Units) -> Params:
    """Some units turned round by σ(z) = c − σ(−z), where they may be; c is paid to the bias above.

    >>> import torch
    >>> net = MLP([2, 3, 1], "sigmoid"); params = net.random_params(0); x = torch.ones(1, 2).double()
    >>> change = net.forward(reflected(net, params, 0, [1]), x) - net.forward(params, x)
    >>> float(change.abs().max()) < 1e-15
    True
    """
    above, constant = params[weight_key(layer + 1)], net.activations[layer].reflection
    sign = above.new_ones(above.shape[-1])
    sign[units] = -1.0
    out = with_layer(net, params, layer, net.layer(params, layer) * sign[:, None])
    out[weight_key(layer + 1)] = above * sign
    if constant:
        paid = constant * above[..., units].sum(-1)
        out[bias_key(layer + 1)] = params[bias_key(layer + 1)] + paid
    return out


def merged(
    net: MLP,
    params: Params,
    layer: int,
    rows: Tensor,
    source: Tensor,
    scale: Tensor | float = 1.0,
    constant: Tensor | None = None,
) -> Params:
    """Units made fewer: what listened to one listens to its source, with the sum of the weights.

    Args:
        rows: incoming weights of the units there will be, the biases last, (k, D).
        source: which of them each unit becomes, (n,); −1 where it is dropped.
        scale: how many times its source a unit hands on, (n,).
        constant: what it hands on besides, (n,); its share goes to the bias above.

    >>> import torch
    >>> net = MLP([1, 2, 1]); params = net.random_params(0)
    >>> one = merged(net, params, 0, net.layer(params, 0)[:1], torch.tensor([0, 0]))
    >>> bool(one["2.weight"] == params["2.weight"].sum()), tuple(one["0.weight"].shape)
    (True, (1, 1))
    """
    above, kept = params[weight_key(layer + 1)], (source >= 0).nonzero().flatten()
    out = with_layer(net, params, layer, rows)
    blank = above.new_zeros(len(above), len(rows))
    out[weight_key(layer + 1)] = blank.index_add(1, source[kept], (above * scale)[:, kept])
    if constant is not None and bool(constant.any()):
        out[bias_key(layer + 1)] = params[bias_key(layer + 1)] + above @ constant
    return out
