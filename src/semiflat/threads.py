"""Thread counts, set on purpose."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run torch with ``count`` threads inside, and with what it had before outside.

    The matrices here are small: a second thread gains little on an idle machine, and on a busy one
    threads waiting for each other have been seen to cost a factor of ten.
    """
    import torch  # here: who only names the count, as the command line does, goes without

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
