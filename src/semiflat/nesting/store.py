"""A hierarchy in a database: its points, edges and levels in tables that can be asked, of one problem."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sql
import torch

from semiflat.certificates.certificate import Certificate
from semiflat.certificates.certify import of_document
from semiflat.errors import InputError
from semiflat.jobs.database import Database, Schema
from semiflat.jobs.store import check_header
from semiflat.nesting.record import Edge, Level, PointRecord, Widths, widths_name
from semiflat.networks import MLP
from semiflat.problem import Problem, check_names
from semiflat.search.plain import from_plain, to_plain

_TABLES = sql.MetaData()
HEADER = sql.Table(
    "semiflat_hierarchy",
    _TABLES,
    sql.Column("id", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("header", sql.Text, nullable=False),
)
"""One row: of which problem the hierarchy is."""
LEVELS = sql.Table(
    "semiflat_levels",
    _TABLES,
    sql.Column("place", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("hidden", sql.Text, nullable=False),
    sql.Column("rest", sql.Text, nullable=False),
)
# SQLite has no −0.0 and no NaN; no loss is either.
POINTS = sql.Table(
    "semiflat_points",
    _TABLES,
    sql.Column("place", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("name", sql.Text, nullable=False, unique=True),
    sql.Column("hidden", sql.Text, nullable=False),
    sql.Column("loss", sql.Double, nullable=False),
    sql.Column("kind", sql.Text, nullable=False),
    sql.Column("index", sql.Integer),
    sql.Column("function", sql.Integer, nullable=False),
    sql.Column("found", sql.Integer, nullable=False),
    sql.Column("at_infinity", sql.Boolean, nullable=False),
    sql.Column("vector", sql.LargeBinary, nullable=False),
    sql.Column("rest", sql.Text, nullable=False),
    sql.Index("semiflat_points_by_loss", "hidden", "loss"),
)
EDGES = sql.Table(
    "semiflat_edges",
    _TABLES,
    sql.Column("place", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("kind", sql.Text, nullable=False),
    sql.Column("source", sql.Text, nullable=False),
    sql.Column("target", sql.Text),
    sql.Column("hidden", sql.Text, nullable=False),
    sql.Column("loss", sql.Double),
    sql.Column("rest", sql.Text, nullable=False),
    sql.Index("semiflat_edges_by_source", "source"),
    sql.Index("semiflat_edges_by_target", "target"),
)
CERTIFICATES = sql.Table(
    "semiflat_certificates",
    _TABLES,
    # Of the point's parameters, as names change when more points are found.
    sql.Column("point", sql.Text, primary_key=True),
    sql.Column("status", sql.Text, nullable=False),
    sql.Column("kind", sql.Text),
    sql.Column("document", sql.Text, nullable=False),
)
"""What was proved of points; all have the data of the hierarchy's problem."""
SCHEMA = Schema("hierarchy", _TABLES, 2, {1: CERTIFICATES.create})
AT_A_TIME = 5000
"""Rows written together."""

Record = TypeVar("Record", PointRecord, Edge, Level)


@dataclass(frozen=True)
class Selection:
    """Which points to read.

    Attributes:
        widths: of the levels; None for all.
        kinds: names of kinds; None for all.
        lowest: how many of each level at most, lowest loss first.
    """

    widths: Sequence[Widths] | None = None
    kinds: Sequence[str] | None = None
    lowest: int | None = None

    @property
    def query(self) -> sql.Select[Any]:
        """The names of the points."""
        query = sql.select(POINTS.c.name)
        if self.widths is not None:
            query = query.where(POINTS.c.hidden.in_(map(widths_name, self.widths)))
        if self.kinds is not None:
            query = query.where(POINTS.c.kind.in_(self.kinds))
        if self.lowest is None:
            return query
        order = sql.func.row_number().over(
            partition_by=POINTS.c.hidden, order_by=(POINTS.c.loss, POINTS.c.place)
        )
        ranked = query.add_columns(order.label("rank")).subquery()
        return sql.select(ranked.c.name).where(ranked.c.rank <= self.lowest)

    def in_words(self, loaded: int, total: int) -> str:
        """What it is, and how much of all; ``""`` for all."""
        parts = [] if self.lowest is None else [f"the {self.lowest} lowest of each width"]
        if self.kinds is not None:
            parts.append(f"kinds {', '.join(self.kinds)}")
        if self.widths is not None:
            parts.append(f"widths {', '.join(map(widths_name, self.widths))}")
        return f"{'; '.join(parts)}: {loaded} of {total} points" if parts else ""


@dataclass(frozen=True)
class Loaded:
    """What was read.

    Attributes:
        problem: of the hierarchy.
        points, edges, levels: its records; all levels, whatever the selection.
        certificates: of the points, None where there is none.
        selection: in words; ``""`` if all points are there.
    """

    problem: Problem
    points: list[PointRecord]
    edges: list[Edge]
    levels: list[Level]
    certificates: list[Certificate | None]
    selection: str


