"""Ways of growing: each takes a trained model and gives a wider one, and an optimiser for it.

All but sf.grow are written here from their papers. Where a paper leaves a step size open, or fixes it for its
own schedule, it is searched on the training data, among :data:`SIZES`: that is in their favour.
"""

from __future__ import annotations

import copy
import importlib.util
import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

import semiflat as sf
from growth.tasks import Task
from growth.wide import Start, Wide

SIZES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
Ended = tuple[nn.Module, torch.optim.Optimizer]
OWN = ("writes", "adds")
MADE = ("writes", "adds", "between", "shifts")


def nothing(start: Start) -> Ended:
    """The small model."""
    return start.model, start.optimizer


def null_units(start: Start) -> Ended:
    """Random incoming weights at the size of the others; nothing reads them at first."""
    wide = Wide(start, start.evenly())
    wide.settle()
    return wide.model, wide.optimizer


def copies(start: Start) -> Ended:
    """Units drawn at random are doubled, and read with 3/8 and 5/8 of their weight.

    Source: Chen, Goodfellow & Shlens 2016 (Net2Net), its widening; unequal shares part the copies.
    """
    draw = torch.Generator().manual_seed(start.seed)
    model, optimizer = start.model, start.optimizer
    for name, count in start.evenly().items():
        size = sf.units(model, start.X[:8])[name].size
        drawn = Counter(int(k) % size for k in torch.randperm(size * count, generator=draw)[:count])
        wide = sf.widen(
            model, start.X[:8], name, copies={unit: 1 + more for unit, more in drawn.items()}
        )
        model, optimizer = wide.model, wide.carry(optimizer)
    return model, optimizer


def gradmax(start: Start) -> Ended:
    """Incoming weights 0; outgoing ones along which the incoming gradient is largest, at the others' length.

    Source: Evci et al. 2022 (GradMax), eq. 6: the largest singular vectors; where there are fewer, random ones.
    """
    wide = Wide(start, start.evenly())
    draw = torch.Generator().manual_seed(start.seed)
    for name, count in wide.added.items():
        old = wide.old(name)
        places = range(old, old + count)
        seen = wide.seen(name)
        _, values, V = torch.linalg.svd(seen.mixed(seen.slope), full_matrices=False)
        some = V[: min(count, int((values > 1e-6 * values[0]).sum()))]
        length = wide.rows(name, "reads")[:old].norm(dim=1).mean()
        more = torch.randn(count - len(some), V.shape[1], generator=draw)
        more = more / more.norm(dim=1, keepdim=True)
        wide.put(name, places, torch.cat([some, more]) * length, "reads")
        wide.clear(name)
        wide.put(name, places, torch.zeros(count, wide.rows(name, *OWN).shape[1]), *OWN)
        nudged(wide, name, places)
    return wide.model, wide.optimizer


def nudged(wide: Wide, name: str, places: range) -> None:
    """Units of ReLU at 0 would stay there: their biases are 1e-3."""
    if wide.rectified:
        for key, _ in wide.lines(name, "adds"):
            wide.tensors[key].data[list(places)] = 1e-3


def tiny(start: Start) -> Ended:
    """The best step of the reader, and units along what it cannot do; both amplitudes searched.

    Source: Verbockhaven et al. 2024 (TINY), Prop. 3.1 and 3.2: ``S^-½ N`` is cut off after its largest singular
    values, N made of the slope that the reader's best step leaves.
    """
    wide = Wide(start, start.evenly())
    for name in wide.added:
        tiny_units(wide, name, best_step(wide, name))
    return wide.model, wide.optimizer


def best_step(wide: Wide, name: str) -> Tensor:
    """Take the best step of what reads a group; the slope that it leaves, (all places, outputs)."""
    seen = wide.seen(name)
    h, slope = seen.h, seen.slope
    reader = wide.model.get_submodule(wide.task.groups[name][1])
    assert isinstance(reader, nn.Linear | nn.Conv1d | nn.Conv2d)
    samples, each = len(wide.start.X), reader.weight[0, 0].numel()
    weights = h.shape[1] - (reader.bias is not None)
    heard = [*range(wide.old(name) * each), *range(weights, h.shape[1])]
    H = h[:, heard]
    gram = H.T @ H / samples
    ridge = 1e-6 * gram.diagonal().mean() * torch.eye(len(gram)).to(gram)
    best = torch.linalg.solve(gram + ridge, H.T @ slope)
    step = h.new_zeros(h.shape[1], slope.shape[1])
    step[heard] = best
    before = copy.deepcopy(reader.state_dict())

    def read(size: float) -> None:
        values = step[:weights].T.reshape(reader.weight.shape)
        reader.weight.data.copy_(before["weight"] - size * values)
        if reader.bias is not None:
            reader.bias.data.copy_(before["bias"] - size * step[-1])

    wide.searched(read, (0.0, *SIZES))
    return slope - H @ best / samples


