"""Tables as people have them: every column that cannot be used named at once, and new rows prepared alike."""

from __future__ import annotations

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from scipy import sparse

import semiflat as sf
from helpers import refused, refused_command, run
from semiflat.tables import MOST_LEVELS

ROWS = 24


def frame() -> pandas.DataFrame:
    """Numbers, text, a category of whole numbers, booleans, dates, and an index that is no column."""
    generator = np.random.default_rng(0)
    size = generator.normal(50, 9, ROWS)
    return pandas.DataFrame(
        {
            "größe": size,
            "colour": ["red", "green", "blue"] * 8,
            "grade": pandas.Categorical([1, 2, 10, 2] * 6),
            "member": generator.integers(0, 2, ROWS).astype(bool),
            "since": pandas.date_range("2020-01-31", periods=ROWS),
            "always": 7,
            "w": [1, 2, 0] * 8,
            "y": 1000 + 300 * np.tanh(size / 9 - 5) + generator.normal(0, 30, ROWS),
        },
        index=pandas.Index([f"id{k}" for k in range(ROWS)], name="id"),
    )


OPTIONS: dict[str, Any] = {"one_hot": True, "drop": ["since", "w"]}


def load(source: Any, *args: Any, **options: Any) -> sf.Dataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return sf.load_data(source, *args, **options)


def csv(tmp_path: Path, text: str | bytes, name: str = "d.csv") -> str:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(tmp_path / name)


def at_random(problem: sf.Problem) -> sf.Point:
    return sf.Point(problem, problem.net.random_params(seed=1))


def on(data: sf.Dataset, hidden: int = 2, **options: Any) -> sf.Point:
    net = sf.MLP([data.X.shape[1], hidden, data.outputs], "tanh")
    return at_random(sf.Problem(net, data, **options))


# -- one message for all columns ------------------------------------------------------------------


def test_all_columns_that_cannot_be_used_are_named_at_once_with_what_to_do(tmp_path: Path) -> None:
    text = "age,colour,when,size,eur,odd,far,none,k,y\n" + "".join(
        f'{a},{c},2024-01-0{k},{s},"{k},5",{o},{f},,7,0.{k}\n'
        for k, (a, c, s, o, f) in enumerate(
            [(30, "red", "1.5", "1.5", 1), (31, "blue", "", "x", "inf"), (32, "red", "2", "2", 3)],
            1,
        )
    )
    with pytest.raises(sf.InputError) as caught:
        sf.load_data(csv(tmp_path, text))
    for part in (
        "7 column(s)",
        "text (--one-hot, or --drop): 'colour' (line 2: 'red')",
        "in their place): 'when' (line 2: '2024-01-01')",
        "'size' (1 of 3, first line 3)",
        "'eur' (line 2: '1,5')",
        "'odd' (line 3: 'x')",
        "'far' (line 3: 'inf')",
        "no value at all (--drop): 'none' (3 rows)",
        "constant and left out anyway: k.",
        "--drop-missing --one-hot --drop when --drop eur --drop odd --drop far --drop none",
    ):
        assert part in str(caught.value)
    # What it says to do is enough.
    remedy = {"drop_missing": True, "one_hot": True, "drop": ["when", "eur", "odd", "far", "none"]}
    assert f"drop={remedy['drop']!r}" in str(caught.value)
    data = load(csv(tmp_path, text), **remedy)
    assert data.features == ("age", "size")  # only red is left, and constant
    assert (data.rows_dropped, len(data.y)) == (1, 2)


