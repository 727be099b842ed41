"""Stores in databases: one SQLite file, or PostgreSQL by its URL. Many processes may write at once.

A database holds many runs, each with its header, and tables of other purposes beside them. Every write is
one transaction: a process that is killed loses at most the one it was in.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from semiflat.errors import InputError
from semiflat.jobs.store import DATABASES, Contents, JobStore, Value

try:
    import sqlalchemy as sql
    from sqlalchemy.dialects import postgresql, sqlite
except ImportError as error:
    raise InputError(
        "a store in a database needs SQLAlchemy, which is not installed; run pip install 'semiflat[store]'"
    ) from error

PATIENCE = 60.0
"""Seconds to wait for another process that writes to the same file."""
_DRIVERS = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
"""What a URL may begin with, and what connects. Others are not tested, so not taken."""
_LOCK = 0x5E417F1A7
"""Who changes the tables of a PostgreSQL database holds its advisory lock of this number."""
_FORMS = f"a file ending in {' or '.join(DATABASES)}, or postgresql://user@host/database"
_WRITES = "semiflat_writes"
_VERSIONS = sql.Table(
    "semiflat_schema",
    sql.MetaData(),
    sql.Column("part", sql.Text, primary_key=True),
    sql.Column("version", sql.Integer, nullable=False),
)


@dataclass(frozen=True)
class Schema:
    """Tables of one purpose. A database may have several; each has its own version.

    Attributes:
        name: of the purpose.
        tables: they; their names begin with ``semiflat_``, as a database may hold other people's.
        version: of the tables.
        migrations: for each earlier version, what makes tables of the next one of them, in a transaction.
    """

    name: str
    tables: sql.MetaData
    version: int = 1
    migrations: Mapping[int, Callable[[sql.Connection], None]] = field(default_factory=dict)


class Database:
    """A database with the tables of a schema, which are made, or brought to this version, on opening.

    Args:
        place: a file, made if it does not exist, and its folder; or a URL.
        schema: its tables.
        new: whether to make what is not there yet.

    Attributes:
        shown: the place, without a password.

    Raises:
        InputError: if it cannot be used, is something else's, or was written by a newer version.
    """

    def __init__(self, place: str | os.PathLike[str], schema: Schema, new: bool = True) -> None:
        url = _url(os.fspath(place))
        self._file = Path(url.database or "") if url.get_backend_name() == "sqlite" else None
        self.shown = (
            url.render_as_string(hide_password=True) if self._file is None else str(self._file)
        )
        if self._file is None:
            self._engine = self._server(url)
        else:
            self._make_file(self._file, new)
            self._engine = self._file_engine(self._file)
        try:
            self._prepare(schema, new)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def reading(self) -> Iterator[sql.Connection]:
        """A transaction that reads."""
        with self._transaction(False) as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sql.Connection]:
        """A transaction that may write: whole, and on the disk, when it ends; else nothing of it is there."""
        with self._transaction(True) as connection:
            yield connection

    def insert_new(self, table: sql.Table) -> sql.Insert:
        """An insertion that passes over rows whose names are there already."""
        if self._file is None:
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()

    def close(self) -> None:
        """End all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- opening ----------------------------------------------------------------------------------

    def _server(self, url: sql.URL) -> sql.Engine:
        try:
            # A connection that was left alone for long may be gone: it is tried before it is used.
            return sql.create_engine(url, pool_pre_ping=True)
        except ImportError as error:
            raise InputError(
                f"{self.shown!r} needs psycopg, which is not installed; run pip install "
                "'semiflat[postgres]'"
            ) from error

    def _make_file(self, path: Path, new: bool) -> None:
        if not new and not path.exists():
            raise InputError(f"there is no file {str(path)!r}; give {_FORMS}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if new:
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
            self._identity = _identity(path)
        except OSError as error:
            raise InputError(
                f"cannot write {str(path)!r}: {error.strerror or error}; name a file in a folder that can be "
                "written"
            ) from error

    def _file_engine(self, path: Path) -> sql.Engine:
        # A file that was removed meanwhile is not made again, as it would be without the mode.
        uri = f"{path.absolute().as_uri()}?mode=rw"

        def connect() -> sqlite3.Connection:
            return sqlite3.connect(
                uri, timeout=PATIENCE, isolation_level=None, check_same_thread=False, uri=True
            )

        engine = sql.create_engine("sqlite://", creator=connect, poolclass=sql.QueuePool)

        @sql.event.listens_for(engine, "begin")
        def begin(connection: sql.Connection) -> None:
            # Who means to write waits for its turn here. Later it could not: what it has read might no
            # longer be so.
            writes = connection.get_execution_options().get(_WRITES, False)
            connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

        return engine

    def _prepare(self, schema: Schema, new: bool) -> None:
        with self.reading() as connection:
            found = self._version(connection, schema)
        if found == schema.version:
            return
        if found is None and not new:
            raise InputError(
                f"{self.shown!r} holds no {schema.name}; give the one that it was saved to"
            )
        if found is None and self._file is not None:
            with self._refusing(), self._engine.connect() as connection:
                # Readers and a writer at once. The file remembers it.
                raw = connection.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)
                raw.execute("PRAGMA journal_mode=WAL").close()
        with self.writing() as connection:
            if self._file is None:
                connection.execute(sql.select(sql.func.pg_advisory_xact_lock(_LOCK)))
            found = self._version(connection, schema)  # another process may have been first
            if found is None:
                _VERSIONS.metadata.create_all(connection)
                schema.tables.create_all(connection)
                row = {"part": schema.name, "version": schema.version}
                connection.execute(sql.insert(_VERSIONS), row)
                return
            for version in range(found, schema.version):
                schema.migrations[version](connection)
            here = _VERSIONS.c.part == schema.name
            connection.execute(sql.update(_VERSIONS).where(here).values(version=schema.version))

    def _version(self, connection: sql.Connection, schema: Schema) -> int | None:
        """That of the schema's tables; None if they are not there."""
        tables = sql.inspect(connection).get_table_names()
        if _VERSIONS.name not in tables:
            if tables and self._file is not None:
                raise InputError(
                    f"{self.shown!r} is a database of something else (it has a table {tables[0]!r}); name "
                    "another file"
                )
            return None
        here = _VERSIONS.c.part == schema.name
        version = connection.scalar(sql.select(_VERSIONS.c.version).where(here))
        if version is not None and version > schema.version:
            raise InputError(
                f"{self.shown!r} was written by a newer semiflat: its {schema.name} has tables of version "
                f"{version}, this one knows those up to {schema.version}; update semiflat, or give another "
                "place"
            )
        return version

    # -- transactions -----------------------------------------------------------------------------

    @contextmanager
    def _transaction(self, writes: bool) -> Iterator[sql.Connection]:
        with self._refusing():
            self._check_there()
            with self._engine.connect() as connection:
                connection = connection.execution_options(**{_WRITES: writes})
                with connection.begin():
                    yield connection
            if writes:
                self._check_there()

    def _check_there(self) -> None:
        """Refuse a file that was removed or replaced: SQLite would go on writing to what nobody can open."""
        if self._file is None:
            return
        try:
            there = _identity(self._file) == self._identity
        except OSError:
            there = False
        if not there:
            raise InputError(
                f"{self.shown!r} was removed or replaced while it was in use; put it back, or start again "
                "with another"
            )

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except sql.exc.DBAPIError as error:
            raise self._refused(error.orig or error) from error

    def _refused(self, error: BaseException) -> InputError:
        why = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        name = getattr(error, "sqlite_errorname", "")
        if name in ("SQLITE_NOTADB", "SQLITE_CORRUPT"):
            return InputError(
                f"{self.shown!r} is no SQLite database, or is damaged: {why}; name another file"
            )
        advice = (
            "wait until the other process has ended"
            if name == "SQLITE_BUSY"
            else "what was written stays, and the same call goes on from there once it can be used"
        )
        return InputError(f"the database {self.shown!r} cannot be used: {why}; {advice}")


