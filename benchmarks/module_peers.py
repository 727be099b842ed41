"""What else changes or looks into a model, beside semiflat: each peer in an environment of its own.

- ``pruning``: Torch-Pruning's dependency graph beside ``sf.units``, and its pruners beside ``sf.shrink``;
- ``gromo``: networks that grow, of gromo's own classes, beside ``sf.widen`` and ``carry``;
- ``nnx``: surgery by hand on Flax NNx modules and optax's state, beside the same;
- ``pyhessian``: eigenvalues and trace beside ``sf.judge_module`` and the dense Hessian.

    python benchmarks/module_peers.py                    # all: about a quarter of an hour on a quiet machine
    python benchmarks/module_peers.py --cases gromo,nnx
    python benchmarks/module_peers.py --quick            # a smoke test; writes nothing

An environment is made in ``build/peers`` where there is none; ``--venvs FOLDER`` for others. semiflat and the
peer run in one process, one after the other in every round, on one thread, from the same weights; seconds are
the processor's, so that what else the machine does counts less. No peer brings in torchvision. Figures go into
``benchmarks/results/module_peers.json``, and from there into ``module_peers.md``.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import semiflat as sf
from carry import Gpt, cnn, digits, mlp, train
from common import RESULTS, Figures, Record

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "pruning": ["torch-pruning==1.6.1", "transformers==5.24.0"],
    "gromo": ["gromo==0.1.0"],
    "nnx": ["flax==0.12.8"],
    "pyhessian": ["pyhessian==0.1"],
}
SEMIFLAT = "semiflat"


def environment(folder: Path, name: str) -> Path:
    """The Python of a peer's environment, which is made if there is none."""
    python = folder / name / "bin" / "python"
    if not python.exists():
        print(f"an environment for {name} is made in {folder / name}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder / name)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "-c", "constraints.txt"]
        subprocess.run(
            [*pip, "-e", ".[data]", "threadpoolctl", *PACKAGES[name]], check=True, cwd=ROOT
        )
    return python


def outputs(model: nn.Module, x: Any) -> Tensor:
    """What a model gives in float64, whatever it is wrapped in."""
    double = copy.deepcopy(model).double()
    if isinstance(x, dict):
        given = {
            k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v
            for k, v in x.items()
        }
        made = double(**given)
    else:
        made = double(x.double() if x.is_floating_point() else x)
    return (made if isinstance(made, Tensor) else made.logits).detach()


def relative(a: Tensor, b: Tensor) -> float:
    """The largest difference, relative to the first."""
    return float((a - b).abs().max() / a.abs().max())


# Torch-Pruning


def resnet(kind: str, depths: list[int], widths: list[int], first: int, pixels: int) -> Any:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(embedding_size=first, hidden_sizes=widths, depths=depths, layer_type=kind)
    model = ResNetForImageClassification(config)
    return model, {"pixel_values": torch.randn(1, 3, pixels, pixels)}


def gpt2(**sizes: int) -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    return model, {"input_ids": torch.randint(0, 50, (1, 16)), "use_cache": False}


def own_gpt(width: int, blocks: int) -> Any:
    return Gpt(width, blocks), torch.randint(256, (1, 16))


# Of each architecture its true size, for seconds, and a small one, on which every group is tried.
MODELS: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "ResNet-18 (transformers)": (
        lambda: resnet("basic", [2, 2, 2, 2], [64, 128, 256, 512], 64, 64),
        lambda: resnet("basic", [1, 1], [8, 16], 8, 32),
    ),
    "ResNet-50 (transformers)": (
        lambda: resnet("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048], 64, 64),
        lambda: resnet("bottleneck", [1, 2], [16, 32], 8, 32),
    ),
    "GPT-2 small (transformers)": (
        gpt2,
        lambda: gpt2(n_layer=2, n_head=4, n_embd=32, vocab_size=50, n_positions=16),
    ),
    "GPT of linear layers (carry.py)": (lambda: own_gpt(256, 4), lambda: own_gpt(64, 2)),
}


def pruned(model: nn.Module, x: Any, group: Any, unit: int) -> str:
    """Whether Torch-Pruning leaves out a unit as setting all that reads it to 0 does; or how it fails.

    It is told the first weight that makes the unit, and which of its rows do.
    """
    import torch_pruning as tp

    silent = copy.deepcopy(model)
    weights = dict(silent.named_parameters())
    for slot in group.slots:
        if slot.role == "reads":
            with torch.no_grad():
                weights[slot.name].index_fill_(slot.axis, slot.positions[unit], 0.0)
    first = next(slot for slot in group.slots if slot.role == "writes")
    other = copy.deepcopy(model)
    module = other.get_submodule(first.module)
    try:
        graph = tp.DependencyGraph().build_dependency(other, example_inputs=x)
        remove = graph.get_pruner_of_module(module).prune_out_channels
        graph.get_pruning_group(module, remove, idxs=first.positions[unit].tolist()).prune()
        change = relative(outputs(silent, x), outputs(other, x))
    except Exception as error:  # whatever it raises
        return f"{type(error).__name__}: {str(error).splitlines()[0]:.90}"
    if change < 1e-10:
        return "right"
    return f"other outputs, by {change:.0e}" + (" (a norm over them)" if group.norms else "")


def graphs(quick: bool) -> Figures:
    """Seconds to find what belongs together, and whether one unit of each group can be left out."""
    import torch_pruning as tp

    rows: Figures = {}
    for name, (large, small) in MODELS.items():
        model, x = small()
        with torch.no_grad():
            for each in model.parameters():
                if each.ndim == 1:  # gains of 1 and biases of 0 would hide what is wrong
                    each.add_(0.3 * torch.rand_like(each))
        model.eval()
        found = [each for each in sf.units(model, x).values() if not each.refuses]
        tried = [pruned(model, x, group, group.size - 1) for group in found]
        if not quick:
            model, x = large()
            model.eval()
        ours, theirs = [], []
        for _ in range(1 if quick else 4):  # the first warms up
            start = time.process_time()
            groups = sf.units(model, x)
            between = time.process_time()
            graph = tp.DependencyGraph().build_dependency(model, example_inputs=x)
            list(graph.get_all_groups())
            ours.append(between - start)
            theirs.append(time.process_time() - between)
        mine, peer = (statistics.median(each[-3:]) for each in (ours, theirs))
        rows[name] = {
            "parameters": sum(each.numel() for each in model.parameters()),
            "seconds_semiflat": mine,
            "seconds_peer": peer,
            "ratio": statistics.median(a / b for a, b in zip(ours, theirs, strict=True)),
            "groups_semiflat": sum(not each.refuses for each in groups.values()),
            "groups_right_in_small": f"{tried.count('right')} of {len(tried)}",
            "otherwise": "; ".join(dict.fromkeys(each for each in tried if each != "right")) or "–",
        }
    return {
        "title": "Torch-Pruning: what belongs together",
        "protocol": "One example, median of 3 rounds. *Right*: in a small model of the same classes, one unit "
        "of each group that `sf.units` can change is left out by Torch-Pruning, told the rows of the "
        "first weight that make it; the outputs are those with all that reads the unit set to 0.",
        "rows": rows,
    }


def shrinking(quick: bool) -> Figures:
    """A convolutional network made smaller, to the same widths by both."""
    import torch_pruning as tp

    X, y = digits()
    model = cnn(4 if quick else 16)
    train(model, torch.optim.Adam(model.parameters(), lr=3e-3), X, y, 10 if quick else 300, 0)
    model.eval()
    few = X[:8]
    wide = sf.widen(model, few, "1", units=3, copies={0: 2, 3: [1.5, -0.5]}).model
    wide = sf.widen(wide, few, "4", units=4, copies={1: 2, 2: [0.3, 0.7], 7: 2}).model.eval()

    def figures(given: nn.Module, small: nn.Module, seconds: float) -> Figures:
        before, after = outputs(given, X), outputs(small, X)
        right = float((after.argmax(1) == y).double().mean())
        return {"change": relative(before, after), "accuracy": right, "seconds": seconds}

    rows: Figures = {}
    cases = {"planted copies and new units": (wide, 0.0), "trained, tolerance 0.1": (model, 0.1)}
    for name, (given, tolerance) in cases.items():
        start = time.process_time()
        small = sf.shrink(given, [(X, y)], tolerance)
        widths = ", ".join(f"{a} → {b}" for a, b in small.widths.values())
        rows[f"{name}: {SEMIFLAT}"] = {"channels": widths} | figures(
            given, small.model, time.process_time() - start
        )
        for how in ("MagnitudeImportance", "BNScaleImportance"):
            other = copy.deepcopy(given)
            ratios = {other.get_submodule(k): 1 - b / a for k, (a, b) in small.widths.items()}
            start = time.process_time()
            pruner = tp.pruner.BasePruner(
                other,
                few,
                importance=getattr(tp.importance, how)(),
                pruning_ratio=0.0,
                pruning_ratio_dict=ratios,
                ignored_layers=[list(other.modules())[-1]],
            )
            pruner.step()
            rows[f"{name}: Torch-Pruning, {how}"] = {"channels": widths} | figures(
                given, other, time.process_time() - start
            )
    return {
        "title": "Torch-Pruning: fewer channels",
        "protocol": "A trained CNN with batch norm on 1,300 digits, once with 5 channels planted in its first "
        "layer and 7 in its second that change no output; Torch-Pruning is given the widths that "
        "`sf.shrink` arrives at. *Change*: the largest of an output, relative to the largest, "
        "replayed in float64 from the float32 weights. Before retraining; one run.",
        "rows": rows,
    }


# gromo


def ours_of(make: Callable[[], nn.Module], x: Tensor, group: str) -> Figures:
    """A widening by eight units after a step of Adam, and what Adam still knows; seconds in float32."""
    model = make()
    optimizer = torch.optim.Adam(model.parameters())
    model(x).square().mean().backward()
    optimizer.step()
    spent = []
    for _ in range(3):
        start = time.process_time()
        wide = sf.widen(model, x, group, units=8)
        new = wide.carry(optimizer)
        spent.append(time.process_time() - start)
    return {
        "change": wide.output_change,
        "adam_knows": f"{len(new.state)} of {len(list(wide.model.parameters()))} tensors",
        "seconds": sorted(spent)[1],
    }


def gromo(quick: bool) -> Figures:
    """A perceptron and a CNN with batch norm, of gromo's classes, eight units more in one layer."""
    from gromo.containers.growing_mlp import GrowingMLP
    from gromo.modules.conv2d_growing_module import RestrictedConv2dGrowingModule
    from gromo.modules.growing_normalisation import GrowingBatchNorm2d

    class Cnn(nn.Module):
        def __init__(self) -> None:
            super().__init__()

            def after(size: int) -> nn.Module:
                return nn.Sequential(GrowingBatchNorm2d(size), nn.ReLU())

            conv = RestrictedConv2dGrowingModule
            sizes: Any = {"padding": 1, "input_size": (8, 8)}
            self.first = conv(1, 8, 3, post_layer_function=after(8), **sizes)
            self.second = conv(
                8,
                16,
                3,
                post_layer_function=after(16),
                previous_module=self.first,
                allow_growing=True,
                **sizes,
            )
            self.first.next_module = self.second
            self.last = nn.Linear(16 * 64, 10)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.second(self.first(x)).flatten(1))

    def perceptron() -> nn.Module:
        return GrowingMLP(64, 10, 32, 2, activation=nn.GELU())

    ways: dict[str, dict[str, Any]] = {
        "as it is by default": {},
        "pairs (z, −z) with its noise": {"neuron_pairing": "vv_z_negz"},
        "pairs (z, −z) without noise": {"neuron_pairing": "vv_z_negz", "noise_ratio": 0.0},
        "read with 0": {"output_extension_init": "kaiming", "input_extension_init": "zeros"},
    }
    kinds: dict[str, tuple[Callable[[], nn.Module], Tensor, str, str]] = {
        "MLP": (perceptron, torch.randn(16, 64), "layers.2", "layers.1.layer"),
        "CNN with batch norm": (Cnn, torch.randn(16, 1, 8, 8), "second", "first.layer"),
    }
    rows: Figures = {}
    for kind, (make, x, grown, group) in kinds.items():
        for way, options in ways.items():
            model = make()
            optimizer = torch.optim.Adam(model.parameters())
            model(x).square().mean().backward()
            optimizer.step()
            old = make()
            old.load_state_dict(model.state_dict())
            layer = model.get_submodule(grown)
            start = time.process_time()
            layer.create_layer_extensions(8, **options)
            layer.apply_change(extension_size=8, scaling_factor=1.0)
            layer.delete_update(include_previous=True)
            spent = time.process_time() - start
            parameters = list(model.parameters())
            known = sum(each in optimizer.state for each in parameters)
            rows[f"{kind}: gromo, {way}"] = {
                "change": relative(outputs(old, x), outputs(model, x)),
                "adam_knows": f"{known} of {len(parameters)} tensors",
                "seconds": spent,
            }
        rows[f"{kind}: {SEMIFLAT}, of gromo's classes"] = ours_of(make, x, group)
    plain = {
        "MLP": (mlp, torch.randn(16, 64), "0"),
        "CNN with batch norm": (cnn, torch.randn(16, 64), "1"),
    }
    for kind, given in plain.items():
        rows[f"{kind}: {SEMIFLAT}, of torch's classes"] = ours_of(*given)
    return {
        "title": "gromo: eight units more in a layer",
        "protocol": "gromo grows networks of its own classes (perceptrons, mixers, ResNets, VGGs, graphs of "
        "linear layers and convolutions); one that is there already is written anew with them. "
        "*Change* of the outputs in float64 (semiflat's in training and evaluation mode). *Adam "
        "knows*: tensors of the new model that the optimiser has a state of, after gromo without "
        "doing anything, after semiflat by `carry`. Its own choice of new units, by the loss's "
        "gradient, changes the outputs on purpose and is not measured here.",
        "rows": rows,
    }


