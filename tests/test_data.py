"""Data by name and from files: what is read, what is made of it, and every refusal."""

from __future__ import annotations

import json
import os
import pickle
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from semiflat import MLP, InputError, Problem
from semiflat.bundled import bundle, by_import
from semiflat.data import BUNDLED, Dataset, Standardisation, load_data

X3 = np.array([[1.0, 2.0], [3.0, 5.0], [4.0, -1.0]])


def write(tmp_path: Path, text: str | bytes, name: str = "data.csv") -> str:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def savez(tmp_path: Path, **arrays: Any) -> str:
    path = str(tmp_path / "data.npz")
    np.savez(path, **arrays)
    return path


def refusal(source: str, *content: str, **options: Any) -> str:
    """The message of the error, which is one line and holds all of ``content``."""
    with pytest.raises(InputError) as caught:
        load_data(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    for part in content:
        assert part in message
    return message


# -- sets that scikit-learn bundles ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "loss", "outputs"),
    [
        ("breast_cancer", (569, 30), "cross_entropy", 2),
        ("diabetes", (442, 10), "squared", 1),
        ("iris", (150, 4), "cross_entropy", 3),
        ("linnerud", (20, 3), "squared", 3),
        ("wine", (178, 13), "cross_entropy", 3),
    ],
)
def test_bundled_sets(name: str, shape: tuple[int, int], loss: str, outputs: int) -> None:
    data = load_data(name)
    assert (data.name, data.X.shape, data.loss, data.outputs) == (name, shape, loss, outputs)
    assert data.X.dtype == np.float64
    assert data.y.dtype == (np.float64 if loss == "squared" else np.int64)
    assert data.y.shape == ((20, 3) if name == "linnerud" else shape[:1])
    assert len(data.features) == shape[1]
    assert data.dropped == ()
    assert (data.classes is None) == (loss == "squared")
    problem = Problem(MLP([shape[1], 2, outputs]), data.X, data.y, data.loss)
    assert np.isfinite(float(problem.risk(problem.net.random_params(0))))


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_sets_are_read_as_scikit_learn_reads_them(name: str, monkeypatch: Any) -> None:
    own, other = bundle(name), by_import(name)
    assert (own.features, own.classes) == (other.features, other.classes)
    for one, two in ((own.X, other.X), (own.y, other.y)):
        assert (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())
    # Where another version keeps them otherwise, it is asked itself.
    monkeypatch.setattr("semiflat.bundled._READ", {name: lambda folder: (folder / "none").open()})
    assert bundle(name).X.tobytes() == own.X.tobytes()


def test_digits_drop_the_pixels_that_are_never_inked() -> None:
    with pytest.warns(UserWarning, match=r"3 constant column\(s\): pixel_0_0, pixel_4_0, pixel_"):
        data = load_data("digits")
    assert data.X.shape == (1797, 61)
    assert data.classes == tuple("0123456789")
    assert data.dropped == ("pixel_0_0", "pixel_4_0", "pixel_4_7")
    assert not set(data.dropped) & set(data.features)


def test_bundled_classes_have_their_names_in_order() -> None:
    assert load_data("breast_cancer").classes == ("malignant", "benign")
    assert load_data("iris").features[0] == "sepal length (cm)"


def test_bundled_names_are_all_of_them() -> None:
    assert BUNDLED == ("breast_cancer", "diabetes", "digits", "iris", "linnerud", "wine")


def test_an_unknown_name_gives_the_nearest_and_the_suffixes(tmp_path: Path) -> None:
    refusal("diabets", "unknown data set 'diabets'", "did you mean 'diabetes'?", ".npz or .parquet")
    refusal("x" * 5000, "unknown data set")
    refusal(str(tmp_path), "unknown data set")


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    refusal(
        write(tmp_path, "a,b\n1,2\n", "data.txt"),
        "data.txt",
        "must end in .csv, .tsv, .npz or .parquet",
    )


def test_without_scikit_learn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "sklearn", None)
    refusal("iris", "pip install 'semiflat[data]'")
    assert load_data(write(tmp_path, "a,y\n1,0.5\n2,1.5\n")).outputs == 1


def test_a_target_column_is_for_csv_files_only(tmp_path: Path) -> None:
    refusal("linnerud", "'Waist'", "leave it out", target="Waist")
    refusal(savez(tmp_path, X=X3, y=[0.1, 0.2, 0.3]), "'y'", "in the array y", target="y")