def test_rows_with_missing_values_are_left_out_and_counted(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b,y\n1,2,0.5\nNA,2,1.5\n3,?,2.5\n4,5,\n6,8,3.5\n")
    with pytest.warns(
        UserWarning, match=r"dropped 3 of 5 rows with missing values: a \(1\), b \(1\)"
    ):
        data = sf.load_data(path, drop_missing=True, standardise=False)
    np.testing.assert_array_equal(data.X, [[1, 2], [6, 8]])
    assert (data.y.tolist(), data.rows_dropped) == ([0.5, 3.5], 3)
    with refused("no row of"):
        sf.load_data(csv(tmp_path, "a,b,y\n1,,3\n,2,4\n"), drop_missing=True)
    with refused("the target 'y' of"):
        sf.load_data(csv(tmp_path, "a,y\n1,0.5\n2,\n3,1.5\n"))


def test_levels_but_the_first_become_inputs_so_that_none_follows_from_the_others() -> None:
    data = load(frame(), **OPTIONS, standardise=False)
    assert data.features == ("größe", "colour=green", "colour=red", "grade=10", "grade=2", "member")
    given = frame()
    np.testing.assert_array_equal(data.X[:, 2], given["colour"] == "red")
    np.testing.assert_array_equal(data.X[:, 3], given["grade"] == 10)
    np.testing.assert_array_equal(data.X[:, 5], given["member"])
    with_bias = np.column_stack([data.X, np.ones(ROWS)])
    assert np.linalg.matrix_rank(with_bias) == with_bias.shape[1]


@pytest.mark.parametrize("count", [MOST_LEVELS, MOST_LEVELS + 1])
def test_more_levels_than_a_category_has_are_names_of_rows(tmp_path: Path, count: int) -> None:
    path = csv(tmp_path, "id,a,y\n" + "".join(f"n{k},{k},0.{k}\n" for k in range(count)))
    if count <= MOST_LEVELS:
        assert load(path, one_hot=True).X.shape == (count, count)
        return
    with refused(f"'id' ({count}, as line 2: 'n0')"):
        sf.load_data(path, one_hot=True)
    with refused(f"text with {count} different values"):
        sf.load_data(path, "id")
    assert load(path, "id", loss="cross_entropy").outputs == count


def test_text_among_many_numbers_is_a_mistake_and_no_level(tmp_path: Path) -> None:
    few = csv(tmp_path, "a,y\n1,0.5\n2,1.5\n3+,2.5\n")
    assert load(few, one_hot=True).features == ("a=2", "a=3+")
    for cells in (["1.5", "2", "x"], [*map(str, range(20)), "x"]):
        path = csv(tmp_path, "a,y\n" + "".join(f"{cell},0.{k}\n" for k, cell in enumerate(cells)))
        with refused("numbers and text (correct the text, or --drop)"):
            sf.load_data(path, one_hot=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"drop": ["colr"]},
            "unknown column to drop in the data frame: 'colr'; did you mean 'colour'?",
        ),
        ({"drop": ["y"]}, "'y' is the target as the last column; choose another with --target"),
        ({"drop": ["w"], "target": "w"}, "--drop 'w': 'w' is the target"),
        ({"drop": ["w"], "sample_weight": "w"}, "holds the sample weights"),
        ({"sample_weight": "y"}, "--sample-weight 'y': 'y' is the target"),
        ({"sample_weight": "ww"}, "unknown column of sample weights"),
        ({"target": "id"}, "unknown target column in the data frame: 'id'"),
        ({"target": "since", **OPTIONS, "drop": []}, "dates are nothing to learn"),
        ({"drop": list("abc")}, "unknown column to drop"),
    ],
)
def test_names_that_are_not_there_or_stand_for_two_things(options: Any, message: str) -> None:
    with refused(message):
        sf.load_data(frame(), **options)


def test_cells_among_labels_are_missing_only_if_they_are_empty(tmp_path: Path) -> None:
    rows = "a,y\n1,none\n2,NA\n3,mild\n4,\n"
    with refused("missing in 1 of 4 rows, first in line 5"):
        sf.load_data(csv(tmp_path, rows))
    assert load(csv(tmp_path, rows), drop_missing=True).classes == ("NA", "mild", "none")


# -- where tables come from -----------------------------------------------------------------------


def test_a_frame_a_csv_a_tsv_and_a_parquet_give_the_same_bits(tmp_path: Path) -> None:
    given = frame().assign(grade=[f"g{grade}" for grade in frame()["grade"]])
    first = load(given, **OPTIONS)
    given.to_csv(tmp_path / "a.csv", index=False)
    given.to_csv(tmp_path / "b.csv", index=False, sep=";", encoding="utf-8-sig")
    given.to_csv(tmp_path / "c.TSV", index=False, sep="\t")
    given.to_parquet(tmp_path / "d.parquet")
    for name in ("a.csv", "b.csv", "c.TSV", "d.parquet"):
        data = load(str(tmp_path / name), **OPTIONS)
        assert (data.X.tobytes(), data.y.tobytes()) == (first.X.tobytes(), first.y.tobytes()), name
        assert data.preparation == first.preparation, name