def tiny_units(wide: Wide, name: str, left: Tensor) -> None:
    """Units along what a slope asks for, (all places, outputs), as large as is best."""
    count, old = wide.added[name], wide.old(name)
    seen = wide.seen(name)
    x = seen.x
    values, vectors = torch.linalg.eigh(x.T @ x / len(wide.start.X))
    root = vectors * values.clamp(min=1e-5 * float(values[-1])).rsqrt() @ vectors.T
    U, sigma, V = torch.linalg.svd(-root @ seen.mixed(left), full_matrices=False)
    places = list(range(old, old + min(count, len(sigma))))
    sizes = sigma[: len(places), None].sqrt()
    made, out = (root @ U[:, : len(places)]).T * sizes, V[: len(places)] * sizes

    scaled(wide, name, places, made, out)


def scaled(wide: Wide, name: str, places: list[int], made: Tensor, out: Tensor) -> None:
    """Put new units, incoming and outgoing weights alike as large as is best."""

    def amplitude(size: float) -> None:
        wide.put(name, places, made * size**0.5, *OWN)
        wide.put(name, places, out * size**0.5, "reads")
        wide.settle()

    wide.searched(amplitude, (*SIZES, 5.0, 10.0, 20.0, 50.0, 100.0))


def gromo(start: Start) -> Ended:
    """TINY's new units as its authors' package makes them; their amplitude is searched as above.

    For one hidden layer alone, from all that is searched at once, with the options that gromo names for TINY;
    the reader takes no step by it.

    Source: gromo 0.1.0, ``compute_optimal_updates``.
    """
    from gromo.modules.linear_growing_module import LinearGrowingModule

    wide = Wide(start, start.evenly())
    ((name, count),) = wide.added.items()
    first, act, second = start.model
    maker = LinearGrowingModule(first.in_features, first.out_features, post_layer_function=act)
    reader = LinearGrowingModule(second.in_features, second.out_features, previous_module=maker)
    for twin, layer in ((maker, first), (reader, second)):
        twin.layer.load_state_dict(layer.state_dict())
    reader.init_computation()
    loss = start.task.loss(reader(maker(start.X.float())), start.y)
    (loss * len(start.y)).backward()
    reader.update_computation()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rounding, that S is not symmetric
        reader.compute_optimal_updates(maximum_added_neurons=count, compute_delta=False)
    new, read = maker.extended_output_layer, reader.extended_input_layer
    made = torch.cat([new.weight, new.bias[:, None]], 1).detach()
    places = list(range(wide.old(name), wide.old(name) + len(made)))
    scaled(wide, name, places, made, read.weight.detach().T)
    return wide.model, wide.optimizer


