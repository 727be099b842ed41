"""Points in files: ``.safetensors`` with the architecture, the loss and a hash of the data.

No pickle is ever read. An embedded point is stored with its source and its embedding, so that it is
judged from narrow quantities when it is read again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from semiflat._version import __version__
from semiflat.data import Preparation
from semiflat.decay import WeightDecay
from semiflat.embeddings import Embedding, embedding_from_json
from semiflat.errors import InputError
from semiflat.files import path_of, write_whole
from semiflat.limits import AtInfinity, Limit, LimitMLP
from semiflat.losses import Loss, loss_named
from semiflat.networks import MLP, Params
from semiflat.points import EmbeddedPoint, Point, check_one, one_line
from semiflat.problem import Problem, check_names
from semiflat.records.shown import Shown

POINT_FORMAT = "semiflat-point-1"
_FAR = "far."
_SOURCE = "source."


def save_point(point: Point, path: str | Path, data: dict[str, Any] | None = None) -> None:
    """Write a point to a ``.safetensors`` file; one of that name is replaced.

    Args:
        point: plain or embedded.
        path: of the file; folders are made as needed.
        data: how to load the data again, as ``{"source": "diabetes", …}``; for people and for the
            command line. The data themselves are not stored, but their SHA-256 is.

    Raises:
        InputError: if the activation or loss is a Python function, which no file can hold, if an
            embedding of your own is not read back as it is, or the file cannot be written.

    >>> import pathlib, tempfile
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> wide = sf.Replicate(0, 0, [0.3, 0.7])(sf.Point(problem, problem.net.random_params(seed=0)))
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "wide.safetensors"
    >>> sf.save_point(wide, file, data={"source": "two points"})
    >>> file.stat().st_size < 10_000
    True
    """
    check_one(point, "save_point")
    write_whole(path_of(path), packed(point, data))


def packed(point: Point, data: dict[str, Any] | None = None) -> bytes:
    """What :func:`save_point` writes: the same bytes for the same point."""
    problem = point.problem
    names = [activation.name for activation in problem.net.activations]
    check_names(problem, "cannot be stored in a file")
    network = {
        "widths": list(problem.net.widths),
        "activations": names,
        "biases": list(problem.net.biases),
    }
    tensors = {key: tensor.contiguous() for key, tensor in point.params.items()}
    metadata = {
        "format": POINT_FORMAT,
        "semiflat": __version__,
        "network": json.dumps(network),
        "loss": problem.loss.name,
        "weight_decay": json.dumps(problem.weight_decay),
        "data_sha256": problem.data_hash,
        "data": json.dumps(data or {}),
        "note": point.note,
    }
    if problem.preparation is not None:
        metadata["preparation"] = json.dumps(problem.preparation.to_json())
    if isinstance(problem, AtInfinity):
        root = point.source if isinstance(point, EmbeddedPoint) else point
        assert isinstance(root.problem, AtInfinity)
        metadata["forms"] = json.dumps([list(map(str, row)) for row in root.problem.net.forms])
        tensors |= {_FAR + key: tensor.contiguous() for key, tensor in root.problem.far.items()}
    if isinstance(point, EmbeddedPoint):
        metadata["embedding"] = _readable(point)
        metadata["source_widths"] = json.dumps(list(point.source.problem.net.widths))
        tensors |= {_SOURCE + k: t.contiguous() for k, t in point.source.params.items()}
    return _ordered(save(tensors, metadata))


def _readable(point: EmbeddedPoint) -> str:
    """The embedding as text, tried: what is read back makes the same wide parameters."""
    try:
        text = json.dumps(point.embedding.to_json())
        again = embedding_from_json(json.loads(text))(point.source).params
        if again.keys() != point.params.keys():
            raise InputError("it is read back as one into another network")
        if not all(torch.equal(again[key], point.params[key]) for key in again):
            raise InputError("it is read back as one that makes other parameters")
    except Exception as error:  # to_json and from_json may be anybody's
        raise InputError(
            f"{point.embedding!r:.80} cannot be stored: {error}. Make its from_json(entry) the inverse of "
            "to_json(), or store the wide point without it, as Point(point.problem, point.params)"
        ) from error
    return text


def holds(path: Path, content: bytes) -> bool:
    """Whether a file holds what :func:`packed` made, in whatever order its metadata stand."""
    try:
        return path.is_file() and _ordered(path.read_bytes()) == content
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def _ordered(content: bytes) -> bytes:
    """A ``.safetensors`` file with its metadata in order; they come in another one at each writing."""
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


@dataclass(frozen=True)
class StoredPoint(Shown):
    """What a file holds, before it is put together with data.

    Attributes:
        net: the architecture; for an embedded point that of its source.
        params: its parameters; for an embedded point those of its source.
        loss: name of the loss.
        data_sha256: hash of the data it was made on.
        data: how the data were loaded.
        embedding: None for a plain point.
        wide: the stored wide parameters of an embedded point.
        weight_decay: of the problem; 0 in files that say nothing of it.
        note: what was known of the point, ``""`` in files that say nothing; see :attr:`Point.note`.
        far: of a point at infinity, see :class:`Limit`; else None.
        preparation: what was done to the table's rows, for :meth:`Point.predict`; None if nothing is known.

    >>> import pathlib, tempfile
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> point = sf.Point(problem, problem.net.random_params(seed=0))
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "point.safetensors"
    >>> sf.save_point(point, file)
    >>> stored = sf.load_point(file)
    >>> stored.net.widths, stored.loss, stored.embedding
    ((1, 2, 1), 'squared', None)
    >>> stored.point([[0.0], [2.0]], [0.0, 1.0])
    Traceback (most recent call last):
        ...
    semiflat.errors.InputError: the data (SHA-256 ...) are not those that ...
    """

    path: str
    net: MLP
    params: Params
    loss: str
    data_sha256: str
    data: dict[str, Any]
    embedding: Embedding | None
    wide: Params | None
    weight_decay: float | dict[str, float] = 0.0
    note: str = ""
    far: Params | None = None
    preparation: Preparation | None = None

    def point(self, X: Any, y: Any = None, sample_weight: Any = None) -> Point:
        """The point on these data, with the weights of its samples if they have some.

        ``X`` may be a :class:`Dataset`, which has its targets and weights.

        Raises:
            InputError: if the data are not those the point was made on, or the stored wide
                parameters are not the embedding of the stored source.
        """
        problem = Problem(
            self.net.finite if isinstance(self.net, LimitMLP) else self.net,
            X,
            y,
            self.loss,
            weight_decay=self.weight_decay,
            sample_weight=sample_weight,
            preparation=self.preparation,
        )
        if problem.data_hash != self.data_sha256:
            weights = "no" if problem.sample_weight is None else "their"
            raise InputError(
                f"the data (SHA-256 {problem.data_hash[:12]}… with {weights} sample weights) are not those "
                f"that {self.path!r} was made on ({self.data_sha256[:12]}…); give the same data, "
                "standardised in the same way, with the same sample_weight if it was made with some"
            )
        plain = Point(problem, self.params, self.note)
        if self.far is not None:
            assert isinstance(self.net, LimitMLP)
            at = Limit(problem, self.net, self.params, self.far).point
            plain = Point(at.problem, self.params, self.note)
        if self.embedding is None or self.wide is None:
            return plain
        embedded = self.embedding(plain)
        if any(not torch.equal(embedded.params[key], self.wide[key]) for key in embedded.params):
            raise InputError(
                f"{self.path!r} is damaged: its wide parameters are not the embedding of its source"
            )
        return embedded


@overload
def load_point(path: str | Path) -> StoredPoint: ...
@overload
def load_point(path: str | Path, X: Any, y: Any, sample_weight: Any = None) -> Point: ...
def load_point(
    path: str | Path, X: Any = None, y: Any = None, sample_weight: Any = None
) -> StoredPoint | Point:
    """Read a ``.safetensors`` file that :func:`save_point` wrote: with its data, the point.

    Args:
        path: of the file.
        X: the data that the point was made on, as the problem had them; the file holds their hash alone.
            Without them it is a :class:`StoredPoint`, which says what the file holds.
        y: its targets.
        sample_weight: of the samples, if the problem had some.

    Raises:
        InputError: if it is missing, a pickle, damaged, or not a point; for other data, or only one of X
            and y.

    >>> import pathlib, tempfile
    >>> import semiflat as sf
    >>> problem = sf.Problem(sf.MLP([1, 2, 1]), [[0.0], [1.0]], [0.0, 1.0])
    >>> wide = sf.Replicate(0, 0, [0.3, 0.7])(sf.Point(problem, problem.net.random_params(seed=0)))
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "wide.safetensors"
    >>> sf.save_point(wide, file)
    >>> point = sf.load_point(file, problem.X, problem.y)
    >>> sf.judge(point).kind == sf.judge(wide).kind
    True
    """
    stored = _stored(path_of(path))
    if X is None and y is None and sample_weight is None:
        return stored
    if X is None or y is None:
        raise InputError("load_point takes both X and y, or neither; give the data it was made on")
    return stored.point(X, y, sample_weight)


def _stored(path: Path) -> StoredPoint:
    metadata, tensors = read_tensors(path)
    if metadata.get("format") != POINT_FORMAT:
        raise InputError(
            f"{str(path)!r} holds no semiflat point (format {metadata.get('format')!r}, expected "
            f"{POINT_FORMAT!r}); make one with save_point or `semiflat find`. The weights of a module "
            "go into `semiflat diagnose --model PACKAGE.MODULE:FUNCTION --weights FILE --data DATA`"
        )
    try:
        return _read(str(path), metadata, tensors)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, ZeroDivisionError, AttributeError) as error:
        raise InputError(
            f"{str(path)!r} is damaged: its metadata cannot be read ({type(error).__name__}: {error})"
        ) from error


def read_tensors(path: Path) -> tuple[dict[str, str], Params]:
    """Metadata and tensors of a ``.safetensors`` file.

    Raises:
        InputError: if it is missing, a pickle or damaged.
    """
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; give a .safetensors file of a point")
    try:
        with safe_open(str(path), framework="pt") as file:
            return file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if _is_pickle(path):
            raise InputError(
                f"{str(path)!r} is a pickle or a torch checkpoint, which can run code when it is "
                "read; semiflat only reads .safetensors files"
            ) from error
        raise InputError(f"{str(path)!r} is not a readable .safetensors file: {error}") from error


def _is_pickle(path: Path) -> bool:
    # Asked only of files that are not safetensors, whose first bytes can be any number.
    try:
        with path.open("rb") as stream:
            head = stream.read(4)
    except OSError:
        return False
    return head[:1] == b"\x80" or head == b"PK\x03\x04"


def _read(path: str, metadata: dict[str, str], tensors: Params) -> StoredPoint:
    network = json.loads(metadata["network"])
    far = {key[len(_FAR) :]: t for key, t in tensors.items() if key.startswith(_FAR)}
    stored = {key: t for key, t in tensors.items() if not key.startswith((_SOURCE, _FAR))}
    embedding = None
    wide = None
    if "embedding" in metadata:
        embedding = embedding_from_json(json.loads(metadata["embedding"]))
        wide = stored
        stored = {k[len(_SOURCE) :]: t for k, t in tensors.items() if k.startswith(_SOURCE)}
        network["widths"] = json.loads(metadata["source_widths"])
    net = MLP(network["widths"], network["activations"], network["biases"])
    if "forms" in metadata:
        net = LimitMLP(net, json.loads(metadata["forms"]))
        net.check_params(far)
    net.check_params(stored)
    loss = loss_named(metadata["loss"])
    data = json.loads(metadata["data"])
    if not isinstance(data, dict):
        raise TypeError("data is not a record")
    if embedding is not None and wide is not None:
        embedding.widen(net).check_params(wide)
    return StoredPoint(
        path,
        net,
        stored,
        metadata["loss"],
        metadata["data_sha256"],
        data,
        embedding,
        wide,
        WeightDecay.of(json.loads(metadata.get("weight_decay", "0"))).plain,
        one_line(metadata.get("note", "")),
        far or None,
        _preparation_of(metadata, net, loss),
    )


def _preparation_of(metadata: dict[str, str], net: MLP, loss: Loss) -> Preparation | None:
    if "preparation" not in metadata:  # as in files of earlier versions
        return None
    read = Preparation.from_json(json.loads(metadata["preparation"]))
    if len(read.features) != net.inputs:
        raise ValueError(f"{len(read.features)} inputs prepared for a network with {net.inputs}")
    expected = 2 if loss.codes else net.outputs
    if loss.classifies and read.classes is not None and len(read.classes) != expected:
        raise ValueError(f"{len(read.classes)} names for {expected} classes")
    done = read.standardisation
    for each in (None, None) if done is None or loss.classifies else (done.y_mean, done.y_scale):
        if each is not None and len(each) != net.outputs:
            raise ValueError(f"{len(each)} means or deviations for {net.outputs} outputs")
    return read