def test_frames_of_other_kinds(tmp_path: Path) -> None:
    whole = pandas.DataFrame(
        {"a": pandas.array([1, None, 3, 4], dtype="Int64"), "y": [0, 1, None, 1]}
    )
    data = load(whole, drop_missing=True)
    assert (data.classes, data.rows_dropped) == (("0", "1"), 2)
    assert load(frame(), "member", **OPTIONS).classes == ("False", "True")
    assert load(frame(), "grade", **OPTIONS).classes == ("1", "10", "2")
    twice = pandas.DataFrame([[1, 2, 0.5], [2, 3, 1.5]], columns=["a", "a", "y"])
    for bad, message in (
        (frame()[:0], "has 0 rows"),
        (twice, "columns 1 and 2 of the data frame are both named 'a'"),
        (frame()[["y"]], "the single column 'y'"),
        (np.ones((3, 2)), "a pandas DataFrame, not a ndarray"),
        (frame()["y"], "a pandas DataFrame, not a Series"),
    ):
        with refused(message):
            sf.load_data(bad)
    gap = frame()
    gap.loc["id5", "größe"] = np.nan
    with refused("first row 5, index id5"):
        sf.load_data(gap, **OPTIONS)


def test_parquet_without_the_extra_and_what_is_none(tmp_path: Path, monkeypatch: Any) -> None:
    with refused("is no .parquet file or damaged"):
        sf.load_data(csv(tmp_path, b"PAR1 and no more", "d.parquet"))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with refused("pip install 'semiflat[tables]'"):
        sf.load_data(csv(tmp_path, b"PAR1 and no more", "d.parquet"))


def test_columns_of_sets_that_are_no_files_can_be_left_out_and_be_weights(tmp_path: Path) -> None:
    assert sf.load_data("iris", drop=["sepal width (cm)"]).X.shape == (150, 3)
    weighted = sf.load_data("wine", sample_weight="alcohol")
    assert weighted.sample_weight is not None
    assert "alcohol" not in weighted.features
    np.savez(tmp_path / "d.npz", X=[[1, np.nan, 2], [2, 5, 1], [4, 1, 0.5]], y=[0.5, 1, np.nan])
    path = str(tmp_path / "d.npz")
    with refused("'x1' (1 of 3, first row 0)"):
        sf.load_data(path)
    with refused("y in"):
        sf.load_data(path, drop=["x1"])
    np.savez(tmp_path / "d.npz", X=[[1, 3, 2], [2, np.nan, 1], [4, 1, 0.5]], y=[0.5, 1, 3])
    assert load(path, drop_missing=True).rows_dropped == 1


# -- weights --------------------------------------------------------------------------------------


def test_a_weight_of_two_is_the_row_twice_and_of_none_is_no_row() -> None:
    given = frame()
    weighted = load(given, sample_weight="w", one_hot=True, drop=["since"])
    rows = [k for k in range(ROWS) for _ in range(int(given["w"].iloc[k]))]
    repeated = load(given.iloc[rows], one_hot=True, drop=["since", "w"])
    assert weighted.features == repeated.features
    assert weighted.standardisation is not None
    assert repeated.standardisation is not None
    for name in ("X_mean", "X_scale", "y_mean", "y_scale"):
        one, two = (getattr(data.standardisation, name) for data in (weighted, repeated))
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-15)
    first = on(weighted)
    second = sf.Point(sf.Problem(first.problem.net, repeated), first.params)
    assert first.loss == pytest.approx(second.loss, rel=1e-12)
    assert first.problem.sample_weight is not None
    assert len(weighted.X) == 16  # those of weight 0 are left out


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("-1", "line 3: sample weight '-1' in column 'w'"),
        ("inf", "expected a finite number from 0 up"),
        ("many", "sample weight 'many'"),
        ("", "'w' (1 of 3, first line 3)"),
    ],
)
def test_weights_that_are_none(tmp_path: Path, cell: str, message: str) -> None:
    rows = "a,w,y\n1,1,3.5\n2,{},4.5\n3,2,1.5\n"
    with refused(message):
        sf.load_data(csv(tmp_path, rows.format(cell)), sample_weight="w")
    with refused("1 sample(s)"):
        sf.load_data(csv(tmp_path, "a,w,y\n1,0,3.5\n2,0,4.5\n3,2,1.5\n"), sample_weight="w")
    with refused("gives every sample the weight 0"):
        sf.load_data(csv(tmp_path, "a,w,y\n1,0,3.5\n2,0,4.5\n3,0,1.5\n"), sample_weight="w")