# -- files that cannot be read --------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".csv", ".npz", ".CSV"])
def test_files_that_cannot_be_opened(tmp_path: Path, suffix: str) -> None:
    refusal(str(tmp_path / f"absent{suffix}"), f"absent{suffix}", "does not exist")
    (tmp_path / f"folder{suffix}").mkdir()
    refusal(str(tmp_path / f"folder{suffix}"), "is a directory")
    loop = tmp_path / f"loop{suffix}"
    loop.symlink_to(loop)
    refusal(str(loop), "cannot be read", "symbolic links")
    refusal(f"nul\0{suffix}", "cannot be read")
    refusal(write(tmp_path, "", f"empty{suffix}"), "is empty")
    refusal(write(tmp_path, " \n\n", f"blank{suffix}"), "is empty")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads anything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = write(tmp_path, "a,y\n1,2\n")
    Path(path).chmod(0)
    refusal(path, "cannot be read", "ermission")


def test_csv_files_that_are_not_text(tmp_path: Path) -> None:
    refusal(write(tmp_path, np.random.default_rng(0).bytes(3000)), "not UTF-8")
    refusal(write(tmp_path, "größe,y\n1,2\n".encode("latin-1")), "not UTF-8", "byte 2", "UTF-8")
    refusal(write(tmp_path, "a,y\n1,2\n".encode("utf-16")), "not UTF-8")
    refusal(write(tmp_path, "a,y\n1,2\n".encode("utf-16-le")), "binary data")
    refusal(write(tmp_path, b"\xef\xbb\xbf\n"), "is empty")


# -- csv ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n"])
def test_csv_delimiters_line_ends_and_marks(
    tmp_path: Path, delimiter: str, end: str, start: str
) -> None:
    rows = ['"a b"', "c", "y"], ["1", " 2e0", "0.5"], ["3", "-5", "1.5"], ["4", '"7"', "2"]
    text = start + end.join(delimiter.join(row) for row in rows) + end
    data = load_data(write(tmp_path, text), standardise=False)
    assert data.features == ("a b", "c")
    np.testing.assert_array_equal(data.X, [[1, 2], [3, -5], [4, 7]])
    np.testing.assert_array_equal(data.y, [0.5, 1.5, 2.0])
    assert (data.loss, data.standardisation) == ("squared", None)


def test_csv_delimiter_inside_quotes_does_not_count(tmp_path: Path) -> None:
    path = write(tmp_path, '"a, b, c, d";e;y\n1;2;0.5\n2;1;1.5\n')
    assert load_data(path).features == ("a, b, c, d", "e")


def test_csv_target_by_name_or_the_last(tmp_path: Path) -> None:
    path = write(tmp_path, "kind,a,b\nx,1,0.5\ny,2,1.5\nx,3,0.1\n")
    data = load_data(path, target="kind", standardise=False)
    assert (data.features, data.classes, data.y.tolist()) == (("a", "b"), ("x", "y"), [0, 1, 0])
    refusal(path, "text (--one-hot, or --drop): 'kind' (line 2: 'x')")
    refusal(path, "unknown target column", "'knd'", "did you mean 'kind'?", target="knd")


@pytest.mark.parametrize(
    ("cell", "what", "remedy"),
    [
        (
            "nan",
            "missing values (--drop-missing, or --drop): 'size' (2 of 3, first line 4)",
            "missing",
        ),
        (
            "n/a",
            "missing values (--drop-missing, or --drop): 'size' (2 of 3, first line 4)",
            "missing",
        ),
        (
            "?",
            "missing values (--drop-missing, or --drop): 'size' (2 of 3, first line 4)",
            "missing",
        ),
        (
            "-Infinity",
            "infinite values (correct them, or --drop): 'size' (line 4: '-Infinity')",
            " size",
        ),
        ("1e999", "infinite values (correct them, or --drop): 'size' (line 4: '1e999')", " size"),
        (
            "1_000",
            "numbers and text (correct the text, or --drop): 'size' (line 4: '1_000')",
            " size",
        ),
        ("0x1", "numbers and text (correct the text, or --drop): 'size' (line 4: '0x1')", " size"),
        ("2,5", "numbers written otherwise (write them with a decimal point", " size"),
        ("1.234,5", "numbers written otherwise (write them with a decimal point", " size"),
        ("5%", "numbers written otherwise (write them with a decimal point", " size"),
    ],
)
def test_csv_cells_that_are_no_finite_number(
    tmp_path: Path, cell: str, what: str, remedy: str
) -> None:
    path = write(tmp_path, f"a;size;y\n1;2.5;0.5\n\n3;{cell};1.5\n4;{cell};2.5\n")
    refusal(
        path,
        "1 column(s) that cannot be used",
        what,
        f"All at once: --drop{'-' * (remedy[0] != ' ')}{remedy}",
    )


