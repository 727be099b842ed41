"""The state of an optimiser, carried from a model to one with more or fewer units."""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LRScheduler

from semiflat.errors import InputError
from semiflat.modules.groups import Slot
from semiflat.modules.surgery import Change, Rows, new_places, norm_gains, remade

State = dict[str, Any]


# -- what becomes of gradients ---------------------------------------------------------------------


@dataclass(frozen=True)
class Remake:
    """What a change does to the gradient of a tensor along one axis.

    Attributes:
        slot: where the units lie.
        rows: the gradients that each unit's is made of afterwards; () where it is made of none of those before.
        factor: on the gradient of the whole tensor.
    """

    slot: Slot
    rows: Rows
    factor: float

    def of(self, tensor: Tensor, part: Callable[[float], float]) -> Tensor:
        """A tensor remade as the gradient is, with something else for each factor."""
        rows = [
            tuple((unit, part(factor * self.factor)) for unit, factor in row) for row in self.rows
        ]
        return remade(tensor, self.slot, rows)


class Move:
    """What becomes of averages over a parameter's gradients.

    Args:
        remakes: by change and axis; none for a parameter that stays.
        old, new: the parameter before and after.
    """

    def __init__(self, remakes: Sequence[Remake], old: Tensor, new: Tensor) -> None:
        self.remakes, self.old, self.new = remakes, old.detach(), new.detach()

    def mean(self, tensor: Tensor) -> Tensor:
        """An average of gradients; 0 for what is new."""
        for remake in self.remakes:
            tensor = remake.of(tensor, float)
        return tensor

    def square(self, tensor: Tensor) -> Tensor:
        """An average of squared gradients; for what is new the median of what the units before have.

        Where gradients add up, as those of units that are made one do, they are taken to point the same way.
        The true average is at most that, so that no step is too long.
        """
        for remake in self.remakes:
            if all(len(row) < 2 for row in remake.rows):
                out = remake.of(tensor, lambda factor: factor**2)
            else:
                out = remake.of(tensor.sqrt(), abs).square()
            fresh = [unit for unit, row in enumerate(remake.rows) if not row]
            if fresh:
                lines = tensor.movedim(remake.slot.axis, 0)
                units = lines[remake.slot.positions.to(lines.device)]
                # Units that had no gradient say nothing of the sizes of others'.
                usual = torch.where(units > 0, units, torch.nan).nanmedian(0).values.nan_to_num(0)
                places = new_places(remake.slot, len(lines), len(remake.rows), fresh)
                out.movedim(remake.slot.axis, 0)[places.to(out.device)] = usual
            tensor = out
        return tensor

    def penalty(self, strength: float) -> Tensor:
        """What a penalty adds to the gradient afterwards beyond what becomes of what it added before.

        Its gradient is a multiple of the parameter, and so changes as values do.
        """
        carried = torch.ones_like(self.old)
        for remake in self.remakes:
            carried = remake.of(carried, lambda _: 1.0)
        return strength * (self.new - self.mean(self.old)) * (carried > 0)


def moves(
    given: nn.Module, new: nn.Module, changes: Sequence[Change]
) -> tuple[dict[str, Move], list[str]]:
    """What becomes of averages over the gradients of each parameter, by name; and what is not exact in it."""
    remakes: dict[str, list[Remake]] = {}
    remarks = []
    for change in changes:
        roles: dict[tuple[str, int], dict[str, Slot]] = {}
        for slot in change.group.slots:
            roles.setdefault((slot.name, slot.axis), {}).setdefault(slot.role, slot)
        gains = [] if change.rescale is None else norm_gains(change.group, given)
        rescaled = {f"{path}.{own}".lstrip(".") for path, own in gains}
        for (name, _), slots in roles.items():
            rows, clear = _agreed([change.gradients[role] for role in slots])
            if not clear:
                remarks.append(
                    f"{name!r} both makes and reads units of {change.group.name!r}, and starts fresh at copies"
                )
            factor = 1 / change.rescale[0] if change.rescale and name in rescaled else 1.0
            remakes.setdefault(name, []).append(Remake(next(iter(slots.values())), rows, factor))
        if _mixed_by_norms(change):
            remarks.append(
                f"norms over the units of {change.group.name!r} mix their gradients; what writes them is "
                "carried as if they did not"
            )
    after = dict(new.named_parameters())
    return {
        name: Move(remakes.get(name, []), parameter, after[name])
        for name, parameter in given.named_parameters()
    }, remarks