# -- new rows -------------------------------------------------------------------------------------


def test_prediction_for_the_rows_of_the_table_is_the_output_in_its_units() -> None:
    given = frame()
    data = load(given, **OPTIONS)
    point = on(data)
    done = data.standardisation
    assert done is not None
    assert done.y_mean is not None
    assert done.y_scale is not None
    expected = point.problem.outputs(point.params)[:, 0].numpy() * done.y_scale[0] + done.y_mean[0]
    columns = list(data.preparation.columns)
    shuffled = given[["y", *columns[::-1], "since"]]  # what else the table had may be there, too
    for rows in (given, shuffled, given[columns].to_numpy(), given[columns].to_numpy().tolist()):
        np.testing.assert_allclose(point.predict(rows), expected, rtol=1e-12)
    other = given.assign(always=9)  # constant before, and left out
    np.testing.assert_array_equal(point.predict(other), point.predict(given))


def test_prediction_is_kept_in_files_and_through_embeddings_and_reduction(tmp_path: Path) -> None:
    given = frame()
    data = load(given, **OPTIONS)
    point = on(data)
    expected = point.predict(given)
    wide = sf.Replicate(0, 1, [0.3, 0.7])(point)
    idle = sf.NullUnits(0, [0.4])(wide)
    for number, each in enumerate((point, wide, idle, idle.materialize(), sf.reduce(idle).point)):
        np.testing.assert_allclose(each.predict(given), expected, rtol=1e-9)
        sf.save_point(each, tmp_path / f"{number}.safetensors")
        stored = sf.load_point(tmp_path / f"{number}.safetensors")
        assert stored.preparation == data.preparation
        # The arrays alone do: what is done to rows travels with the point.
        again = stored.point(data.X, data.y)
        np.testing.assert_allclose(again.predict(given), expected, rtol=1e-9)
    million = sf.Replicate.uniform(0, 0, copies=10**6)(point)
    np.testing.assert_allclose(million.predict(given), expected, rtol=1e-9)


def test_units_that_are_idle_on_the_data_alone_count_for_new_rows() -> None:
    X, y = np.array([[0.0], [0.5], [1.0]]), np.array([0.0, 1.0, 0.5])
    problem = sf.Problem(sf.MLP([1, 1, 1], "relu"), X, y)
    point = at_random(problem)
    wide = sf.InactiveUnits.in_box(0, 1, 1)(point)
    plain = wide.materialize()
    rows = np.linspace(-9, 9, 7)[:, None]
    outside = plain.problem.net.forward(plain.params, torch.from_numpy(rows))[:, 0].numpy()
    np.testing.assert_allclose(wide.predict(rows), outside, rtol=1e-12)


def test_points_of_files_from_before_predict_with_the_data_they_are_put_together_with(
    tmp_path: Path,
) -> None:
    data = load(frame(), **OPTIONS)
    point = on(data)
    bare = sf.Point(sf.Problem(point.problem.net, data.X, data.y), point.params)
    sf.save_point(bare, tmp_path / "old.safetensors")
    stored = sf.load_point(tmp_path / "old.safetensors")
    assert stored.preparation is None
    assert "preparation" not in (tmp_path / "old.safetensors").read_bytes()[:2000].decode("latin1")
    np.testing.assert_array_equal(stored.point(data).predict(frame()), point.predict(frame()))
    np.testing.assert_array_equal(  # without it, rows are the network's inputs
        stored.point(data.X, data.y).predict(data.X),
        bare.problem.outputs(point.params)[:, 0].numpy(),
    )


