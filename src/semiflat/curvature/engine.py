"""The compiled engine, where it is installed and covers a problem; what is in torch stays the definition.

The package ``semiflat-native`` computes what this room does, one network at a time with its samples in the
caches. It knows the activations, losses and forms of units that say so (``compiled``); everything else, and
everything where it is not installed, runs in torch.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from semiflat._version import __version__
from semiflat.errors import InputError, unknown_name
from semiflat.memory import check_hessians
from semiflat.networks import Params
from semiflat.problem import Problem

EngineName = Literal["auto", "torch", "native"]
"""Who is to compute: the compiled engine where it can, torch alone, or the compiled engine or nobody."""
SETTING = "SEMIFLAT_ENGINE"
"""The environment variable that says it where nobody else does."""
LARGEST = 2000
"""Parameters up to which the engine is the faster one; the sums of larger networks are large matrix products,
which torch hands to BLAS."""
INSTALL = "pip install ./native, in the repository"

_chosen: ContextVar[EngineName | None] = ContextVar("engine", default=None)
_threads: ContextVar[int | None] = ContextVar("engine_threads", default=None)


def checked_engine(name: Any) -> EngineName:
    """The name of an engine, or :class:`InputError`."""
    names = get_args(EngineName)
    if name not in names:
        raise unknown_name("engine", name, names)
    if name == "native":
        _native(needed=True)
    found: EngineName = name
    return found


@contextmanager
def using(engine: EngineName | None = None, threads: int | None = None) -> Iterator[None]:
    """Inside, have that engine compute, and so many threads of it; None and ``"auto"`` leave it as it was."""
    chosen = _chosen.get() if engine in (None, "auto") else engine
    before = _chosen.set(chosen), _threads.set(threads or _threads.get())
    try:
        yield
    finally:
        _chosen.reset(before[0])
        _threads.reset(before[1])


def engine_of(problem: Problem) -> str:
    """What computes a problem's derivatives here, for records.

    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> with using("torch"):
    ...     engine_of(problem)
    'torch'
    """
    found = compiled(problem, 1)
    return "torch" if found is None else found.name


def compiled(problem: Problem, count: int) -> Compiled | None:
    """So many networks of a problem in the compiled engine; None where it does not compute them.

    Raises:
        InputError: if it is to, and does not.
    """
    engine = _chosen.get() or _of_environment()
    if engine == "torch":
        return None
    native = _native(needed=engine == "native")
    if native is None:
        return None
    why = _not_covered(native, problem)
    if why is None:
        return Compiled(native, problem, count)
    if engine == "native":
        raise InputError(f"the compiled engine does not know {why}; leave engine away")
    return None


def _of_environment() -> EngineName:
    named = os.environ.get(SETTING) or "auto"
    try:
        return checked_engine(named)
    except InputError as error:
        raise InputError(f"the environment variable {SETTING} is {named!r}: {error}") from None


@cache
def _installed() -> ModuleType | None:
    try:
        import semiflat_native
    except ImportError:
        return None
    native: ModuleType = semiflat_native
    return native


def _native(needed: bool) -> ModuleType | None:
    """The engine, if it is installed in this version."""
    native = _installed()
    if native is not None and native.__version__ == __version__:
        return native
    what = (
        "no compiled engine is installed"
        if native is None
        else f"the compiled engine is of version {native.__version__}, and this is semiflat {__version__}"
    )
    if needed:
        raise InputError(f"{what}; {INSTALL}, installs it")
    if native is not None:
        warnings.warn(f"{what}: everything runs in torch; {INSTALL}, renews it", stacklevel=2)
    return None


def _not_covered(native: ModuleType, problem: Problem) -> str | None:
    """What of a problem the engine does not know, in words; None if it knows all of it."""
    net = problem.net
    for activation in net.activations:
        if activation.compiled not in native.ACTIVATIONS:
            return f"activation {activation.name}"
    if _compiled_loss(problem) not in native.LOSSES:
        return f"loss {problem.loss.name}"
    if problem.dtype != torch.float64:
        return f"{problem.dtype}"
    if not native.takes(list(net.widths)):
        return f"networks as deep or wide as {list(net.widths)}"
    if net.parameter_count > LARGEST:
        return f"networks of more than {LARGEST} parameters"
    infinity = problem.units_at_infinity
    if infinity is not None and int(infinity[0].max()) >= native.FORMS:
        return "a form of a unit at infinity"
    return None


def _compiled_loss(problem: Problem) -> str | None:
    found: str | None = type(problem.loss).__dict__.get("compiled")
    return found


class Compiled:
    """Networks of one problem in the engine, each on its own data where the problem has some for each.

    Args:
        native: the engine.
        problem: see above.
        count: how many networks.

    Attributes:
        name: of the engine, its kernel and the library of its exp and tanh: what bits depend on.
    """

    def __init__(self, native: ModuleType, problem: Problem, count: int) -> None:
        net, self._native, self.count = problem.net, native, count
        self.shape = count, net.parameter_count
        targets = problem.loss.as_rows(problem.y, net.outputs).to(problem.dtype)
        share = problem.share()
        if isinstance(share, float):
            share = problem.X.new_full(problem.X.shape[:-1], share)
        X, y, counted = (
            each.reshape(-1, *each.shape[each.ndim - axes :]).contiguous().numpy()
            for each, axes in ((problem.X, 2), (targets, 2), (share, 1))
        )
        infinity = problem.units_at_infinity
        forms = base = offsets = None
        if infinity is not None:
            forms, base, offsets = (
                each.expand(count, *each.shape[each.ndim - axes :]).contiguous().numpy()
                for each, axes in (
                    (infinity[0].to(torch.int32), 1),
                    (infinity[1].to(torch.int32), 1),
                    (infinity[2], 2),
                )
            )
        codes = native.ACTIVATIONS
        self._networks = native.Networks.made(
            widths=list(net.widths),
            biased=list(net.biases),
            activations=[(codes[a.compiled], *(a.slopes or (0.0, 0.0))) for a in net.activations],
            loss=native.LOSSES[_compiled_loss(problem)],
            networks=count,
            X=X,
            y=y,
            share=counted,
            decays=problem.decays.numpy() if problem.decay else None,
            forms=forms,
            base=base,
            offsets=offsets,
        )
        self.name = f"native {native.__version__} ({self._networks.kernel}, {self._networks.math})"

    @property
    def threads(self) -> int:
        """How many threads share the networks."""
        return _threads.get() or torch.get_num_threads()

    def risk_gradient(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """``R`` (B,) and ``∇R`` (B, P) at parameters (B, P)."""
        return self._evaluate(self._native.GRADIENT, theta, None)

    def hessian(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, and ``∇²R`` (B, P, P)."""
        return self._matrix(self._native.HESSIAN, theta)

    def gauss_newton(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same with the Gauss–Newton matrix."""
        return self._matrix(self._native.GAUSS_NEWTON, theta)

    def bending(self, theta: Tensor, direction: Tensor) -> tuple[Tensor]:
        """See :func:`semiflat.curvature.acceleration.bending`, (B, P)."""
        return self._along(self._native.BENDING, theta, direction)

    def product(self, theta: Tensor, direction: Tensor) -> tuple[Tensor]:
        """``∇²R v``, (B, P)."""
        return self._along(self._native.PRODUCT, theta, direction)

    def drive(self, rows: Tensor, phases: list[tuple[str, int, float]], **state: Any) -> None:
        """Take runs through phases, in place: each a method's name, steps, and when it is near."""
        methods = self._native.METHODS
        arrays = {
            name: each.numpy() if isinstance(each, Tensor) else each for name, each in state.items()
        }
        with self._native.one_thread_of_lapack():
            self._networks.drive(
                rows=rows.tolist(),
                phases=[(methods[method], steps, until) for method, steps, until in phases],
                threads=self.threads,
                **arrays,
            )

    def _matrix(self, wanted: int, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        check_hessians(*self.shape)
        matrix = theta.new_empty(*self.shape, self.shape[1])
        return *self._evaluate(wanted, theta, matrix), matrix

    def _evaluate(self, wanted: int, theta: Tensor, matrix: Tensor | None) -> tuple[Tensor, Tensor]:
        theta = theta.contiguous()
        risk, gradient = theta.new_empty(self.count), theta.new_empty(self.shape)
        self._networks.evaluate(
            wanted,
            theta.numpy(),
            risk.numpy(),
            gradient.numpy(),
            None if matrix is None else matrix.numpy(),
            self.threads,
        )
        return risk, gradient

    def _along(self, wanted: int, theta: Tensor, direction: Tensor) -> tuple[Tensor]:
        theta, direction = theta.contiguous(), direction.contiguous()
        found = theta.new_empty(self.shape)
        self._networks.along(wanted, theta.numpy(), direction.numpy(), found.numpy(), self.threads)
        return (found,)


def on_engine(
    problem: Problem, params: Params, what: str, *more: Params
) -> tuple[Tensor, ...] | None:
    """What a method of :class:`Compiled` makes of a batch of networks; None where torch has to.

    Args:
        params: with any leading batch axes; torch's own transformations need torch.
        more: what the method takes after the parameters, shaped like them.
    """
    net, batch = problem.net, problem.net.check_params(params)
    plain = all(type(each) is Tensor and not each.requires_grad for each in params.values())
    if not plain or 0 in batch or torch._C._functorch.peek_interpreter_stack() is not None:
        return None
    found = compiled(problem, math.prod(batch))
    if found is None:
        return None
    flat = [net.flatten(each).reshape(found.shape) for each in (params, *more)]
    return tuple(each.reshape((*batch, *each.shape[1:])) for each in getattr(found, what)(*flat))
