"""Starts over a real Dask cluster: the same results, also when a worker is killed on the way."""

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import torch

import semiflat as sf
from marked import Marked, marks
from semiflat.jobs import JobsLost, Machines, spread
from test_hierarchy import same as same_hierarchy
from test_spread import blocks_of, problem, same

distributed = pytest.importorskip("distributed")


@contextmanager
def dask(*arguments):
    """A `dask` command and what it starts, in processes of their own, gone at the end."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),  # workers run problems of these tests
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "dask", *map(str, arguments)],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def scheduler(folder):
    """Its address."""
    file = folder / "scheduler.json"
    with dask("scheduler", "--port", 0, "--no-dashboard", "--scheduler-file", file):
        end = time.monotonic() + 60
        while not (file.exists() and file.read_text().endswith("}")):
            assert time.monotonic() < end
            time.sleep(0.05)
        yield json.loads(file.read_text())["address"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A scheduler and two worker processes; a task that lost two workers is given up."""
    folder = tmp_path_factory.mktemp("dask")
    with (
        scheduler(folder) as address,
        dask(
            *("worker", address, "--nthreads", 1, "--nworkers", 2, "--no-dashboard"),
            *("--local-directory", folder),
        ),
        distributed.Client(address, set_as_default=False) as client,
    ):
        client.wait_for_workers(2, timeout=60)
        yield address


def test_a_cluster_gives_the_same_as_one_process(cluster):
    told = []
    one = sf.run_search(problem(), starts=130, seed=3, max_iterations=60, processes=1)
    many = sf.run_search(
        problem(), starts=130, seed=3, max_iterations=60, dask=cluster, progress=told.extend
    )
    same(one, many)
    assert sorted(end.start for end in told) == list(range(130))


def test_starts_and_descents_of_a_hierarchy_go_over_a_cluster(cluster, monkeypatch):
    sent = []

    def recorded(jobs, on_end, machines):
        sent.append((machines.dask, sum(len(job.name) for job in jobs)))
        spread(jobs, on_end, machines)

    def made(**where):
        return sf.hierarchy(problem(), [1, 2], 6, saddle_starts=4, max_iterations=60, **where)

    one = made(processes=1)
    monkeypatch.setattr("semiflat.search.gather.spread", recorded)
    many = made(dask=cluster)
    same_hierarchy(one, many)
    # What is left here is one start: the constant's, and each that a wide copy leads to.
    assert {starts for address, starts in sent if address is None} <= {0, 1}
    descents = sum(level.descents[0] for level in one.levels)
    assert descents > 0
    there = sum(starts for address, starts in sent if address == cluster)
    # From each of the lowest points of two units, one with either left out.
    left_out = 2 * sum(not point.record.at_infinity for point in one.at(2)[:4])
    assert left_out
    assert there == 2 * (6 + 4) + descents + left_out


@pytest.mark.slow
def test_a_killed_worker_costs_its_own_block_alone(cluster, tmp_path):
    """The others are not run again; a block that kills every worker is named at the end."""
    expected, got = {}, {}
    spread(blocks_of([problem()] * 6), lambda block, ends: expected.update(by_start(ends)))
    counted = {}

    def on_end(block, ends):
        got.update(by_start(ends))
        label = f"b{block.name[0] // 4}"
        counted[label] = len(marks(tmp_path, label))

    deaths = [0, 0, 1, 0, 99, 0]
    marked = [Marked(problem(), tmp_path, f"b{k}", deaths[k]) for k in range(6)]
    with pytest.raises(JobsLost, match=r"jobs range\(16, 20\) have no result") as error:
        spread(blocks_of(marked), on_end, Machines(dask=cluster))
    assert "\n" not in str(error.value)
    assert [job.name for job in error.value.jobs] == [range(16, 20)]
    assert counted.keys() == {"b0", "b1", "b2", "b3", "b5"}
    assert counted["b2"] >= 2
    for label, times in counted.items():
        assert len(marks(tmp_path, label)) == times
    assert got.keys() == expected.keys() - {16, 17, 18, 19}
    assert all(torch.equal(got[n].vector, expected[n].vector) for n in got)


def by_start(ends):
    return {end.start: end for end in ends}


def test_no_cluster_is_one_clear_line(monkeypatch):
    from semiflat.jobs import cluster

    monkeypatch.setattr(cluster, "PATIENCE", 1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        address = f"tcp://127.0.0.1:{nobody.getsockname()[1]}"
        for wrong in (address, "here://127.0.0.1:1", "tcp://no.such.host.invalid:8786"):
            with pytest.raises(sf.InputError, match="there is no Dask scheduler at") as error:
                sf.run_search(problem(), starts=2, dask=wrong)
            assert "\n" not in str(error.value)
    with pytest.raises(sf.InputError, match="give one"):
        sf.run_search(problem(), starts=2, dask=address, processes=2)


def test_a_client_that_never_connected_does_not_outlive_its_error():
    from distributed import Client

    with pytest.raises(sf.InputError, match="there is no Dask scheduler at"):
        sf.run_search(problem(), starts=2, dask="here://127.0.0.1:1")
    assert not [each for each in gc.get_objects() if type(each) is Client and each.status != "closed"
                and each.status != "running"]  # fmt: skip
    assert gc.isenabled()


def test_a_cluster_without_workers_is_one_clear_line(monkeypatch, tmp_path):
    from semiflat.jobs import cluster

    monkeypatch.setattr(cluster, "PATIENCE", 3)  # a busy machine takes a while to connect
    with (
        scheduler(tmp_path) as address,
        pytest.raises(
            sf.InputError, match="has no workers after 3 s; start some with `dask worker"
        ),
    ):
        sf.run_search(problem(), starts=2, dask=address)


def test_workers_of_another_version_are_refused(cluster, monkeypatch):
    monkeypatch.setattr("semiflat.jobs.cluster.__version__", "9.9")
    with pytest.raises(sf.InputError, match=r"has semiflat 0.*this process semiflat 9\.9"):
        sf.run_search(problem(), starts=2, dask=cluster)


def test_without_dask_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(sf.InputError, match=r"pip install 'semiflat\[distributed\]'"):
        sf.run_search(problem(), starts=2, dask="tcp://127.0.0.1:1")
