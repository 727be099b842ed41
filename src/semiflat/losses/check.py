"""A loss of one's own, held once against what is asked of it and against automatic differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from semiflat.errors import InputError
from semiflat.losses.loss import Loss
from semiflat.losses.residual import ResidualLoss

SAMPLES = 8
"""On how many samples a loss is tried: fewer where ∂²ℓ/∂f² of so many has more than a million entries."""
COLUMNS = 8
"""How many columns of ∂²ℓ/∂f² are compared."""


def checked_targets(loss: Loss, y: Tensor, samples: int, outputs: int) -> Tensor:
    """``loss.targets``; a loss that is not the library's is tried on some of them first.

    Its derivatives have to be those that automatic differentiation of its values finds, at outputs of size
    1 and at as many near the targets, if those are outputs themselves.

    Raises:
        InputError: if the loss has no name, fails, or gives something else than what is asked of it.
    """
    if type(loss).__module__.startswith("semiflat."):
        return loss.targets(y, samples, outputs)
    kind = type(loss).__name__
    name = getattr(loss, "name", None)
    if not isinstance(name, str) or not name:
        raise InputError(
            f"loss {kind} has the name {name!r}; give its class one, a word to write into files: "
            f"name = {kind.lower()!r}"
        )
    targets = _asked(loss, "targets", lambda: loss.targets(y, samples, outputs))
    if not isinstance(targets, Tensor) or targets.shape[:1] != (samples,):
        raise InputError(
            f"loss {name!r}: targets gives {_shown(targets)}; expected is a tensor of {samples} targets"
        )
    # Outside inference mode, whose tensors torch does not differentiate with.
    with torch.inference_mode(False), torch.enable_grad():
        some = targets[: min(SAMPLES, max(1, 10**6 // outputs**2))].clone()
        generator = torch.Generator().manual_seed(0)
        f = torch.randn(len(some), outputs, generator=generator, dtype=y.dtype)
        _hold(loss, f, some)
        if some.is_floating_point() and some.shape == f.shape:
            _hold(loss, some + f, some)
    return targets


def _hold(loss: Loss, f: Tensor, y: Tensor) -> None:
    """Hold what a loss gives at outputs ``f`` (n, M) against what automatic differentiation finds."""
    names = "ℓ", "∂ℓ/∂f", "∂²ℓ/∂f²"
    each, one, two = (len(f),), tuple(f.shape), (*f.shape, f.shape[1])
    if isinstance(loss, ResidualLoss):
        names = "ρ", "ρ'", "ρ''"
        _given(loss, "rho", lambda: loss.rho(f - y), (one, one, one))
    (value,) = _given(loss, "value", lambda: (loss.value(f, y),), (each,))
    if not torch.equal(value, loss.value(f, y)) and bool(torch.isfinite(value).all()):
        raise InputError(
            f"loss {loss.name!r} gives two results for one input; a loss must give the same result for the "
            "same input"
        )
    given = _given(loss, "derivatives", lambda: loss.derivatives(f, y), (each, one, two))
    given_first = _given(loss, "first", lambda: loss.first(f, y), (each, one))
    slope, bend = _asked(
        loss, "value, differentiated by torch,", lambda: _differentiated(loss, f, y)
    )
    # What may be lost to rounding is measured in the loss, too, over the outputs' unit once and twice.
    unit = torch.cat([f, y.reshape(len(y), -1).to(f.dtype)], 1).abs().amax(1).clamp(min=1.0)
    size = value.detach().abs()
    for order, mine, true in (
        (0, given[0], value),
        (0, given_first[0], value),
        (1, given[1], slope),
        (1, given_first[1], slope),
        (2, given[2][..., : bend.shape[-1]], bend),
    ):
        what = names[order], "" if order == 0 else ", differentiated by torch,"
        _compare(loss, what, mine, true, size / unit**order, f, y)


def _compare(
    loss: Loss,
    what: tuple[str, str],
    mine: Tensor,
    true: Tensor,
    size: Tensor,
    f: Tensor,
    y: Tensor,
) -> None:
    """Raise :class:`InputError` where ``mine`` is not ``true``, (n, …), each sample in its own ``size``."""
    mine, true = (each.detach().reshape(len(f), -1) for each in (mine, true))
    near = 64 * torch.finfo(f.dtype).eps ** 0.5 * (size[:, None] + mine.abs().amax(1, keepdim=True))
    off = (mine - true).abs() > near  # never where one of them is not a number
    off &= torch.isfinite(mine) & torch.isfinite(true)
    if bool(off.any()):
        row, entry = off.nonzero()[0].tolist()
        raise InputError(
            f"loss {loss.name!r}: its {what[0]} is {float(mine[row, entry]):.6g} at outputs "
            f"{f[row, :COLUMNS].tolist()} and target {y[row].flatten()[:COLUMNS].tolist()}, where "
            f"its value{what[1]} gives {float(true[row, entry]):.6g}; correct the formula"
        )


def _differentiated(loss: Loss, f: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The derivative of the values in ``f``, (n, M), and the first columns of the second, (n, M, k)."""
    f = f.clone().requires_grad_()

    def slope_of(numbers: Tensor) -> Tensor:
        if not numbers.requires_grad:  # it does not depend on f
            return torch.zeros_like(f)
        (found,) = torch.autograd.grad(numbers.sum(), f, create_graph=True, allow_unused=True)
        return torch.zeros_like(f) if found is None else found

    slope = slope_of(loss.value(f, y))
    columns = [slope_of(slope[:, k]) for k in range(min(f.shape[1], COLUMNS))]
    return slope.detach(), torch.stack(columns, -1).detach()


def _given(
    loss: Loss, method: str, ask: Callable[[], Any], shapes: tuple[tuple[int, ...], ...]
) -> tuple[Tensor, ...]:
    """What a method gives: tensors of these shapes."""
    found = _asked(loss, method, ask)
    parts = found if isinstance(found, tuple | list) else ()
    if [isinstance(part, Tensor) and tuple(part.shape) for part in parts] != list(shapes):
        several = len(shapes) > 1
        raise InputError(
            f"loss {loss.name!r}: {method} gives {_shown(found if several else found[0])}; expected "
            + (f"are {len(shapes)} tensors of shapes " if several else "is a tensor of shape ")
            + ", ".join(map(str, shapes))
        )
    return tuple(parts)


def _asked(loss: Loss, method: str, ask: Callable[[], Any]) -> Any:
    """What a method gives; whatever it raises said in one line."""
    try:
        return ask()
    except InputError:
        raise
    except Exception as error:  # a loss may be anybody's
        raise InputError(
            f"loss {loss.name!r}: {method} failed with {type(error).__name__}: {error}; expected are methods "
            "of torch's operations that take any finite outputs (semiflat.Loss says which)"
        ) from error


def _shown(given: Any) -> str:
    if isinstance(given, Tensor):
        return f"a tensor of shape {tuple(given.shape)}"
    if isinstance(given, tuple | list):
        return f"{len(given)} results ({', '.join(map(_shown, given[:4]))})"
    return f"a {type(given).__name__}"
