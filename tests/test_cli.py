"""The command line as a user meets it: a table in, a report out, and one sentence where something is wrong."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import assert_same, assert_within, few_steps

import portnn
from portnn import Adam, FormatError, console, fit, model_file, tabular
from portnn.__main__ import main, parser
from portnn.callbacks import EarlyStopping
from portnn.datasets import columns, read_columns, table_file
from portnn.datasets.columns import Column
from portnn.schema import schema_of

pandas = pytest.importorskip("pandas", reason="pandas is not installed: nothing to compare tables with")
datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed: no iris")
from sklearn import dummy, linear_model, metrics  # noqa: E402


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tables of flowers, of patients, and one of everything."""
    folder = tmp_path_factory.mktemp("tables")
    iris = datasets.load_iris(as_frame=True)
    flowers = iris.data.rename(columns=lambda name: name.removesuffix(" (cm)").replace(" ", "_"))
    flowers.assign(species=iris.target_names[iris.target]).to_csv(folder / "iris.csv", index=False)
    patients = datasets.load_diabetes(as_frame=True, scaled=False)
    patients.frame.to_csv(folder / "patients.csv", index=False)
    rng = np.random.default_rng(0)
    n = 300
    color, shop = rng.choice(["red", "green", "blue"], n), rng.choice(["North", 'the "old" one, east'], n)
    weight, code = rng.normal(50.0, 10.0, n).round(3), rng.choice([1012, 1017], n)
    price = 1e5 * (weight / 10 + 3.0 * (color == "red") + 2.0 * (code == 1012) - (shop == "North"))
    mixed = pandas.DataFrame({"color": color, "weight": weight, "shop": shop, "code": code, "price": price})
    mixed.to_csv(folder / "mixed.csv", index=False)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def run(*arguments: Any) -> int:
    return main([str(argument) for argument in arguments])


# -- tables -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["iris.csv", "patients.csv", "mixed.csv"])
def test_the_table_is_that_of_pandas(here, name):
    table, expected = read_columns(name), pandas.read_csv(name)
    assert [column.name for column in table.columns] == list(expected)
    for column in table.columns:
        values = table.column(column.name)[1]
        if column.categories is None:
            assert_same(values, expected[column.name].to_numpy("float64"))
        else:
            assert [column.categories[int(v)] for v in values] == list(expected[column.name])
            assert list(column.categories) == sorted(set(expected[column.name]))


WRITTEN = [
    ("a,b\n1,x\n2,y\n", {}),
    ("a;b\n1;x\n2;y\n", {}),
    ("a\tb\n1\tx\n2\ty", {}),
    ("\ufeffa|b\r\n1|x\r\n2|y\r\n", {}),
    ('"a", "b"\n" 1 ","x"\n2,"y"\n'.replace(", ", ","), {}),
    ("a,b\n1,x\n2,y\n", {"delimiter": ","}),
    ("b,a,c\nx,1,7\ny,2,?\n", {"drop": ["c"]}),
    ("a,b\n1,x\n,z\n2,y\n?,x\n", {"missing": "drop"}),
    ("1,x\n2,y\n", {"header": False}),
    ("a,b\r\n1.,x\r\n+2.0e0,y\r\n", {}),
    ('a,b,c\n1,"x",602214076000000000000000\n2,"y",9007199254740994\n', {"drop": ["c"]}),
    ("a,b,c\n1,x,9007199254740993\n2,y,9007199254740992\n", {"categorical": ["c"]}),
]


@pytest.mark.parametrize(("text", "options"), WRITTEN)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_table_in_many_spellings(tmp_path, text, options, zipped):
    path = tmp_path / "t.csv"
    path.write_bytes(gzip.compress(text.encode()) if zipped else text.encode())
    table = read_columns(path, **options)
    a, b = ("1", "2") if "header" in options else ("a", "b")
    assert table.column(a)[1].tolist() == [1.0, 2.0]
    assert Column(b, ("x", "y")) in table.columns
    assert table.column(b)[1].tolist() == [0.0, 1.0]
    assert table.left_out == (2 if "missing" in options else 0)


