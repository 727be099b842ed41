"""A Dask cluster as joblib's backend, and one clear line if there is none."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from semiflat._version import __version__
from semiflat.errors import InputError
from semiflat.jobs.workers import Ended

PATIENCE = 10
"""Seconds to wait for a scheduler, and for its first worker."""


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Inside, joblib sends its work to the cluster at ``address``, as ``tcp://host:8786``.

    Raises:
        InputError: if Dask is not installed, or the cluster cannot be reached, has no workers, or
            workers without this version of semiflat.
    """
    try:
        from distributed import Client
        from joblib import parallel_config
    except ImportError as error:
        raise InputError(
            f"a cluster at {address!r} needs Dask, which is not installed; "
            "pip install 'semiflat[distributed]'"
        ) from error
    failure: str | None = None
    try:
        with _no_collection():
            client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        failure = " ".join(str(error).split())
    if failure is not None:
        gc.collect()  # the half-made client, now that no traceback holds it: see _no_collection
        raise InputError(
            f"there is no Dask scheduler at {address!r} ({failure}); start one "
            "with `dask scheduler` and give the address it prints, as tcp://host:8786"
        )
    with client:
        _check_workers(client, address)
        with parallel_config(backend=_backend()(client=client)):
            yield


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keep the garbage collector away from a client that starts.

    It would close clients that were dropped, and closing one waits for a lock that starting holds.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _check_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError as error:
        raise InputError(
            f"the Dask scheduler at {address!r} has no workers after {PATIENCE} s; start some with "
            f"`dask worker {address} --nthreads 1 --nworkers auto`"
        ) from error
    for worker, found in client.run(_version, on_error="return").items():
        if found != __version__:
            raise InputError(
                f"the Dask worker {worker} has {_told(found)}, this process semiflat "
                f"{__version__}; install the same on all machines"
            )
    threads = max(client.nthreads().values(), default=1)
    if threads > 1:
        warnings.warn(
            f"a Dask worker at {address} has {threads} threads, of which semiflat uses one; start "
            "workers with --nthreads 1 --nworkers auto",
            stacklevel=2,
        )


def _version() -> str:
    return __version__


def _told(found: object) -> str:
    return f"semiflat {found}" if isinstance(found, str) else f"no semiflat that loads ({found})"


def _backend() -> Any:
    from joblib._dask import DaskDistributedBackend

    class Backend(DaskDistributedBackend):  # type: ignore[misc]
        """joblib's (1.6), but for three things that work on real machines needs."""

        def effective_n_jobs(self, n_jobs: int) -> int:
            # Where there is one worker, joblib runs the work in this process.
            return max(2, int(super().effective_n_jobs(n_jobs)))

        def submit(self, func: Any, callback: Callable[[Any], None]) -> Any:
            (job,) = func.items
            future = super().submit(func, callback)
            future.number = job[1][0]
            return future

        async def _collect(self) -> None:
            while self._continue:
                async for future, result in self.waiting_futures:
                    number, callback = self._results.pop(future).number, self._callbacks.pop(future)
                    gave_up = future.status == "error"
                    # joblib keeps the last ones, and what is kept is computed again if its worker
                    # is lost, though the result is here.
                    future.release()
                    # Of what the scheduler gave up joblib tells nobody, and its caller waits for ever.
                    callback([(number, Ended([], gave_up=result[1]))] if gave_up else result)
                await asyncio.sleep(0.01)

    return Backend
