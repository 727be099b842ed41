"""A PostgreSQL server of the distribution's package, on a port of its own, while it is needed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

WITHOUT = "SEMIFLAT_NO_POSTGRES"
PATIENCE = 60


def programs() -> Path:
    """Where ``initdb`` and ``postgres`` are; without them the test fails, unless ``WITHOUT`` is set to 1."""
    if os.environ.get(WITHOUT) == "1":
        pytest.skip(f"{WITHOUT} is set")
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3])
    )
    named = shutil.which("initdb")
    if not found and named is None:
        pytest.fail(
            "no initdb: install PostgreSQL (apt-get install postgresql), or set "
            f"{WITHOUT}=1 to leave its tests out"
        )
    return Path(found[-1] if found else named or "").resolve().parent


class Server:
    """A server that can be stopped and started.

    Attributes:
        port: that it listens on.
    """

    def __init__(self, folder: Path, own: dict[str, Any]) -> None:
        self.folder, self.bin, self._own = folder, programs(), own
        self._process: subprocess.Popen[bytes] | None = None
        self._places = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        make = [self.bin / "initdb", "-D", folder / "data", "-U", "semiflat", "--auth=trust", "-N"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=folder, **own)

    def place(self) -> str:
        """The URL of a place where nothing is."""
        self._places += 1
        self.run(f"CREATE SCHEMA t{self._places}")
        return self.url(f"postgres?options=-csearch_path%3Dt{self._places}")

    def url(self, database: str) -> str:
        """Of a database."""
        return f"postgresql+psycopg://semiflat@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Until it answers."""
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(self.bin / "postgres", "-D", self.folder / "data", "-p", str(self.port)),
                    *("-k", self.folder, "-c", "listen_addresses=127.0.0.1", "-F"),
                ],
                stdout=log,
                stderr=log,
                cwd=self.folder,
                **self._own,
            )
        end = time.monotonic() + PATIENCE
        while self._ask("SELECT 1").returncode:
            assert self._process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end
            time.sleep(0.05)

    def stop(self) -> None:
        """At once; what was committed stays."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(PATIENCE)
            self._process = None

    def run(self, words: str) -> None:
        """A statement."""
        done = self._ask(words)
        assert done.returncode == 0, done.stderr

    def _ask(self, words: str) -> subprocess.CompletedProcess[bytes]:
        how = ["-h", self.folder, "-p", str(self.port), "-U", "semiflat", "-d", "postgres"]
        return subprocess.run([self.bin / "psql", *how, "-c", words], capture_output=True)


@contextmanager
def server() -> Iterator[Server]:
    """A server that runs inside. It refuses root, and is another user's then."""
    root = os.geteuid() == 0
    own: dict[str, Any] = {"user": "nobody", "extra_groups": []} if root else {}
    folder = Path(tempfile.mkdtemp(prefix="semiflat-postgres-"))
    try:
        if root:
            shutil.chown(folder, "nobody")
        made = Server(folder, own)
        made.start()
        try:
            yield made
        finally:
            made.stop()
    finally:
        shutil.rmtree(folder)
