"""Which numbers and comparisons could be changed without any test noticing?

    python benchmarks/mutants.py [--out .mutants] [--budget 300] [--again] [--list] [file …]

Each number, comparison and sign in the rooms that verdicts, statuses and counts rest on is changed, one
at a time, in a *copy* of the tree, and the tests that run its line are run, the fastest first, until one
fails. A mutant that none fails for survives. A first run of the tests tells which run which line.
Everything is written to ``--out`` as it is known, and a run that was stopped goes on where it was: a
mutant is done again when its file has changed, a test file measured again when it or the source has. Hours.

Numbers are multiplied and divided by 1000, then by 10, set to 0, and whole ones raised by 1; a mutant by
10 is not tried where that by 1000 survives. Comparisons are turned round, and moved to or from their
bound where that is a whole number; signs, ``~`` and ``not`` are dropped. Indices and axes are left alone.

mutmut 3 and Cosmic Ray add 1 to a number or subtract it, which for a tolerance is no question at all;
neither picks tests by line and speed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
ROOMS = [
    "evidence", "symmetries", "verdicts", "embeddings/compatible.py", "search/distinct.py",
    "search/outcome.py", "search/driver.py", "reduction", "limits", "certificates",
]  # fmt: skip
SLOW = {"test_study", "test_report", "test_cli", "test_cluster", "test_imports"}
TURNED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}
MOVED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">"}


def statements(tree: ast.Module) -> Iterator[tuple[ast.stmt, int, int, bool]]:
    """Each statement with its first and last line, its body left out, and whether calls run it."""

    def inside(body: list[ast.stmt], called: bool) -> Iterator[tuple[ast.stmt, int, int, bool]]:
        for node in body:
            parts = [
                part for name in ("body", "orelse", "finalbody") for part in getattr(node, name, [])
            ]
            last = min((part.lineno for part in parts), default=(node.end_lineno or 0) + 1) - 1
            yield node, node.lineno, max(last, node.lineno), called
            yield from inside(parts, called or isinstance(node, ast.FunctionDef))

    yield from inside(tree.body, False)


def changes(
    statement: ast.stmt, source: bytes, starts: list[int]
) -> Iterator[tuple[int, int, str]]:
    """What may be put in the place of which bytes of the source."""

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    def of(node: Any) -> tuple[int, int]:
        return at(node.lineno, node.col_offset), at(node.end_lineno, node.end_col_offset)

    def walk(node: ast.AST, index: bool) -> Iterator[tuple[int, int, str]]:
        if isinstance(node, ast.Constant) and type(node.value) in (int, float):
            value, (start, end) = node.value, of(node)
            if type(value) is float and 1e-200 < abs(value) < 1e200:
                yield from (
                    (start, end, f"({node.value!r} * {by})") for by in ("1e3", "1e-3", "10", "0.1")
                )
            elif type(value) is int and not index:
                yield start, end, f"{value + 1}"
                if value > 7:
                    yield start, end, f"({value} * 10)"
            if value and not (index and type(value) is int):
                yield start, end, "0" if type(value) is int else "0.0"
        if isinstance(node, ast.Compare) and len(node.ops) == 1:
            start, end = of(node.left)[1], of(node.comparators[0])[0]
            sign = re.search(rb"[<>=!]=|[<>]", source[start:end])
            if sign:
                place = start + sign.start(), start + sign.end()
                whole = any(
                    isinstance(side, ast.Constant) and type(side.value) is int
                    for side in (node.left, *node.comparators)
                )
                yield *place, TURNED[sign[0].decode()]
                if whole and sign[0].decode() in MOVED:
                    yield *place, MOVED[sign[0].decode()]
        if isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant):
            yield of(node)[0], of(node.operand)[0], ""
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.stmt, ast.JoinedStr)):
                continue
            method = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
            axis = isinstance(node, ast.keyword) and node.arg in (
                "dim",
                "dim1",
                "dim2",
                "axis",
                "correction",
            )
            slice_ = isinstance(node, ast.Subscript) and child is node.slice
            inner = isinstance(node, (ast.Tuple, ast.UnaryOp, ast.Slice, ast.List)) and index
            number = method and isinstance(child, (ast.Constant, ast.UnaryOp, ast.Tuple))
            yield from walk(child, bool(axis or slice_ or inner or number))

    yield from walk(statement, False)


def mutants(path: str, source: bytes) -> Iterator[dict[str, Any]]:
    """The mutants of a file, those by a large factor first."""
    digest = hashlib.sha256(source).hexdigest()[:12]
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    for node, first, last, called in statements(ast.parse(source)):
        called = called and not isinstance(node, (ast.FunctionDef, ast.ClassDef))  # but its header
        for start, end, new in changes(node, source, starts):
            line = source.count(b"\n", 0, start) + 1
            text = source.splitlines()[line - 1].decode().strip()
            names = [
                target.id for target in getattr(node, "targets", []) if isinstance(target, ast.Name)
            ]
            yield {
                "file": path, "digest": digest, "line": line, "start": start, "end": end,
                "old": source[start:end].decode(), "new": new, "text": text,
                "lines": [first, last] if called else None, "names": [] if called else names,
            }  # fmt: skip


def child(work: Callable[[], dict[str, Any]], out: Path, seconds: float) -> dict[str, Any] | None:
    """What ``work`` gives in a process of its own; None where it takes more than so many seconds of CPU.

    Not of the clock's, which go by on a machine that is busy or stopped, too.
    """
    answer = out / f"answer-{os.getpid()}.json"
    answer.unlink(missing_ok=True)
    process = os.fork()
    if not process:
        resource.setrlimit(resource.RLIMIT_CPU, (int(seconds), int(seconds) + 1))
        try:
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1), os.dup2(quiet, 2)
            answer.write_text(json.dumps(work()))
        finally:
            os._exit(0)
    status = os.waitpid(process, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) in (signal.SIGXCPU, signal.SIGKILL):
        return None
    return json.loads(answer.read_text()) if answer.exists() else {"failed": "the process died"}


class Watch:
    """Of one run of pytest: how long each test takes, which lines it runs, and which fails first."""

    def __init__(self, coverage: Any = None) -> None:
        self.coverage, self.failed = coverage, ""
        self.seconds: dict[str, float] = defaultdict(float)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        if self.coverage:  # what fixtures run, the other tests of the file may rest on, too
            self.coverage.switch_context(nodeid.split("::")[0])

    def pytest_runtest_call(self, item: Any) -> None:
        if self.coverage:
            self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.seconds[report.nodeid] += report.duration
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and not self.failed:
            self.failed = f"{report.nodeid} (collecting)"


def run(tests: list[str], watch: Watch) -> int:
    import pytest

    return int(
        pytest.main(
            ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", *tests], plugins=[watch]
        )
    )


def measure(tree: Path, test: str) -> dict[str, Any]:
    """Run a test file once: seconds of each test, and the tests of each line of the source."""
    import coverage

    traced = coverage.Coverage(data_file=None, source=[str(tree / "src")], config_file=False)
    watch = Watch(traced)
    traced.start()
    code = run([test], watch)
    traced.stop()
    data = traced.get_data()
    lines = {
        str(Path(file).relative_to(tree)): data.contexts_by_lineno(file)
        for file in data.measured_files()
    }
    return {"code": code, "failed": watch.failed, "seconds": watch.seconds, "lines": lines}


class Tests:
    """What the measured test files tell."""

    def __init__(self, measured: list[dict[str, Any]]) -> None:
        self.seconds: dict[str, float] = {}
        self.of: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for one in measured:
            self.seconds |= one["seconds"]
            for file, lines in one["lines"].items():
                for line, contexts in lines.items():
                    for context in filter(None, contexts):
                        whole = [t for t in one["seconds"] if "::" not in context]
                        self.of[file][int(line)].update(whole or [context])
        self.kills: Counter[tuple[str, str]] = Counter()

    def choose(self, mutant: dict[str, Any], budget: float) -> tuple[list[str], int]:
        """Tests that run it, the likeliest and fastest first, as many as the budget pays for."""
        found: set[str] = set()
        if mutant["lines"]:
            first, last = mutant["lines"]
            found.update(*(self.of[mutant["file"]].get(k, ()) for k in range(first, last + 1)))
        elif mutant["names"]:
            name = re.compile(rf"\b{mutant['names'][0]}\b")
            for file, lines in self.of.items():
                text = Path(file).read_text().splitlines()
                found.update(*(tests for k, tests in lines.items() if name.search(text[k - 1])))
        else:
            found.update(*self.of[mutant["file"]].values())
        known = sorted(
            found, key=lambda t: (-self.kills[mutant["file"], t], self.seconds.get(t, 0.0))
        )
        chosen, spent = [], 0.0
        for test in known:
            spent += self.seconds.get(test, 0.0)
            if spent > budget:
                break
            chosen.append(test)
        return chosen, len(known)


def try_one(
    mutant: dict[str, Any], source: bytes, tests: Tests, out: Path, budget: float
) -> dict[str, Any]:
    chosen, known = tests.choose(mutant, budget)
    result = mutant | {"tests": len(chosen), "of": known, "killed": ""}
    if not chosen:
        return result
    target = Path(mutant["file"])  # of the copy, which is where this runs

    def work() -> dict[str, Any]:
        watch = Watch()
        code = run(chosen, watch)
        return {"failed": watch.failed or (f"pytest ended with {code}" if code else "")}

    target.write_bytes(source[: mutant["start"]] + mutant["new"].encode() + source[mutant["end"] :])
    try:
        known_seconds = sum(tests.seconds.get(test, 0.0) for test in chosen)
        answer = child(work, out, 60 + 5 * known_seconds)
    finally:
        target.write_bytes(source)
    result["killed"] = "takes too long" if answer is None else answer["failed"]
    tests.kills[mutant["file"], result["killed"]] += 1
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "files", nargs="*", help="below src/semiflat; the rooms that verdicts rest on if none"
    )
    parser.add_argument(
        "--out", type=Path, default=HERE / ".mutants", help="where results are kept"
    )
    parser.add_argument(
        "--budget", type=float, default=300.0, help="seconds of tests for each mutant"
    )
    parser.add_argument("--tests", nargs="*", help="test files; all but the slowest if not given")
    parser.add_argument("--again", action="store_true", help="try survivors again")
    parser.add_argument(
        "--list", action="store_true", help="print the survivors known so far, as a table"
    )
    asked = parser.parse_args()
    out = asked.out.resolve()
    results = out / "results.jsonl"
    out.mkdir(parents=True, exist_ok=True)
    package = HERE / "src" / "semiflat"
    roots = [package / file for file in asked.files or ROOMS]
    paths = [p for root in roots for p in (sorted(root.rglob("*.py")) if root.is_dir() else [root])]
    sources = {str(path.relative_to(HERE)): path.read_bytes() for path in paths}
    everything = [mutant for path, source in sources.items() for mutant in mutants(path, source)]

    def key(m: dict[str, Any]) -> tuple[Any, ...]:
        return m["file"], m["digest"], m["start"], m["new"]

    lines = results.read_text().splitlines() if results.exists() else []
    done = {key(m): m for m in map(json.loads, lines)}
    if asked.list:
        alive = [done[key(m)] for m in everything if key(m) in done and not done[key(m)]["killed"]]
        tried = sum(key(m) in done for m in everything)
        print(f"{tried} of {len(everything)} mutants tried, {len(alive)} survive\n")
        print("| where | what stands there | mutant | tests |\n|---|---|---|---|")
        for m in alive:
            where = f"{m['file'].removeprefix('src/semiflat/')}:{m['line']}"
            print(
                f"| {where} | `{m['text']}` | `{m['old']}` → `{m['new']}` | {m['tests']} of {m['of']} |"
            )
        return
    tree = out / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for part in ("src", "tests", "docs", "pyproject.toml", "README.md"):
        skip = shutil.ignore_patterns("__pycache__", "records")
        copy = shutil.copytree if (HERE / part).is_dir() else shutil.copy2
        copy(HERE / part, tree / part, **({"ignore": skip} if copy is shutil.copytree else {}))
    os.environ |= {
        "PYTHONPATH": f"{tree / 'src'}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(tree / "src"), str(tree / "tests")]
    os.chdir(tree)
    import torch  # noqa: F401  (once, and not in each child)

    files = asked.tests or sorted(
        f"tests/{p.name}" for p in (HERE / "tests").glob("test_*.py")
        if not any(p.stem.startswith(name) for name in SLOW)
    )  # fmt: skip
    whole = b"".join(path.read_bytes() for path in sorted(Path("src").rglob("*.py")))
    measured = []
    for test in files:
        # Which lines a test runs may change with any file of the source.
        digest = hashlib.sha256(Path(test).read_bytes() + whole).hexdigest()[:12]
        kept = out / f"{Path(test).stem}-{digest}.json"
        if not kept.exists():
            found = child(lambda test=test: measure(tree, test), out, 3600)
            if found is None or found["failed"]:
                print(
                    f"{test} is left out: it fails as it is ({found and found['failed']})",
                    flush=True,
                )
                continue
            kept.write_text(json.dumps(found))
            print(
                f"{test}: {len(found['seconds'])} tests, {sum(found['seconds'].values()):.0f} s",
                flush=True,
            )
        measured.append(json.loads(kept.read_text()))
    tests = Tests(measured)
    with results.open("a") as sink:
        for k, mutant in enumerate(everything):
            before = done.get(key(mutant))
            if before and (before["killed"] or not asked.again):
                continue
            bigger = mutant["new"].replace(" * 10)", " * 1e3)").replace(" * 0.1)", " * 1e-3)")
            stronger = done.get((*key(mutant)[:3], bigger)) if bigger != mutant["new"] else None
            if stronger and not stronger["killed"]:
                continue
            result = done[key(mutant)] = try_one(
                mutant, sources[mutant["file"]], tests, out, asked.budget
            )
            sink.write(json.dumps(result) + "\n")
            sink.flush()
            word = (
                f"killed by {result['killed']}"
                if result["killed"]
                else f"SURVIVES {result['tests']} tests"
            )
            where = f"{mutant['file'].removeprefix('src/semiflat/')}:{mutant['line']}"
            print(
                f"[{k + 1}/{len(everything)}] {where} {mutant['old']} → {mutant['new']}: {word}",
                flush=True,
            )


if __name__ == "__main__":
    main()
