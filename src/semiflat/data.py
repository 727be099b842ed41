"""Data to train on: a set that scikit-learn bundles, a file or a data frame."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from semiflat.bundled import BUNDLED as BUNDLED
from semiflat.bundled import bundle
from semiflat.errors import InputError, unknown_name
from semiflat.losses import Loss, loss_named
from semiflat.records.preparation import Preparation as Preparation
from semiflat.records.shown import Shown
from semiflat.records.study import Standardisation as Standardisation
from semiflat.tables import (
    FRAME,
    MOST_LEVELS,
    SUFFIXES,
    Column,
    Sheet,
    check_usable,
    column_of_numbers,
    encoded,
    is_frame,
    listed,
    read_file,
    sheet_of_frame,
    target_missing,
    target_values,
)

MOST_CLASSES = 20
"""Whole numbers with more distinct values than this are numbers, not classes."""

_CONSTANT = 1e-12  # deviation over the largest absolute value, below which it is rounding error


@dataclass(frozen=True, eq=False)
class Dataset(Shown):
    """Inputs and targets, ready for :class:`~semiflat.Problem`, and what was done to them.

    ``Problem(net, data)`` takes them with their loss and weights, and its points can
    :meth:`~semiflat.Point.predict` for new rows of the table.

    Attributes:
        name: a name from :data:`BUNDLED`, the file's path as given, or ``"the data frame"``.
        X: inputs, (N, d) float64.
        y: (N,) or (N, M) float64 for ``"squared"``, (N,) int64 classes 0..C−1 for
            ``"cross_entropy"``, (N,) float64 of 0.0 and 1.0 for ``"logistic"``.
        loss: the loss that fits the targets.
        outputs: width of the network's output for that loss.
        preparation: what was done to the columns, and what the classes are called.
        sample_weight: what each sample counts with, (N,) float64 above 0; None if all count alike.
        rows_dropped: how many rows were left out, as values were missing in them.

    >>> import semiflat as sf
    >>> data = sf.load_data("diabetes")
    >>> data.X.shape, data.loss, data.outputs
    ((442, 10), 'squared', 1)
    >>> data.features[:4]
    ('age', 'sex', 'bmi', 'bp')
    >>> problem = sf.Problem(sf.MLP([10, 3, 1], "gelu"), data)
    """

    name: str
    X: np.ndarray
    y: np.ndarray
    loss: str
    outputs: int
    preparation: Preparation
    sample_weight: np.ndarray | None = None
    rows_dropped: int = 0

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of X."""
        return self.preparation.features

    @property
    def classes(self) -> tuple[str, ...] | None:
        """Labels of the classes in order, or None for numbers."""
        return self.preparation.classes

    @property
    def dropped(self) -> tuple[str, ...]:
        """Names of the inputs that were constant."""
        return self.preparation.dropped

    @property
    def standardisation(self) -> Standardisation | None:
        """None if nothing was standardised."""
        return self.preparation.standardisation

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
    source: Any,
    target: str | None = None,
    *,
    loss: str | None = None,
    standardise: bool = True,
    drop: Sequence[str] = (),
    drop_missing: bool = False,
    one_hot: bool = False,
    sample_weight: str | None = None,
    keep_constant: bool = False,
) -> Dataset:
    """Data by name, from a file or a data frame, with the loss that fits its targets.

    Columns of X that are constant are dropped with a ``UserWarning``. Text, bools and integers with
    at most 20 distinct values are classes, for ``"cross_entropy"``; all else is numbers, for
    ``"squared"``. In a .csv integers are cells without point or exponent. Columns that cannot be inputs
    (text, dates, missing values) are refused, all in one message that says what to do for each.

    Args:
        source: a name from :data:`BUNDLED` (needs ``semiflat[data]``), a .csv with a header and
            commas, semicolons or tabs, a .tsv, a .npz with the arrays X and y, a .parquet (needs
            ``semiflat[tables]``), or a pandas DataFrame, whose index is no column.
        target: the column to learn; by default the last one.
        loss: one of :data:`~semiflat.losses.LOSSES` in place of the one that fits.
        standardise: whether to bring each column of X, and y for ``"squared"``, to mean 0 and
            population deviation 1, weighted as the samples are.
        drop: columns to leave out.
        drop_missing: whether to leave out the rows with missing values, with a ``UserWarning`` that says
            how many.
        one_hot: whether to take columns of text as categories: one input of 0 and 1 for each level but
            the first, see :class:`~semiflat.Preparation`.
        sample_weight: the column that says what each sample counts with, from 0 up; it is no input then.
        keep_constant: whether to keep columns of X that are constant, as images have them at their edges.

    Raises:
        InputError: for an unknown name, a file that cannot be read or holds a value that cannot be used
            (with its place), targets that do not fit the loss, fewer than two samples or
            classes, and data with nothing but constant inputs or a constant target.

    >>> data = load_data("iris")
    >>> data.X.shape, data.loss, data.outputs, data.classes
    ((150, 4), 'cross_entropy', 3, ('setosa', 'versicolor', 'virginica'))
    >>> load_data("iris", drop=["petal width (cm)"]).X.shape
    (150, 3)
    >>> load_data("irsi")
    Traceback (most recent call last):
        ...
    semiflat.errors.InputError: unknown data set 'irsi'; did you mean 'iris'? Known: ...
    """
    labels = loss is not None and loss_named(loss).classifies
    if not is_frame(source) and not isinstance(source, str | PathLike):
        raise InputError(
            f"data are a name, the path of a file or a pandas DataFrame, not a {type(source).__name__}; "
            "arrays of your own go into Problem(net, X, y)"
        )
    name = FRAME if is_frame(source) else str(source)
    whole = sheet_of_frame(source) if is_frame(source) else _read(name, target)
    chosen = _Chosen.of(whole, target, [drop] if isinstance(drop, str) else drop, sample_weight)
    kept = chosen.complete(labels) if drop_missing else np.ones(len(chosen), dtype=bool)
    _check_kept(whole, chosen, kept)
    gone = int((~kept).sum())
    # Places are told of the whole table, so what is wrong is looked for before rows are left out.
    check_usable(whole, chosen.inputs, one_hot, chosen.weights, kept)
    y = chosen.targets(labels, kept)
    weights = chosen.checked_weights(kept)
    counted = kept if weights is None else kept & (weights > 0)
    y = y[counted[kept]]
    if counted.sum() < 2:
        raise InputError(
            f"{whole.source} has {int(counted.sum())} sample(s); expected at least two"
        )
    if weights is not None:
        weights = weights[counted]

    known = loss_named(loss or _fitting_loss(y))
    targets: _Columns | None = None
    classes: tuple[str, ...] | None = None
    if known.classifies:
        y, classes = _classes(whole, y, known, labels)
        outputs = 1 if known.codes else len(classes)
    else:
        y, targets = _numbers(whole.source, y, known, weights)
        outputs = targets.mean.size

    columns = [column.rows(counted) for column in chosen.inputs]
    levels = {c.name: c.levels for c in columns if not c.kind.numeric}
    preparation = Preparation(
        columns=tuple(column.name for column in columns),
        levels=levels,
        others=tuple(other for other in whole.names if other not in {c.name for c in columns}),
        classes=classes,
    )
    table = encoded(columns, levels)
    if len(set(preparation.encoded)) < len(table):
        twice = next(n for n in preparation.encoded if preparation.encoded.count(n) > 1)
        raise InputError(
            f"two inputs from {whole.source} are both named {twice!r}; rename a column"
        )
    raw = np.column_stack(table) if table else np.empty((int(counted.sum()), 0))
    inputs = _columns(raw, weights)
    keep = ~inputs.constant | (keep_constant and not inputs.constant.all())
    # A column of one level is constant as well, and becomes no number at all.
    dropped = tuple(name for name, kept in zip(preparation.encoded, keep, strict=True) if not kept)
    single = tuple(name for name, own in levels.items() if len(own) == 1)
    if not keep.any():
        constant = listed([*dropped, *single]) or "none"
        raise InputError(
            f"{whole.source} has no input column that varies (constant: {constant}); expected at least one"
        )
    if gone:
        lacking = [f"{c.name} ({int(c.missing.sum())})" for c in chosen.all if c.missing.any()]
        message = f"{whole.source}: dropped {gone} of {len(kept)} rows with missing values"
        warnings.warn(f"{message}: {listed(lacking, 20)}", UserWarning, stacklevel=2)
    if dropped or single:
        message = f"{whole.source}: dropped {len(dropped + single)} constant column(s)"
        warnings.warn(f"{message}: {listed([*dropped, *single])}", UserWarning, stacklevel=2)

    X, standardisation = raw, None
    if standardise:
        X = inputs.standardised
        standardisation = Standardisation(
            tuple(inputs.mean[keep].tolist()),
            tuple(np.where(inputs.constant, 1.0, inputs.scale)[keep].tolist()),
            targets and tuple(targets.mean.tolist()),
            targets and tuple(targets.scale.tolist()),
        )
        y = y if targets is None else targets.standardised.reshape(y.shape)
    X = np.ascontiguousarray(X[:, keep])
    preparation = replace(preparation, dropped=dropped, standardisation=standardisation)
    return Dataset(name, X, y, known.name, outputs, preparation, weights, gone)