# Flax NNx


def nnx(quick: bool) -> Figures:
    """Eight units more by hand, in a module and in Adam's state."""
    import jax
    import jax.numpy as jnp
    import optax
    from flax import nnx

    class Mlp(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.up = nnx.Linear(64, 16, rngs=rngs)
            self.down = nnx.Linear(16, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.down(jax.nn.gelu(self.up(x)))

    class Cnn(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv = nnx.Conv(1, 8, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(8, rngs=rngs)
            self.down = nnx.Linear(8 * 64, 10, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = jax.nn.relu(self.norm(self.conv(x)))
            return self.down(x.reshape(x.shape[0], -1))  # channels last

    def more(value: Any, axis: int, count: int, fill: float = 0.0) -> Any:
        shape = list(value.shape)
        shape[axis] = count
        return jnp.concatenate([value, jnp.full(shape, fill, value.dtype)], axis)

    def widen_mlp(model: Any, optimizer: Any, count: int) -> None:
        up, down = model.up, model.down
        draw = jax.random.normal(jax.random.key(0), (64, count)) / 8
        up.kernel.value = jnp.concatenate([up.kernel.value, draw], 1)
        up.bias.value = more(up.bias.value, 0, count)
        down.kernel.value = more(down.kernel.value, 0, count)
        up.out_features = down.in_features = up.out_features + count
        for moment in (optimizer.opt_state[0].mu, optimizer.opt_state[0].nu):
            moment["up"]["kernel"].value = more(moment["up"]["kernel"].value, 1, count)
            moment["up"]["bias"].value = more(moment["up"]["bias"].value, 0, count)
            moment["down"]["kernel"].value = more(moment["down"]["kernel"].value, 0, count)

    def widen_cnn(model: Any, optimizer: Any, count: int) -> None:
        conv, norm, down = model.conv, model.norm, model.down
        old = conv.out_features
        draw = jax.random.normal(jax.random.key(0), (3, 3, 1, count)) / 3

        def read(value: Any) -> Any:
            apart = value.reshape(64, old, -1)
            return more(apart, 1, count).reshape(64 * (old + count), -1)

        conv.kernel.value = jnp.concatenate([conv.kernel.value, draw], 3)
        conv.bias.value = more(conv.bias.value, 0, count)
        norm.scale.value = more(norm.scale.value, 0, count, 1.0)
        norm.bias.value = more(norm.bias.value, 0, count)
        norm.mean.value = more(norm.mean.value, 0, count)
        norm.var.value = more(norm.var.value, 0, count, 1.0)
        down.kernel.value = read(down.kernel.value)
        conv.out_features = norm.num_features = old + count
        down.in_features = 64 * (old + count)
        for moment in (optimizer.opt_state[0].mu, optimizer.opt_state[0].nu):
            moment["conv"]["kernel"].value = more(moment["conv"]["kernel"].value, 3, count)
            moment["conv"]["bias"].value = more(moment["conv"]["bias"].value, 0, count)
            moment["norm"]["scale"].value = more(moment["norm"]["scale"].value, 0, count)
            moment["norm"]["bias"].value = more(moment["norm"]["bias"].value, 0, count)
            moment["down"]["kernel"].value = read(moment["down"]["kernel"].value)

    kinds = {
        "MLP": (Mlp, widen_mlp, (16, 64), lambda: mlp(), torch.randn(16, 64), "0"),
        "CNN with batch norm": (
            Cnn,
            widen_cnn,
            (16, 8, 8, 1),
            lambda: cnn(8, 1),
            torch.randn(16, 64),
            "1",
        ),
    }
    rows: Figures = {}
    for kind, (make, widen, shape, plain, x, group) in kinds.items():
        given = jax.random.normal(jax.random.key(1), shape)

        def loss(model: Any, given: Any = given) -> Any:
            return (model(given) ** 2).mean()

        spent, change = [], 0.0
        for _ in range(4):
            model = make(nnx.Rngs(0))
            optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)
            optimizer.update(model, nnx.grad(loss)(model))
            modes = (model.train, model.eval)
            before = []
            for mode in modes:
                mode()
                before.append(nnx.clone(model)(given))
            start = time.process_time()
            widen(model, optimizer, 8)
            jax.block_until_ready(nnx.state(model))
            spent.append(time.process_time() - start)
            for mode, old in zip(modes, before, strict=True):
                mode()
                gap = jnp.abs(nnx.clone(model)(given) - old).max() / jnp.abs(old).max()
                change = max(change, float(gap))
            optimizer.update(model, nnx.grad(loss)(model))  # it goes on
        lines = len(inspect.getsource(widen).splitlines()) - 1
        rows[f"{kind}: NNx by hand"] = {
            "lines_of_surgery": lines,
            "change": change,
            "seconds": sorted(spent[1:])[1],
        }
        ours = ours_of(plain, x, group)
        rows[f"{kind}: {SEMIFLAT}"] = {
            "lines_of_surgery": 2,
            "change": ours["change"],
            "seconds": ours["seconds"],
        }
    return {
        "title": "Flax NNx: eight units more in a layer, by hand",
        "protocol": "NNx modules are plain objects, so their arrays can be replaced; which ones, and along "
        "which axis, is up to who writes it, for the model, for optax's state, and again for each "
        "architecture. *Lines* that do it, beyond a helper that pads arrays. Change of the outputs in "
        "training and evaluation mode: NNx in float32, semiflat in float64. NNx checks nothing: a "
        "wrong axis that fits gives another function. New units' second moments start at 0 in the "
        "hand-written code.",
        "rows": rows,
    }


# PyHessian


def pyhessian(quick: bool) -> Figures:
    """The ends of the Hessian's spectrum and its trace, where the dense Hessian tells."""
    from pyhessian import hessian

    X, y = digits()
    rows: Figures = {}
    steps = {"at random": 0, "after 60 steps of Adam": 60, "after 2,000 steps": 2000}
    for name, count in list(steps.items())[: 1 if quick else None]:
        model = mlp()
        train(model, torch.optim.Adam(model.parameters(), lr=3e-3), X, y, count, 0)
        model.eval()
        few = 64 if quick else len(X)
        batches = [(X[:few], y[:few])]
        loss = nn.functional.cross_entropy
        start = time.process_time()
        said = sf.judge_module(model, batches, loss)
        seconds = time.process_time() - start
        start = time.process_time()
        units = sf.unit_curvature(model, batches, loss)
        seconds_units = time.process_time() - start
        start = time.process_time()
        top = hessian(model, loss, data=batches[0], cuda=False).eigenvalues()[0][0]
        seconds_top = time.process_time() - start
        start = time.process_time()
        tried = hessian(model, loss, data=batches[0], cuda=False).trace()
        seconds_trace = time.process_time() - start
        try:
            hessian(model, loss, data=batches[0], cuda=False).density(iter=10)
            density = "runs"
        except Exception as error:  # whatever it raises
            density = f"{type(error).__name__}: {str(error).splitlines()[0]:.80}"
        true = dense(model, X[:few], y[:few])
        rows[name] = {
            "true_lowest": float(true[0]),
            "true_highest": float(true[-1]),
            "true_trace": float(true.sum()),
            "semiflat_lowest": str(said.lowest),
            "semiflat_highest": str(said.highest),
            "pyhessian_top": top,
            "pyhessian_trace": sum(tried) / len(tried),
            "pyhessian_density": density,
            "seconds_judge_module": seconds,
            "seconds_unit_curvature": seconds_units,
            "units_with_a_way_down": sum(
                unit.best_shares is not None for group in units.values() for unit in group.units
            ),
            "seconds_pyhessian_top": seconds_top,
            "seconds_pyhessian_trace": seconds_trace,
        }
    return {
        "title": "PyHessian: the ends of a spectrum",
        "protocol": "A perceptron of 1,210 parameters on 1,300 digits, float32 as PyHessian draws its vectors "
        "in; semiflat computes in float64. *True*: the eigenvalues of the dense Hessian in float64. "
        "PyHessian with its own numbers of steps and tolerance; its top eigenvalue is the one largest "
        "in size. Nothing of it corresponds to `unit_curvature`. Models of a million parameters: "
        "`judge_module.py --peer`.",
        "rows": rows,
    }


def dense(model: nn.Module, X: Tensor, y: Tensor) -> Tensor:
    """The eigenvalues of the Hessian, from the lowest."""
    double = copy.deepcopy(model).double()
    names = [name for name, _ in double.named_parameters()]
    shapes = [each.shape for each in double.parameters()]

    def risk(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes])
        given = {n: p.view(s) for n, p, s in zip(names, parts, shapes, strict=True)}
        made = torch.func.functional_call(double, given, (X.double(),))
        return nn.functional.cross_entropy(made, y)

    point = nn.utils.parameters_to_vector(double.parameters()).detach()
    return torch.linalg.eigvalsh(torch.autograd.functional.hessian(risk, point, vectorize=True))


CASES: dict[str, dict[str, Callable[[bool], Figures]]] = {
    "pruning": {"graph": graphs, "shrink": shrinking},
    "gromo": {"gromo": gromo},
    "nnx": {"nnx": nnx},
    "pyhessian": {"pyhessian": pyhessian},
}


def word(value: Any) -> str:
    """A figure as it stands in a table."""
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def page(cases: dict[str, Figures]) -> str:
    """A table for each case."""
    text = [
        "# Peers of what semiflat does with any model",
        "",
        "By `benchmarks/module_peers.py`, each peer in an environment of its own, on one thread.",
    ]
    for case in cases.values():
        columns = list(next(iter(case["rows"].values())))
        at = case["machine"]
        text += ["", f"## {case['title']}", "", case["protocol"], ""]
        text += [
            f"| | {' | '.join(each.replace('_', ' ') for each in columns)} |",
            "|---" * (len(columns) + 1) + "|",
        ]
        text += [
            f"| {name} | {' | '.join(word(row[each]) for each in columns)} |"
            for name, row in case["rows"].items()
        ]
        text += [
            "",
            f"{at['date']}, {at['cpu']}, {at['cores']} cores with a load of {at['load_before']:.1f} before and "
            f"{at['load_after']:.1f} after; torch {at['torch']}, {case['versions']}. Seconds are of the "
            f"{case['clock']}.",
        ]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", default=",".join(CASES))
    parser.add_argument("--venvs", type=Path, default=ROOT / "build" / "peers")
    parser.add_argument("--quick", action="store_true", help="small models")
    parser.add_argument("--out", type=Path, help="JSON file; a quick run writes none otherwise")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        torch.set_num_threads(1)
        torch.manual_seed(0)
        warnings.simplefilter("ignore")  # of these packages
        print(
            json.dumps(CASES[options.one.split(":")[0]][options.one.split(":")[1]](options.quick))
        )
        return
    if unknown := set(options.cases.split(",")) - set(CASES):
        parser.error(f"no case {', '.join(sorted(unknown))}; there are {', '.join(CASES)}")
    out = options.out or (None if options.quick else RESULTS / "module_peers.json")
    record = Record(out, page, [name for each in CASES.values() for name in each])
    for peer in options.cases.split(","):
        python = environment(options.venvs, peer)
        for name in CASES[peer]:
            done = subprocess.run(
                [str(python), __file__, "--one", f"{peer}:{name}"] + ["--quick"] * options.quick,
                stdout=subprocess.PIPE,
                text=True,
                check=True,
                env=os.environ | {"OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"},
            )
            *told, figures = done.stdout.splitlines()
            found = json.loads(figures)
            found |= {"versions": ", ".join(PACKAGES[peer]), "clock": "processor"}
            record.keep(name, found)
            print(*told, page({name: record.cases[name]}), sep="\n", flush=True)


if __name__ == "__main__":
    main()
