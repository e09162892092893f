"""The scripts of ``examples/`` as a user runs them: from another folder, in a process of their own."""

import ast
import csv
import importlib.util
import json
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tolerances

import portnn
from portnn.backends import get_backend
from portnn.storage import write_safetensors_file

EXAMPLES = Path(__file__).parents[1] / "examples"
COUNTS = r"Correct: (\d+)  Incorrect: (\d+)  Accuracy: (\d+\.\d\d)%"
EPOCH = r"epoch +(\d+)/3  loss ([\d.]+)  accuracy +([\d.]+)%  validation loss ([\d.]+)  accuracy +([\d.]+)%  [\d.]+ s"
OFFLINE = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "all")}  # a port that refuses
PRESETS = ("default", "tiny-mnist", "rustnist", "nn-rust", "mnist-in-rust")


class Run(NamedTuple):
    """What a script printed, and how it ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self):
        return self.out.splitlines()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all scripts of this module run; none of them may need the source folder around it."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def run(folder):
    """Run a script: ``run("xor.py", "--seed", 3)``."""

    def run(script, *args, **variables):
        kept = {k: v for k, v in os.environ.items() if k.lower() not in ("no_proxy", *OFFLINE) and k != "PORTNN_DATA"}
        one_thread = {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}  # small products are slower on several
        done = subprocess.run(
            [sys.executable, EXAMPLES / script, *map(str, args)],
            cwd=folder,
            env=kept | one_thread | OFFLINE | variables,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        return Run(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="module")
def on_digits(run, folder):
    """Train quietly on the embedded digits and return the report."""

    def on_digits(*args):
        done = run("mnist.py", "--dataset", "digits", "--quiet", "--report", "quiet.json", *args)
        assert done == (0, "", done.err)
        return json.loads((folder / "quiet.json").read_text())

    return on_digits


class Trained(NamedTuple):
    """One run of mnist.py with everything it writes."""

    printed: Run
    report: dict
    model: portnn.MLP
    x: np.ndarray
    t: np.ndarray


@pytest.fixture(scope="module")
def trained(run, folder):
    """Three epochs on the digits, with model, report and pictures."""
    options = ("--save", "out/digits.safetensors", "--report", "out/digits.json", "--plot", "pictures")
    done = run("mnist.py", "--dataset", "digits", "--epochs", 3, *options)
    assert (done.code, done.err) == (0, "")
    report = json.loads((folder / "out/digits.json").read_text())
    _, _, x, t = portnn.datasets.load_digits()
    return Trained(done, report, portnn.MLP.load(folder / "out/digits.safetensors"), x, t)


def without_times(report):
    report = {k: v for k, v in report.items() if not k.endswith("_seconds")}
    return report | {"history": {k: v for k, v in report["history"].items() if k != "epoch_seconds"}}


def example(name):
    """Import a script that needs no other one."""
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def needs(library):
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")


def says_one_sentence(done, pattern):
    """Whether a run failed with one line that a user can act on, and nothing else."""
    assert done.code == 1
    assert len(done.err.splitlines()) == 1, done.err
    assert re.search(pattern, done.err), done.err


# -- mnist.py: what it prints and writes ------------------------------------------------------------------------------


def test_prints_counts_before_and_after_and_an_epoch_a_line(trained):
    lines = trained.printed.lines
    assert lines[0] == f"portnn {portnn.__version__} on numpy {np.__version__}, device cpu"
    assert lines[1] == "data      digits: 1437 samples to train, 360 to test, 64 features"
    assert lines[2] == "network   64 - 256 - 10, relu, 19210 parameters"
    assert re.fullmatch(
        r"training  adam, learning rate 0.002 \(cosine\), batch 128, 3 epochs, seed 0, float32", lines[3]
    )
    epochs = [re.fullmatch(EPOCH, line) for line in lines if line.startswith("epoch")]
    assert [match[1] for match in epochs] == ["1", "2", "3"]
    pattern = rf"training data  {COUNTS}\ntest data      {COUNTS}"
    before, after = re.finditer(pattern, trained.printed.out)
    assert before.start() < trained.printed.out.index("\nepoch ") < after.start()
    for match in (before, after):
        for n, (right, wrong, share) in ((1437, match.groups()[:3]), (360, match.groups()[3:])):
            assert int(right) + int(wrong) == n
            assert share == f"{100 * int(right) / n:.2f}"


def test_table_of_digits_adds_up(trained):
    rows = [line.split() for line in trained.printed.lines if re.fullmatch(r" +\d +\d+ +\d+ +[\d.]+%", line)]
    predicted = portnn.predict(trained.model, trained.x).argmax(axis=1)
    for digit in range(10):
        here = trained.t == digit
        right, total = int((predicted[here] == digit).sum()), int(here.sum())
        assert rows[digit] == [str(digit), str(right), str(total), f"{100 * right / total:.2f}%"]
    assert sum(int(row[2]) for row in rows) == len(trained.t) == 360
    (right, _, _) = re.findall(f"test data +{COUNTS}", trained.printed.out)[1]
    assert sum(int(row[1]) for row in rows) == int(right)


def test_report_agrees_with_what_was_printed(trained):
    report, out = trained.report, trained.printed.out
    asked = "backend device versions precision seed n_params history train_accuracy test_accuracy epoch_seconds"
    assert set(asked.split()) <= set(report)
    assert (report["backend"], report["device"], report["precision"], report["seed"]) == ("numpy", "cpu", "float32", 0)
    assert report["n_params"] == 64 * 256 + 256 + 256 * 10 + 10
    assert report["versions"] == {
        "portnn": portnn.__version__,
        "numpy": np.__version__,
        "python": sys.version.split()[0],
    }
    names = {"loss", "val_loss", "accuracy", "val_accuracy", "epoch_seconds"}
    assert names <= set(report["history"])
    assert {len(report["history"][name]) for name in names} == {3}
    assert report["epoch_seconds"] == report["history"]["epoch_seconds"]
    printed = re.findall(EPOCH, out)
    for k, (_, loss, accuracy, val_loss, val_accuracy) in enumerate(printed):
        at = {name: report["history"][name][k] for name in names}
        assert (loss, val_loss) == (f"{at['loss']:.4f}", f"{at['val_loss']:.4f}")
        assert (accuracy, val_accuracy) == (f"{100 * at['accuracy']:.2f}", f"{100 * at['val_accuracy']:.2f}")
    shares = [share for _, _, share in re.findall(COUNTS, out)]
    keys = ("train_accuracy_before", "test_accuracy_before", "train_accuracy", "test_accuracy")
    assert shares == [f"{100 * report[key]:.2f}" for key in keys]
    assert report["history"]["val_accuracy"][-1] == report["test_accuracy"]


def test_both_accuracies_are_those_of_the_saved_model_over_all_samples(trained):
    x_train, t_train, x, t = portnn.datasets.load_digits()
    for name, xs, ts in (("train_accuracy", x_train, t_train), ("test_accuracy", x, t)):
        assert trained.report[name] == (trained.model(xs).argmax(axis=1) == ts).sum() / len(ts)
    assert trained.report["train_accuracy"] > 0.8
    assert trained.report["train_accuracy_before"] < 0.3


def test_writes_four_pictures(trained, folder):
    names = {"learning_curves.png", "confusion_matrix.png", "misclassified.png", "first_layer_weights.png"}
    assert {path.name for path in (folder / "pictures").iterdir()} == names
    assert all(path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for path in (folder / "pictures").iterdir())


def test_quiet_prints_nothing_and_trains_the_same(trained, on_digits):
    assert without_times(on_digits("--epochs", 3)) == without_times(trained.report)


def test_every_option_is_heard(run, folder):
    options = {
        **{"--backend": "numpy", "--device": "cpu", "--precision": "float64", "--matmul-precision": "float32"},
        **{"--preset": "default", "--activation": "leaky_relu(0.2)", "--optimizer": "nesterov"},
        **{"--learning-rate": "0.03", "--schedule": "constant", "--batch-size": "50", "--epochs": "2"},
        **{
            "--clip-value": "0.004",
            "--dropout": "0.1",
            "--normalization": "batch",
            "--seed": "7",
            "--dataset": "digits",
            "--data-dir": "nowhere",
        },
        **{"--save": "all.safetensors", "--plot": "all", "--report": "all.json", "--checkpoint": "all-run"},
    }
    flags = [word for pair in options.items() for word in pair]
    switches = ["--residual", "--resume", "--quiet", "--distributed"]  # of one rank
    done = run("mnist.py", *flags, "--hidden", 32, 32, *switches)
    assert done == (0, "", "")
    known = set(re.findall(r"(?<!\S)--[a-z-]+", run("mnist.py", "--help").out))
    assert known - {"--help"} == {*options, "--hidden", *switches}

    x_train, t_train, x, t = portnn.datasets.load_digits()
    parts = {"dropout": 0.1, "normalization": "batch", "residual": True}
    model = portnn.MLP([64, 32, 32, 10], activation="leaky_relu(0.2)", dtype="float64", seed=7, **parts)
    sgd = portnn.SGD(0.03, momentum=0.9, nesterov=True)
    limits = {"epochs": 2, "batch_size": 50, "clip_value": 0.004}
    history = portnn.fit(model, x_train, t_train, optimizer=sgd, validation_data=(x, t), seed=7, **limits)
    report = json.loads((folder / "all.json").read_text())
    assert (report["precision"], report["sizes"], report["n_params"]) == ("float64", [64, 32, 32, 10], model.n_params)
    for name in ("accuracy", "val_accuracy", "learning_rate"):
        assert report["history"][name] == history[name]
    assert portnn.MLP.load(folder / "all.safetensors").seed == 7
    assert portnn.load_checkpoint(folder / "all-run")[1] == report["history"]


def test_one_command_starts_goes_on_and_returns_what_is_done(run, trained, on_digits):
    def stand(epochs, *more):
        return without_times(on_digits("--epochs", epochs, "--schedule", "constant", *more))

    expected = stand(3)
    stand(2, "--checkpoint", "runs/digits")
    assert stand(3, "--checkpoint", "runs/digits", "--resume") == expected
    assert stand(3, "--checkpoint", "runs/digits", "--resume") == expected
    command = ("mnist.py", "--dataset", "digits", "--schedule", "constant", "--checkpoint", "runs/digits")
    says_one_sentence(run(*command), "resume=True goes on")
    says_one_sentence(run(*command, "--seed", 1, "--resume"), "seed=0, this one has seed=1")
    assert "give --checkpoint DIR" in run("mnist.py", "--resume").err


@pytest.mark.parametrize("preset", PRESETS[1:])
def test_preset_trains(on_digits, preset):
    report = on_digits("--preset", preset, "--epochs", 1)
    assert (report["preset"], len(report["epoch_seconds"])) == (preset, 1)
    assert report["train_accuracy"] > report["train_accuracy_before"]


def test_presets_are_these(run):
    assert f"{{{','.join(PRESETS)}}}" in run("mnist.py", "--help").out


@pytest.mark.parametrize("hidden", [(), (20, 10)])
def test_preset_with_other_layers(on_digits, hidden):
    report = on_digits("--preset", "rustnist", "--epochs", 1, "--hidden", *hidden)
    assert report["sizes"] == [64, *hidden, 10]


def test_batch_larger_than_the_data_is_the_whole_set(run):
    done = run("mnist.py", "--dataset", "digits", "--epochs", 1, "--batch-size", 5000)
    assert (done.code, done.err) == (0, "")
    assert done.lines[3].startswith("training  adam, learning rate 0.002 (cosine), batch 1437, 1 epoch, seed 0")


# -- mnist.py: data ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own_data(folder):
    """Write the digits as they are stored, 0..16, as CSV and as safetensors with one-hot labels."""
    x_train, t_train, x_test, t_test = portnn.datasets.load_digits()
    x, t = np.concatenate([x_train, x_test]) * 16, np.concatenate([t_train, t_test])
    with (folder / "own.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["label", *(f"pixel{i}" for i in range(64))])
        table.writerows([int(label), *map(int, row)] for label, row in zip(t, x, strict=True))
    tensors = {"images": x.astype(np.uint8).reshape(-1, 1, 8, 8), "labels": np.eye(10, dtype=np.int64)[t]}
    write_safetensors_file(folder / "own.safetensors", tensors)
    return x, t


def test_own_data_as_a_folder_of_idx(run, folder):
    x, t, x_test, t_test = portnn.datasets.load_digits()
    (folder / "idx").mkdir()
    for kind, images, labels in (("train", x, t), ("t10k", x_test, t_test)):
        portnn.datasets.write_idx(
            folder / f"idx/{kind}-images-idx3-ubyte", (images * 16).astype("uint8").reshape(-1, 8, 8)
        )
        portnn.datasets.write_idx(folder / f"idx/{kind}-labels-idx1-ubyte.gz", labels.astype("uint8"))
    reports = []
    for name in ("idx", "digits"):
        done = run("mnist.py", "--dataset", name, "--epochs", 1, "--quiet", "--report", "idx.json")
        assert (done.code, done.out) == (0, "")
        reports.append(json.loads((folder / "idx.json").read_text())["test_accuracy"])
    assert reports[0] == reports[1]
    (folder / "idx/t10k-labels-idx1-ubyte.gz").unlink()
    done = run("mnist.py", "--dataset", "idx", "--epochs", 1)
    assert done.code == 1
    assert "t10k-labels" in done.err
    assert "Traceback" not in done.err


def test_own_data_as_csv_and_as_safetensors(run, folder, own_data):
    reports = []
    for name in ("own.csv", "own.safetensors"):
        options = ("--epochs", 2, "--report", "own.json", "--save", "own-model.safetensors")
        done = run("mnist.py", "--dataset", name, *options)
        assert (done.code, done.err) == (0, "")
        assert done.lines[1] == f"data      {name}: 1437 samples to train, 360 to test, 64 features"
        reports.append(json.loads((folder / "own.json").read_text()))
        assert reports[-1]["dataset"] == name
    assert reports[0]["history"]["loss"] == reports[1]["history"]["loss"]
    assert reports[0]["test_accuracy"] == reports[1]["test_accuracy"] > 0.6
    x, t = own_data
    row = ",".join(str(int(v)) for v in x[100])
    (folder / "one.csv").write_text(f"{t[100]},{row}\n")  # predict.py must scale as the training did
    model = portnn.MLP.load(folder / "own-model.safetensors")
    expected = model(x[100:101].astype("float32") / np.float32(16.0)).argmax()
    assert f"Predicted digit: {expected}\n" in run("predict.py", "own-model.safetensors", "one.csv").out


def test_without_mnist_and_network_it_says_why(run):
    says_one_sentence(run("mnist.py", "--dataset", "mnist", "--data-dir", "empty"), "^no MNIST: load_mnist: no ")


def test_without_mnist_and_network_auto_takes_the_digits(run):
    done = run("mnist.py", "--data-dir", "empty", "--epochs", 1)
    assert (done.code, done.err) == (0, "")
    said = r"no MNIST here \(\w+Error\), training on the embedded 8 x 8 digits instead"
    assert re.fullmatch(said, done.lines[0])
    assert "data      digits: 1437 samples to train" in done.out


BAD_DATA = {
    "words.csv": ("1,2,3\n4,five,6\n", "^--dataset: .*words.csv.*line 2, column 2: 'five' is not a decimal number"),
    "fractions.csv": ("0.5,2\n1,3\n", "^--dataset: the labels of fractions.csv are not whole numbers"),
    "negative.csv": ("-1,2\n1,3\n", "^--dataset: the labels of negative.csv are not whole numbers"),
    "huge.csv": ("1000000000000,2\n1,3\n", "^--dataset: the labels of huge.csv are not whole numbers"),
    "short.csv": ("1,2\n", "^ValueError: --dataset: .*of 1 samples leaves none for one side"),
    "short.safetensors": ("1,2\n", "^--dataset: .*short.safetensors"),
    "no-such.csv": (None, "^--dataset: .*No such file.*no-such.csv"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_bad_data_set(run, folder, name):
    text, sentence = BAD_DATA[name]
    if text is not None:
        (folder / name).write_text(text)
    says_one_sentence(run("mnist.py", "--dataset", name, "--epochs", 1, "--quiet"), sentence)


# -- mnist.py: what it refuses ----------------------------------------------------------------------------------------


BAD_OPTIONS = {
    "--activation rulu": "unknown activation 'rulu'.*did you mean 'relu'",
    "--hidden 0": "sizes must be positive",
    "--epochs 0": "epochs must be positive, got 0",
    "--batch-size 0": "batch_size must be positive, got 0",
    "--learning-rate nan": "learning_rate must be positive, got nan",
    "--dropout 1": r"dropout must be a number in \[0, 1\), got 1.0",
    "--hidden 32 16 --residual": "no hidden layer is as wide as its input",
    "--clip-value -1": "clip_value must be positive, got -1",
    "--seed -1": "seed must be in .*got -1",
    "--device cuda": "numpy runs on device 'cpu' only",
    "--report a-file/report.json": "a-file",
    "--plot a-file": "a-file",
    "--optimizer sgd --learning-rate 1e300": "^NonFiniteError: .*epoch 1.*Lower the learning rate",
}


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_bad_option(run, folder, options):
    (folder / "a-file").write_text("")
    says_one_sentence(run("mnist.py", "--dataset", "digits", "--quiet", *options.split()), BAD_OPTIONS[options])


@pytest.mark.parametrize("options", [("--backend", "tensorflow"), ("--epochs", "many")])
def test_option_of_the_wrong_kind(run, options):
    done = run("mnist.py", *options)
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith(f"mnist.py: error: argument {options[0]}: invalid")
    assert "Traceback" not in done.err


# -- other array libraries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "precision"),
    [("torch", "float32"), ("jax", "float32"), ("jax", "float64"), ("array_api_strict", "float64")],
)
def test_other_libraries_train_alike(on_digits, backend, precision):
    needs(backend)
    report = on_digits("--backend", backend, "--precision", precision, "--epochs", 2)
    same = on_digits("--precision", precision, "--epochs", 2)
    assert (report["backend"], report["precision"]) == (backend, precision)
    assert report["versions"][backend] == get_backend(backend).version
    assert report["train_accuracy_before"] == same["train_accuracy_before"]  # the same bits at the start
    assert abs(report["test_accuracy"] - same["test_accuracy"]) * 360 < 3.5  # and hardly a digit's difference later
    assert report["test_accuracy"] > 0.6


def test_cupy_trains_or_says_what_is_missing(run):
    done = run("mnist.py", "--dataset", "digits", "--epochs", 1, "--backend", "cupy")
    try:
        get_backend("cupy")
    except portnn.BackendError:
        says_one_sentence(done, r"^BackendError: .*(pip install|GPU|driver)")
    else:
        assert done.code == 0
        assert "on cupy" in done.lines[0]


# -- predict.py -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def images(folder, trained):
    """Write one test image as PNG and CSV in the ways that predict.py takes; the third, which is not symmetric."""
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed")
    stored = np.round(trained.x[2].reshape(8, 8) * 16).astype(np.uint8)
    gray = np.round(trained.x[2].reshape(8, 8) * 255).astype(np.uint8)
    image.fromarray(gray).save(folder / "bright.png")
    image.fromarray(255 - gray).save(folder / "dark-on-light.png")
    image.fromarray(np.kron(gray, np.ones((5, 5), dtype=np.uint8))).save(folder / "larger.png")
    image.fromarray(np.stack([gray, gray, gray], axis=-1)).save(folder / "color.png")
    drawn = np.zeros((8, 8, 4), dtype=np.uint8)
    drawn[..., 3] = gray  # black ink on nothing
    image.fromarray(drawn).save(folder / "transparent.png")
    row = ",".join(map(str, stored.reshape(-1)))
    (folder / "row.csv").write_text(f"{row}\n")
    (folder / "labeled.csv").write_text(f"{trained.t[2]},{row}\n")
    (folder / "fractions.csv").write_text(",".join(f"{v / 16}" for v in stored.reshape(-1)) + "\n")


@pytest.mark.parametrize(
    "name",
    [f"{kind}.png" for kind in ("bright", "dark-on-light", "larger", "color", "transparent")]
    + ["row.csv", "labeled.csv", "fractions.csv"],
)
def test_predict(run, trained, images, name):
    done = run("predict.py", "out/digits.safetensors", name)
    assert (done.code, done.err) == (0, "")
    logits = trained.model(trained.x[2:3])[0].astype(float)
    assert f"Predicted digit: {logits.argmax()}\n" in done.out
    assert (f"True label: {trained.t[2]}\n" in done.out) == (name == "labeled.csv")
    shares = [float(share) for share in re.findall(r"^  \d +([\d.]+)%", done.out, re.MULTILINE)]
    assert len(shares) == 10
    assert abs(sum(shares) - 100.0) < 10 * 0.0051  # each is rounded to 0.01
    exact = 100.0 * np.exp(logits) / np.exp(logits).sum()
    assert np.abs(shares - exact).max() < 1.0  # the pixels of a PNG are rounded to 1/255
    drawing = done.lines[: done.out.partition("Predicted")[0].count("\n") - (name == "labeled.csv")]
    assert [i for i, line in enumerate(drawing) if "█" in line] == [
        i for i, row in enumerate(trained.x[2].reshape(8, 8)) if row.max() > 0.5
    ]


def test_predict_on_a_terminal_without_blocks(run, images):
    done = run("predict.py", "out/digits.safetensors", "bright.png", PYTHONIOENCODING="ascii")
    assert (done.code, done.err) == (0, "")
    assert "??" in done.lines[0]


@pytest.mark.parametrize(
    ("model", "image", "sentence"),
    [
        ("none.safetensors", "bright.png", "FileNotFoundError: .*none.safetensors"),
        ("bright.png", "bright.png", "FormatError: .*bright.png"),
        ("out/digits.safetensors", "none.png", "FileNotFoundError: .*none.png"),
        ("out/digits.safetensors", "labeled.png", "UnidentifiedImageError: cannot identify image file"),
        ("out/digits.safetensors", "wide.csv", "wide.csv has 3 numbers in a row, the model wants 64 pixels"),
    ],
)
def test_predict_refuses(run, folder, images, model, image, sentence):
    (folder / "wide.csv").write_text("1,2,3\n")
    (folder / "labeled.png").write_text("7,0,0\n")
    says_one_sentence(run("predict.py", model, image), sentence)


# -- xor.py and embed_numpy.py ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_xor_is_solved(seed):
    y = example("xor").train(seed)
    assert np.abs(y - [0, 1, 1, 0]).max() < 0.05


def test_help_without_docstrings(run):
    done = run("xor.py", "--help", PYTHONOPTIMIZE="2")
    assert (done.code, done.err) == (0, "")
    assert "--epochs" in done.out


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_xor_prints_losses_and_the_final_table(run, backend):
    needs(backend)
    done = run("xor.py", "--backend", backend, "--seed", 1, "--epochs", 1500)
    assert done.code == 0, done.err
    epochs = re.findall(r"^Epoch +(\d+) \| Total Loss: (\d+\.\d{6})$", done.out, re.MULTILINE)
    assert [int(epoch) for epoch, _ in epochs] == [1, 500, 1000, 1500]
    assert float(epochs[0][1]) > 0.5 > 0.01 > float(epochs[-1][1])
    assert re.search(r"^Final Predictions \([\d.]+ s\):$", done.out, re.MULTILINE)
    row = r"Input: \[([01]\.0), ([01]\.0)\] \| Target: ([01]\.0) \| Prediction: (-?\d\.\d{4})"
    rows = [[float(v) for v in match] for match in re.findall(row, done.out)]
    assert [row[:3] for row in rows] == [[0, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]]
    assert max(abs(target - prediction) for *_, target, prediction in rows) < 0.05


@pytest.mark.parametrize(("options", "n_params", "bound"), [((), 17, 0.1), (("--activation", "sigmoid"), 17, 0.2)])
def test_xor_node_by_node(run, options, n_params, bound):
    epochs = () if not options else ("--epochs", 3000, "--learning-rate", 2.0)
    done = run("xor_scalar.py", "--seed", 1, *options, *epochs)
    assert done.code == 0, done.err
    assert done.lines[0] == f"{n_params} parameters"
    losses = [float(loss) for loss in re.findall(r"^Epoch +\d+ \| Total Loss: (\d+\.\d{6})$", done.out, re.MULTILINE)]
    assert losses[0] > 0.5 > 0.1 > losses[-1]
    found = re.findall(r"Target: ([01]\.0) \| Prediction: (-?\d\.\d{4})", done.out)
    assert len(found) == 4
    assert max(abs(float(target) - float(prediction)) for target, prediction in found) < bound


def test_xor_node_by_node_is_the_network_of_matrices():
    scalar = example("xor_scalar")
    network = scalar.Network(2, [4, 1])
    params = network.initial(5)
    value, gradient = portnn.autograd.value_and_grad(lambda p: scalar.total_loss(network, p))(params)
    model = portnn.MLP([2, 4, 1], activation=["tanh", "tanh"], dtype="float64")

    def flat(nested):  # weights row by row, then biases
        pieces = []
        for layer in nested:
            pieces += [float(neuron[i]) for i in range(len(layer[0]) - 1) for neuron in layer]
            pieces += [float(neuron[-1]) for neuron in layer]
        return np.asarray(pieces)

    model.params = flat(params)
    x, t = np.asarray([row for row, _ in scalar.ROWS]), np.asarray([[target] for _, target in scalar.ROWS])
    loss, grad = model.loss_and_grad(x, t, "mse")
    assert network.n_params == model.n_params == 17
    for ours, theirs in ((np.asarray(value), 4.0 * loss), (flat(gradient), 4.0 * grad)):
        tolerances.assert_within(ours, theirs, tolerances.first_gradient(theirs, np.float64))


def test_xor_node_by_node_draws_a_neuron(run, folder):
    done = run("xor_scalar.py", "--draw", "neuron.dot", "--activation", "relu")
    assert done.code == 0, done.err
    text = (folder / "neuron.dot").read_text()
    assert text.startswith("digraph {")
    assert [word in text for word in ("{weight 0 |", "{bias |", "{maximum |", "{multiply |")] == [True] * 4


@pytest.fixture(scope="module")
def embedded(run):
    """Return what embed_numpy.py prints after 150 steps, without the name of the backend."""

    def embedded(backend):
        done = run("embed_numpy.py", "--backend", backend, "--steps", 150)
        assert done.code == 0, done.err
        said, name, figures = done.out.partition(f"on {backend}: ")
        assert (said, name) == ("", f"on {backend}: ")
        return figures

    return embedded


def test_embedded_network_finds_gain_and_offset(run):
    done = run("embed_numpy.py")
    assert (done.code, done.err) == (0, "")
    said = r"on numpy: gain ([\d.]+) \(true 1\.7\), offset (-[\d.]+) \(true -0\.4\)"
    gain, offset = re.fullmatch(said, done.lines[0]).groups()
    assert abs(float(gain) - 1.7) < 0.01
    assert abs(float(offset) + 0.4) < 0.01
    rms = re.fullmatch(r"root mean square of the residuals ([\d.]+) \(noise 0\.02\)", done.lines[1])[1]
    assert 0.015 < float(rms) < 0.03


@pytest.mark.parametrize("backend", ["torch", "jax", "array_api_strict"])
def test_embedded_network_gives_the_same_digits_on_every_library(embedded, backend):
    needs(backend)
    assert embedded(backend) == embedded("numpy")


def test_embedding_formula_has_the_right_pullback():
    embed = example("embed_numpy")
    x, y1, y2 = embed.observations(n=9)
    model = portnn.MLP([1, 3, 1], activation="tanh", init="glorot_normal", dtype="float64")
    theta = np.concatenate([[0.7, 0.2], model.params])
    d1, d2 = np.cos(np.arange(9.0))[:, None], np.sin(np.arange(9.0))[:, None]

    def weighted(theta):
        r1, r2, _ = embed.residuals(np, model, theta, x, y1, y2)
        return float((d1 * r1 + d2 * r2).sum())

    _, _, pullback = embed.residuals(np, model, theta, x, y1, y2)
    steps = tolerances.STEP * np.eye(len(theta))
    slopes = [(weighted(theta + s) - weighted(theta - s)) / (2 * tolerances.STEP) for s in steps]
    tolerances.assert_within(pullback(d1, d2), slopes, tolerances.central_difference(10.0))


# -- embed_physics.py -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "torch", "array_api_strict"])
def test_the_oscillator_is_solved(run, backend):
    needs(backend)
    done = run("embed_physics.py", "--backend", backend, "--steps", 2000)
    assert (done.code, done.err) == (0, "")
    said = r"on (\w+): mean square of the residuals ([\d.e-]+), largest error of q\(t\) ([\d.e-]+)\n"
    name, residual, error = re.fullmatch(said, done.out).groups()
    assert name == backend
    assert float(residual) < 1e-2
    assert float(error) < 0.2


def test_the_loss_of_the_oscillator_has_the_right_gradient():
    physics = example("embed_physics")
    model = portnn.MLP([1, 3, 2], activation="tanh", dtype="float64", inputs=portnn.Rescale(0.3, -1.0))
    t, params = np.linspace(0.0, 6.0, 5)[:, None], np.asarray(model.params)
    _, grad = physics.loss_and_grad(model, params, t)
    steps = tolerances.STEP * np.eye(len(params))
    ends = [[physics.loss_and_grad(model, params + sign * s, t)[0] for sign in (1, -1)] for s in steps]
    slopes = [(up - down) / (2 * tolerances.STEP) for up, down in ends]
    tolerances.assert_within(grad, slopes, tolerances.central_difference(np.max(ends)))


def test_the_exact_oscillator_solves_its_equation():
    exact, h = example("embed_physics").exact, 1e-3
    for t in (0.0, 1.0, 5.0):
        first = (exact(t + h) - exact(t - h)) / (2 * h)
        second = (exact(t + h) - 2 * exact(t) + exact(t - h)) / h**2
        assert abs(second + exact(t) + 0.2 * first) < 1e-5
    assert exact(0.0) == 1.0


# -- embed_jax.py, embed_torch.py, embed_scipy.py, embed_dask.py ------------------------------------------------------


@pytest.mark.parametrize(("name", "libraries"), [("jax", ["jax", "optax"]), ("torch", ["torch"])])
def test_curvature_of_a_network_fitted_by_the_host(run, name, libraries):
    for library in libraries:
        needs(library)
    done = run(f"embed_{name}.py")
    assert (done.code, done.err) == (0, "")
    error = re.fullmatch(r"on cpu(?::0)?: mean square (\d\.\d\de-\d\d)", done.lines[0])[1]
    of_f, of_curvature = re.fullmatch(r"largest error of f ([\d.]+), of f'' ([\d.]+)", done.lines[1]).groups()
    assert 0.0 < float(error) < 1e-4
    assert 0.0 < float(of_f) < 0.02
    assert 0.0 < float(of_curvature) < 0.5


@pytest.mark.parametrize("backend", ["numpy", "torch", "jax"])
def test_scipy_fits_down_to_the_noise(run, backend):
    for library in (backend, "scipy"):
        needs(library)
    done = run("embed_scipy.py", "--backend", backend)
    assert (done.code, done.err) == (0, "")
    lbfgs = re.fullmatch(rf"on {backend}: L-BFGS-B, \d+ calls: root mean square ([\d.]+) \(noise 0.05\)", done.lines[0])
    squares = re.fullmatch(r"least_squares, \d+ calls: root mean square ([\d.]+)", done.lines[1])
    assert 0.04 < float(lbfgs[1]) < 0.055
    assert 0.04 < float(squares[1]) < 0.055
    assert done.lines[2] == f"the model itself: {squares[1]}"


def test_dask_predicts_chunk_by_chunk(run):
    for library in ("dask", "distributed"):
        needs(library)
    done = run("embed_dask.py", "--rows", 50_000, "--chunk", 8192, "--workers", 1, "--check", 7)
    assert (done.code, done.err) == (0, "")
    assert done.lines[0] == "x (50000, 16), 3 MiB in 7 chunks; y (50000, 1)"
    assert re.fullmatch(r"mean -?0\.\d{6}, root mean square [01]\.\d{6}", done.lines[1])
    assert re.fullmatch(r"[\d.]+ million rows per second, [\d.]+ s", done.lines[2])
    assert re.fullmatch(r"peak memory: workers \d+ MiB, this process \d+ MiB", done.lines[3])
    off = re.fullmatch(r"7 chunks computed in memory: largest difference (\d\.\de[+-]\d\d)", done.lines[4])
    assert float(off[1]) <= 10 * np.finfo("float32").eps


def test_dask_takes_no_more_memory_for_more_rows(run):
    for library in ("dask", "distributed"):
        needs(library)
    peaks = []
    for rows in (100_000, 3_000_000):
        done = run("embed_dask.py", "--rows", rows, "--chunk", 32_768, "--workers", 1, "--check", 1)
        assert (done.code, done.err) == (0, "")
        said = re.fullmatch(r"peak memory: workers (\d+) MiB, this process (\d+) MiB", done.lines[3])
        peaks.append([int(m) for m in said.groups()])
    assert re.match(r"x \(3000000, 16\), 183 MiB in 92 chunks", done.lines[0])
    assert max(np.subtract(peaks[1], peaks[0])) < 60  # 11 of them the outputs, which this process collects


# -- sweep.py ---------------------------------------------------------------------------------------------------------

ROW = r"^ *([\d.e+-]+) +([\d.]+) +([\d.]+) +([\d.]+)%(   <- best)?$"


@pytest.fixture(scope="module")
def swept(run):
    """Sweep on the digits, in two epochs; return what was printed and the rows of its table."""

    def swept(*args):
        done = run("sweep.py", "--dataset", "digits", "--epochs", 2, *args)
        assert (done.code, done.err) == (0, "")
        return done, re.findall(ROW, done.out, re.MULTILINE)

    return swept


def test_sweep_prints_what_each_rate_gives_alone(swept, folder):
    done, rows = swept("--members", 4, "--rates", 1e-4, 0.1, "--seed", 3, "--plot", "swept/sweep.png")
    assert done.lines[0] == "4 learning rates of adam on digits, 2 epochs, numpy"
    x, t, x_test, t_test = portnn.datasets.load_digits()
    scores, tested = [], []
    for row, rate in zip(rows, (1e-4, 1e-3, 1e-2, 1e-1), strict=True):
        model = portnn.MLP([64, 32, 10], seed=3)
        history = portnn.fit(
            model, x, t, optimizer=portnn.Adam(rate), epochs=2, batch_size=128, validation_split=1 / 6, seed=3
        )
        expected = [history[name][-1] for name in ("loss", "val_loss", "val_accuracy")]
        assert float(row[0]) == rate
        assert np.abs(np.asarray(row[1:3], float) - expected[:2]).max() < 0.001
        assert abs(float(row[3]) / 100.0 - expected[2]) * 240 < 1.5  # of 240 digits held out, one at most
        scores.append(float(row[3]))
        tested.append(100.0 * portnn.evaluate(model, x_test, t_test)["accuracy"])
    (best,) = (i for i, row in enumerate(rows) if row[4])
    assert scores[best] == max(scores)
    said = re.search(r"^best rate ([\d.]+): test accuracy ([\d.]+)%; [\d.]+ s for all of them$", done.out, re.MULTILINE)
    assert float(said[1]) == float(rows[best][0])
    assert abs(float(said[2]) - tested[best]) * 3.6 < 1.5  # of 360
    assert done.lines[-1] == "picture written to swept/sweep.png"
    assert (folder / "swept/sweep.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_sweep_strikes_out_what_diverges_and_goes_on(swept):
    done, rows = swept("--members", 3, "--rates", 0.1, 1e25, "--optimizer", "sgd")
    said = r"^fit: epoch \d, batch \d: member 2 \(learning rate 1e\+25\): .* NaN or infinity.*; the others start again$"
    assert len(re.findall(said, done.out, re.MULTILINE)) == 1
    assert re.search(r"^ +1e\+12   diverged\n +1e\+25   diverged$", done.out, re.MULTILINE)
    assert rows == swept("--members", 1, "--rates", 0.1, 0.1, "--optimizer", "sgd")[1]
    assert rows[0][4]


@pytest.mark.parametrize("backend", ["torch", "jax"])
def test_sweep_on_other_libraries(swept, backend):
    needs(backend)
    options = ("--members", 2, "--rates", 1e-3, 1e-2, "--hidden", 8)
    one, other = (np.asarray(swept(*options, "--backend", b)[1])[:, :3].astype(float) for b in ("numpy", backend))
    assert np.abs(one - other).max() < 0.001


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("--rates 1 0.1", "^ValueError: --rates: LOW and HIGH must be positive and in this order, got 1 and 0.1$"),
        ("--rates nan 1", "^ValueError: --rates: LOW and HIGH must be positive"),
        ("--members 0", "^ValueError: --members must be at least 1, got 0$"),
        ("--epochs 0", "^ValueError: fit: epochs must be an int"),
        ("--backend array_api_strict --device moon", "^BackendError: array_api_strict .*'moon'"),
        ("--optimizer sgd --rates 1e20 1e25 --members 2", r"^--rates: all 2 diverged, from 1e\+20 on; try lower ones$"),
    ],
)
def test_sweep_refuses(run, options, sentence):
    says_one_sentence(run("sweep.py", "--dataset", "digits", *options.split()), sentence)


# -- export_onnx.py ---------------------------------------------------------------------------------------------------


def test_exported_network_predicts_the_same(run, folder):
    for package in ("ndonnx", "onnxruntime"):
        needs(package)
    done = run("export_onnx.py", "--dataset", "digits", "--epochs", 3, "--out", "exported/digits.onnx")
    assert (done.code, done.err) == (0, "")
    assert float(re.search(r"^digits: test accuracy ([\d.]+)%$", done.out, re.MULTILINE)[1]) > 80.0
    size, nodes = re.search(
        r"^exported/digits\.onnx: (\d+) bytes, (\d+) nodes, .*; valid$", done.out, re.MULTILINE
    ).groups()
    assert int(size) == (folder / "exported/digits.onnx").stat().st_size
    assert int(nodes) < 1000
    assert "360 of 360 predictions are equal" in done.out
    worst = re.search(r"worst difference of an output ([\d.e-]+), that is ([\d.]+) eps of the largest", done.out)
    assert float(worst[2]) < 4.0 * 16.0  # 4 sqrt(n) u, n = 256


def test_pictures_are_those_of_the_documents(run, folder):
    needs("matplotlib")
    needs("sklearn")
    done = run("pictures.py", "--out", "drawn")
    assert (done.code, done.err) == (0, "")
    drawn = sorted(path.name for path in (folder / "drawn").iterdir())
    others = {"draw.png", "neuron.png"}  # of draw.py and xor_scalar.py
    assert drawn == sorted({path.name for path in (EXAMPLES.parent / "docs" / "images").glob("*.png")} - others)
    assert all((folder / "drawn" / name).stat().st_size > 20_000 for name in drawn)
    assert float(re.search(r"accuracy +(0\.\d+) +360", done.out)[1]) > 0.85


def test_learning_curves_of_the_documents_are_the_same_each_time(tmp_path):
    """In their title there are no seconds of the machine."""
    needs("matplotlib")
    drawn = runpy.run_path(str(EXAMPLES / "pictures.py"))["curves"]
    for k, seconds in enumerate((1.0, 2.0)):
        drawn({"loss": [0.5, 0.25], "epoch_seconds": [seconds, seconds]}).savefig(tmp_path / f"{k}.png")
    assert (tmp_path / "0.png").read_bytes() == (tmp_path / "1.png").read_bytes()


@pytest.mark.parametrize("script", ["xor.py", "pictures.py", "embed_numpy.py", "embed_physics.py", "embed_scipy.py"])
def test_unknown_backend_is_one_sentence(run, script):
    says_one_sentence(run(script, "--backend", "nunpy"), "unknown backend 'nunpy'.*did you mean 'numpy'")


DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "starlette": "gradio"}  # starlette comes with gradio


def imported(path):
    """Return what a file imports at any place in it, as (module, name) pairs; name is "" for a module as a whole."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {(a.name, "") for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {(node.module, a.name) for a in node.names}
    return found