def shown(place: str | os.PathLike[str]) -> str:
    """A place for people: a URL without its password."""
    return (
        _url(os.fspath(place)).render_as_string(hide_password=True)
        if "://" in str(place)
        else str(place)
    )


def _url(text: str) -> sql.URL:
    if "://" not in text:
        return sql.URL.create("sqlite", database=text)
    scheme = text.split("://")[0]  # the rest may hold a password
    try:
        url = sql.make_url(text)
    except (sql.exc.ArgumentError, ValueError) as error:
        raise InputError(f"the URL that begins with {scheme!r} is none; give {_FORMS}") from error
    if url.drivername not in _DRIVERS:
        raise InputError(f"no database {url.drivername!r} is known; give {_FORMS}")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise InputError(f"{text!r} names no file, and would keep nothing; give {_FORMS}")
    return url.set(drivername=_DRIVERS[url.drivername])


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


# -- runs -------------------------------------------------------------------------------------------

_RUNS_AND_VALUES = sql.MetaData()
RUNS = sql.Table(
    "semiflat_runs",
    _RUNS_AND_VALUES,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("name", sql.Text, nullable=False, unique=True),
    sql.Column("what", sql.Text, nullable=False),
    sql.Column("header", sql.Text, nullable=False),
)
VALUES = sql.Table(
    "semiflat_values",
    _RUNS_AND_VALUES,
    # Numbers of values that were there already are not given again.
    sql.Column("id", sql.BigInteger().with_variant(sql.Integer, "sqlite"), primary_key=True),
    sql.Column("run", sql.ForeignKey(RUNS.c.id), nullable=False),
    sql.Column("key", sql.Text, nullable=False),
    sql.Column("value", sql.Text, nullable=False),
    sql.UniqueConstraint("run", "key"),
)
SCHEMA = Schema("runs", _RUNS_AND_VALUES)