def bind(place: str | Path, problem: Problem) -> None:
    """Say that a database holds the hierarchy of this problem, and refuse that of another.

    Raises:
        InputError: see :class:`semiflat.jobs.database.Database`; if it is another problem's.
    """
    with Database(place, SCHEMA) as database, database.writing() as connection:
        _bind(database, connection, problem)


def write(
    place: str | Path,
    problem: Problem,
    points: Sequence[PointRecord],
    edges: Sequence[Edge],
    levels: Sequence[Level],
    certificates: Sequence[Certificate | None],
) -> None:
    """Put a hierarchy in the place of the one of the same problem that is there, as a whole.

    Certificates that are there already stay.

    Raises:
        InputError: as for :func:`bind`.
    """
    with Database(place, SCHEMA) as database, database.writing() as connection:
        _bind(database, connection, problem)
        for table, rows in (
            (LEVELS, map(_level_row, levels)),
            (POINTS, map(_point_row, points)),
            (EDGES, map(_edge_row, edges)),
        ):
            connection.execute(sql.delete(table))
            for some in _in_parts({"place": k, **row} for k, row in enumerate(rows)):
                connection.execute(sql.insert(table), some)
            # Else a server would plan queries as if next to nothing were there.
            connection.execute(sql.text(f"ANALYZE {table.name}"))
        new = map(_certificate_row, points, certificates)
        for some in _in_parts(row for row in new if row is not None):
            connection.execute(database.insert_new(CERTIFICATES), some)


def read(place: str | Path, X: Any, y: Any, sample_weight: Any, selection: Selection) -> Loaded:
    """The points that are selected, the edges between them, and all levels.

    Raises:
        InputError: if there is no hierarchy, it is damaged, or it was made on other data.
    """
    with Database(place, SCHEMA, new=False) as database, database.reading() as connection:
        header = connection.scalar(sql.select(HEADER.c.header))
        levels = connection.execute(sql.select(LEVELS).order_by(LEVELS.c.place)).all()
        if header is None or not levels:
            raise InputError(
                f"{database.shown!r} holds no hierarchy yet; the call that makes it goes on from what it holds"
            )
        try:
            problem = _problem(json.loads(header), X, y, sample_weight, database.shown)
            level_records = [_record(Level, row, database.shown) for row in levels]
            _check_widths(selection, level_records)
            total = connection.scalar(sql.select(sql.func.count()).select_from(POINTS)) or 0
            chosen = selection.query
            points = sql.select(POINTS).where(POINTS.c.name.in_(chosen)).order_by(POINTS.c.place)
            records = [
                _record(PointRecord, row, database.shown) for row in connection.execute(points)
            ]
            some = chosen.cte("chosen")
            leaving = sql.select(EDGES).join(some, EDGES.c.source == some.c.name)
            limits = sql.select(EDGES).join(some, EDGES.c.target == some.c.name)
            edges = sql.union_all(leaving, limits.where(EDGES.c.source == ""))
            certificates = _certificates(connection, problem, records)
            names = {record.name for record in records}
            kept = [
                _record(Edge, row, database.shown)
                for row in connection.execute(edges.order_by("place"))
                if row.kind == "embeds" or row.target is None or row.target in names
            ]
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{database.shown!r} is damaged: {error}; save the hierarchy again"
            ) from error
    told = selection.in_words(len(records), total)
    return Loaded(problem, records, kept, level_records, certificates, told)


def certificates_of(
    place: str | Path, problem: Problem, points: Sequence[PointRecord]
) -> list[Certificate | None]:
    """What a database holds of proofs of these points, None where that is nothing."""
    with Database(place, SCHEMA) as database, database.reading() as connection:
        return _certificates(connection, problem, points)


# -- of which problem -------------------------------------------------------------------------------


def _header(problem: Problem) -> dict[str, Any]:
    """What a hierarchy depends on, but for its widths: more may be added."""
    check_names(problem, "no store can tell whether it is the same one when it is opened again")
    net = problem.net
    return {
        "inputs": net.inputs,
        "outputs": net.outputs,
        "hidden layers": len(net.hidden),
        "activations": [activation.name for activation in net.activations],
        "biases": list(net.biases),
        "loss": problem.loss.name,
        "weight decay": problem.weight_decay,
        "data (SHA-256)": problem.data_hash,
    }


def _bind(database: Database, connection: sql.Connection, problem: Problem) -> None:
    own = _header(problem)
    connection.execute(database.insert_new(HEADER), {"id": 1, "header": json.dumps(own)})
    # Who writes a hierarchy waits for its turn: the row is locked until then.
    found = connection.scalar(sql.select(HEADER.c.header).with_for_update())
    check_header(
        database.shown,
        "a hierarchy",
        json.loads(found or "{}"),
        own,
        "give another store, or the same problem",
    )