def splitting(start: Start, signed: bool) -> Ended:
    """Units are split along eigenvectors of their splitting matrices, at one size that is searched.

    S2D takes the lowest eigenvalues: two copies, each read with half. S3D takes the highest, too: three copies,
    read with 2, -½ and -½; what is best for each unit that is added comes first. ReLU, whose splitting
    matrices are 0, is replaced by softplus to compute them.

    Source: Liu, Wu & Wang 2019 (S2D), Thm 3.1; Wu, Ye, Lei, Lee & Liu 2020 (S3D).
    """
    task, names = start.task, list(start.task.groups)
    smooth = copy.deepcopy(start.model).eval()
    for key, module in list(smooth.named_modules()):
        if isinstance(module, nn.ReLU):
            parent = smooth.get_submodule(key.rpartition(".")[0])
            setattr(parent, key.rpartition(".")[2], nn.Softplus(beta=5))
    pairs = list(zip(start.X.split(500), start.y.split(500), strict=True))
    dtype = next(smooth.parameters()).dtype
    found = sf.unit_curvature(smooth, pairs, task.loss, names, dtype=dtype)
    offers = []
    for name in names:
        group = found[name]
        for unit in range(group.group.size):
            G = group.K(unit)[group.reading :, group.reading :]
            values, vectors = torch.linalg.eigh(G)
            offers.append((float(values[0]), name, unit, 1, vectors[:, 0]))
            if signed:
                offers.append((-float(values[-1]) / 2, name, unit, 2, vectors[:, -1]))
    chosen, left, taken = [], task.units, set()
    for offer in sorted(offers, key=lambda each: each[0]):
        if offer[3] <= left and offer[1:3] not in taken:
            chosen.append(offer)
            taken.add(offer[1:3])
            left -= offer[3]
    added = Counter[str]()
    for _, name, _, count, _ in chosen:
        added[name] += count
    wide = Wide(start, dict(added))
    at = {name: wide.old(name) for name in added}
    moves = []
    for _, name, unit, count, way in chosen:
        new = list(range(at[name], at[name] + count))
        at[name] += count
        made = wide.rows(name, *MADE)[unit]
        reads = wide.rows(name, "reads")[unit]
        shares = (0.5, 0.5) if count == 1 else (2.0, -0.5, -0.5)
        wide.put(name, [unit, *new], torch.stack([s * reads for s in shares]), "reads")
        lines = wide.lines(name, "statistics")
        for key, _ in lines:
            wide.tensors[key][new] = wide.tensors[key][unit].clone()
        signs = (1.0, -1.0) if count == 1 else (0.0, 1.0, -1.0)
        moves.append((name, [unit, *new], made, signs, ordered(found[name], wide, name, way)))

    def move(size: float) -> None:
        for name, places, made, signs, way in moves:
            wide.put(name, places, torch.stack([made + s * size * way for s in signs]), *MADE)

    wide.searched(move, SIZES)
    return wide.model, wide.optimizer


def ordered(group: sf.GroupCurvature, wide: Wide, name: str, way: Tensor) -> Tensor:
    """What makes a unit, in the order of the wide model's tensors."""
    parts, at = {}, 0
    for part in group._parts:
        if not part.reads:
            width = part.take(wide.start.model.state_dict()[part.name]).shape[1]
            parts[part.name] = way[at : at + width]
            at += width
    return torch.cat([parts[key] for key, _ in wide.lines(name, *MADE)])


POOL, TRIES, SMALL = 4, 100, 0.05