class DatabaseStore(JobStore[Value]):
    """The values of one run in a database, to which others may write at the same time; see :class:`JobStore`.

    Names of values are text, whole numbers, and tuples of these.

    Args:
        place: a file ending in one of :data:`semiflat.jobs.store.DATABASES`, or a URL.
        contents: what it keeps, and of which run.
        anew: drop what is there of a run of this name, whatever that is.
        name: of the run; by default its header's digest, so that every header has a run of its own.

    Raises:
        InputError: see :class:`Database`; if a run of this name has another header.
    """

    def __init__(
        self,
        place: str | os.PathLike[str],
        contents: Contents[Value],
        anew: bool = False,
        name: str | None = None,
    ) -> None:
        self.contents = contents
        self._header = json.dumps(contents.header)
        ordered = json.dumps(contents.header, sort_keys=True).encode()
        self.name = hashlib.sha256(ordered).hexdigest() if name is None else name
        self._there: dict[str, str] | None = None
        self._database = Database(place, SCHEMA)
        try:
            if anew:
                self._drop()
            with self._database.reading() as connection:
                self._run(connection)
        except BaseException:
            self.close()
            raise

    def put(self, values: Sequence[Value]) -> None:
        if not values:
            return
        contents = self.contents
        rows = [
            {"key": json.dumps(contents.key(value)), "value": json.dumps(contents.plain(value))}
            for value in values
        ]
        with self._database.writing() as connection:
            own = {"name": self.name, "what": contents.what, "header": self._header}
            connection.execute(self._database.insert_new(RUNS), own)
            # One process at a time adds to a run: two that add the same names in another order would wait
            # for each other.
            run = self._run(connection, locked=True)
            new = self._database.insert_new(VALUES)
            connection.execute(new, [{"run": run, **row} for row in rows])

    def get(self, key: Hashable) -> Value | None:
        name = json.dumps(key)
        text = self._known.get(name)
        if text is None:  # or put since then, maybe by another process
            query = self._values(VALUES.c.value).where(VALUES.c.key == name)
            with self._database.reading() as connection:
                text = connection.scalar(query)
        if text is None:
            return None
        try:
            return self.contents.value(json.loads(text))
        except ValueError as error:
            raise InputError(
                f"{self._database.shown!r} is damaged in the value {name} of {self.contents.what}: {error}; "
                f"delete that row of {VALUES.name} to run again what it held"
            ) from error

    @property
    def _known(self) -> dict[str, str]:
        """What was there when it was first asked for, read at once. Values never change."""
        if self._there is None:
            with self._database.reading() as connection:
                found = connection.execute(self._values(VALUES.c.key, VALUES.c.value))
                self._there = {row.key: row.value for row in found}
        return self._there

    def keys(self) -> Collection[Hashable]:
        with self._database.reading() as connection:
            found = connection.scalars(self._values(VALUES.c.key).order_by(VALUES.c.id)).all()
        return [_key(json.loads(text)) for text in found]

    def close(self) -> None:
        self._database.close()

    def _values(self, *columns: sql.Column[Any]) -> sql.Select[Any]:
        return sql.select(*columns).join(RUNS).where(RUNS.c.name == self.name)

    def _run(self, connection: sql.Connection, locked: bool = False) -> int | None:
        """The number of the run, once something came of it; its header is held against this one's."""
        query = sql.select(RUNS.c.id, RUNS.c.header).where(RUNS.c.name == self.name)
        row = connection.execute(query.with_for_update() if locked else query).first()
        if row is None:
            return None
        try:
            header = json.loads(row.header)
        except ValueError as error:
            raise InputError(
                f"{self._database.shown!r} is damaged in the header of {self.contents.what}: {error}; give "
                "another place"
            ) from error
        self.contents.check(self._database.shown, header)
        return int(row.id)

    def _drop(self) -> None:
        mine = sql.select(RUNS.c.id).where(RUNS.c.name == self.name).scalar_subquery()
        with self._database.writing() as connection:
            connection.execute(sql.delete(VALUES).where(VALUES.c.run == mine))
            connection.execute(sql.delete(RUNS).where(RUNS.c.name == self.name))


def _key(plain: Any) -> Hashable:
    return tuple(map(_key, plain)) if isinstance(plain, list) else plain