def test_a_preparation_that_does_not_fit_its_network_is_damage(tmp_path: Path) -> None:
    data = load(frame(), **OPTIONS)
    point, file = on(data), tmp_path / "p.safetensors"
    how = data.preparation
    assert sf.Preparation.from_json(json.loads(json.dumps(how.to_json()))) == how
    for wrong in (
        replace(how, columns=how.columns[1:]),
        replace(how, columns=how.columns[1:], standardisation=None),
        replace(how, standardisation=replace(how.standardisation, y_mean=(1.0, 2.0))),
        replace(how, standardisation=replace(how.standardisation, X_mean=(1.0, 2.0))),
    ):
        point.problem.preparation = wrong
        sf.save_point(point, file)
        with refused("is damaged"):
            sf.load_point(file)
    classes = on(load(frame(), "grade", **OPTIONS))
    classes.problem.preparation = replace(classes.problem.preparation, classes=("1", "2"))
    sf.save_point(classes, file)
    with refused("2 names for 3 classes"):
        sf.load_point(file)


@pytest.mark.parametrize("loss", [None, "logistic", "hinge2"])
def test_classes_come_back_by_name_by_the_rule_that_is_stated(loss: str | None) -> None:
    data = load(frame(), "member", loss=loss, **OPTIONS)
    point = on(data)
    outputs = point.problem.outputs(point.params).numpy()
    chosen = outputs.argmax(1) if loss is None else (outputs[:, 0] > 0).astype(int)
    assert point.predict(frame()).tolist() == [bool(k) for k in chosen]
    if loss == "hinge2":
        with refused("no logarithms of odds"):
            point.predict(frame(), probabilities=True)
        return
    shares = point.predict(frame(), probabilities=True)
    np.testing.assert_allclose(shares.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(shares.argmax(1), chosen)
    own = np.exp(outputs) if loss is None else np.column_stack([np.ones(ROWS), np.exp(outputs)])
    np.testing.assert_allclose(shares, own / own.sum(1, keepdims=True), rtol=1e-9)


def test_classes_that_are_whole_numbers_come_back_as_such() -> None:
    data = load(frame(), "grade", **OPTIONS)
    found = on(data).predict(frame())
    assert found.dtype == np.int64
    assert set(found.tolist()) <= {1, 2, 10}
    plain = sf.Problem(sf.MLP([1, 2, 3]), [[0.0], [1.0], [2.0]], [0, 1, 2], "cross_entropy")
    assert set(at_random(plain).predict([[0.5], [9.0]]).tolist()) <= {0, 1, 2}


def test_several_targets_a_row_come_back_in_their_units() -> None:
    data = load("linnerud")
    point = on(data)
    raw = load("linnerud", standardise=False)
    again = point.problem.outputs(point.params).numpy() * data.standardisation.y_scale  # type: ignore[union-attr]
    np.testing.assert_allclose(
        point.predict(raw.X),
        again + data.standardisation.y_mean,
        rtol=1e-10,  # type: ignore[union-attr]
    )


def test_networks_of_scikit_learn_predict_the_same_classes() -> None:
    from sklearn.neural_network import MLPClassifier

    given = frame()[["größe", "member"]]
    labels = frame()["colour"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = MLPClassifier([3], max_iter=5, random_state=0).fit(given, labels)
        point = sf.Point.from_sklearn(model, given, labels)
        assert point.predict(given).tolist() == model.predict(given).tolist()
        np.testing.assert_allclose(
            point.predict(given, probabilities=True), model.predict_proba(given), atol=1e-12
        )
    assert point.problem.preparation is not None
    assert point.problem.preparation.columns == ("größe", "member")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.drop(columns="colour"), "the data frame lacks colour"),
        (lambda f: f.rename(columns={"colour": "color"}), "lacks colour and has color, which"),
        (lambda f: f.assign(colour="pink"), "row 0, index id0: column 'colour' holds 'pink'"),
        (lambda f: f.assign(größe=np.nan), "column 'größe' holds 'nan', and a finite number"),
        (lambda f: f.assign(member="perhaps"), "column 'member' holds 'perhaps'"),
        (lambda f: f[:0], "has 0 rows"),
        (lambda f: f[["größe", "member"]].to_numpy(), "(n, 5), the columns größe, colour, grade"),
        (lambda f: [50.0, "red", 1, True, 7], "for one row give [row]"),
        (lambda f: [["tall", "red", 1, True, 7]], "the rows, row 0: column 'größe' holds 'tall'"),
        (lambda f: [[50.0, None, 1, True, 7]], "none of the levels that the data had: blue, green"),
        (lambda f: np.empty((0, 5)), "there are no rows"),
        (lambda f: "größe", "the rows have shape ()"),
    ],
)
def test_rows_of_other_columns_are_refused(change: Any, message: str) -> None:
    point = on(load(frame(), **OPTIONS))
    with refused(message):
        point.predict(change(frame()))