def firefly(start: Start) -> Ended:
    """A pool of splits and new units is trained at a small size; those that take most off the loss stay.

    Every unit there is may split, and four times as many new units as are wanted may come; their directions
    are trained for 100 steps on batches, their size held. The score is the slope of the loss by a candidate's
    size, averaged over sizes from 0; the size of those that stay is searched.

    Source: Wu, Liu, Stone & Liu 2020 (Firefly), Algorithm 1 and eq. 6.
    """
    task, draw = start.task, torch.Generator().manual_seed(start.seed)
    names = list(task.groups)
    sizes = {name: sf.units(start.model, start.X[:8])[name].size for name in names}
    new = {name: -(-POOL * task.units // len(names)) for name in names}
    pool = Wide(start, {name: sizes[name] + new[name] for name in names}, carry=False)
    made, reads, ways, outs = {}, {}, {}, {}
    for name in names:
        made[name], reads[name] = pool.rows(name, *OWN), pool.rows(name, "reads")
        n = sizes[name]
        for key, _ in pool.lines(name, "between", "shifts", "statistics"):
            pool.tensors[key].data[n : 2 * n] = pool.tensors[key].data[:n].clone()
        ways[name] = torch.randn(n + new[name], made[name].shape[1], generator=draw)
        outs[name] = torch.randn(new[name], reads[name].shape[1], generator=draw)

    def point(scale: dict[str, Tensor]) -> dict[str, Tensor]:
        out = dict[str, Tensor]()
        for name in names:
            n, t = sizes[name], scale[name][:, None]
            own, heard = made[name][:n], reads[name][:n]
            length = own.norm(dim=1).mean()
            way = ways[name] / ways[name].norm(dim=1, keepdim=True) * length
            far = outs[name] / outs[name].norm(dim=1, keepdim=True) * heard.norm(dim=1).mean()
            values = {
                "own": torch.cat([own + t[:n] * way[:n], own - t[:n] * way[:n], way[n:]]),
                "reads": torch.cat([heard / 2, heard / 2, t[n:] * far]),
            }
            for kind, roles in (("own", OWN), ("reads", ("reads",))):
                at = 0
                for key, view in pool.lines(name, *roles):
                    shape = view(pool.tensors[key]).shape
                    width = shape[1:].numel()
                    axis = next(s.axis for s in pool.slots[name] if s.name == key)
                    part = values[kind][:, at : at + width].reshape(shape)
                    out[key] = part.movedim(0, axis)
                    at += width
        return out

    def loss(scale: dict[str, Tensor], X: Tensor, y: Tensor) -> Tensor:
        return task.loss(functional_call(pool.model, point(scale), (X,)), y)

    small = {name: torch.full((sizes[name] + new[name],), SMALL) for name in names}
    leaves = [*ways.values(), *outs.values()]
    for leaf in leaves:
        leaf.requires_grad_()
    optimizer = torch.optim.Adam(leaves, lr=0.1)
    for _ in range(TRIES):
        some = torch.randint(len(start.y), (task.batch,), generator=draw)
        optimizer.zero_grad()
        loss(small, start.X[some], start.y[some]).backward()
        optimizer.step()
    scores = dict.fromkeys(names, torch.zeros(()))
    for part in (0.25, 0.5, 0.75, 1.0):
        scale = {name: (part * each).requires_grad_() for name, each in small.items()}
        slopes = torch.autograd.grad(loss(scale, start.X, start.y), list(scale.values()))
        scores = {n: scores[n] + s for n, s in zip(names, slopes, strict=True)}
    ranked = sorted(
        (-abs(float(s)), name, k) for name in names for k, s in enumerate(scores[name])
    )[: task.units]
    signs = {(name, k): -torch.sign(scores[name][k]) for _, name, k in ranked}
    wide = Wide(start, dict(Counter(name for _, name, _ in ranked)))
    moves, at = [], {name: wide.old(name) for name in wide.added}
    for _, name, k in ranked:
        n, place = sizes[name], at[name]
        at[name] += 1
        length = made[name][:n].norm(dim=1).mean()
        way = (ways[name][k] / ways[name][k].norm() * length).detach()
        if k < n:
            for roles in (("between", "shifts"), ("statistics",)):
                for key, _ in wide.lines(name, *roles):
                    wide.tensors[key].data[place] = wide.tensors[key].data[k].clone()
            wide.put(name, [k, place], reads[name][[k, k]] / 2, "reads")
            moves.append((name, k, place, made[name][k], way))
        else:
            wide.put(name, [place], way[None], *OWN)
            far = (outs[name][k - n] / outs[name][k - n].norm()).detach() * signs[name, k]
            moves.append((name, -1, place, far * reads[name][:n].norm(dim=1).mean(), way))
    wide.settle()

    def move(size: float) -> None:
        for name, unit, place, values, way in moves:
            if unit < 0:
                wide.put(name, [place], size * values[None], "reads")
            else:
                wide.put(
                    name,
                    [unit, place],
                    torch.stack([values + size * way, values - size * way]),
                    *OWN,
                )

    wide.searched(move, SIZES)
    return wide.model, wide.optimizer


def semiflat(start: Start) -> Ended:
    """sf.grow as it is by default, among the groups that may grow.

    Units that it leaves out, since no step with them lowers the loss, are added as null units: so all ways have
    as many parameters.
    """
    task, names = start.task, list(start.task.groups)
    grown = sf.grow(
        start.model,
        start.batches(),
        task.loss,
        names,
        units=task.units,
        samples=task.searched,
        seed=start.seed,
    )
    model, optimizer = grown.model, grown.carry(start.optimizer)
    left = task.units - grown.units
    for k, name in enumerate(names):
        count = (left + k) // len(names)
        if count:
            wide = sf.widen(model, start.X[:8], name, units=count, seed=start.seed)
            model, optimizer = wide.model, wide.carry(optimizer)
    return model, optimizer


METHODS: dict[str, Callable[[Start], Ended]] = {
    "sf.grow": semiflat,
    "no growth": nothing,
    "null units": null_units,
    "Net2Net": copies,
    "GradMax": gradmax,
    "TINY": tiny,
    "S2D": lambda start: splitting(start, False),
    "S3D": lambda start: splitting(start, True),
    "Firefly": firefly,
}
"""sf.grow comes first: the others train on for the time that it took."""
GROMO = "TINY by gromo"
if importlib.util.find_spec("gromo"):
    METHODS[GROMO] = gromo
SCRATCH = "wide from the start"


def fits(task: Task, method: str) -> bool:
    """Whether a way is there for a task: gromo's own for one hidden layer."""
    return method != GROMO or task.layer == "linear"