def test_wanted_columns_are_found_by_name(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("junk,b,a\n?,y,3\n,x,4\n")
    wanted = [Column("a"), Column("b", ("w", "x", "y"))]
    table = read_columns(path, wanted=wanted)
    assert table.columns == tuple(wanted)
    assert table.values.tolist() == [[3.0, 2.0], [4.0, 1.0]]


def test_wanted_columns_of_a_table_of_numbers(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,2,3\n4,5,6\n")
    assert read_columns(path, wanted=[Column("c"), Column("a")]).values.tolist() == [[3, 1], [6, 4]]
    assert read_columns(path, drop=["b"]).values.tolist() == [[1, 3], [4, 6]]


def test_numbers_may_be_names(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,zip\n1,20115\n2,02139\n")
    table = read_columns(path, categorical=["zip"])
    assert table.columns[1] == Column("zip", ("02139", "20115"))
    assert table.values.tolist() == [[1, 1], [2, 0]]


def test_blocks_are_no_borders(tmp_path, monkeypatch):
    """Lines that are cut by blocks, and blocks of numbers beside blocks of other spellings."""
    rows = [[k, k * 0.5] for k in range(2000)]
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f'{a},"{b}"\n' if a % 700 == 0 else f"{a},{b}\n" for a, b in rows))
    expected = read_columns(path).values
    monkeypatch.setattr("portnn.datasets.csv_table._BLOCK", 64)
    assert_same(read_columns(path).values, np.asarray(rows))
    assert_same(read_columns(path).values, expected)


REFUSED = [
    ("", {}, "line 1, column 1: the file is empty"),
    ("a,b\n", {}, "line 2, column 1: there are no data after the header"),
    ("a,b\n1,2\n3\n", {}, "line 3, column 2: 1 fields in this line, 2 in line 1"),
    ("a,b\n1,2\n3,4,5\n", {}, "line 3, column 3: 3 fields in this line, 2 in line 1"),
    ("a,b\n1,x\n3,\n", {}, r"line 3, column 2: the value of 'b' is missing \(an empty field\); fill it in, or leave"),
    ("a,b\n1,2\n 3, \n", {}, r"line 3, column 2: the value of 'b' is missing \(an empty field\)"),
    ("a,b\n1,2\nNA,4\n", {}, r"line 3, column 1: the value of 'a' is missing \(marked 'NA'\)"),
    ("a,b\n,x\n", {"missing": "drop"}, "line 2, column 1: every row has a missing value"),
    ("a,b\n1,2\n3,four\n", {}, "line 3, column 2: 'four' in column 'b' is not a number, but line 2 has one; correct"),
    ("a;b\n1;2\n3;4,5\n", {}, r"'4,5' in column 'b' is not a number \(decimal comma\?\)"),
    ("a,b\n1,2\n3,1e999\n", {}, "line 3, column 2: '1e999' is too large"),
    ("a,a\n1,2\n", {}, "line 1, column 2: the name 'a' is there twice"),
    ("a,\n1,2\n", {}, "line 1, column 2: this column has no name"),
    ("1,2\n3,4\n", {}, "line 1, column 1: a line of numbers where the names of the columns should be"),
    ("a,b\n1,2\n\n3,4\n", {}, "line 3, column 1: the line is empty"),
    ('a,b\n1,"2\n', {}, "line 2, column 2: the quote that begins this field is not closed in its line; a field must"),
    ('a,b\n1,2\n"x, y","""1"" and\n2"\n', {}, "line 3, column 2: the quote that begins this field is not closed"),
    ('a,b\n1,"2"3\n', {}, "line 2, column 2: the quotes are wrong"),
    ("a\n" + "".join(f"t{k}\n" for k in range(300)), {}, "line 202, column 1: column 'a' has more than 200 different"),
    ("a,b\n1,2\n", {"drop": ["c"]}, "there is no column 'c'; the columns are 'a', 'b'"),
    ("alpha,b\n1,2\n", {"categorical": ["alpa"]}, "there is no column 'alpa'; did you mean 'alpha'"),
    ("Alpha,b\n1,2\n", {"wanted": [Column("ALPHA")]}, "there is no column 'ALPHA'; did you mean 'Alpha'"),
    ("a,b\n1,2\n3,9007199254740993\n", {}, "line 3, column 2: '9007199254740993' in column 'b' has more digits than a"),
    ("a\n1\n-1000000000000000001\n", {}, "it would become -1000000000000000000; declare the column categorical, or l"),
    ("a;b\n0,5;x\n1,25;y\n", {}, "line 2, column 1: '0,5' in column 'a' is not a number .decimal comma"),
    ("a,b\n-,1\n1,1\n2,1\n", {}, "line 2, column 1: '-' in column 'a' is not a number, but most others are; correct"),
    ("a,b\n-,1\n" + "".join(f"{k},1\n" for k in range(300)), {}, "line 2, column 1: '-' in column 'a' is not a numb"),
    ("a,b\n1,2\n3,4\n", {"header": False}, "line 1, column 1: 'a' in column '1' .* read it as such"),
    (",b\n1,2\n", {}, "line 1, column 1: this column has no name; give it one, or write the table without an index"),
    ("a,b\n1,2\n", {"drop": ["a", "b"]}, "all columns are left out"),
    ("a,b\n1,2\n" * 3, {"max_bytes": 4}, "the table exceeds max_rows=10000000 or max_bytes=4"),
    ("a\nx\n", {"wanted": [Column("a")]}, "line 2, column 1: 'x' in column 'a' is not a number"),
    ("a\n?\n", {"wanted": [Column("a")]}, "line 2, column 1: the value of 'a' is missing"),
    ("a\nz\n", {"wanted": [Column("a", ("x", "y"))]}, "'z' is none of the categories of 'a': 'x', 'y'"),
]


@pytest.mark.parametrize(("text", "options", "message"), REFUSED)
def test_what_is_no_table_is_refused_with_line_and_column(tmp_path, text, options, message):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(FormatError, match=message) as caught:
        read_columns(path, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_wrong_delimiter_is_an_argument_gone_wrong(tmp_path):
    with pytest.raises(ValueError, match="read_columns: delimiter='x', expected one of"):
        read_columns(tmp_path / "t.csv", delimiter="x")


def test_a_word_for_missing_that_is_none_is_refused(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n,3\n")
    with pytest.raises(ValueError, match=r"unknown missing of read_columns 'ignore': expected one of 'refuse', 'drop'"):
        read_columns(tmp_path / "t.csv", missing="ignore")


def test_texts_that_are_half_numbers_or_declared_are_categories(tmp_path):
    (tmp_path / "t.csv").write_text("size,code\nS,-\n1,2\n2,3\nM,4\n")
    sizes, codes = read_columns(tmp_path / "t.csv", categorical=["code"]).columns
    assert sizes.categories == ("1", "2", "M", "S")
    assert codes.categories == ("-", "2", "3", "4")


@pytest.mark.parametrize("marker", sorted(columns.MISSING - {""}))
def test_marks_of_missing_values(tmp_path, marker):
    path = tmp_path / "t.csv"
    path.write_text(f"a,b\nx,1\n{marker},2\n")
    with pytest.raises(FormatError, match="the value of 'a' is missing"):
        read_columns(path)


# -- training ---------------------------------------------------------------------------------------------------------


def test_iris_by_its_names(here, capsys):
    assert run("train", "--data", "iris.csv", "--target", "species", "--save", "iris.safetensors") == 0
    out, err = capsys.readouterr()
    assert err == ""
    said = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines()[:8])
    assert said["data"] == "iris.csv: 150 rows, 5 columns"
    assert said["target"] == "species: 3 classes (setosa 50, versicolor 50, virginica 50)"
    assert said["features"] == "4 numbers: 4 inputs"
    assert said["network"].startswith("4 - 64 - 64 - 3, relu, 4,675 parameters; numpy, float32, seed 0")
    assert re.fullmatch(r"120 rows; \d+ epochs in \d+\.\d s, as many as 24 of them chose in a trial", said["training"])
    accuracy = float(re.fullmatch(r"30 rows: accuracy (\d+\.\d\d)%", said["held out"])[1])
    assert accuracy > 85.0
    assert said["baseline"] == "always 'setosa': accuracy 33.33%"
    assert said["model"] == "saved to iris.safetensors"
    rows = [line.split() for line in out.splitlines()[-3:]]
    assert [row[0] for row in rows] == ["setosa", "versicolor", "virginica"]
    assert [row[1] for row in rows] == ["10"] * 3, "held out in proportion"
    assert sum(int(row[2]) for row in rows) == round(0.3 * accuracy)
    assert sum(int(row[3]) for row in rows) == 30


def test_predictions_are_those_of_the_model_on_columns_of_any_order(here, capsys):
    run("train", "--data", "mixed.csv", "--target", "color", "--save", "color.safetensors", "--categorical", "code")
    table = pandas.read_csv("mixed.csv")
    table.sample(frac=1.0, axis=1, random_state=0).drop(columns="color").to_csv("asked.csv", index=False)
    capsys.readouterr()
    assert run("predict", "--model", "color.safetensors", "--data", "asked.csv", "--output", "answers.csv") == 0
    assert capsys.readouterr() == ("", "300 rows; written to answers.csv\n")
    said = pandas.read_csv("answers.csv")
    inputs = pandas.concat(
        [table[["weight"]], pandas.get_dummies(table["shop"]), pandas.get_dummies(table["code"]), table[["price"]]],
        axis=1,
    ).to_numpy("float32")
    logits = portnn.predict(portnn.MLP.load("color.safetensors"), inputs).astype("float64")
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert list(said) == ["color", *(f"probability of {name}" for name in ("blue", "green", "red"))]
    assert_within(said.iloc[:, 1:].to_numpy(), p, 0.5e-6 + few_steps(p, "float64"))  # written with six digits
    assert list(said["color"]) == [("blue", "green", "red")[k] for k in logits.argmax(axis=1)]


@pytest.mark.parametrize(("word", "why"), [("", "is missing"), ("orchid", "'orchid' is none of the categories")])
def test_targets_that_nobody_knows_are_no_obstacle(here, slips, tmp_path, capsys, word, why):
    table = pandas.read_csv("iris.csv").assign(species=[word] * 75 + ["setosa"] * 75)
    table.to_csv(tmp_path / "new.csv", index=False)
    assert run("predict", "--model", "known.st", "--data", tmp_path / "new.csv") == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 151
    assert err.startswith("150 rows; not compared with the column 'species': line 2, column 5: ")
    assert why in err
    assert "--" not in err, "an option that predict has not got"


@pytest.mark.parametrize(("classes", "written"), [((1, 2), "{:.1f}"), ((1, 2), "{:+d}"), ((-0.5, 10), "{:.2e}")])
def test_classes_that_are_numbers_may_be_written_otherwise(tmp_path, capsys, classes, written):
    for name, form in ("old", "{}"), ("new", written), ("odd", "7{}"):
        rows = (f"{k},{form.format(classes[k > 9])}\n" for k in range(20))
        (tmp_path / f"{name}.csv").write_text("a,b\n" + "".join(rows).replace("7-", "7"))
    options = ("--target", "b", "--task", "classification", "--epochs", "1", "--save", tmp_path / "m.st")
    assert run("train", "--data", tmp_path / "old.csv", *options) == 0
    capsys.readouterr()
    said = []
    for name in ("old", "new", "odd"):
        assert run("predict", "--model", tmp_path / "m.st", "--data", tmp_path / f"{name}.csv") == 0
        said.append(capsys.readouterr().err)
    assert said[0] == said[1]
    assert "accuracy" in said[0]
    assert "not compared with the column 'b': line 2, column 2" in said[2]


def test_answers_and_targets_have_all_their_digits(tmp_path, capsys):
    rows = (f"{k},{1_000_000_001 + k * k}\n" for k in range(40))
    (tmp_path / "far.csv").write_text("a,b\n" + "".join(rows))
    options = ("--data", tmp_path / "far.csv", "--target", "b", "--save", tmp_path / "m.st", "--dtype", "float64")
    assert run("train", *options, "--epochs", "1", "--task", "regression") == 0
    assert "b: a number from 1000000001 to 1000001522, mean 1000000514.5" in capsys.readouterr().out
    assert run("predict", "--model", tmp_path / "m.st", "--data", tmp_path / "far.csv") == 0
    said = [float(line) for line in capsys.readouterr().out.splitlines()[1:]]
    y = portnn.predict(portnn.MLP.load(tmp_path / "m.st"), np.arange(40.0)[:, None])[:, 0]
    assert_same(np.asarray(said), y)


def test_a_constant_column_far_from_zero_is_no_obstacle(tmp_path):
    (tmp_path / "t.csv").write_text("year,x,t\n" + "".join(f"2000000000.1,{k},{k % 2}\n" for k in range(20)))
    trained = tabular.train(tmp_path / "t.csv", "t", epochs=1, progress=False)
    assert trained.model.layers[0].before.mean[0] == 2000000000.1


def test_a_batch_as_large_as_the_table_is_that_of_the_rows_trained_on(tmp_path):
    (tmp_path / "t.csv").write_text("x,t\n" + "".join(f"{k},{k % 2}\n" for k in range(300)))
    trained = tabular.train(tmp_path / "t.csv", "t", epochs=1, batch_size=1000, progress=False)  # no UserWarning
    assert trained.held_back == 24
    assert len(trained.history["loss"]) == 1


def test_regression_in_the_units_of_the_target(here, capsys):
    options = ("--categorical", "code", "--save", "price.safetensors")
    assert run("train", "--data", "mixed.csv", "--target", "price", *options) == 0
    out = capsys.readouterr().out
    assert "features  1 number, 3 texts: 8 inputs" in out
    assert "240 rows, 24 of them to stop in time" in out
    assert float(re.search(r"held out  60 rows: R\^2 ([\d.-]+)", out)[1]) > 0.95
    assert run("predict", "--model", "price.safetensors", "--data", "mixed.csv") == 0
    out, err = capsys.readouterr()
    y, t = np.asarray([float(line) for line in out.splitlines()[1:]]), pandas.read_csv("mixed.csv")["price"]
    assert err == (
        f"300 rows; beside the column 'price' of the table: R^2 {metrics.r2_score(t, y):.4f}, "
        f"RMSE {metrics.root_mean_squared_error(t, y):.6g}\n"
    )
    assert metrics.r2_score(t, y) > 0.95


@pytest.mark.parametrize("factor", [2.0**-40, 2.0**40])
def test_the_unit_of_the_target_makes_no_difference(tmp_path, folder, factor):
    table = pandas.read_csv(folder / "patients.csv")
    scores = []
    for unit in (1.0, factor):
        table.assign(target=table["target"] * unit).to_csv(tmp_path / "t.csv", index=False)
        scores.append(tabular.train(tmp_path / "t.csv", "target", epochs=5, dtype="float64", progress=False).scores)
    assert scores[1].score == scores[0].score, "to the bit: a power of 2 changes no digit"
    assert scores[1].rmse == factor * scores[0].rmse


@pytest.mark.parametrize(("name", "target"), [("iris.csv", "species"), ("patients.csv", "target")])
def test_scores_are_those_of_scikit_learn(folder, name, target):
    trained = tabular.train(folder / name, target, progress=False)
    table = pandas.read_csv(folder / name)
    t = table[target].to_numpy()
    train, test = trained.train, trained.test
    assert sorted([*train, *test]) == list(range(len(table)))
    y = portnn.predict(trained.model, table.drop(columns=target).to_numpy("float32")[test])
    if trained.schema.classes is None:
        simple = dummy.DummyRegressor().fit(train[:, None], t[train]).predict(test[:, None])
        expected = [metrics.r2_score(t[test], v) for v in (y[:, 0], simple)]
        expected += [metrics.root_mean_squared_error(t[test], v) for v in (y[:, 0], simple)]
    else:
        simple = dummy.DummyClassifier().fit(train[:, None], t[train]).predict(test[:, None])
        labels = np.asarray(trained.schema.classes)[y.argmax(axis=1)]
        expected = [metrics.accuracy_score(t[test], v) for v in (labels, simple)]
    rows, *scores = [score for score in trained.scores if score is not None]
    assert rows == len(test)
    assert_within(scores, expected, few_steps(max(1.0, *expected), "float64"))


def test_the_baseline_is_what_was_most_frequent_in_training():
    schema = tabular.Schema((Column("x"),), "t", ("a", "b", "c"))
    seen, t, p = np.asarray([0, 2, 2, 1]), np.asarray([2, 2, 2, 0, 1]), np.eye(3)[[2, 0, 1, 0, 1]]
    simple = dummy.DummyClassifier().fit(seen[:, None], seen).predict(t[:, None])
    assert tabular.scored(schema, p, t, seen) == (5, 0.6, metrics.accuracy_score(t, simple), None, None)
    flat = tabular.scored(schema._replace(classes=None), np.ones(3), np.ones(3), np.zeros(2))
    assert np.isnan(flat.score), "R^2 of targets that do not vary is no number"
    assert (flat.rmse, flat.baseline_rmse) == (0.0, 1.0)


def test_early_stopping_where_there_are_rows_for_it(folder):
    trained = tabular.train(folder / "patients.csv", "target", patience=5, progress=False)
    epochs = len(trained.history["loss"])
    assert epochs == trained.best_epoch + 5 < 200
    assert trained.best_epoch == int(np.argmin(trained.history["val_loss"])) + 1
    assert trained.held_back == 36
    few = tabular.train(folder / "iris.csv", "species", progress=False)
    assert (few.best_epoch, few.held_back, few.tried) == (None, 0, 24)
    assert "val_loss" not in few.history, "all of the rows are trained on in the end"
    given = tabular.train(folder / "iris.csv", "species", epochs=7, progress=False)
    assert (len(given.history["loss"]), given.tried) == (7, 0)
    # by hand: the epochs of the trial have 3 batches of 96 rows, those of the training 4 of 120
    x = few.schema.inputs(few.table, "float32")[few.train].astype("float32")
    model, stop = tabular.MLP([4, 64, 64, 3], inputs=few.model.layers[0].before), EarlyStopping(patience=134)
    how = {"epochs": 1334, "batch_size": 32, "validation_split": 0.2, "optimizer": Adam(3e-3), "progress": False}
    fit(model, x, few.targets[few.train], callbacks=stop, **how)
    assert len(few.history["loss"]) == round(stop.best_epoch * 3 / 4)


@pytest.mark.parametrize("rate", [1e-2, 3e-3])
def test_a_linear_model_of_few_rows_is_as_good_as_least_squares(folder, rate):
    how = {"drop": ["species"], "hidden": (), "learning_rate": rate, "progress": False}
    trained = tabular.train(folder / "iris.csv", "petal_width", **how)
    x, t = trained.schema.inputs(trained.table, "float64"), trained.targets
    best = linear_model.LinearRegression().fit(x[trained.train], t[trained.train])
    assert trained.scores.score > best.score(x[trained.test], t[trained.test]) - 1e-3


def test_a_trial_that_is_interrupted_is_the_training(folder, monkeypatch):
    def interrupted(stop, model, history):
        if len(history["loss"]) == 5:
            raise KeyboardInterrupt
        return before(stop, model, history)

    before = EarlyStopping.__call__
    monkeypatch.setattr(EarlyStopping, "__call__", interrupted)
    trained = tabular.train(folder / "iris.csv", "species", progress=False)
    assert trained.history.interrupted
    assert (len(trained.history["loss"]), trained.held_back, trained.tried) == (5, 24, 0)
    assert trained.best_epoch in range(1, 5)
    assert trained.scores.rows == 30


def test_the_split_is_a_function_of_the_seed(folder):
    rows = [tabular.train(folder / "iris.csv", "species", epochs=1, seed=s, progress=False).test for s in (0, 0, 1)]
    assert_same(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    everything = tabular.train(folder / "iris.csv", "species", epochs=1, test_fraction=0.0, progress=False)
    assert everything.scores is None
    assert len(everything.train) == 150


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        ([0, 1] * 10, "auto", ("0", "1")),
        ([10, 9, 100] * 10, "auto", ("9", "10", "100")),
        ([0.5, 1.5] * 10, "auto", None),
        ([0.5, 1.5] * 10, "classification", ("0.5", "1.5")),
        ([0, 1] * 10, "regression", None),
        (list(range(40)), "auto", None),
        (list(range(10)), "auto", None),
        (list("ab") * 10, "auto", ("a", "b")),
    ],
)
def test_what_the_target_is(tmp_path, values, task, classes):
    pandas.DataFrame({"x": range(len(values)), "t": values}).to_csv(tmp_path / "t.csv", index=False)
    trained = tabular.train(tmp_path / "t.csv", "t", task=task, epochs=1, progress=False)
    assert trained.schema.classes == classes
    if classes:
        assert [classes[k] for k in trained.targets] == [str(v) for v in values]


def test_numbers_are_standardized_and_texts_are_not(folder):
    trained = tabular.train(folder / "mixed.csv", "price", categorical=["code"], epochs=1, progress=False)
    scaling, weight = trained.model.layers[0].before, pandas.read_csv(folder / "mixed.csv")["weight"][trained.train]
    bound = few_steps(weight.mean(), "float64")
    assert_within(scaling.mean, (0, 0, 0, weight.mean(), 0, 0, 0, 0), bound)
    assert_within(scaling.std, (1, 1, 1, weight.std(ddof=0), 1, 1, 1, 1), bound)


@pytest.mark.parametrize(("offset", "good"), [(1e5, True), (9e5, True), (2e6, False)])
def test_columns_that_float32_can_tell_apart(tmp_path, offset, good):
    """Where the network itself draws the line: an offset of 1 / (8 eps) deviations, a million."""
    pandas.DataFrame({"x": offset + np.tile([-1.0, 1.0], 20), "t": [0, 1] * 20}).to_csv(tmp_path / "t.csv", index=False)
    if good:
        assert tabular.train(tmp_path / "t.csv", "t", epochs=1, progress=False).schema.n_inputs == 1
        return
    with pytest.raises(ValueError, match=r"column 'x' lies around 2e\+06 and varies by 1, too little for float32"):
        tabular.train(tmp_path / "t.csv", "t", epochs=1, progress=False)
    assert tabular.train(tmp_path / "t.csv", "t", epochs=1, dtype="float64", progress=False)


def test_other_libraries_train_alike(library, folder):
    where = {k: v for k, v in library.where.items() if k in ("backend", "device")}
    ours, theirs = (
        tabular.train(folder / "iris.csv", "species", epochs=20, progress=False, **place) for place in ({}, where)
    )
    assert abs(ours.scores.score - theirs.scores.score) <= 1 / 30
    assert_same(ours.test, theirs.test)


def test_missing_rows_and_columns_can_be_left_out(tmp_path, capsys):
    table = pandas.DataFrame({"id": [f"row {k}" for k in range(300)], "x": np.arange(300) % 7, "t": ["a", "b"] * 150})
    table.astype({"x": object}).assign(x=[None if k == 5 else k for k in table["x"]]).to_csv(
        tmp_path / "t.csv", index=False
    )
    options = ("train", "--data", tmp_path / "t.csv", "--target", "t", "--epochs", "1")
    assert run(*options, "--missing", "drop") == 2
    assert "column 'id' has more than 200 different texts" in capsys.readouterr().err
    assert run(*options, "--drop", "id") == 2
    assert capsys.readouterr().err.endswith(
        "line 7, column 2: the value of 'x' is missing (an empty field); fill it in, or leave such rows out "
        "(--missing drop)\n"
    )
    assert run(*options, "--drop", "id", "--missing", "drop") == 0
    assert "257 rows, 2 columns, 43 with missing values left out" in capsys.readouterr().out


def test_log_and_pictures(here, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: examples)")
    assert run("train", "--data", "iris.csv", "--target", "species", "--log", "log.csv", "--plot", "pictures") == 0
    out = capsys.readouterr().out
    assert "pictures in pictures: learning_curves.png, confusion_matrix.png, calibration.png" in out
    assert sorted(path.name for path in (here / "pictures").iterdir()) == [
        *("calibration.png", "confusion_matrix.png", "learning_curves.png")
    ]
    epochs = int(re.search(r"120 rows; (\d+) epochs", out)[1])
    assert list(pandas.read_csv("log.csv")["epoch"]) == list(range(1, epochs + 1)), "of the training, not of its trial"


def test_pictures_without_matplotlib_are_refused_before_training(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    monkeypatch.setattr(tabular, "train", None)
    assert run(*TRAIN, "--plot", "pictures") == 2
    assert "train --plot: drawing needs matplotlib, which is missing: pip install" in capsys.readouterr().err


# -- info -------------------------------------------------------------------------------------------------------------


def test_info_says_what_is_in_a_file(here, capsys):
    run("train", "--data", "mixed.csv", "--target", "shop", "--drop", "price", "--hidden", "5", "--save", "shop.st")
    capsys.readouterr()
    assert run("info", "shop.st") == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [re.split(r"  +", line.strip()) for line in out.splitlines()]
    assert ["network", "5 - 5 - 2, 42 parameters, float32"] in lines
    assert ["inputs", "Standardize, in the file"] in lines
    assert ["target", 'shop, 2 classes: North, the "old" one, east'] in lines
    assert ["numbers", "2: weight, code"] in lines
    assert ["text", "color: blue, green, red"] in lines
    assert ["0", "5", "5", "relu", "30", "bias"] in lines
    portnn.MLP([3, 2], members=4, bias=False, outputs=portnn.Rescale(2.0)).save("plain.st")
    assert run("info", "plain.st") == 0
    out = capsys.readouterr().out
    assert "3 - 2, 4 members, 6 parameters, float32" in out
    assert "Rescale, in the file" in out
    assert "target" not in out
    portnn.MLP([4, 6, 6, 3], dropout=0.2, normalization=["layer", None], residual=[False, True]).save("parts.st")
    assert run("info", "parts.st") == 0
    lines = [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
    assert ["network", "4 - 6 - 6 - 3, 105 parameters, float32"] in lines
    assert ["normalization", "['layer', None]"] in lines
    assert ["0", "4", "6", "relu", "42", "bias, gain, shift"] in lines  # 4 * 6 + 3 * 6
    assert run("info") == 0
    assert "numpy" in capsys.readouterr().out


def test_the_file_keeps_columns_categories_and_classes(here):
    trained = tabular.train("mixed.csv", "color", epochs=1, progress=False)
    tabular.save(trained, "kept.st")
    assert tabular.schema_of("kept.st") == trained.schema
    assert portnn.MLP.load("kept.st").params.tolist() == trained.model.params.tolist()
    assert json.loads(model_file.metadata("kept.st")["portnn.table"])["classes"] == ["blue", "green", "red"]
    portnn.MLP([1, 1]).save("bare.st")
    assert tabular.schema_of("bare.st") is None
    with pytest.raises(ValueError, match=r"MLP\.save: 'portnn' in the metadata is the model's own"):
        portnn.MLP([1, 1]).save("bare.st", metadata={"portnn": "x"})


GOOD = {"format": 1, "columns": [{"name": "a", "categories": None}], "target": "t", "classes": None}


@pytest.mark.parametrize(
    "known",
    [
        *("[]", "{", "3", "null", '{"format": "1"}', "{}"),
        json.dumps({**GOOD, "columns": []}),
        json.dumps({**GOOD, "columns": [{"name": 3, "categories": None}]}),
        json.dumps({**GOOD, "columns": [{"name": "a", "categories": []}]}),
        json.dumps({**GOOD, "columns": [{"name": "a", "categories": [1, 2]}]}),
        json.dumps({**GOOD, "classes": "ab"}),
        json.dumps({**GOOD, "target": None}),
        json.dumps({**GOOD, "format": 3}),
        "[" * 100_000,
    ],
)
def test_metadata_that_are_not_a_table(tmp_path, known):
    path = tmp_path / "m.st"
    portnn.MLP([1, 1]).save(path, metadata={"portnn.table": known})
    with pytest.raises(FormatError, match=r"m\.st.*(portnn\.table in the metadata is not|table format 3 > 2; update)"):
        tabular.schema_of(path)


@pytest.mark.parametrize(
    ("sizes", "known"), [([2, 1], GOOD), ([1, 2], GOOD), ([1, 1], {**GOOD, "classes": ["a", "b"]})]
)
def test_a_network_that_does_not_fit_its_table(here, tmp_path, sizes, known):
    path = tmp_path / "m.st"
    portnn.MLP(sizes).save(path, metadata={"portnn.table": json.dumps(known)})
    with pytest.raises(FormatError, match="does not fit its table"):
        tabular.apply(path, "iris.csv")


# -- slips ------------------------------------------------------------------------------------------------------------


TRAIN = ("train", "--data", "iris.csv", "--target", "species")
SLIPS = [
    (("train", "--data", "absent.csv", "--target", "x"), 2, "No such file or directory: 'absent.csv'"),
    (("train", "--data", ".", "--target", "x"), 2, "Is a directory: '.'"),
    (("train", "--data", "empty.csv", "--target", "x"), 2, "'empty.csv': line 1, column 1: the file is empty"),
    (("train", "--data", "iris.csv", "--target", "spices"), 2, "there is no column 'spices'; did you mean 'species'?"),
    (("train", "--data", "binary.csv", "--target", "x"), 2, "NUL byte"),
    (("train", "--data", "ragged.csv", "--target", "b"), 2, "line 3, column 3: 3 fields in this line, 2 in line 1"),
    (
        ("train", "--data", "text.csv", "--target", "b"),
        2,
        "line 22, column 1: 'x' in column 'a' is not a number, but line 2 has one; correct",
    ),
    (("train", "--data", "few.csv", "--target", "b"), 2, "4 rows are too few to train on: at least 10 are needed"),
    (("train", "--data", "same.csv", "--target", "b"), 2, "the target 'b' is 'x' in all 20 rows: there is nothing to"),
    (("train", "--data", "same.csv", "--target", "c"), 2, "the target 'c' is 7 in all 20 rows: there is nothing to"),
    (("train", "--data", "same.csv", "--target", "b", "--drop", "a,c"), 2, "the only column is the target 'b'"),
    (("train", "--data", "same.csv", "--target", "b", "--drop", "b"), 2, "'b' is both the target and left out"),
    (("train", "--data", "nohead.csv", "--target", "1"), 2, "give them, or pass --no-header"),
    (("train", "--data", "far.csv", "--target", "b"), 2, "too little for float32: pass --dtype float64, or subtract"),
    (
        ("train", "--data", "one.csv", "--target", "b", "--test-fraction", "0.95"),
        2,
        "leaves no row of the class 'x' to train on, which has 5 rows in",
    ),
    (("train", "--data", "ids.csv", "--target", "b"), 2, "which a network cannot use; leave it out (--drop)"),
    (
        ("train", "--data", "ids.csv", "--target", "a"),
        2,
        "the target 'a' has more than 200 different texts, at most 200",
    ),
    (
        ("train", "--data", "days.csv", "--target", "b"),
        2,
        "'day' has another text in each of the 30 rows, such as '2024",
    ),
    (
        ("train", "--data", "days.csv", "--target", "day"),
        2,
        "each of the 30 classes has one row only: there is nothing",
    ),
    (("train", "--data", "long.csv", "--target", "b"), 2, "--categorical), or leave it out (--drop)"),
    (("train", "--data", "alone.csv", "--target", "b"), 2, "1 row is too few to train on: at least 10 are needed"),
    ((*TRAIN, "--save", "."), 2, "Is a directory"),
    ((*TRAIN, "--save", "/dev/full"), 2, "not a regular file: '/dev/full'"),
    ((*TRAIN, "--plot", "iris.csv"), 2, "Not a folder to write pictures to: 'iris.csv'"),
    ((*TRAIN, "--task", "regression"), 2, "the target 'species' holds texts, such as 'setosa'; regression wants"),
    ((*TRAIN, "--hidden", "6x"), 2, "argument --hidden: '6x' is not a list of widths such as 64,64, or none"),
    ((*TRAIN, "--hidden", "0"), 2, "argument --hidden: '0' is not a list"),
    ((*TRAIN, "--epochs", "0"), 2, "portnn train: epochs must be an int in the range [1, inf). Got 0"),
    ((*TRAIN, "--epochs", "x"), 2, "argument --epochs: invalid int value: 'x'"),
    ((*TRAIN, "--patience", "0"), 2, "patience must be an int"),
    ((*TRAIN, "--batch-size", "0"), 2, "batch size must be an int"),
    ((*TRAIN, "--learning-rate", "-1"), 2, "learning rate must be a finite number > 0"),
    ((*TRAIN, "--learning-rate", "1e30"), 1, "Lower the learning rate"),
    ((*TRAIN, "--test-fraction", "1"), 2, "the test fraction must be in [0, 1), got 1"),
    ((*TRAIN, "--seed", "-1"), 2, "seed must be in [0, 2**64)"),
    ((*TRAIN, "--backend", "nunpy"), 2, "did you mean 'numpy'?"),
    ((*TRAIN, "--activation", "rellu"), 2, "did you mean 'relu'?"),
    ((*TRAIN, "--delimiter", "x"), 2, "delimiter='x', expected one of"),
    ((*TRAIN, "--save", "no/m.st"), 2, "No such folder: 'no'"),
    ((*TRAIN, "--log", "no/m.csv"), 2, "No such folder: 'no'"),
    ((*TRAIN, "--save", "./iris.csv"), 2, "'./iris.csv' is the file that is read, and would be lost; name another"),
    ((*TRAIN, "--log", "iris.csv"), 2, "'iris.csv' is the file that is read"),
    (("predict", "--model", "known.st", "--data", "iris.csv", "--output", "known.st"), 2, "is the file that is read"),
    ((*TRAIN, "--drop", "sepal_wid"), 2, "there is no column 'sepal_wid'; did you mean 'sepal_width'?"),
    (("train", "--data", "iris.csv"), 2, "the following arguments are required: --target"),
    (("trian",), 2, "invalid choice: 'trian'"),
    (("predict", "--model", "absent.st", "--data", "iris.csv"), 2, "No such file or directory: 'absent.st'"),
    (("predict", "--model", "iris.csv", "--data", "iris.csv"), 2, "iris.csv"),
    (("predict", "--model", "bare.st", "--data", "iris.csv"), 2, "'bare.st' knows no columns"),
    (("predict", "--model", "known.st", "--data", "absent.csv"), 2, "No such file or directory: 'absent.csv'"),
    (("predict", "--model", "known.st", "--data", "patients.csv"), 2, "there is no column 'sepal_length'"),
    (("predict", "--model", "known.st", "--data", "gap.csv"), 2, "line 2, column 2: the value of 'sepal_width' is"),
    (("predict", "--model", "known.st", "--data", "word.csv"), 2, "'wide' in column 'sepal_width' is not a number"),
    (("predict", "--model", "shade.st", "--data", "mauve.csv"), 2, "'mauve' is none of the categories of 'color': 'bl"),
    (("predict", "--model", "known.st", "--data", "iris.csv", "--output", "no/a.csv"), 2, "No such file or directory"),
    (("info", "absent.st"), 2, "No such file or directory: 'absent.st'"),
    (("info", "iris.csv"), 2, "iris.csv"),
]


@pytest.fixture(scope="module")
def slips(folder):
    files = {
        "empty.csv": "",
        "ragged.csv": "a,b\n1,2\n3,4,5\n",
        "text.csv": "a,b\n" + "1,2\n" * 20 + "x,2\n",
        "few.csv": "a,b\n" + "1,2\n2,3\n" * 2,
        "same.csv": "a,b,c\n" + "".join(f"{k},x,7\n" for k in range(20)),
        "nohead.csv": "1,2\n" * 20,
        "far.csv": "a,b\n" + "".join(f"{1e9 + k},{k % 2}\n" for k in range(20)),
        "one.csv": "a,b\n" + "".join(f"{k},{'x' if k < 5 else 'y'}\n" for k in range(20)),
        "ids.csv": "a,b\n" + "".join(f"row {k},{k % 2}\n" for k in range(300)),
        "days.csv": "day,b\n" + "".join(f"2024-04-{k + 1:02d},{k % 2}\n" for k in range(30)),
        "long.csv": "a,b\n" + "".join(f"{10**18 + k},{k % 2}\n" for k in range(30)),
        "alone.csv": "a,b\n1,2\n",
        "gap.csv": "sepal_length,sepal_width,petal_length,petal_width\n1,,2,3\n",
        "word.csv": "sepal_length,sepal_width,petal_length,petal_width\n1,wide,2,3\n",
        "mauve.csv": "color,weight,shop,code\nmauve,1,North,1012\n",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    (folder / "binary.csv").write_bytes(bytes(100))
    portnn.MLP([1, 1]).save(folder / "bare.st")
    tabular.save(tabular.train(folder / "iris.csv", "species", epochs=1, progress=False), folder / "known.st")
    tabular.save(tabular.train(folder / "mixed.csv", "price", epochs=1, progress=False), folder / "shade.st")


@pytest.mark.parametrize(("arguments", "code", "message"), SLIPS, ids=[" ".join(a) for a, *_ in SLIPS])
def test_a_slip_is_one_sentence(slips, here, capsys, arguments, code, message):
    before = sorted(here.iterdir())
    try:
        left = run(*arguments)
    except SystemExit as error:
        left = error.code
    out, err = capsys.readouterr()
    assert left == code
    assert out == ""
    assert len(err.splitlines()) == 1, err
    assert err.startswith("portnn")
    assert message in err
    assert len(err) < 500
    assert sorted(here.iterdir()) == before, "nothing was written"


def test_ctrl_c_keeps_what_there_is(here, capsys, monkeypatch):
    original, calls = portnn.loop.read_back, []

    def interrupted(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 7:  # there are two chunks per epoch
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(portnn.loop, "read_back", interrupted)
    assert run(*TRAIN, "--epochs", 50, "--save", "early.st") == 0
    assert re.search(r"training  120 rows; 3 epochs in .* s, interrupted", capsys.readouterr().out)
    assert tabular.schema_of("early.st").classes == ("setosa", "versicolor", "virginica")


def test_ctrl_c_before_the_first_epoch_is_over_saves_nothing(here, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(portnn.loop, "read_back", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    (tmp_path / "m.st").write_bytes(b"that of yesterday")
    assert run(*TRAIN, "--epochs", 50, "--save", tmp_path / "m.st") == 130
    assert capsys.readouterr() == ("", "portnn train: interrupted\n")
    assert (tmp_path / "m.st").read_bytes() == b"that of yesterday"


def test_a_full_disk_costs_the_file_and_not_the_report(here, tmp_path, capsys, monkeypatch):
    """The system says that there is no room when a file is flushed to it."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert run(*TRAIN, "--epochs", 2, "--save", tmp_path / "m.st") == 2
    out, err = capsys.readouterr()
    assert "held out  30 rows: accuracy" in out
    assert "model     NOT saved\n" in out
    assert err == f"portnn train: No space left on device: '{tmp_path / 'm.st'}'\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_named(here, slips, capsys):
    assert run(*TRAIN, "--epochs", 2, "--log", "/dev/full") == 2
    assert capsys.readouterr().err == "portnn train: No space left on device: '/dev/full'\n"
    for command in (("predict", "--model", "known.st", "--data", "iris.csv"), ("info", "known.st"), ("info",)):
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "portnn", *command], stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
            )
        expected = f"portnn {command[0]}: No space left on device: the standard output\n"
        assert (done.returncode, done.stderr) == (2, expected)


def test_one_row_has_no_r2(here, slips, tmp_path, capsys):
    pandas.read_csv("mixed.csv").head(1).to_csv(tmp_path / "one.csv", index=False)
    assert run("predict", "--model", "shade.st", "--data", tmp_path / "one.csv") == 0
    assert re.search(r"of the table: RMSE [\d.e+]+\n$", capsys.readouterr().err)


def test_dates_that_come_again_and_names_that_are_declared_are_texts(tmp_path, capsys):
    rows = [f"2024-04-{k % 9 + 1:02d},n{k},{k % 2}\n" for k in range(30)]
    (tmp_path / "t.csv").write_text("day,name,b\n" + "".join(rows))
    command = ("train", "--data", tmp_path / "t.csv", "--target", "b", "--epochs", "1")
    assert run(*command, "--categorical", "name") == 0
    assert "2 texts: 39 inputs" in capsys.readouterr().out
    assert run(*command) == 2


def test_classes_of_few_rows_are_held_out_where_one_can_be(tmp_path):
    """A fifth of each class is no row: that which is held out is of the largest, not the only one of another."""
    (tmp_path / "t.csv").write_text("a,b\n" + "".join(f"{k},{'xyzuvw'[k % 6]}\n" for k in range(11)))
    for seed in range(8):
        trained = tabular.train(tmp_path / "t.csv", "b", epochs=1, seed=seed, progress=False)
        assert len(trained.test) == 1
        assert set(trained.targets[trained.train]) == set(range(6))


def test_ctrl_c_before_training_leaves_with_130(here, capsys, monkeypatch):
    monkeypatch.setattr(tabular, "read_columns", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    assert run(*TRAIN) == 130
    assert capsys.readouterr().err == "portnn train: interrupted\n"


# -- as a process -----------------------------------------------------------------------------------------------------

BARE = """
import runpy, sys

class Nothing:
    def find_spec(name, *others):
        if name.partition(".")[0] in "rich tqdm pandas sklearn scipy matplotlib torch jax tensorboardX".split():
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Nothing)
sys.argv = ["portnn", *{arguments!r}]
runpy.run_module("portnn", run_name="__main__")
"""


def test_it_runs_where_nothing_else_is_installed(here):
    for arguments in (
        [*TRAIN, "--epochs", "2", "--save", "clean.st"],
        ["predict", "--model", "clean.st", "--data", "iris.csv"],
        ["info", "clean.st"],
    ):
        code = BARE.format(arguments=arguments)
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_it_runs_without_docstrings():
    command = [sys.executable, "-OO", "-m", "portnn", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert "train" in done.stdout


def test_names_that_the_standard_output_cannot_write(tmp_path):
    """The report escapes them; the answers, which are data, are refused rather than changed, and a file takes them."""
    rows = "".join(f"{k},größe\n{-k},klein\n" for k in range(1, 31))
    (tmp_path / "sizes.csv").write_text("x,kind\n" + rows, encoding="utf-8")

    def run_in_ascii(*arguments: str) -> tuple[int, str, str]:
        environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
        command = [sys.executable, "-m", "portnn", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120)
        return done.returncode, done.stdout.decode("ascii"), done.stderr.decode("ascii")

    train = ["train", "--data", "sizes.csv", "--target", "kind", "--hidden", "none", "--epochs", "1", "--save", "m.st"]
    code, out, err = run_in_ascii(*train)
    assert (code, err) == (0, "")
    assert re.search(r"gr\\xf6\\xdfe +\d+ +\d+ +\d+\n", out)
    code, out, err = run_in_ascii("predict", "--model", "m.st", "--data", "sizes.csv")
    assert (code, out) == (2, "")
    assert err == (
        "portnn predict: the standard output has the encoding ascii, which has no '\\xf6'; write a file with --output, "
        "or set PYTHONIOENCODING=utf-8\n"
    )
    code, out, err = run_in_ascii("predict", "--model", "m.st", "--data", "sizes.csv", "--output", "answers.csv")
    assert (code, out) == (0, "")
    assert "größe" in (tmp_path / "answers.csv").read_text(encoding="utf-8")


def test_on_a_terminal_rich_draws_and_the_bar_is_on_the_error_side(here):
    pytest.importorskip("rich", reason="rich is not installed (extra: cli)")
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    command = [sys.executable, "-m", "portnn", *TRAIN, "--epochs", "2"]
    with subprocess.Popen(command, stdout=child, stderr=subprocess.PIPE, env=environment) as process:
        os.close(child)
        text = b""
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:  # what Linux says when the other side is closed
                break
            if not piece:
                break
            text += piece
        assert process.stderr is not None
        assert process.stderr.read() == b"", "no bar where that is a pipe"
    os.close(parent)
    assert process.returncode == 0
    screen = text.decode()
    assert "\x1b[1m" in screen, "names in bold"
    assert "─" in screen
    assert re.search(r"setosa +10 +\d+ +\d+", re.sub(r"\x1b\[[\d;]*m", "", screen))


def test_output_that_nobody_reads_to_its_end(here, slips):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "portnn", "predict", "--model", "known.st", "--data", "iris.csv"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b""), "no traceback, and no word of rows that were not written"


def test_names_cannot_move_the_cursor(capsys):
    console.summary([("class", "a\x1b[2Jb\n[bold]c[/bold]")])
    assert capsys.readouterr().out == "class  a\N{REPLACEMENT CHARACTER}[2Jb\N{REPLACEMENT CHARACTER}[bold]c[/bold]\n"


def test_on_a_terminal_names_are_no_markup(monkeypatch, capsys):
    pytest.importorskip("rich", reason="rich is not installed (extra: cli)")
    from rich import box

    monkeypatch.setattr(console, "_rich", lambda: box.SIMPLE_HEAD)
    console.table(["size [kg]", "k[/x]", "a\x1bb"], [["1", "2", "3"]])
    out = capsys.readouterr().out
    assert "size [kg]" in out
    assert "k[/x]" in out
    assert "a\N{REPLACEMENT CHARACTER}b" in out


# -- compare, with a model that knows its table -----------------------------------------------------------------------


def compared(capsys, model, data, *options):
    """Return what the command prints, which must have found agreement."""
    assert run("compare", model, "--backends", "numpy", "--data", data, "--steps", "0", *options) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-1] == "They agree."
    return out


def test_compare_reads_a_table_as_predict_does(here, capsys, tmp_path):
    """Columns by their names, wherever they stand, texts as zeros and ones, classes by their names."""
    flowers, mixed = pandas.read_csv("iris.csv"), pandas.read_csv("mixed.csv")
    assert run("train", "--data", "iris.csv", "--target", "species", "--epochs", "2", "--save", tmp_path / "i.st") == 0
    assert run("train", "--data", "mixed.csv", "--target", "price", "--epochs", "2", "--save", tmp_path / "m.st") == 0
    capsys.readouterr()
    model = portnn.MLP.load(tmp_path / "i.st")
    x = flowers.drop(columns="species").to_numpy("float32")
    t = flowers.species.astype("category").cat.codes.to_numpy("int64")
    found = str(portnn.testing.compare_backends(model, x, t, ["numpy"], steps=0))
    out = compared(capsys, tmp_path / "i.st", "iris.csv")
    assert out.splitlines()[0].endswith(": 150 samples, cross_entropy")
    assert found in out
    flowers[flowers.columns[::-1]].to_csv(tmp_path / "turned.csv", index=False, sep=";")
    assert found in compared(capsys, tmp_path / "i.st", tmp_path / "turned.csv")
    flowers.rename(columns={"species": "kind"}).to_csv(tmp_path / "renamed.csv", index=False)
    assert found in compared(capsys, tmp_path / "i.st", tmp_path / "renamed.csv", "--target", "kind")

    model, x = portnn.MLP.load(tmp_path / "m.st"), pandas.get_dummies(mixed.drop(columns="price"), dtype=float)
    wanted = ["color_blue", "color_green", "color_red", "weight", "shop_North", 'shop_the "old" one, east', "code"]
    x, t = x[wanted].to_numpy("float32")[:256], mixed.price.to_numpy()[:256, None]
    found = str(portnn.testing.compare_backends(model, x, t, ["numpy"], loss="mse", steps=0))
    out = compared(capsys, tmp_path / "m.st", "mixed.csv")
    assert out.splitlines()[0].endswith(": 256 samples, mse")
    assert found in out


def test_compare_says_what_a_table_lacks(here, capsys, tmp_path):
    assert run("train", "--data", "iris.csv", "--target", "species", "--epochs", "2", "--save", tmp_path / "i.st") == 0
    table = pandas.read_csv("iris.csv")
    table.drop(columns="species").to_csv(tmp_path / "no_target.csv", index=False)
    table.drop(columns="sepal_width").to_csv(tmp_path / "no_input.csv", index=False)
    table.replace("setosa", "rose").to_csv(tmp_path / "other.csv", index=False)
    table.to_csv(tmp_path / "bare.csv", index=False, header=False)
    capsys.readouterr()
    for name, message in (
        ("no_target.csv", "there is no column 'species'"),
        ("no_input.csv", "there is no column 'sepal_width'"),
        ("other.csv", "rose"),
        ("bare.csv", "there is no column 'species'"),
    ):
        command = ("compare", tmp_path / "i.st", "--backends", "numpy", "--data", tmp_path / name)
        assert run(*command) == 2, name
        out, err = capsys.readouterr()
        assert out == ""
        assert len(err.splitlines()) == 1
        assert message in err


def test_compare_reads_a_table_without_names(tmp_path, capsys):
    (tmp_path / "bare.csv").write_text("1.5;small\n7.5;large\n" * 20)
    train = ("train", "--data", tmp_path / "bare.csv", "--target", "2", "--no-header", "--epochs", "2")
    assert run(*train, "--save", tmp_path / "m.st") == 0
    capsys.readouterr()
    assert ": 40 samples, cross" in compared(capsys, tmp_path / "m.st", tmp_path / "bare.csv", "--no-header")
    (tmp_path / "plain.csv").write_text("1;0.5\n0;0.25\n" * 4)
    portnn.MLP([1, 2]).save(tmp_path / "p.st")
    options = ("--no-header", "--delimiter", ";")
    assert ": 8 samples, cross" in compared(capsys, tmp_path / "p.st", tmp_path / "plain.csv", *options)


# -- numbers beyond what can be computed with -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "value", "options", "message"),
    [
        ("1e300", "1", (), "column 'size' holds 1e+300, too large for float32 (1e+38 at most): divide it before"),
        (
            "-1e39",
            "1",
            (),
            "column 'size' holds -1e+39, too large for float32 (1e+38 at most): pass --dtype float64, or",
        ),
        (
            "1e300",
            "1",
            ("--dtype", "float64"),
            "'size' holds 1e+300, too large for float64 (1e+140 at most): divide it",
        ),
        ("1", "1e300", (), "column 'value' holds 1e+300, too large for float32 (1e+38 at most): divide it before"),
        ("1", "-1e200", ("--dtype", "float64"), "column 'value' holds -1e+200, too large for float64 (1e+140 at most)"),
    ],
)
def test_numbers_that_are_too_large_get_a_sentence(tmp_path, capsys, size, value, options, message):
    rows = "".join(f"{k},{k * k % 7}.5\n" for k in range(30))
    (tmp_path / "t.csv").write_text(f"size,value\n{rows}{size},{value}\n")
    train = ("train", "--data", tmp_path / "t.csv", "--target", "value", "--task", "regression", "--epochs", "2")
    assert run(*train, *options) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("portnn train: ")
    assert len(err.splitlines()) == 1
    assert message in err


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e37), ("float64", 1e139)])
def test_large_numbers_that_are_not_too_large_are_learned(tmp_path, capsys, dtype, scale):
    table = "".join(f"{k * scale / 60},{(3 * k - 40) * scale / 200}\n" for k in range(60))
    (tmp_path / "t.csv").write_text(f"size,value\n{table}")
    trained = tabular.train(tmp_path / "t.csv", "value", hidden=(), dtype=dtype, epochs=300, learning_rate=0.03)
    assert trained.scores.score > 0.99
    tabular.save(trained, tmp_path / "m.st")
    (tmp_path / "new.csv").write_text("size\n1\n1e300\n")
    assert run("predict", "--model", tmp_path / "m.st", "--data", tmp_path / "new.csv") == 2
    err = capsys.readouterr().err
    assert f"column 'size' holds 1e+300, too large for {dtype} (" in err
    assert err.endswith("nothing that the model was trained on was so large\n")
    (tmp_path / "new.csv").write_text("size,value\n1,1e300\n")
    assert run("predict", "--model", tmp_path / "m.st", "--data", tmp_path / "new.csv") == 0
    assert "not compared with the column 'value': column 'value' holds 1e+300, too large" in capsys.readouterr().err


PAGE = Path(__file__).parents[1] / "docs" / "training.md"


def test_the_commands_of_the_page_and_what_it_says_that_they_print(folder, tmp_path, monkeypatch, capsys):
    """To the numbers, which other libraries of linear algebra round otherwise."""
    (tmp_path / "iris.csv").write_bytes((folder / "iris.csv").read_bytes())
    monkeypatch.chdir(tmp_path)
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(r"```sh\n(.*?)```(?:\n\n```text\n(.*?)```)?", text, re.DOTALL)
    assert len(found) == text.count("```sh") == 3
    for commands, printed in found:
        for command in commands.splitlines():
            assert run(*shlex.split(command.removeprefix("python -m portnn "))) == 0, command
        out = capsys.readouterr().out
        if printed:
            assert re.sub(r"[\d.]+", "0", out).split() == re.sub(r"[\d.]+", "0", printed).split()


def test_every_option_is_on_the_page():
    text, commands = PAGE.read_text(encoding="utf-8"), parser()._subparsers._group_actions[0].choices
    options = {o for name in ("train", "predict") for o in commands[name]._option_string_actions if o.startswith("--")}
    assert {option for option in options if f"{option}" not in text} == {"--help"}


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        run("--help")
    out = capsys.readouterr().out
    assert all(command in out for command in ("train", "predict", "info", "compare"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--save", "x.st", "--log", "./x.st"), "--save and --log are both './x.st'; name two places to write to"),
        (("--log", "x", "--plot", "x"), "--log and --plot are both 'x'; name"),
        (("--save", "x", "--plot", "x"), "--save and --plot are both 'x'; name"),
        (("--log", "iris.csv"), "'iris.csv' is the file that is read, and would be lost"),
    ],
)
def test_two_things_are_not_written_to_one_place(here, capsys, options, message):
    before = sorted(here.iterdir())
    assert run(*TRAIN, *options) == 2
    assert capsys.readouterr().err.startswith(f"portnn train: {message}")
    assert sorted(here.iterdir()) == before


def test_a_table_is_no_model(here, capsys):
    for command in (("info", "iris.csv"), ("predict", "--model", "iris.csv", "--data", "iris.csv")):
        assert run(*command) == 2
        err = capsys.readouterr().err
        assert err.endswith(
            "no safetensors header at byte 0 (it looks like text, such as a CSV table, not like a model)\n"
        )
    text = "Länge,Breite\n5.1,3.5\n" * 100
    (here / "cut.csv").write_text("x" * 511 + "ä" + text, encoding="utf-8")  # a character lies across byte 512
    assert run("info", "cut.csv") == 2
    assert "looks like text" in capsys.readouterr().err


def test_a_network_that_no_memory_holds_is_refused_before_it_is_made(here, capsys):
    assert run(*TRAIN, "--hidden", "100000000,100000") == 1
    err = capsys.readouterr().err
    assert re.match(
        r"portnn train: a network 4 - 100000000 - 100000 - 3 has 10,000,500,400,003 parameters and wants about "
        r"186,\d+ GiB to train, this machine has \d+; take narrower layers\n$",
        err,
    ), err


def wide(columns: int, letters: int) -> str:
    names = [f"{'g' * letters}{i:06d}" for i in range(columns)]
    lines = [",".join([*("0.5" for _ in names), kind]) for kind in "ab" * 6]
    return "\n".join([",".join([*names, "kind"]), *lines, ""])


def test_a_wide_table_is_kept_or_refused_before_the_training(tmp_path, capsys):
    """As tables of genes are: 15,000 columns have room in a model file."""
    table, model = tmp_path / "genes.csv", tmp_path / "m.safetensors"
    options = ["--target", "kind", "--epochs", "1", "--hidden", "2", "--test-fraction", "0.2"]
    table.write_text(wide(15_000, 9))
    assert main(["train", "--data", str(table), *options, "--save", str(model)]) == 0
    assert len(schema_of(model).columns) == 15_000
    assert main(["predict", "--model", str(model), "--data", str(table)]) == 0
    table.write_text(wide(15_000, 60))
    capsys.readouterr()
    assert main(["train", "--data", str(table), *options, "--save", str(tmp_path / "n.safetensors")]) == 2
    assert "a model file has room for 458752; leave columns out" in capsys.readouterr().err
    assert not (tmp_path / "n.safetensors").exists()
    assert main(["train", "--data", str(table), *options]) == 0


def test_long_numbers_in_a_column_that_nobody_wants_cost_nothing(tmp_path, monkeypatch):
    """Lines are then not gone through one by one: names of 19 digits stand beside many a table."""
    path = tmp_path / "t.csv"
    path.write_text("id,a\n" + "".join(f"{9007199254740993 + i},{i}\n" for i in range(1000)))
    one_by_one = []
    real = table_file.TableFile.go_through

    def go_through(self: Any, many: Any, one: Any) -> None:
        real(self, many, lambda line, fields: (one_by_one.append(line), one(line, fields)))

    monkeypatch.setattr(table_file.TableFile, "go_through", go_through)
    found = read_columns(path, drop=["id"])
    np.testing.assert_array_equal(found.values[:, 0], np.arange(1000.0))
    assert not one_by_one
    with pytest.raises(FormatError, match=r"line 2, column 1.*has more digits than a number keeps"):
        read_columns(path)