def test_csv_cells_empty_long_and_with_a_decimal_comma(tmp_path: Path) -> None:
    refusal(write(tmp_path, "a,b,y\n1,2,3\n4, ,6\n"), "missing", "'b' (1 of 2, first line 3)")
    refusal(write(tmp_path, "a;b;y\n1;2,5;3\n2;3;4\n"), "'b' (line 2: '2,5')", "a decimal point")
    refusal(write(tmp_path, "a;y\n1;2,5\n2;1,5\n"), "line 2", "target 'y'", "a decimal point")
    assert len(refusal(write(tmp_path, f"a,y\n{'z' * 999},1\n2,3\n"), "zzz...")) < 400


def test_csv_lines_are_counted_as_an_editor_counts_them(tmp_path: Path) -> None:
    path = write(tmp_path, '"a\nb",y\n\n1,"two\nlines"\n2,other\nbad,other\n')
    refusal(path, "'a b' (line 7: 'bad')")


def test_csv_targets_that_are_missing(tmp_path: Path) -> None:
    for cell in ("", "nan", "inf"):
        for others in ("0.5", "cat"):
            path = write(tmp_path, f"a,y\n1,{others}\n2,{cell}\n3,{others}\n")
            said = "line 3", "the target 'y'", repr(cell)
            if cell == "inf" and others == "cat":  # a class of that name
                continue
            refusal(path, *said, "remove" if cell == "inf" else "impute")
            refusal(path, *said, loss="cross_entropy")


def test_csv_targets_that_mix_numbers_and_text(tmp_path: Path) -> None:
    path = write(tmp_path, "a,y\n1,0.5\n2,n/a\n3,1.5\n")
    refusal(path, "line 3", "the target 'y'", "'n/a'", "loss='cross_entropy'")
    refusal(path, "line 3", "the target 'y'", "'n/a'", loss="squared")
    assert load_data(path, loss="cross_entropy").classes == ("0.5", "1.5", "n/a")


def test_csv_files_of_the_wrong_shape(tmp_path: Path) -> None:
    refusal(write(tmp_path, "a,b,y\n1,2,3\n1,2\n"), "line 3", "2 cell(s)", "3 columns")
    refusal(write(tmp_path, "a,b,y\n1,2,3,4\n"), "line 2", "4 cell(s)")
    refusal(write(tmp_path, "a,b,y\n"), "header but no rows")
    refusal(write(tmp_path, "a,b,a\n1,2,3\n"), "columns 1 and 3", "both named 'a'")
    refusal(write(tmp_path, ",b,y\n0,2,3\n"), "column 1", "no name", "index=False")
    refusal(write(tmp_path, ",,\n0,2,3\n"), "column 1", "no name")
    refusal(write(tmp_path, "a b y\n1 2 3\n"), "single column 'a b y'", "semicolons or tabs")
    refusal(write(tmp_path, 'a,y\n1,2\n"1,2\n3,4\n'), "line 3", "quotes")
    refusal(write(tmp_path, f"a,y\n1,2\n1,{'9' * 200_000}\n"), "line 3", "limit")


@pytest.mark.parametrize("first", ["1,2,0", "5.1,-3e-2,1.4", "1,,3"])
def test_csv_without_a_header(tmp_path: Path, first: str) -> None:
    refusal(write(tmp_path, f"{first}\n4,5,6\n"), "numbers only", "header")


# -- npz ------------------------------------------------------------------------------------------


def test_npz_arrays_of_other_dtypes(tmp_path: Path) -> None:
    X = np.array([[1, 2], [3, 5], [4, 7]], dtype=">i2")
    data = load_data(
        savez(tmp_path, X=X, y=np.array([0.5, 1.5, 2], dtype=np.float32)), standardise=False
    )
    assert data.features == ("x0", "x1")
    np.testing.assert_array_equal(data.X, X)
    assert data.X.dtype == data.y.dtype == np.dtype("=f8")
    assert data.X.flags.c_contiguous