def _agreed(all_rows: Sequence[Rows]) -> tuple[Rows, bool]:
    """Rows without what is multiplied by 0, where all say the same, and () elsewhere; and whether all do."""
    kept = [[tuple(part for part in row if part[1]) for row in rows] for rows in all_rows]
    rows = [each[0] if len(set(each)) == 1 else () for each in zip(*kept, strict=True)]
    return rows, rows == kept[0]


def _mixed_by_norms(change: Change) -> bool:
    """Whether the gradients of what writes a stream depend on more than those before.

    A norm over the units takes from the gradient of each a part that is the same multiple of the unit for
    all, and a layer norm one that is the same number for all. So a copy of scale a that is read with share b
    has b times the gradient before if b / a is the same for all units; under a layer norm, if b itself is.
    New units under an RMS norm are zeros and change nothing; those under a layer norm, the mean of all, do.
    """
    norms = {what for what, _ in change.group.norms}
    pairs = [
        (value[0][1], gradient[0][1])
        for value, gradient in zip(change.values["writes"], change.gradients["writes"], strict=True)
        if value and gradient
    ]
    if "layer norm" in norms:
        return change.rescale is not None or len({share for _, share in pairs}) > 1
    return bool(norms) and len({share / scale if scale else None for scale, share in pairs}) > 1


# -- what optimisers keep --------------------------------------------------------------------------


@dataclass(frozen=True)
class Average:
    """A tensor that an optimiser keeps of each parameter's gradients: an average of them, or of their squares.

    Attributes:
        memory: sum of the weights that the gradients have in it.
        square: whether it is of squares.
        start: what it is without any gradient.
    """

    memory: float
    square: bool = False
    start: float = 0.0


def _sgd(options: State, steps: float) -> dict[str, Average]:
    # SGD does not count its steps: the first gradient is taken to be forgotten.
    momentum, dampening = float(options["momentum"]), float(options["dampening"])
    return {"momentum_buffer": Average((1 - dampening) / (1 - momentum))}


def _adam(options: State, steps: float) -> dict[str, Average]:
    first, second = (1 - float(beta) ** steps for beta in options["betas"])
    return {
        "exp_avg": Average(first),
        "exp_avg_sq": Average(second, square=True),
        "max_exp_avg_sq": Average(second, square=True),
    }


def _rmsprop(options: State, steps: float) -> dict[str, Average]:
    memory = 1 - float(options["alpha"]) ** steps
    return {"grad_avg": Average(memory), "square_avg": Average(memory, square=True)}


def _adagrad(options: State, steps: float) -> dict[str, Average]:
    return {"sum": Average(steps, square=True, start=float(options["initial_accumulator_value"]))}


KNOWN: dict[type, Callable[[State, float], dict[str, Average]]] = {
    SGD: _sgd,
    Adam: _adam,
    AdamW: _adam,
    RMSprop: _rmsprop,
    Adagrad: _adagrad,
}
"""What each class of optimiser keeps, means first, given a group's options and the number of steps."""