def _read(source: str, target: str | None) -> Sheet:
    if source.lower().endswith(SUFFIXES):
        return read_file(source)
    if source not in BUNDLED:
        try:
            is_file = Path(source).is_file()
        except (OSError, ValueError):  # a name that no file can have
            is_file = False
        kinds = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        if is_file:
            raise InputError(f"file {source!r} is of no known kind; its name must end in {kinds}")
        raise InputError(f"{unknown_name('data set', source, BUNDLED)}; files end in {kinds}")
    if target is not None:
        raise InputError(
            f"target {target!r} was given with the data set {source!r}, which has its own; "
            "leave it out, or give a .csv"
        )
    found = bundle(source)
    return Sheet(
        repr(source),
        tuple(column_of_numbers(name, found.X[:, k]) for k, name in enumerate(found.features)),
        lambda row: f"row {row}",
        found.y,
        found.classes,
    )


@dataclass(frozen=True)
class _Chosen:
    """Which columns of a table are what."""

    sheet: Sheet
    inputs: list[Column]
    target: Column | None
    weights: Column | None

    @classmethod
    def of(
        cls, sheet: Sheet, target: str | None, drop: Sequence[str], weights: str | None
    ) -> _Chosen:
        """By their names.

        Raises:
            InputError: for names that are not there, or stand for two things.
        """
        source, taken = sheet.source, None
        if sheet.y is None:
            if len(sheet.columns) < 2:
                raise InputError(
                    f"{source} has the single column {sheet.names[0]!r}; expected at least one input and "
                    "the target"
                )
            last = sheet.names[-1] if target is None else target
            taken = sheet.column(last, "target column")
        elif target is not None:
            raise InputError(
                f"target {target!r} was given with {source}, which has its targets in the array y; leave "
                "target out"
            )
        which = f"{taken.name!r} is the target" if taken else ""
        which += " as the last column; choose another with --target" if taken and not target else ""
        for name in drop:
            sheet.column(name, "column to drop")
            if taken is not None and name == taken.name:
                raise InputError(f"--drop {name!r}: {which}; leave --drop {name} out")
            if name == weights:
                raise InputError(
                    f"--drop {name!r}: it holds the sample weights; leave one of the two out"
                )
        weighing = None if weights is None else sheet.column(weights, "column of sample weights")
        if weighing is not None and weighing is taken:
            raise InputError(f"--sample-weight {weights!r}: {which}; give each a column of its own")
        apart = {*drop, *(c.name for c in (taken, weighing) if c is not None)}
        inputs = [column for column in sheet.columns if column.name not in apart]
        return cls(sheet, inputs, taken, weighing)

    def __len__(self) -> int:
        if self.sheet.y is not None:
            return len(self.sheet.y)
        return len(self.sheet.columns[0])

    @property
    def all(self) -> list[Column]:
        """The columns that are used."""
        return [*self.inputs, *(c for c in (self.weights, self.target) if c is not None)]

    def complete(self, labels: bool) -> np.ndarray:
        """Which rows have no missing values, but for columns that have no others, (N,) of bool."""
        kept = np.ones(len(self), dtype=bool)
        for column in [*self.inputs, *([] if self.weights is None else [self.weights])]:
            if not column.missing.all():
                kept &= ~column.missing
        if self.target is not None:
            kept &= ~target_missing(self.target, labels)
        elif self.sheet.y is not None and self.sheet.y.dtype.kind == "f":
            kept &= ~np.isnan(self.sheet.y.reshape(len(kept), -1)).any(1)
        return kept

    def targets(self, labels: bool, kept: np.ndarray) -> np.ndarray:
        """Those of the rows kept, as text, bool, integers or finite numbers, (n,) or (n, M)."""
        if self.target is not None:
            return target_values(self.sheet, self.target, labels, kept)
        assert self.sheet.y is not None
        y: np.ndarray = self.sheet.y[kept]
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            at = tuple(np.argwhere(~np.isfinite(y))[0])
            row = int(np.flatnonzero(kept)[at[0]])
            place = f"row {row}" + (f", column {at[1]}" if len(at) > 1 else "")
            raise InputError(
                f"y in {self.sheet.source} holds {y[at]} at {place} (counted from 0), one of "
                f"{int((~np.isfinite(y)).sum())} value(s) that are not finite; correct them, or leave rows "
                "with missing ones out with --drop-missing (drop_missing=True)"
            )
        return y

    def checked_weights(self, kept: np.ndarray) -> np.ndarray | None:
        """All rows' weights, finite and from 0 up in those that are kept; None without any."""
        if self.weights is None:
            return None
        values = np.where(kept, self.weights.values, 0.0)
        wrong = ~(np.isfinite(values) & (values >= 0))
        if wrong.any():
            row = int(wrong.argmax())
            raise InputError(
                f"{self.sheet.source}, {self.sheet.place(row)}: sample weight {self.weights.cell(row)} in "
                f"column {self.weights.name!r}; expected a finite number from 0 up"
            )
        if not values.any():
            raise InputError(
                f"column {self.weights.name!r} of {self.sheet.source} gives every sample the weight 0; at "
                "least two have to count"
            )
        return values