def test_a_frame_of_numbers_is_taken_where_arrays_are_and_its_names_kept() -> None:
    given = frame()
    net = sf.MLP([2, 2, 1])
    problem = sf.Problem(net, given[["größe", "member"]], given["y"])
    assert problem.preparation == sf.Preparation(columns=("größe", "member"))
    point = at_random(problem)
    with refused("the data frame lacks member"):
        point.predict(given[["größe"]])
    module = net.to_module(point.params)
    assert sf.Point.from_module(module, given[["größe", "member"]], given["y"]).loss == point.loss
    data = load(given[["größe", "member", "y"]])
    rows = given[["größe", "member"]]
    assert sf.Point.from_module(module, data).predict(rows).shape == (ROWS,)
    with refused("'colour' (row 0, index id0: 'red')"):
        sf.Problem(net, given[["größe", "colour"]], given["y"])
    with refused("y is not an array of numbers: it holds the text 'red'"):
        sf.Problem(net, given[["größe", "member"]], given["colour"])
    with refused("y is missing"):
        sf.Problem(net, given[["größe", "member"]])
    with refused("without y"):
        sf.Problem(net, load(given, **OPTIONS), given["y"])


# -- on the command line --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*dropped")
def test_commands_take_such_tables_and_points_remember_how(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = frame()
    given.loc["id3", "größe"] = np.nan
    given.to_csv(tmp_path / "d.csv", index=False)
    arguments = ["find", "--data", tmp_path / "d.csv", "--hidden", "1", "--starts", "4"]
    arguments += ["--activation", "tanh", "--processes", "1", "--out", tmp_path / "out"]
    error = refused_command(capsys, *arguments)
    assert "All at once: --drop-missing --one-hot --drop since" in error
    options = ["--drop", "since", "--drop", "grade", "--drop-missing", "--one-hot"]
    code, out, _ = run(capsys, *arguments, *options, "--sample-weight", "w", "--json")
    assert code == 0
    file = json.loads(out)["points"][0]["file"]
    stored = sf.load_point(file)
    assert stored.preparation is not None
    assert stored.preparation.columns == ("größe", "colour", "member", "always")
    kept = {"drop": ["since", "grade"], "drop_missing": True, "one_hot": True, "sample_weight": "w"}
    assert {key: stored.data[key] for key in kept} == kept
    assert run(capsys, "judge", file)[0] == 0
    # Elsewhere, the file is loaded as it was.
    (tmp_path / "d.csv").rename(tmp_path / "moved.csv")
    assert run(capsys, "judge", file, "--data", tmp_path / "moved.csv")[0] == 0
    assert "where they are now with --data" in refused_command(capsys, "judge", file)


def test_a_study_keeps_how_the_data_were_loaded(tmp_path: Path) -> None:
    from semiflat.cli.inputs import DataOptions
    from semiflat.study import Settings, Study

    frame().to_csv(tmp_path / "d.csv", index=False)
    options = DataOptions(str(tmp_path / "d.csv"), drop=("since",), one_hot=True, sample_weight="w")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        study = Study(options.load(), Settings(), source=options.to_json())
        assert study.problem.sample_weight is not None
        assert DataOptions.of(study.record.source) == options
    assert study.record.source["drop"] == ["since"]
    with refused("is damaged"):
        DataOptions.of({"source": "d.csv", "drop": [3]})


def test_rows_to_predict_may_be_sparse_or_tensors_with_a_gradient() -> None:
    problem = sf.Problem(sf.MLP([2, 2, 1], "tanh"), [[0.0, 1.0], [1.0, 0.0]], [0.0, 1.0])
    point = sf.Point(problem, problem.net.random_params(0))
    rows = np.array([[0.0, 2.0], [1.0, 0.0]])
    expected = point.predict(rows).tolist()
    assert point.predict(sparse.csr_matrix(rows)).tolist() == expected
    assert point.predict(torch.tensor(rows, requires_grad=True)).tolist() == expected
