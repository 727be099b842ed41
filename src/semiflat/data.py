"""Data to train on: a set that scikit-learn bundles, a .csv or a .npz."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semiflat.data_files import SUFFIXES, Table, listed, read_file
from semiflat.errors import InputError, unknown_name
from semiflat.losses import Loss, loss_named
from semiflat.records.shown import Shown
from semiflat.records.study import Standardisation as Standardisation

BUNDLED: tuple[str, ...] = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
"""The data sets that scikit-learn has without a download."""

MOST_CLASSES = 20
"""Whole numbers with more distinct values than this are numbers, not classes."""

_CONSTANT = 1e-12  # deviation over the largest absolute value, below which it is rounding error


@dataclass(frozen=True, eq=False)
class Dataset(Shown):
    """Inputs and targets, ready for :class:`~semiflat.Problem`, and what was done to them.

    Attributes:
        name: a name from :data:`BUNDLED`, or the file's path as given.
        X: inputs, (N, d) float64.
        y: (N,) or (N, M) float64 for ``"squared"``, (N,) int64 classes 0..C−1 for
            ``"cross_entropy"``, (N,) float64 of 0.0 and 1.0 for ``"logistic"``.
        loss: the loss that fits the targets.
        outputs: width of the network's output for that loss.
        features: names of the columns of X.
        classes: labels of the classes in order, or None for numbers.
        dropped: names of the columns that were constant.
        standardisation: None if nothing was standardised.

    >>> import semiflat as sf
    >>> data = sf.load_data("diabetes")
    >>> data.X.shape, data.loss, data.outputs
    ((442, 10), 'squared', 1)
    >>> data.features[:4]
    ('age', 'sex', 'bmi', 'bp')
    >>> problem = sf.Problem(sf.MLP([10, 3, 1], "gelu"), data.X, data.y, loss=data.loss)
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    loss: str
    outputs: int
    features: tuple[str, ...]
    classes: tuple[str, ...] | None
    dropped: tuple[str, ...]
    standardisation: Standardisation | None

    def to_json(self) -> dict[str, Any]:
        """Everything but the arrays as plain data, and the numbers of samples and inputs."""
        standardised = bool(self.standardisation and self.standardisation.y_scale)
        return {
            "name": self.name,
            "samples": self.X.shape[0],
            "inputs": self.X.shape[1],
            "outputs": self.outputs,
            "loss": self.loss,
            "loss_in_words": loss_named(self.loss).in_words(self.outputs, standardised),
            "features": list(self.features),
            "classes": None if self.classes is None else list(self.classes),
            "dropped": list(self.dropped),
            "standardisation": self.standardisation and self.standardisation.to_json(),
        }


def load_data(
    source: str, target: str | None = None, *, loss: str | None = None, standardise: bool = True
) -> Dataset:
    """Data by name or from a file, with the loss that fits its targets.

    Columns of X that are constant are dropped with a ``UserWarning``. Text, bools and integers with
    at most 20 distinct values are classes, for ``"cross_entropy"``; all else is numbers, for
    ``"squared"``. In a .csv integers are cells without point or exponent.

    Args:
        source: a name from :data:`BUNDLED` (needs ``semiflat[data]``), a .csv with a header and
            commas, semicolons or tabs, or a .npz with the arrays X and y.
        target: the column of a .csv to learn; by default the last one.
        loss: one of :data:`~semiflat.losses.LOSSES` in place of the one that fits.
        standardise: whether to bring each column of X, and y for ``"squared"``, to mean 0 and
            population deviation 1.

    Raises:
        InputError: for an unknown name, a file that cannot be read or holds a value that is not
            finite (with its place), targets that do not fit the loss, fewer than two samples or
            classes, and data with nothing but constant inputs or a constant target.

    >>> data = load_data("iris")
    >>> data.X.shape, data.loss, data.outputs, data.classes
    ((150, 4), 'cross_entropy', 3, ('setosa', 'versicolor', 'virginica'))
    >>> load_data("irsi")
    Traceback (most recent call last):
        ...
    semiflat.errors.InputError: unknown data set 'irsi'; did you mean 'iris'? Known: ...
    """
    source = str(source)
    table = _read(source, target, labels=loss is not None and loss_named(loss).classifies)
    if len(table.X) < 2:
        raise InputError(f"{source!r} has {len(table.X)} sample(s); expected at least two")

    known = loss_named(loss or _fitting_loss(table.y))
    targets: _Columns | None = None
    classes: tuple[str, ...] | None = None
    if known.classifies:
        y, classes = _classes(source, table, known)
        outputs = 1 if known.codes else len(classes)
    else:
        y, targets = _numbers(source, table.y, known)
        outputs = targets.mean.size

    inputs = _columns(table.X)
    keep = ~inputs.constant
    features = tuple(name for name, kept in zip(table.features, keep, strict=True) if kept)
    dropped = tuple(name for name, kept in zip(table.features, keep, strict=True) if not kept)
    if not features:
        raise InputError(
            f"{source!r} has no input column that varies (constant: {listed(dropped) or 'none'}); "
            "expected at least one"
        )
    if dropped:
        message = f"{source!r}: dropped {len(dropped)} constant column(s): {listed(dropped)}"
        warnings.warn(message, UserWarning, stacklevel=2)

    X, standardisation = table.X, None
    if standardise:
        X = inputs.standardised
        standardisation = Standardisation(
            tuple(inputs.mean[keep].tolist()),
            tuple(inputs.scale[keep].tolist()),
            targets and tuple(targets.mean.tolist()),
            targets and tuple(targets.scale.tolist()),
        )
        y = y if targets is None else targets.standardised.reshape(y.shape)
    X = np.ascontiguousarray(X[:, keep])
    return Dataset(source, X, y, known.name, outputs, features, classes, dropped, standardisation)


