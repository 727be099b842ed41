"""A hierarchy of 100,000 points in a store: writing it, reading some or all, pages, questions; and starts kept.

The points are made up, five widths of 10 inputs, each with three edges. Starts are kept in blocks of 64 and
asked for one by one, as a search does; beside the database stands the folder's file of lines. With ``--url``
a PostgreSQL database is measured, too: one that holds no hierarchy and may be written to.
Run: python benchmarks/store.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

import semiflat as sf
from common import RESULTS, Figures, Record, header
from semiflat.report import hierarchy_page
from semiflat.search.block import Settings
from semiflat.search.record import Finished, Status
from semiflat.search.store import KeptRun, open_store

POINTS, WIDTHS, INPUTS, STARTS, BLOCK = 100_000, 5, 10, 10_000, 64
SELECTIONS = {
    "lowest": {"lowest": 100},
    "saddles": {"widths": [3], "kinds": ["STRICT_SADDLE"], "lowest": 500},
}


def problem() -> sf.Problem:
    """Gaussian data, as many samples as the diabetes data have."""
    draw = torch.Generator().manual_seed(0)
    X = torch.randn((442, INPUTS), generator=draw).double()
    return sf.Problem(sf.MLP([INPUTS, 1, 1], "tanh"), X, torch.sin(X.sum(1, keepdim=True)))


def made_up(points: int) -> sf.Hierarchy:
    """A hierarchy that no search found."""
    draw = torch.Generator().manual_seed(0)
    records, edges, levels = [], [], []
    kinds = [str(kind) for kind in sf.Kind]
    for width in range(1, WIDTHS + 1):
        size = width * (INPUTS + 2) + 1
        count = points // WIDTHS
        vectors = torch.randn((count, size), generator=draw).double()
        losses = torch.rand(count, generator=draw).double().tolist()
        for k in range(count):
            records.append(
                sf.PointRecord(
                    name=f"{width}-{k}",
                    hidden=(width,),
                    vector=vectors[k],
                    limit=None,
                    loss=losses[k],
                    gradient_norm=1e-14,
                    kind=kinds[k % len(kinds)],
                    certainty="MEASURED",
                    reason="all eigenvalues of the Hessian are positive; the least certain is 0.02",
                    inertia=(size, 0, 0),
                    function=k,
                    new=True,
                    trivial=None,
                    found=1,
                    origin="random start",
                    evidence="gradient 1e-14; the least certain eigenvalue is 0.02; no flat direction",
                )
            )
            for how in ("inside", "outside", "null units"):
                edges.append(
                    sf.Edge(
                        kind="embeds",
                        source=f"{width}-{k}",
                        target=f"{width}-{k}@{width + 1}",
                        hidden=(width + 1,),
                        how=how,
                        verdict="STRICT_SADDLE",
                        inertia=(size, 1, 1),
                        loss=losses[k],
                    )
                )
        levels.append(
            sf.Level(
                hidden=(width,),
                starts=(count, 0),
                counts={"CONVERGED": count},
                descents=(0, 0),
                narrower=0,
                new_minima=count,
                new_saddles=0,
                new_at_infinity=0,
                unseen=0.0,
                missing=0.0,
            )
        )
    return sf.Hierarchy(problem(), records, edges, levels)


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def hierarchies(place: str, points: int) -> Figures:
    """Writing and reading."""
    h = made_up(points)
    X, y = h.problem.X, h.problem.y
    found: Figures = {"points": len(h), "edges": len(h.edges)}
    found["seconds_write"] = timed(lambda: h.save(place))
    for name, selection in SELECTIONS.items():
        times = [timed(lambda s=selection: sf.load_hierarchy(place, X, y, **s)) for _ in range(3)]
        found[f"seconds_{name}"] = sorted(times)[1]
        found[f"loaded_{name}"] = len(sf.load_hierarchy(place, X, y, **selection))
    some = sf.load_hierarchy(place, X, y, **SELECTIONS["lowest"])
    found["seconds_page"] = timed(lambda: hierarchy_page(some.page_record()))
    found["page_bytes"] = len(hierarchy_page(some.page_record()))
    found["seconds_all"] = timed(lambda: sf.load_hierarchy(place, X, y))
    asked: dict[str, Callable[[], object]] = {
        "edges": lambda: h.edges_of("3-5"),
        "traps": h.traps,
        "least_width": h.least_width,
        "disconnectivity": lambda: h.disconnectivity(3),
        "page_of_all": lambda: hierarchy_page(h.page_record()),
    }
    found |= {f"seconds_{name}": timed(ask) for name, ask in asked.items()}
    if Path(place).exists():
        found["file_bytes"] = Path(place).stat().st_size
    return found


def starts(place: str, count: int) -> Figures:
    """Keeping runs, and asking for all of them again."""
    p = problem().with_net(sf.MLP([INPUTS, 3, 1], "tanh"))
    vector = torch.randn(p.net.parameter_count, generator=torch.Generator().manual_seed(0)).double()
    blocks = [range(k, min(k + BLOCK, count)) for k in range(0, count, BLOCK)]

    def name(some: range) -> tuple[int, int]:
        return some[0], len(some)

    with open_store(place, [p], Settings(), 1.0, count) as store:
        start = time.perf_counter()
        for some in blocks:
            runs = [Finished(n, Status.CONVERGED, "", 40, vector, 0.1, 1e-14) for n in some]
            store.put([KeptRun(name(some), run) for run in runs])
        put = time.perf_counter() - start
    start = time.perf_counter()
    with open_store(place, [p], Settings(), 1.0, count) as store:
        assert all(store.get((name(some), n)) is not None for some in blocks for n in some)
    return {"starts": count, "seconds_put": put, "seconds_get": time.perf_counter() - start}


def seconds(case: Figures, name: str) -> str:
    """A time; nothing where the record is older than the question."""
    found = case.get(f"seconds_{name}")
    return "" if found is None else f"{found:.2f}"


def page(cases: dict[str, Figures]) -> str:
    """The figures in Markdown."""
    machines = [case["machine"] for case in cases.values()]
    where, loads = machines[0], [each["load_after"] for each in machines]
    lines = [
        "# Stores",
        "",
        f"By `benchmarks/store.py`, {where['cpu']}, {where['torch_threads']} thread(s), {where['cores']} "
        f"cores with a load of {min(loads):.0f} to {max(loads):.0f}. Seconds; a selection's are the median of "
        "three.",
        "",
        "| a hierarchy in | points | edges | writing it | 100 lowest of each width | their page "
        "| 500 saddles of one width | reading all | MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        if "points" in case:
            size = case.get("file_bytes")
            lines.append(
                f"| {name} | {case['points']:,} | {case['edges']:,} | {case['seconds_write']:.1f} | "
                f"{case['seconds_lowest']:.2f} | {seconds(case, 'page')} | {case['seconds_saddles']:.2f} | "
                f"{case['seconds_all']:.1f} | {'' if size is None else f'{size / 2**20:.0f}'} |"
            )
    lines += [
        "",
        "| once all are read | edges of a point | traps | least width | disconnectivity of one width "
        "| a page of the lowest |",
        "|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        if "seconds_traps" in case:
            asked = ("edges", "traps", "least_width", "disconnectivity", "page_of_all")
            lines.append(f"| {name} | {' | '.join(seconds(case, each) for each in asked)} |")
    lines += [
        "",
        "| starts in | starts | keeping them | asking for all again |",
        "|---|---|---|---|",
    ]
    for name, case in cases.items():
        if "starts" in case:
            lines.append(
                f"| {name.removeprefix('starts, ')} | {case['starts']:,} | {case['seconds_put']:.1f} | "
                f"{case['seconds_get']:.1f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=POINTS)
    parser.add_argument("--starts", type=int, default=STARTS)
    parser.add_argument("--url", help="of a PostgreSQL database to measure, too")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "store.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    header("Stores")
    order = ["SQLite", "PostgreSQL", "starts, a folder", "starts, SQLite", "starts, PostgreSQL"]
    record = Record(arguments.out, page, order)
    with tempfile.TemporaryDirectory() as folder:
        places = {"SQLite": f"{folder}/h.db"}
        if arguments.url:
            places["PostgreSQL"] = arguments.url
        for name, place in places.items():
            record.keep(name, hierarchies(place, arguments.points))
            print(name, record.cases[name], flush=True)
        for name, place in {"a folder": f"{folder}/starts", **places}.items():
            record.keep(f"starts, {name}", starts(place, arguments.starts))
            print(name, record.cases[f"starts, {name}"], flush=True)


if __name__ == "__main__":
    main()
