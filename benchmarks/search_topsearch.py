"""topsearch on a case of the search benchmark: run by ``search.py`` in an environment of its own.

topsearch 0.0.3 needs NumPy below 2 (and brings rdkit and ase), so it is kept out of the environment
the other peers run in:

    python -m venv ../topsearch-venv
    ../topsearch-venv/bin/pip install -c constraints.txt -e '.[bench]'
    python benchmarks/search.py --topsearch-python ../topsearch-venv/bin/python

Two things are measured. Its minimiser (bounded L-BFGS) goes from the same starts as every other peer.
Its landscape exploration (basin-hopping, then nudged elastic bands between minima and hybrid
eigenvector-following from their tops) is timed as a whole, and what it found is counted modulo the
network's symmetries, which topsearch does not know. Prints one JSON object; exit code 3 if topsearch is
not installed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

import semiflat as sf
from search_cases import problems
from search_peers import Array, Derivatives, run_peer
from semiflat.symmetries.canonical import same_network

BOX = 20.0
"""topsearch needs bounds; the minima of case (a) are well inside these."""
COARSE = 1e-6
"""What exploration converges to: topsearch's default for minima."""


def minimiser(d: Derivatives, start: Array) -> tuple[Array, str]:
    """topsearch's local minimiser, with as many steps as it likes."""
    from topsearch.minimisation import lbfgs

    bounds = [(-BOX, BOX)] * len(start)
    x, _, how = lbfgs.minimise(
        d.value_and_gradient, start, bounds, conv_crit=d.tolerance, n_steps=10_000
    )
    return x, {0: "STOPPED", 1: "MAX_ITERATIONS"}.get(how["warnflag"], "PRECISION")


def explore(problem: sf.Problem, start: Array, steps: int, seconds: float) -> dict[str, Any]:
    """Basin-hopping of some steps and one round of transition-state searches."""
    from topsearch.data.coordinates import StandardCoordinates
    from topsearch.data.kinetic_transition_network import KineticTransitionNetwork
    from topsearch.global_optimisation.basin_hopping import BasinHopping
    from topsearch.global_optimisation.perturbations import StandardPerturbation
    from topsearch.potentials.potential import Potential
    from topsearch.sampling.exploration import NetworkSampling
    from topsearch.similarity.similarity import StandardSimilarity
    from topsearch.transition_states.hybrid_eigenvector_following import HybridEigenvectorFollowing
    from topsearch.transition_states.nudged_elastic_band import NudgedElasticBand

    deadline = time.perf_counter() + seconds
    derivatives = Derivatives(problem, tolerance=-1.0)

    class OutOfTime(Exception):
        pass

    class Risk(Potential):
        def function_gradient(self, position: Array) -> tuple[float, Array]:
            if time.perf_counter() > deadline:
                raise OutOfTime
            return derivatives.value_and_gradient(np.ascontiguousarray(position))

        def function(self, position: Array) -> float:
            return self.function_gradient(position)[0]

        def gradient(self, position: Array, displacement: float = 0.0) -> Array:
            return self.function_gradient(position)[1]

        def hessian(self, position: Array, displacement: float = 0.0) -> Array:
            return derivatives.hessian(np.ascontiguousarray(position))

    np.random.seed(0)  # topsearch draws from NumPy's global generator
    found = KineticTransitionNetwork()
    potential = Risk()
    similarity = StandardSimilarity(distance_criterion=1e-2, energy_criterion=1e-6)
    coords = StandardCoordinates(ndim=len(start), bounds=[(-BOX, BOX)] * len(start))
    coords.position = start.copy()
    explorer = NetworkSampling(
        found,
        coords,
        BasinHopping(found, potential, similarity, StandardPerturbation(max_displacement=10.0)),
        HybridEigenvectorFollowing(potential, ts_conv_crit=COARSE, ts_steps=100, pushoff=0.1),
        NudgedElasticBand(
            potential, force_constant=50.0, image_density=10.0, max_images=20, neb_conv_crit=1e-2
        ),
        similarity,
    )
    begun = time.perf_counter()
    complete = True
    try:
        explorer.get_minima(coords, steps, COARSE, temperature=1.0, test_valid=False)
        explorer.get_transition_states("ConnectUnconnected", 1)
    except OutOfTime:
        complete = False
    spent = time.perf_counter() - begun
    minima = [found.get_minimum_coords(k) for k in range(found.n_minima)]
    saddles = [data["coords"] for _, _, data in found.G.edges(data=True)]
    return {
        "basin_hopping_steps": steps,
        "complete": complete,
        "seconds": spent,
        "minima": _distinct(problem, minima),
        "transition_states": _distinct(problem, saddles),
    }


def _distinct(problem: sf.Problem, positions: list[Array]) -> dict[str, Any]:
    kept: list[sf.Point] = []
    for x in positions:
        point = sf.Point(problem, problem.net.unflatten(torch.from_numpy(x)))
        close = [p for p in kept if abs(p.loss - point.loss) <= 1e-6 * abs(point.loss)]
        # As exact as topsearch's own criterion for one point found twice.
        if not any(same_network(problem.net, p.params, point.params, 1e-2) for p in close):
            kept.append(point)
    norms = [point.gradient_norm for point in kept]
    return {
        "found": len(positions),
        "distinct": len(kept),
        "gradient_norm_median": float(np.median(norms)) if norms else None,
        "losses": sorted(point.loss for point in kept),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="a")
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=5.0, help="at most, for one run")
    parser.add_argument("--steps", type=int, default=20, help="of basin-hopping")
    parser.add_argument("--explore-seconds", type=float, default=60.0, help="at most, in all")
    options = parser.parse_args()
    try:
        import topsearch  # noqa: F401
    except ImportError:
        sys.exit(3)
    torch.set_num_threads(1)
    case = problems(options.case, options.count, options.seed)
    pairs = case.pairs()
    with tempfile.TemporaryDirectory() as scratch:
        here = Path.cwd()
        os.chdir(scratch)  # topsearch writes its log where it stands
        runs = [run_peer(minimiser, problem, start, options.seconds) for problem, start in pairs]
        problem, start = pairs[0]
        landscape = explore(problem, start.numpy(), options.steps, options.explore_seconds)
        os.chdir(here)
    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "torch": torch.__version__,
    }
    made = {"runs": [asdict(run) for run in runs], "landscape": landscape, "versions": versions}
    print(json.dumps(made))


if __name__ == "__main__":
    main()