def _check_kept(sheet: Sheet, chosen: _Chosen, kept: np.ndarray) -> None:
    if kept.any() or not len(kept):
        return
    most = sorted(chosen.all, key=lambda c: -int(c.missing.sum()))[:8]
    raise InputError(
        f"no row of {sheet.source} is without missing values: "
        f"{', '.join(f'{c.name!r} lacks {int(c.missing.sum())} of {len(c)}' for c in most if c.missing.any())}"
        "; leave those columns out with --drop (drop=[...])"
    )


def _fitting_loss(y: np.ndarray) -> str:
    if y.dtype.kind in "Ub":
        return "cross_entropy"
    few = y.dtype.kind in "iu" and y.ndim == 1 and len(np.unique(y)) <= MOST_CLASSES
    return "cross_entropy" if few else "squared"


def _numbers(
    source: str, y: np.ndarray, loss: Loss, weights: np.ndarray | None
) -> tuple[np.ndarray, _Columns]:
    if y.dtype.kind in "Ub":
        kind = "text" if y.dtype.kind == "U" else "bool"
        raise InputError(
            f"the target of {source} is {kind}, as {str(y.flat[0])!r}; loss {loss.name!r} needs "
            "numbers: use loss 'cross_entropy' or encode it"
        )
    y = y.astype(np.float64)
    moments = _columns(y.reshape(len(y), -1), weights)
    if moments.constant.any():
        which = (
            f" in column {int(moments.constant.argmax())} (counted from 0)" if y.ndim > 1 else ""
        )
        raise InputError(
            f"the target of {source} is constant{which}, {y.flat[moments.constant.argmax()]:g}; "
            "there is nothing to learn: choose another target"
        )
    return y, moments