def wanted(path):
    """Return the distributions that an example imports, or a package of portnn's that it names, such as plots."""
    found = imported(path)
    for module, name in tuple(found):
        place = EXAMPLES.parent / module / name
        if module == "portnn" and name and place.is_dir():
            found |= {pair for part in place.glob("*.py") for pair in imported(part)}
    local = {file.stem for file in EXAMPLES.glob("*.py")} | {"portnn"} | sys.stdlib_module_names
    return {DISTRIBUTIONS.get(top, top) for top in {module.split(".")[0] for module, _ in found} - local}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_what_an_example_imports_is_in_the_extra_or_named_by_it(path):
    with (EXAMPLES.parent / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    listed = [*project["dependencies"], *project["optional-dependencies"]["examples"]]
    brought = {re.match(r"[\w-]+", requirement)[0] for requirement in listed}
    named = set(
        re.findall(r"[\w-]+", " ".join(re.findall(r"pip install ([^{}\n]+)", path.read_text(encoding="utf-8"))))
    )
    assert wanted(path) <= brought | named, (
        f"pip install -e .[examples] does not bring {wanted(path) - brought - named}"
    )


def test_no_example_is_left_out():
    tested = {
        "mnist.py",
        "predict.py",
        "presets.py",
        "sweep.py",
        "xor.py",
        "xor_scalar.py",
        "export_onnx.py",
        "pictures.py",
    }
    tested |= {"draw.py"}  # in test_draw.py
    tested |= {f"embed_{name}.py" for name in ("numpy", "physics", "jax", "torch", "scipy", "dask")}
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested
