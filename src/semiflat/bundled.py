"""The data sets that scikit-learn bundles, read from its folder: importing it takes longer than judging."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from semiflat.errors import InputError

BUNDLED: tuple[str, ...] = ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")
"""The data sets that scikit-learn has without a download."""


class Bundle(NamedTuple):
    """A data set: inputs (N, d), targets (N,) or (N, M), names of the inputs and of classes."""

    X: np.ndarray
    y: np.ndarray
    features: tuple[str, ...]
    classes: tuple[str, ...] | None = None


def bundle(name: str) -> Bundle:
    """One of :data:`BUNDLED`, the same bits as scikit-learn's own.

    Raises:
        InputError: if scikit-learn is not installed.

    >>> bundle("iris").X.shape, bundle("iris").classes
    ((150, 4), ('setosa', 'versicolor', 'virginica'))
    """
    try:
        spec = find_spec("sklearn")
    except ValueError:  # of a module that is in use without one
        spec = None
    if spec is None or spec.origin is None:
        raise InputError(
            f"data set {name!r} comes with scikit-learn, which is not installed; run "
            "pip install 'semiflat[data]'"
        )
    try:
        return _READ[name](Path(spec.origin).parent / "datasets" / "data")
    except (OSError, ValueError, StopIteration):  # another version may keep them otherwise
        return by_import(name)


def by_import(name: str) -> Bundle:
    """The same by scikit-learn itself."""
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    y = np.asarray(found.target)
    classes = tuple(map(str, found.target_names)) if y.dtype.kind == "i" else None
    X = np.ascontiguousarray(found.data, dtype=np.float64)
    return Bundle(X, y, tuple(map(str, found.feature_names)), classes)


def _numbers(file: Path) -> np.ndarray:
    with gzip.open(file, "rt", encoding="utf-8") as stream:
        return np.array([line.replace(",", " ").split() for line in stream], dtype=np.float64)


def _classes(file: str, features: tuple[str, ...]) -> Callable[[Path], Bundle]:
    """A table whose first row has the numbers of rows and inputs and the names of the classes."""

    def read(folder: Path) -> Bundle:
        with (folder / file).open(encoding="utf-8", newline="") as stream:
            rows = csv.reader(stream)
            samples, inputs, *names = next(rows)
            table = list(rows)
        X = np.array([row[:-1] for row in table], dtype=np.float64)
        y = np.array([row[-1] for row in table], dtype=np.int64)
        if X.shape != (int(samples), int(inputs)) or X.shape[1] != len(features):
            raise ValueError
        return Bundle(X, y, features, tuple(names))

    return read


def _diabetes(folder: Path) -> Bundle:
    # Centred, and divided by the deviation times √N, step by step as scikit-learn does.
    X = _numbers(folder / "diabetes_data_raw.csv.gz")
    scale = np.nanstd(X, axis=0)
    X -= np.nanmean(X, axis=0)
    X /= scale
    X /= len(X) ** 0.5
    names = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
    return Bundle(X, _numbers(folder / "diabetes_target.csv.gz")[:, 0], names)


def _digits(folder: Path) -> Bundle:
    table = _numbers(folder / "digits.csv.gz")
    names = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
    X = np.ascontiguousarray(table[:, :-1])
    return Bundle(X, table[:, -1].astype(np.int64), names, tuple("0123456789"))


def _linnerud(folder: Path) -> Bundle:
    def read(part: str) -> tuple[tuple[str, ...], np.ndarray]:
        header, *rows = (folder / f"linnerud_{part}.csv").read_text(encoding="utf-8").splitlines()
        return tuple(header.split()), np.array([row.split() for row in rows], dtype=np.float64)

    names, X = read("exercise")
    return Bundle(X, read("physiological")[1], names)


_PARTS = ("sepal length (cm)", "sepal width (cm)", "petal length (cm)", "petal width (cm)")
_WINE = (
    "alcohol malic_acid ash alcalinity_of_ash magnesium total_phenols flavanoids nonflavanoid_phenols "
    "proanthocyanins color_intensity hue od280/od315_of_diluted_wines proline"
)
_CELLS = [
    *("radius", "texture", "perimeter", "area", "smoothness", "compactness", "concavity"),
    *("concave points", "symmetry", "fractal dimension"),
]
_OF_CELLS = (
    *(f"mean {part}" for part in _CELLS),
    *(f"{part} error" for part in _CELLS),
    *(f"worst {part}" for part in _CELLS),
)

_READ: dict[str, Callable[[Path], Bundle]] = {
    "breast_cancer": _classes("breast_cancer.csv", _OF_CELLS),
    "diabetes": _diabetes,
    "digits": _digits,
    "iris": _classes("iris.csv", _PARTS),
    "linnerud": _linnerud,
    "wine": _classes("wine_data.csv", tuple(_WINE.split())),
}