def _classes(
    sheet: Sheet, y: np.ndarray, loss: Loss, asked: bool
) -> tuple[np.ndarray, tuple[str, ...]]:
    source = sheet.source
    if y.ndim > 1:
        raise InputError(
            f"the target of {source} has shape {y.shape}; loss {loss.name!r} needs one class a "
            "sample, (N,): turn one-hot rows into classes with y.argmax(1)"
        )
    if y.dtype.kind == "f" and (y != np.rint(y)).any():
        raise InputError(
            f"the target of {source} holds {y[y != np.rint(y)][0]:g}; loss {loss.name!r} needs "
            "classes as text or whole numbers: use loss 'squared', or round them"
        )
    values, codes = np.unique(y, return_inverse=True)
    if sheet.labels is not None:
        labels = [sheet.labels[value] for value in values]
    else:
        labels = [str(int(value)) if y.dtype.kind == "f" else str(value) for value in values]
    if len(labels) < 2:
        raise InputError(
            f"the target of {source} has the single class {labels[0]!r}; expected at least two"
        )
    if loss.codes and len(labels) != 2:
        raise InputError(
            f"the target of {source} has {len(labels)} classes ({listed(labels)}); loss "
            f"{loss.name!r} needs exactly two: use loss 'cross_entropy'"
        )
    if len(labels) > MOST_LEVELS and not asked:
        raise InputError(
            f"the target of {source} is text with {len(labels)} different values ({listed(labels, 3)}); choose "
            "another with --target, or say --loss cross_entropy if they are classes"
        )
    coded = codes.astype(np.int64) if loss.codes is None else np.array(loss.codes)[codes]
    return coded, tuple(labels)


class _Columns(NamedTuple):
    """For each column: whether it is constant, its standardised values, mean and deviation."""

    constant: np.ndarray
    standardised: np.ndarray
    mean: np.ndarray
    scale: np.ndarray


def _columns(values: np.ndarray, weights: np.ndarray | None = None) -> _Columns:
    def means(of: np.ndarray) -> np.ndarray:
        found: np.ndarray = of.mean(axis=0) if weights is None else np.average(of, 0, weights)
        return found

    # Scaled by a power of two, which is exact: sums and squares of 1e300 would overflow.
    largest = np.abs(values).max(axis=0)
    exponent = np.frexp(largest)[1]
    unit = np.ldexp(values, -exponent)
    mean = means(unit)
    rest = means(unit - mean)  # the mean's rounding error, large beside a small deviation
    centred = unit - mean - rest
    scale = np.sqrt(means(np.square(centred)))
    constant = (values.max(axis=0) == values.min(axis=0)) | (
        scale < _CONSTANT * np.ldexp(largest, -exponent)
    )
    standardised = centred / np.where(constant, 1.0, scale)
    return _Columns(
        constant, standardised, np.ldexp(mean + rest, exponent), np.ldexp(scale, exponent)
    )