def _read(source: str, target: str | None, labels: bool) -> Table:
    if source.lower().endswith(SUFFIXES):
        return read_file(source, target, labels)
    if source not in BUNDLED:
        try:
            is_file = Path(source).is_file()
        except (OSError, ValueError):  # a name that no file can have
            is_file = False
        if is_file:
            raise InputError(
                f"file {source!r} is of no known kind; its name must end in .csv or .npz"
            )
        raise InputError(f"{unknown_name('data set', source, BUNDLED)}; files end in .csv or .npz")
    if target is not None:
        raise InputError(
            f"target {target!r} was given with the data set {source!r}, which has its own; "
            "leave it out, or give a .csv"
        )
    try:
        from sklearn import datasets
    except ImportError as error:
        raise InputError(
            f"data set {source!r} comes with scikit-learn, which is not installed; run "
            "pip install 'semiflat[data]'"
        ) from error
    bunch = getattr(datasets, f"load_{source}")()
    y = np.asarray(bunch.target)
    return Table(
        np.ascontiguousarray(bunch.data, dtype=np.float64),
        y,
        tuple(map(str, bunch.feature_names)),
        tuple(map(str, bunch.target_names)) if y.dtype.kind == "i" else None,
    )


def _fitting_loss(y: np.ndarray) -> str:
    if y.dtype.kind in "Ub":
        return "cross_entropy"
    few = y.dtype.kind in "iu" and y.ndim == 1 and len(np.unique(y)) <= MOST_CLASSES
    return "cross_entropy" if few else "squared"


def _numbers(source: str, y: np.ndarray, loss: Loss) -> tuple[np.ndarray, _Columns]:
    if y.dtype.kind in "Ub":
        kind = "text" if y.dtype.kind == "U" else "bool"
        raise InputError(
            f"the target of {source!r} is {kind}, as {str(y.flat[0])!r}; loss {loss.name!r} needs "
            "numbers: use loss 'cross_entropy' or encode it"
        )
    y = y.astype(np.float64)
    moments = _columns(y.reshape(len(y), -1))
    if moments.constant.any():
        which = (
            f" in column {int(moments.constant.argmax())} (counted from 0)" if y.ndim > 1 else ""
        )
        raise InputError(
            f"the target of {source!r} is constant{which}, {y.flat[moments.constant.argmax()]:g}; "
            "there is nothing to learn: choose another target"
        )
    return y, moments


def _classes(source: str, table: Table, loss: Loss) -> tuple[np.ndarray, tuple[str, ...]]:
    y = table.y
    if y.ndim > 1:
        raise InputError(
            f"the target of {source!r} has shape {y.shape}; loss {loss.name!r} needs one class a "
            "sample, (N,): turn one-hot rows into classes with y.argmax(1)"
        )
    if y.dtype.kind == "f" and (y != np.rint(y)).any():
        raise InputError(
            f"the target of {source!r} holds {y[y != np.rint(y)][0]:g}; loss {loss.name!r} needs "
            "classes as text or whole numbers: use loss 'squared', or round them"
        )
    values, codes = np.unique(y, return_inverse=True)
    if table.labels is not None:
        labels = [table.labels[value] for value in values]
    else:
        labels = [str(int(value)) if y.dtype.kind == "f" else str(value) for value in values]
    if len(labels) < 2:
        raise InputError(
            f"the target of {source!r} has the single class {labels[0]!r}; expected at least two"
        )
    if loss.codes and len(labels) != 2:
        raise InputError(
            f"the target of {source!r} has {len(labels)} classes ({listed(labels)}); loss "
            f"{loss.name!r} needs exactly two: use loss 'cross_entropy'"
        )
    coded = codes.astype(np.int64) if loss.codes is None else np.array(loss.codes)[codes]
    return coded, tuple(labels)


class _Columns(NamedTuple):
    """For each column: whether it is constant, its standardised values, mean and deviation."""

    constant: np.ndarray
    standardised: np.ndarray
    mean: np.ndarray
    scale: np.ndarray


def _columns(values: np.ndarray) -> _Columns:
    # Scaled by a power of two, which is exact: sums and squares of 1e300 would overflow.
    largest = np.abs(values).max(axis=0)
    exponent = np.frexp(largest)[1]
    unit = np.ldexp(values, -exponent)
    mean = unit.mean(axis=0)
    rest = (unit - mean).mean(axis=0)  # the mean's rounding error, large beside a small deviation
    centred = unit - mean - rest
    scale = np.sqrt(np.square(centred).mean(axis=0))
    constant = (values.max(axis=0) == values.min(axis=0)) | (
        scale < _CONSTANT * np.ldexp(largest, -exponent)
    )
    standardised = centred / np.where(constant, 1.0, scale)
    return _Columns(
        constant, standardised, np.ldexp(mean + rest, exponent), np.ldexp(scale, exponent)
    )
