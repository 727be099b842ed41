"""Stores in databases: SQLite files, and PostgreSQL on a server of its own."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import sqlalchemy as sql

import semiflat as sf
from helpers import refused
from job_store_contract import ManyWriters, contents, holds
from postgres import WITHOUT, programs
from semiflat.jobs import is_database
from semiflat.jobs.database import RUNS, SCHEMA, VALUES, Database, DatabaseStore, Schema, shown


class Runs(ManyWriters):
    """A database of runs."""

    def open(self, place, kept, anew=False):
        return DatabaseStore(place, kept, anew, name="count")

    def test_every_header_has_a_run_of_its_own_where_none_is_named(self, place):
        for seed in (0, 1):
            with DatabaseStore(place, contents(seed=seed)) as store:
                store.put([("a", float(seed))])
        for seed in (0, 1):
            with DatabaseStore(place, contents(seed=seed)) as store:
                holds(store, [("a", float(seed))])
        with DatabaseStore(place, contents(seed=1), anew=True) as store:
            holds(store, [])
        with DatabaseStore(place, contents(seed=0)) as store:
            holds(store, [("a", 0.0)])

    def test_names_are_numbers_and_tuples_too(self, place):
        with DatabaseStore(place, contents()) as store:
            store.contents.__dict__["key"] = lambda value: ((0, len(value[0])), value[0])
            store.put([("ab", 1.0)])
            assert list(store.keys()) == [((0, 2), "ab")]
            assert store.get(((0, 2), "ab")) == ("ab", 1.0)
            assert store.get(((0, 3), "ab")) is None

    def test_many_processes_at_once_lose_nothing(self, place):
        """All begin where nothing is, and put the same names, each in its own order."""
        names = [f"k{n:02}" for n in range(40)]
        processes = [putting(place, k, names[:: 1 if k else -1]) for k in range(2)]
        for process in processes:
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            process.stdin.write("go\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=60)
            assert process.returncode == 0
        with self.open(place, contents()) as store:
            assert sorted(store.keys()) == names
            assert {store.get(name)[1] for name in names} <= {0.0, 1.0}

    def test_killed_it_has_all_that_was_put_and_goes_on(self, place):
        names = [f"k{n:04}" for n in range(5000)]
        with putting(place, 0, names) as process:
            process.stdin.write("go\n")
            process.stdin.flush()
            lines = [process.stdout.readline() for _ in range(12)]
            process.kill()
        done = 5 + int(lines[-1])
        with self.open(place, contents()) as store:
            there = list(store.keys())
            assert done <= len(there) < len(names)
            assert there == names[: len(there)], (
                "what was in flight is there as a whole or not at all"
            )
            assert len(there) % 5 == 0
            store.put([(names[0], 1.0), ("more", 1.0)])
            holds(store, [*((name, 0.0) for name in there), ("more", 1.0)])

    def test_a_value_that_is_none_is_named(self, place):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
        with Database(place, SCHEMA) as database, database.writing() as connection:
            connection.execute(sql.update(VALUES).values(value='{"name": "a"}'))
        with (
            self.open(place, contents()) as store,
            refused("it is no named number; delete that row"),
        ):
            store.get("a")
        with Database(place, SCHEMA) as database, database.writing() as connection:
            connection.execute(sql.update(RUNS).values(header="{"))
        with refused("damaged in the header of a count"):
            self.open(place, contents())

    def test_a_transaction_that_fails_leaves_nothing(self, place):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
            with pytest.raises(ZeroDivisionError):
                store.put(Failing([("b", 1.0), ("c", 1.0)]))
            holds(store, [("a", 1.0)])

    # -- versions ---------------------------------------------------------------------------------

    def test_a_newer_version_is_refused(self, place):
        with Database(place, Schema("runs", SCHEMA.tables, version=7)):
            pass
        with refused(
            "written by a newer semiflat: its runs has tables of version 7, this one knows"
        ):
            self.open(place, contents())

    def test_an_older_version_is_brought_up_with_what_it_holds(self, place):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0), ("b", 2.0)])

        def longer(connection):
            connection.execute(sql.text("ALTER TABLE semiflat_values ADD COLUMN more INTEGER"))

        def filled(connection):
            connection.execute(sql.text("UPDATE semiflat_values SET more = 5"))

        third = Schema("runs", SCHEMA.tables, 3, {1: longer, 2: filled})
        for _ in range(2):
            with Database(place, third) as database, database.reading() as connection:
                more = sql.text("SELECT key, more FROM semiflat_values ORDER BY id")
                assert list(connection.execute(more)) == [('"a"', 5), ('"b"', 5)]

    def test_a_migration_that_fails_changes_nothing(self, place):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])

        def half(connection):
            connection.execute(sql.text("ALTER TABLE semiflat_values ADD COLUMN more INTEGER"))
            connection.execute(sql.text("UPDATE nothing SET more = 5"))

        with refused("nothing"):
            Database(place, Schema("runs", SCHEMA.tables, 2, {1: half}))
        with self.open(place, contents()) as store:
            holds(store, [("a", 1.0)])

    def test_parts_have_versions_of_their_own(self, place):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
        tables = sql.MetaData()
        sql.Table("semiflat_others", tables, sql.Column("id", sql.Integer, primary_key=True))
        with refused("holds no other things; give the one that it was saved to"):
            Database(place, Schema("other things", tables), new=False)
        with Database(place, Schema("other things", tables, 4)):
            pass
        with self.open(place, contents()) as store:
            holds(store, [("a", 1.0)])


class Failing(list):
    """Values of which the second cannot be read."""

    def __iter__(self):
        yield self[0]
        raise ZeroDivisionError


PUT = """
import sys
from semiflat.jobs import Contents
from semiflat.jobs.database import DatabaseStore