def _problem(header: dict[str, Any], X: Any, y: Any, sample_weight: Any, place: str) -> Problem:
    """The problem on these data; the hidden widths of its network are 1."""
    widths = [header["inputs"], *[1] * header["hidden layers"], header["outputs"]]
    net = MLP(widths, header["activations"], header["biases"])
    problem = Problem(
        net, X, y, header["loss"], weight_decay=header["weight decay"], sample_weight=sample_weight
    )
    made_on = header["data (SHA-256)"]
    if problem.data_hash != made_on:
        raise InputError(
            f"the data (SHA-256 {problem.data_hash[:12]}…) are not those that the hierarchy in {place!r} was "
            f"made on ({made_on[:12]}…); give the same data, standardised in the same way, with the same "
            "sample_weight if it was made with some"
        )
    return problem


def _check_widths(selection: Selection, levels: Sequence[Level]) -> None:
    known = [level.hidden for level in levels]
    for widths in selection.widths or ():
        if widths not in known:
            raise InputError(
                f"there is no level of widths {list(widths)}; there are {[list(each) for each in known]}"
            )


# -- rows -------------------------------------------------------------------------------------------


def _rest(record: PointRecord | Edge | Level, typed: Collection[str]) -> str:
    """What has no column of its own, as text."""
    own = {
        each.name: getattr(record, each.name) for each in fields(record) if each.name not in typed
    }
    return json.dumps(to_plain(own))


_OF_LEVEL = ("hidden",)
_OF_POINT = ("name", "hidden", "loss", "kind", "function", "found")
_OF_EDGE = ("kind", "source", "target", "hidden", "loss")
"""Fields that are columns of their own."""


def _columns(record: PointRecord | Edge | Level, typed: Sequence[str]) -> dict[str, Any]:
    columns = {name: getattr(record, name) for name in typed}
    return columns | {"hidden": widths_name(record.hidden)}


def _level_row(level: Level) -> dict[str, Any]:
    return {**_columns(level, _OF_LEVEL), "rest": _rest(level, _OF_LEVEL)}


def _edge_row(edge: Edge) -> dict[str, Any]:
    return {**_columns(edge, _OF_EDGE), "rest": _rest(edge, _OF_EDGE)}


def _point_row(point: PointRecord) -> dict[str, Any]:
    return {
        **_columns(point, _OF_POINT),
        "index": point.index,
        "at_infinity": point.at_infinity,
        "vector": np.ascontiguousarray(point.vector.numpy(), dtype="<f8").tobytes(),
        "rest": _rest(point, (*_OF_POINT, "vector")),
    }


def _certificate_row(point: PointRecord, certificate: Certificate | None) -> dict[str, Any] | None:
    if certificate is None:
        return None
    document = json.dumps(certificate.without_data, ensure_ascii=False)
    row = {"status": certificate.status, "kind": certificate.kind, "document": document}
    return {"point": _digest(point), **row}


def _certificates(
    connection: sql.Connection, problem: Problem, points: Sequence[PointRecord]
) -> list[Certificate | None]:
    digests = [_digest(point) for point in points]
    found: dict[str, str] = {}
    for first in range(0, len(digests), AT_A_TIME):
        some = CERTIFICATES.c.point.in_(digests[first : first + AT_A_TIME])
        rows = connection.execute(sql.select(CERTIFICATES).where(some))
        found |= {row.point: row.document for row in rows}
    return [
        of_document(
            json.loads(found[digest]), problem.with_net(problem.net.with_hidden(point.hidden))
        )
        if digest in found
        else None
        for digest, point in zip(digests, points, strict=True)
    ]


def _digest(point: PointRecord) -> str:
    """What names a point by its network and its parameters."""
    forms = "" if point.limit is None else repr(point.limit.forms)
    digest = hashlib.sha256(f"{point.hidden} {forms}".encode())
    for vector in (point.vector, *(() if point.limit is None else (point.limit.far,))):
        digest.update(np.ascontiguousarray(vector.numpy(), dtype="<f8").tobytes())
    return digest.hexdigest()


def _record(kind: type[Record], row: sql.Row[Any], place: str) -> Record:
    """The record that a row was made of."""
    columns = row._asdict()
    typed = {each.name: columns[each.name] for each in fields(kind) if each.name in columns}
    typed["hidden"] = [int(width) for width in columns["hidden"].split("x")]
    vector = typed.pop("vector", None)
    plain = {**json.loads(columns["rest"]), **typed}
    if vector is not None:
        numbers = np.frombuffer(vector, dtype="<f8").astype(np.float64)
        plain["vector"] = torch.from_numpy(numbers)
    record: Record = from_plain(kind, plain)
    return record


def _in_parts(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    some: list[dict[str, Any]] = []
    for row in rows:
        some.append(row)
        if len(some) == AT_A_TIME:
            yield some
            some = []
    if some:
        yield some