def carried_state(kind: type, options: State, state: State, move: Move) -> tuple[State, bool]:
    """What an optimiser of a known class keeps of a parameter after the change; and whether that is exact.

    A penalty inside the gradient does not change as the loss's gradient does. What it adds is put right as if
    the weights had stood still: exact in means if they have.
    """
    kept = copy.deepcopy(state)
    if not move.remakes:
        return kept, True
    beside = kind is AdamW or options.get("decoupled_weight_decay")
    decay = 0.0 if beside else float(options["weight_decay"])
    extra = move.penalty(decay) if decay else None
    mean: Tensor | float = 0.0  # of all gradients, by what is kept of them
    for key, average in KNOWN[kind](options, float(state.get("step", 0))).items():
        if state.get(key) is None:
            continue
        past = state[key] - average.start
        out = move.square(past) if average.square else move.mean(past)
        if extra is not None and not average.square:
            mean = out / average.memory
            out = out + average.memory * extra
        elif extra is not None:
            more = out + average.memory * extra * (2 * mean + extra)
            least = average.memory * (mean + extra) ** 2  # no mean square is below the mean's
            out = torch.where(extra == 0, out, torch.maximum(more, least))
        kept[key] = (out + average.start).to(state[key].dtype)
    if kind is RMSprop and state.get("momentum_buffer") is not None:
        # A sum of gradients, each over the root of the squares then; fresh where a penalty changes these.
        before, after = (_root(each, float(options["eps"])) for each in (state, kept))
        clear = after > 0 if extra is None else (after > 0) & (extra == 0)
        out = move.mean(state["momentum_buffer"] * before) / after
        kept["momentum_buffer"] = torch.where(clear, out, 0.0)
    return kept, extra is None or not bool(extra.any())


def _root(state: State, eps: float) -> Tensor:
    square: Tensor = state["square_avg"]
    if state.get("grad_avg") is not None:
        square = square - state["grad_avg"] ** 2
    return square.clamp(min=0).sqrt() + eps


# -- the optimiser and its schedulers --------------------------------------------------------------


def carried(
    given: nn.Module,
    new: nn.Module,
    changes: Sequence[Change],
    optimizer: Optimizer,
    schedulers: Iterable[Any] = (),
) -> Any:
    """An optimiser for a changed model, with the state that the given one has for the model before.

    The state of SGD, Adam, AdamW, RMSprop and Adagrad follows the gradients, entry by entry: where a
    gradient is s times what it was, an average of gradients is multiplied by s, and one of squares by s². For
    new units an average starts at 0, and one of squares at the median of the other units' in the same tensor,
    so that their first steps are about as long as the others'. Steps counted, options and groups stay.

    What is not exact, or starts fresh, is said in one warning: the state of other classes; copies of units
    in a tensor that both makes and reads them; what writes a residual stream whose norms mix the gradients; a
    weight decay that is part of the gradient, whose part is put right as if the weights had stood still; and
    hooks, which are left behind.

    Args:
        given, new: the models; parameters have the same names in both.
        changes: those that lead from one to the other, in order.
        optimizer: of the given model; it is not changed.
        schedulers: of that optimiser; they are not changed.

    Returns:
        The new optimiser; with schedulers, it and the list of the new ones.

    Raises:
        InputError: if the optimiser is of another model, or a scheduler of another optimiser, or one of them
            cannot be made again.

    Source: theory §9.
    """
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"optimizer is a {type(optimizer).__name__}; expected an optimiser of torch.optim"
        )
    watched = _checked_schedulers(optimizer, schedulers)
    names = {id(parameter): name for name, parameter in given.named_parameters()}
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    foreign = [parameter for parameter in held if id(parameter) not in names]
    if foreign:
        shapes = ", ".join(str(tuple(parameter.shape)) for parameter in foreign[:3])
        raise InputError(
            f"{len(foreign)} of the {len(held)} parameters of the optimiser are not of the model that was "
            f"changed (shapes {shapes}); give the optimiser that trains this very model"
        )
    fresh = dict(new.named_parameters())
    after = {id(parameter): fresh[names[id(parameter)]] for parameter in held}
    out = _made_again(optimizer, names, fresh)
    kind = type(optimizer)
    remarks: list[str] = []
    if any(optimizer.state.values()) and kind not in KNOWN:
        remarks.append(f"what {kind.__name__} keeps is not known here, and starts fresh")
    elif any(optimizer.state.values()):
        moved, remarks = moves(given, new, changes)
        still = False
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if state := optimizer.state.get(parameter):
                    with torch.no_grad():
                        kept, exact = carried_state(kind, group, state, moved[names[id(parameter)]])
                    out.state[after[id(parameter)]] = kept
                    still |= not exact
        if still:
            remarks.append(
                f"the weight decay of {kind.__name__} is part of the gradient; its part is carried as if the "
                "weights had stood still"
            )
    hooks = (value for key, value in vars(optimizer).items() if key.endswith("_hooks"))
    if any(hooks):
        remarks.append("hooks of the optimiser are left behind")
    if remarks:
        warnings.warn(f"the optimiser's state: {'; '.join(remarks)}", stacklevel=3)
    if not watched:
        return out
    return out, _rebound(watched, {id(optimizer): out, id(given): new, **after})