def plain(value):
    return {"name": value[0], "number": repr(value[1])}

place, k, names = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
contents = Contents("a count", {"format": "count-1", "seed": 0}, "", lambda value: value[0], plain, None)
print("ready", flush=True)
sys.stdin.readline()
with DatabaseStore(place, contents, name="count") as store:
    for first in range(0, len(names), 5):
        store.put([(name, float(k)) for name in names[first : first + 5]])
        print(first, flush=True)
"""


def putting(place, k, names):
    """A process that puts values when it is told to."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PUT, str(place), str(k), *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


class TestFiles(Runs):
    """SQLite files."""

    @pytest.fixture
    def place(self, tmp_path):
        return tmp_path / "ü %20?#" / "place.db"

    def test_a_url_names_the_same_file(self, tmp_path):
        with self.open(tmp_path / "a.db", contents()) as store:
            store.put([("a", 1.0)])
        with self.open(f"sqlite:///{tmp_path}/a.db", contents()) as store:
            holds(store, [("a", 1.0)])

    @pytest.mark.parametrize("again", [False, True])
    def test_a_file_that_goes_away_is_noticed(self, place, again):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
            place.rename(place.with_name("moved.db"))
            if again:
                DatabaseStore(place, contents()).close()
            for act in (lambda: store.put([("b", 1.0)]), lambda: store.get("a"), store.keys):
                with refused("was removed or replaced while it was in use; put it back"):
                    act()
            assert place.exists() == again
            if again:
                return
            place.with_name("moved.db").rename(place)
            store.put([("c", 1.0)])
            holds(store, [("a", 1.0), ("c", 1.0)])

    @pytest.mark.parametrize("content", [b"notes", b"SQLite format 3\0" + bytes(200), b"x" * 5000])
    def test_what_is_no_database_is_refused_and_left_alone(self, tmp_path, content):
        (tmp_path / "a.db").write_bytes(content)
        with refused("a.db' is no SQLite database, or is damaged: file is not a database; name"):
            self.open(tmp_path / "a.db", contents())
        assert (tmp_path / "a.db").read_bytes() == content
        assert len(list(tmp_path.iterdir())) == 1

    def test_a_damaged_file_is_refused(self, place):
        with self.open(place, contents()) as store:
            store.put([(f"k{n}", 1.0) for n in range(500)])
        content = place.read_bytes()
        place.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
        with refused("is no SQLite database, or is damaged"), self.open(place, contents()) as store:
            list(store.keys())

    def test_a_database_of_somebody_else_is_left_alone(self, tmp_path):
        other = sqlite3.connect(tmp_path / "a.db")
        other.execute("CREATE TABLE films (title)")
        other.close()
        before = (tmp_path / "a.db").read_bytes()
        with refused("is a database of something else (it has a table 'films'); name another file"):
            self.open(tmp_path / "a.db", contents())
        assert (tmp_path / "a.db").read_bytes() == before
        assert len(list(tmp_path.iterdir())) == 1

    def test_an_empty_file_may_be_filled(self, tmp_path):
        (tmp_path / "a.db").touch()
        with self.open(tmp_path / "a.db", contents()) as store:
            holds(store, [])

    def test_a_process_that_writes_for_long_is_waited_for_and_named(self, place, monkeypatch):
        monkeypatch.setattr("semiflat.jobs.database.PATIENCE", 0.05)
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
            other = sqlite3.connect(place, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with refused("database is locked; wait until the other process has ended"):
                store.put([("b", 1.0)])
            holds(store, [("a", 1.0)])  # who reads need not wait
            other.close()
            store.put([("b", 1.0)])
            holds(store, [("a", 1.0), ("b", 1.0)])

    @pytest.mark.parametrize(
        ("place", "message"),
        [
            ("/proc/none/a.db", "cannot write '/proc/none/a.db': "),
            ("/proc/a.db", "cannot write '/proc/a.db': "),
            (".", "cannot write '.': Is a directory; name a file in a folder that can be written"),
            (
                "sqlite://",
                "'sqlite://' names no file, and would keep nothing; give a file ending in",
            ),
            ("sqlite:///:memory:", "names no file"),
            ("mysql://u:secret@h/d", "no database 'mysql' is known; give a file ending in .db or"),
            ("postgresql+asyncpg://u:secret@h/d", "no database 'postgresql+asyncpg' is known"),
            (
                "://",
                "the URL that begins with '' is none; give a file ending in .db or .sqlite, or",
            ),
            ("postgresql://u:secret@h:port/d", "the URL that begins with 'postgresql' is none"),
        ],
    )
    def test_what_can_be_no_store_is_refused(self, place, message):
        with pytest.raises(sf.InputError) as error:
            self.open(place, contents())
        assert message in str(error.value)
        assert "secret" not in str(error.value)


class TestPostgres(Runs):
    """PostgreSQL."""

    @pytest.fixture
    def place(self, postgres):
        return postgres.place()

    def test_other_peoples_tables_stay(self, place):
        tables = sql.MetaData()
        films = sql.Table("films", tables, sql.Column("title", sql.Text))
        engine = sql.create_engine(place)
        tables.create_all(engine)
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
        with engine.connect() as connection:
            assert list(connection.execute(sql.select(films))) == []
        engine.dispose()

    def test_a_server_that_stops_is_named_and_goes_on_where_it_was(self, postgres, place, caplog):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
            postgres.stop()
            for act in (lambda: store.put([("b", 1.0)]), lambda: store.get("a")):
                with refused("cannot be used: ") as error:
                    act()
                assert "what was written stays, and the same call goes on from" in str(error.value)
            with refused("Connection refused"):
                self.open(place, contents())
            postgres.start()
            holds(store, [("a", 1.0)])
            store.put([("b", 1.0)])
            holds(store, [("a", 1.0), ("b", 1.0)])
        assert caplog.text == "", "one line says it"

    def test_a_server_that_stops_within_a_transaction_leaves_what_was_there(
        self, postgres, place, caplog
    ):
        with self.open(place, contents()) as store:
            store.put([("a", 1.0)])
            with (
                Database(place, SCHEMA) as database,
                refused("what was written stays"),
                database.writing() as connection,
            ):
                connection.execute(sql.delete(VALUES))
                postgres.stop()
                connection.execute(sql.delete(RUNS))
            postgres.start()
            holds(store, [("a", 1.0)])
        assert caplog.text == "", "one line says it"

    def test_without_a_server_to_test_with_the_tests_fail_unless_told(self, monkeypatch):
        monkeypatch.setattr("postgres.Path.glob", lambda folder, pattern: [])
        monkeypatch.setattr("postgres.shutil.which", lambda name: None)
        monkeypatch.delenv(WITHOUT, raising=False)
        with pytest.raises(pytest.fail.Exception, match="no initdb: install PostgreSQL"):
            programs()
        monkeypatch.setenv(WITHOUT, "1")
        with pytest.raises(pytest.skip.Exception, match="SEMIFLAT_NO_POSTGRES is set"):
            programs()

    def test_passwords_are_not_shown(self, postgres):
        place = postgres.url("none").replace("semiflat@", "semiflat:secret@")
        assert "secret" not in shown(place)
        with refused("does not exist") as error:
            self.open(place, contents())
        assert "secret" not in str(error.value)


def test_places_are_told_apart():
    assert [
        is_database(place) for place in ("a.db", Path("b/A.SQLITE"), "x://y", "db", "a.db/c")
    ] == [*(True, True, True, False, False)]


@pytest.mark.parametrize(
    ("module", "place", "extra"),
    [("sqlalchemy", "a.db", "store"), ("psycopg", "postgresql://h/d", "postgres")],
)
def test_what_is_not_installed_is_named(module, place, extra):
    script = f"""
        import sys
        sys.modules[{module!r}] = None
        from semiflat.errors import InputError
        try:
            from semiflat.jobs.database import Database, SCHEMA
            Database({place!r}, SCHEMA)
        except InputError as error:
            print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True
    )
    assert f"not installed; run pip install 'semiflat[{extra}]'" in done.stdout