def test_npz_targets_of_two_axes(tmp_path: Path) -> None:
    data = load_data(savez(tmp_path, X=X3, y=[[1, 2], [2, 1], [3, 1]]))
    assert (data.loss, data.outputs, data.y.shape) == ("squared", 2, (3, 2))
    column = load_data(savez(tmp_path, X=X3, y=[[1], [2], [1]]))
    assert (column.loss, column.y.tolist()) == ("cross_entropy", [0, 1, 0])
    path = savez(tmp_path, X=X3, y=np.eye(3, dtype=int))
    for loss in ("cross_entropy", "logistic"):
        refusal(path, "(3, 3)", "argmax", loss=loss)


def test_npz_files_that_are_no_archive_or_damaged(tmp_path: Path) -> None:
    refusal(write(tmp_path, b"garbage" * 99, "data.npz"), "no .npz archive", "numpy.savez")
    refusal(write(tmp_path, pickle.dumps({"X": 1}), "data.npz"), "no .npz archive")
    whole = Path(savez(tmp_path, X=X3, y=[0.1, 0.2, 0.3])).read_bytes()
    refusal(write(tmp_path, whole[: len(whole) // 2], "data.npz"), "damaged", "numpy.savez")
    flipped = bytearray(whole)
    flipped[whole.index(X3.tobytes())] ^= 1
    refusal(write(tmp_path, bytes(flipped), "data.npz"), "damaged")
    with zipfile.ZipFile(tmp_path / "data.npz", "w") as archive:
        archive.writestr("X", "text")
    refusal(str(tmp_path / "data.npz"), "damaged", "X is no array")


def test_npz_objects_are_never_unpickled(tmp_path: Path) -> None:
    path = savez(tmp_path, X=X3, y=np.array(["a", 1, None], dtype=object))
    refusal(path, "array y", "Python objects", "pickle")
    path = savez(tmp_path, X=X3.astype(object), y=[0.1, 0.2, 0.3])
    refusal(path, "array X", "Python objects", "pickle")


def test_npz_keys_that_are_missing(tmp_path: Path) -> None:
    refusal(savez(tmp_path, X=X3, labels=[0, 1, 0]), "no array 'y'", "found X, labels")
    refusal(savez(tmp_path, data=X3), "no array 'X'", "found data")
    refusal(savez(tmp_path), "no array 'X'", "none")
    refusal(savez(tmp_path, **{f"a{k}": X3 for k in range(12)}), "a7 and 4 more")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_npz_values_that_are_not_finite(tmp_path: Path, value: float) -> None:
    X = X3.copy()
    X[2, 1] = value
    path = savez(tmp_path, X=X, y=[0.1, 0.2, 0.3])
    what = "missing values" if np.isnan(value) else "infinite values"
    refusal(path, what, "'x1'", "row 2")
    path = savez(tmp_path, X=X3, y=[0.1, value, 0.3])
    refusal(path, "y in", str(value), "row 1 (counted from 0)")
    path = savez(tmp_path, X=X3, y=[[0.1, 1], [2, 0.3], [value, 0]])
    refusal(path, "y in", "row 2, column 0")


@pytest.mark.skipif(np.finfo(np.longdouble).max == np.finfo(float).max, reason="the same range")
def test_npz_values_that_float64_cannot_hold(tmp_path: Path) -> None:
    X = X3.astype(np.longdouble)
    X[0, 1] = np.finfo(np.longdouble).max
    refusal(savez(tmp_path, X=X, y=[0.1, 0.2, 0.3]), "infinite", "'x1' (row 0: 'inf')")


def test_npz_arrays_of_the_wrong_shape_or_kind(tmp_path: Path) -> None:
    y = [0.1, 0.2, 0.3]
    refusal(savez(tmp_path, X=[1.0, 2, 3], y=y), "shape (3,)", "(N, d)", "X.reshape(-1, 1)")
    refusal(savez(tmp_path, X=np.ones((3, 2, 2)), y=y), "shape (3, 2, 2)", "reshape")
    refusal(savez(tmp_path, X=X3, y=0.5), "y in", "shape ()", "(N,) or (N, M)")
    refusal(savez(tmp_path, X=X3, y=np.ones((3, 0))), "y in", "shape (3, 0)")
    refusal(savez(tmp_path, X=X3, y=[0.1, 0.2]), "3 samples", "y has 2")
    refusal(savez(tmp_path, X=X3 + 1j, y=y), "X in", "complex128", "real numbers")
    refusal(savez(tmp_path, X=X3.astype(str), y=y), "X in", "encode text")
    refusal(savez(tmp_path, X=X3, y=np.array([b"a", b"b", b"a"])), "y in", "y.astype(str)")


# -- classes or numbers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (["cat", "ant", "cat"], ("ant", "cat")),
        ([True, False, True], ("False", "True")),
        (np.array([7, 3, 7], dtype=np.uint8), ("3", "7")),
        ([10, 9, 10], ("9", "10")),
    ],
)
def test_npz_targets_that_are_classes(tmp_path: Path, y: Any, classes: tuple[str, ...]) -> None:
    data = load_data(savez(tmp_path, X=X3, y=y))
    assert (data.loss, data.outputs, data.classes) == ("cross_entropy", 2, classes)
    assert data.y.tolist() == [1, 0, 1]
    assert data.y.dtype == np.int64
    assert data.standardisation is not None
    assert data.standardisation.y_mean is None


def test_csv_targets_that_are_classes(tmp_path: Path) -> None:
    def loaded(*cells: str) -> Dataset:
        rows = "".join(f"{k},{cell}\n" for k, cell in enumerate(cells))
        return load_data(write(tmp_path, "a,y\n" + rows))

    assert loaded("True", "False", "True").classes == ("False", "True")
    assert loaded("b", "a", "ü").classes == ("a", "b", "ü")
    assert loaded("10", "9", "-1", "+9").classes == ("-1", "9", "10")
    assert loaded("10", "9", "9.0").classes is None
    assert loaded("1", "2", "1e2").loss == "squared"
    assert loaded("1", "2", "9" * 30).loss == "squared"


@pytest.mark.parametrize("count", [20, 21])
def test_twenty_whole_numbers_are_classes_and_more_are_numbers(tmp_path: Path, count: int) -> None:
    values = np.arange(count)
    rows = "".join(f"{k},{k}\n" for k in values)
    for path in (
        savez(tmp_path, X=values[:, None], y=values),
        write(tmp_path, "a,y\n" + rows),
    ):
        data = load_data(path)
        assert data.loss == ("cross_entropy" if count == 20 else "squared")
        assert data.outputs == (20 if count == 20 else 1)
        assert load_data(path, loss="cross_entropy").outputs == count


def test_floats_are_numbers_even_if_whole(tmp_path: Path) -> None:
    path = savez(tmp_path, X=X3, y=[0.0, 1.0, 1.0])
    assert load_data(path).loss == "squared"
    assert load_data(path, loss="cross_entropy").classes == ("0", "1")


def test_an_explicit_loss_wins(tmp_path: Path) -> None:
    path = savez(tmp_path, X=X3, y=[-1, 1, 1])
    squared = load_data(path, loss="squared", standardise=False)
    assert (squared.y.tolist(), squared.outputs, squared.classes) == ([-1.0, 1.0, 1.0], 1, None)
    logistic = load_data(path, loss="logistic")
    assert (logistic.y.tolist(), logistic.outputs) == ([0.0, 1.0, 1.0], 1)
    assert logistic.y.dtype == np.float64
    assert logistic.classes == ("-1", "1")
    assert load_data("breast_cancer", loss="logistic").classes == ("malignant", "benign")
    assert load_data("iris", loss="squared").y.dtype == np.float64


def test_targets_that_do_not_fit_the_loss(tmp_path: Path) -> None:
    numbers = savez(tmp_path, X=X3, y=[1.0, 0.25, 2.0])
    for loss in ("cross_entropy", "logistic"):
        refusal(numbers, "0.25", f"'{loss}'", "whole numbers", loss=loss)
    refusal("wine", "3 classes", "class_0, class_1, class_2", "exactly two", loss="logistic")
    refusal(savez(tmp_path, X=X3, y=["a", "b", "a"]), "text", "'a'", "numbers", loss="squared")
    refusal(savez(tmp_path, X=X3, y=[True, False, True]), "bool", "numbers", loss="squared")
    fours = savez(tmp_path, X=X3, y=[4, 4, 4])
    refusal(fours, "single class '4'", "at least two")
    refusal(fours, "single class '4'", loss="cross_entropy")
    refusal(fours, "single class '4'", loss="logistic")
    refusal(savez(tmp_path, X=X3, y=["a", "a", "a"]), "single class 'a'")


def test_an_unknown_loss_gives_the_nearest() -> None:
    refusal("iris", "unknown loss 'cross-entropy'", "'cross_entropy'?", loss="cross-entropy")


def test_a_constant_numeric_target(tmp_path: Path) -> None:
    for standardise in (True, False):
        path = savez(tmp_path, X=X3, y=[0.5, 0.5, 0.5])
        refusal(path, "constant, 0.5", "nothing to learn", standardise=standardise)
    refusal(savez(tmp_path, X=X3, y=[4, 4, 4]), "nothing to learn", loss="squared")
    path = savez(tmp_path, X=X3, y=[[0.1, 7], [0.2, 7], [0.3, 7]])
    refusal(path, "column 1 (counted from 0), 7", "nothing to learn")


def test_fewer_than_two_samples(tmp_path: Path) -> None:
    refusal(write(tmp_path, "a,y\n1,0.5\n"), "1 sample(s)", "at least two")
    refusal(savez(tmp_path, X=[[1.0, 2.0]], y=[0.5]), "1 sample(s)")
    refusal(savez(tmp_path, X=np.ones((0, 2)), y=np.ones(0)), "0 sample(s)")


# -- constant columns and standardisation ---------------------------------------------------------


@pytest.mark.parametrize("standardise", [True, False])
def test_constant_columns_are_dropped_by_name(tmp_path: Path, standardise: bool) -> None:
    path = write(tmp_path, "a,b,c,y\n0.1,1,0,0.5\n0.1,2,0,1.5\n0.1,3,0,1\n")
    with pytest.warns(UserWarning, match=r"dropped 2 constant column\(s\): a, c$") as caught:
        data = load_data(path, standardise=standardise)
    assert caught[0].filename == __file__
    assert (data.features, data.dropped, data.X.shape) == (("b",), ("a", "c"), (3, 1))
    if standardise:
        assert data.standardisation is not None
        assert data.standardisation.X_mean == (2.0,)
    else:
        np.testing.assert_array_equal(data.X, [[1], [2], [3]])


def test_constant_columns_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,y\n0.1,1,0.5\n0.1,2,1.5\n0.1,3,1\n")
    data = load_data(path, keep_constant=True)
    assert (data.features, data.dropped) == (("a", "b"), ())
    np.testing.assert_array_equal(data.X[:, 0], 0)
    assert data.standardisation is not None
    assert data.standardisation.X_scale[0] == 1  # nothing is divided by 0
    raw = load_data(path, keep_constant=True, standardise=False)
    np.testing.assert_array_equal(raw.X[:, 0], 0.1)
    all_the_same = write(tmp_path, "a,y\n1,0.5\n1,1.5\n1,1\n")
    with pytest.raises(InputError, match="no input column that varies"):
        load_data(all_the_same, keep_constant=True)


def test_many_constant_columns_are_not_all_named(tmp_path: Path) -> None:
    X = np.column_stack([np.zeros((3, 12)), [1, 2, 3]])
    with pytest.warns(UserWarning, match="12 constant.*: x0, x1, .*, x7 and 4 more$"):
        assert load_data(savez(tmp_path, X=X, y=[0.1, 0.2, 0.3])).features == ("x12",)


def test_columns_that_vary_by_rounding_only_are_constant(tmp_path: Path) -> None:
    varying = np.array([0.0, 1.0, 2.0])
    X = np.column_stack([varying, 3e8 + 1e-7 * varying, 3e8 + 1e-2 * varying, 1e-300 * varying])
    with pytest.warns(UserWarning, match="1 constant.*: x1$"):
        assert load_data(savez(tmp_path, X=X, y=varying)).features == ("x0", "x2", "x3")


def test_no_column_that_varies(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,y\n1,2,0.5\n1,2,1.5\n")
    refusal(path, "no input column that varies", "a, b", "at least one")
    refusal(savez(tmp_path, X=np.ones((3, 0)), y=[0.1, 0.2, 0.3]), "no input column", "none")


@pytest.mark.parametrize("name", ["diabetes", "linnerud", "wine"])
def test_standardised_columns_have_mean_0_and_deviation_1(name: str) -> None:
    data, plain = load_data(name), load_data(name, standardise=False)
    done = data.standardisation
    assert done is not None
    assert plain.standardisation is None
    np.testing.assert_allclose(data.X.mean(0), 0, atol=1e-14)
    np.testing.assert_allclose(data.X.std(0), 1, rtol=1e-13)
    np.testing.assert_allclose(data.X * done.X_scale + done.X_mean, plain.X, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(done.X_mean, plain.X.mean(0), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(done.X_scale, plain.X.std(0), rtol=1e-12)
    if data.loss == "squared":
        assert done.y_mean is not None
        assert done.y_scale is not None
        assert len(done.y_mean) == len(done.y_scale) == data.outputs
        np.testing.assert_allclose(data.y.mean(0), 0, atol=1e-14)
        np.testing.assert_allclose(data.y.std(0), 1, rtol=1e-13)
        np.testing.assert_allclose(data.y * done.y_scale + done.y_mean, plain.y, rtol=1e-12)
    else:
        assert (done.y_mean, done.y_scale) == (None, None)
        np.testing.assert_array_equal(data.y, plain.y)


@pytest.mark.parametrize("factor", [1e307, 1e-300, 1.0])
@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_standardisation_of_extreme_columns(tmp_path: Path, factor: float, offset: float) -> None:
    column = np.random.default_rng(0).normal(size=40)
    if factor == 1.0:
        column = offset + column
    X = np.column_stack([factor * column, np.arange(40)])
    data = load_data(savez(tmp_path, X=X, y=column))
    np.testing.assert_allclose(data.X.mean(0), 0, atol=1e-14)
    np.testing.assert_allclose(data.X.std(0), 1, rtol=1e-13)
    assert data.standardisation is not None
    np.testing.assert_allclose(data.standardisation.X_scale[0] / factor, column.std(), rtol=1e-7)


def test_without_standardisation_the_data_are_as_given(tmp_path: Path) -> None:
    y = np.array([0.1, 0.2, 0.7])
    data = load_data(savez(tmp_path, X=X3, y=y), standardise=False)
    np.testing.assert_array_equal(data.X, X3)
    np.testing.assert_array_equal(data.y, y)


# -- the result -----------------------------------------------------------------------------------


def test_to_json_is_plain_data_without_the_arrays(tmp_path: Path) -> None:
    path = write(tmp_path, "a,b,c,kind\n1,0,2,x\n3,0,4,y\n")
    with pytest.warns(UserWarning, match="constant"):
        data = load_data(path)
    assert json.loads(json.dumps(data.to_json())) == {
        "name": path,
        "samples": 2,
        "inputs": 2,
        "outputs": 2,
        "loss": "cross_entropy",
        "loss_in_words": "The loss is the cross entropy in nats, averaged over the samples: calling all "
        "2 classes equally likely gives 0.6931.",
        "features": ["a", "c"],
        "classes": ["x", "y"],
        "dropped": ["b"],
        "standardisation": {
            "X_mean": [2.0, 3.0],
            "X_scale": [1.0, 1.0],
            "y_mean": None,
            "y_scale": None,
        },
    }
    plain = json.loads(json.dumps(load_data("linnerud", standardise=False).to_json()))
    assert (plain["standardisation"], plain["classes"]) == (None, None)
    done = Standardisation((1.0,), (2.0,), (3.0,), (4.0,))
    assert json.dumps(done.to_json()) == json.dumps(
        {"X_mean": [1.0], "X_scale": [2.0], "y_mean": [3.0], "y_scale": [4.0]}
    )


def test_the_same_source_gives_the_same_bits(tmp_path: Path) -> None:
    first, second = load_data("diabetes"), load_data("diabetes")
    assert first.X.tobytes() == second.X.tobytes()
    assert first.y.tobytes() == second.y.tobytes()
    X = np.random.default_rng(0).normal(size=(50, 3))
    rows = load_data(savez(tmp_path, X=X, y=X[:, 0]))
    columns = load_data(savez(tmp_path, X=np.asfortranarray(X), y=X[:, 0]))
    assert rows.X.tobytes() == columns.X.tobytes()