def _made_again(
    optimizer: Optimizer, names: dict[int, str], fresh: dict[str, nn.Parameter]
) -> Optimizer:
    """An optimiser of the same class, options and groups over other parameters, without state.

    A parameter that was not there, as one of a new block is, stands behind the one of the block before; where
    there is none, behind the last before it of its kind that is trained.

    Args:
        names: of the old parameters, by their ``id``.
        fresh: the new parameters by name.
    """
    followers: dict[str, list[str]] = {name: [] for name in names.values()}
    held = {names[id(each)] for group in optimizer.param_groups for each in group["params"]}
    trained = [name for name in fresh if name in held or name not in followers]
    for name in fresh.keys() - followers.keys():
        before = [each for each in trained[: trained.index(name)] if each in held] or sorted(held)
        kin = [each for each in before if each.split(".")[-1] == name.split(".")[-1]]
        followers[_before(name, list(followers), (kin or before)[-1])].append(name)
    groups = []
    for group in optimizer.param_groups:
        own = [names[id(parameter)] for parameter in group["params"]]
        more = [each for name in own for each in sorted(followers[name])]
        options = copy.deepcopy({key: group[key] for key in group if key != "params"})
        if "param_names" in options:
            options["param_names"] += more
        groups.append(options | {"params": [fresh[name] for name in [*own, *more]]})
    kind: Any = type(optimizer)
    asked = inspect.signature(kind).parameters
    defaults = {key: value for key, value in optimizer.defaults.items() if key in asked}
    try:
        out: Optimizer = kind(groups, **copy.deepcopy(defaults))
    except Exception as error:  # whatever a class of somebody else raises
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"an optimiser of class {kind.__name__} cannot be made again from its options ({line:.200}); make "
            "one over the new model's parameters yourself"
        ) from error
    return out


def _before(name: str, names: list[str], default: str) -> str:
    """The last of the names that differ in one number alone, as far behind as can be; else a default."""
    parts = re.split(r"(\d+)", name)
    best, found = 0, default
    for other in names:
        others = re.split(r"(\d+)", other)
        places = [
            at for at, pair in enumerate(zip(parts, others, strict=False)) if len(set(pair)) > 1
        ]
        alone = len(others) == len(parts) and len(places) == 1 and places[0] % 2 == 1
        if alone and places[0] >= best:
            best, found = places[0], other
    return found


def _checked_schedulers(optimizer: Optimizer, schedulers: Iterable[Any]) -> list[Any]:
    if not isinstance(schedulers, Iterable):
        raise InputError(
            f"schedulers is a {type(schedulers).__name__}; expected a list of schedulers, of one too"
        )
    watched = list(schedulers)
    for scheduler in watched:
        if getattr(scheduler, "optimizer", None) is not optimizer:
            raise InputError(
                f"the {type(scheduler).__name__} does not schedule the given optimiser; give those that do"
            )
    return watched


class _Watching(LRScheduler):
    """Tells an optimiser that schedulers watch its steps, and leaves its learning rates as they are."""

    def get_lr(self) -> list[float | Tensor]:
        return [group["lr"] for group in self.optimizer.param_groups]


def _rebound(schedulers: list[Any], others: dict[int, Any]) -> list[Any]:
    """Copies of schedulers with their state.

    Args:
        others: what takes the place of the optimiser, the model and its parameters, by their ``id``.
    """
    old = schedulers[0].optimizer
    if hasattr(old.step, "_wrapped_by_lr_sched"):
        new = others[id(old)]
        _Watching(new)
        new._opt_called = getattr(old, "_opt_called", False)
    rebound: list[Any] = copy.deepcopy(schedulers, others)
    return rebound
