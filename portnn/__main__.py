"""``python -m portnn``: train on a table, predict, look into a model, and compare array libraries."""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy

import portnn
from portnn import console, datasets, plots, tabular, testing
from portnn.activations import describe_activation
from portnn.backends import available, get_backend
from portnn.callbacks import CSVLog
from portnn.checks import check_count, check_number
from portnn.files import atomic_write, shown
from portnn.layout import options as options_of
from portnn.losses import LOSSES
from portnn.optimizers import OPTIMIZERS

HINTS = {  # what the package says, and how the commands that have this option do it
    "declare the column categorical": ("categorical", "declare the column categorical (--categorical)"),
    "leave such rows out": ("missing", "leave such rows out (--missing drop)"),
    "leave it out": ("drop", "leave it out (--drop)"),
    "say no header": ("header", "pass --no-header"),
    "read it as such": ("header", "leave --no-header out"),
    "use dtype='float64'": ("dtype", "pass --dtype float64"),
    "read_columns: ": ("data", ""),
}


def info(options: argparse.Namespace) -> int:
    """Print one line per array library, or what is in a model file."""
    if options.model is not None:
        return describe(options.model)
    print(f"portnn {portnn.__version__}, Python {platform.python_version()} on {platform.platform()}")
    for backend in available().values():
        if backend.usable:
            print(f"  {backend.name:17} {backend.version:14} {', '.join(backend.devices)}; {', '.join(backend.dtypes)}")
            if backend.why_not:
                print(f"  {'':17} {backend.why_not}")
        else:
            print(f"  {backend.name:17} not usable: {backend.why_not}")
    return 0


def describe(path: str) -> int:
    """Print what is in a model file."""
    model, schema = portnn.MLP.load(path), tabular.schema_of(path)
    members = "" if model.members is None else f", {model.members} members"
    lines = [
        ("file", f"{path}, {os.path.getsize(path):,} bytes"),
        ("network", f"{' - '.join(map(str, model.sizes))}{members}, {model.n_params:,} parameters, {model.dtype}"),
        ("seed", str(model.seed)),
    ]
    for name, scaling in (("inputs", model.layers[0].before), ("outputs", model.layers[-1].after)):
        if scaling is not None:
            lines.append((name, f"{type(scaling).__name__}, in the file"))
    lines += [(name, str(value)) for name, value in options_of(model.layers).items()]
    if schema is not None:
        what = "a number" if schema.classes is None else f"{len(schema.classes)} classes: {_some(schema.classes)}"
        lines.append(("target", f"{schema.target}, {what}"))
        numbers = [column.name for column in schema.columns if column.categories is None]
        lines += [("numbers", f"{len(numbers)}: {_some(numbers)}")] * bool(numbers)
        lines += [("text", f"{c.name}: {_some(c.categories)}") for c in schema.columns if c.categories is not None]
    console.summary(lines)
    print()
    rows = [
        [str(i), str(layer.fan_in), str(layer.fan_out), describe_activation(layer.activation)]
        + [str(sum(math.prod(shape) for _, shape in layer.parts.values())), ", ".join(list(layer.parts)[1:])]
        for i, layer in enumerate(model.layers)
    ]
    console.table(["layer", "inputs", "outputs", "activation", "parameters", "beside the weight"], rows)
    return 0


def train(options: argparse.Namespace) -> int:
    """Train a network on a table, and print how good it is on rows that it has not seen."""
    for path in (options.save, options.log):
        if path is not None and not Path(path).resolve().parent.is_dir():
            raise FileNotFoundError(2, "No such folder", str(Path(path).parent))
        _not_onto(path, options.data)
    if options.plot is not None:
        with plots.style.style("train --plot"):  # says if matplotlib is missing, before the training
            Path(options.plot).mkdir(parents=True, exist_ok=True)
    trained = tabular.train(
        options.data,
        options.target,
        task=options.task,
        hidden=options.hidden,
        activation=options.activation,
        epochs=None if options.epochs is None else check_count("train", "epochs", options.epochs),
        patience=check_count("train", "patience", options.patience),
        batch_size=check_count("train", "batch size", options.batch_size),
        learning_rate=check_number("train", "learning rate", options.learning_rate, 0.0, open_low=True),
        test_fraction=options.test_fraction,
        seed=options.seed,
        dtype=options.dtype,
        backend=options.backend,
        device=options.device,
        drop=options.drop,
        categorical=options.categorical,
        missing=options.missing,
        delimiter=options.delimiter,
        header=options.header,
        callbacks=[CSVLog(options.log)] if options.log else [],
    )
    if options.save:
        tabular.save(trained, options.save)
    console.summary(report(trained, options))
    schema, t = trained.schema, trained.targets[trained.test]
    if schema.classes is not None and trained.answers is not None:
        labels = trained.answers.argmax(axis=1)
        print()
        rows = [
            [name, str((t == k).sum()), str(((t == k) & (labels == k)).sum()), str((labels == k).sum())]
            for k, name in enumerate(schema.classes)
        ]
        console.table([f"held out: {schema.target}", "rows", "right", "predicted"], rows)
    if options.plot and trained.history:
        draw(trained, Path(options.plot))
    return 0


def report(trained: tabular.Trained, options: argparse.Namespace) -> list[tuple[str, str]]:
    """Return what there is to say about a training, line by line."""
    schema, model, history = trained.schema, trained.model, trained.history
    rows, columns = trained.table.values.shape
    left_out = f", {trained.table.left_out} with missing values left out" if trained.table.left_out else ""
    numbers = sum(c.categories is None for c in schema.columns)
    texts = len(schema.columns) - numbers
    kinds = [_many(n, what) for n, what in ((numbers, "number"), (texts, "text")) if n]
    if schema.classes is None:
        y = trained.targets
        largest, digits = float(numpy.abs(y).max()), 6
        if (span := float(numpy.ptp(y))) > 0.0:  # so many that the two ends differ
            digits = min(17, 6 + max(0, math.floor(math.log10(largest / span))))
        low, high, mean = (f"{value:.{digits}g}" for value in (y.min(), y.max(), y.mean()))
        target = f"{schema.target}: a number from {low} to {high}, mean {mean}"
    else:
        counts = numpy.bincount(trained.targets, minlength=len(schema.classes))
        some = _some([f"{name} {n}" for name, n in zip(schema.classes, counts, strict=True)])
        target = f"{schema.target}: {len(schema.classes)} classes ({some})"
    epochs = len(history.get("loss", []))
    ended = ", interrupted" if history.interrupted else ""
    stopping = f", {trained.held_back} of them to stop in time" if trained.held_back else ""
    best = f", the best was number {trained.best_epoch}" if trained.best_epoch else ""
    lines = [
        ("data", f"{options.data}: {rows} rows, {columns} columns{left_out}"),
        ("target", target),
        ("features", f"{', '.join(kinds)}: {_many(schema.n_inputs, 'input')}"),
        (
            "network",
            f"{' - '.join(map(str, model.sizes))}, {options.activation}, {model.n_params:,} parameters; "
            f"{model.backend.name}, {model.dtype}, seed {options.seed}",
        ),
        (
            "training",
            f"{_many(len(trained.train), 'row')}{stopping}; {_many(epochs, 'epoch')} in "
            f"{sum(history.get('epoch_seconds', [])):.1f} s{best}{ended}",
        ),
    ]
    scores = trained.scores
    if scores is None:
        lines.append(("held out", "no rows"))
    elif schema.classes is not None:
        usual = schema.classes[int(numpy.bincount(trained.targets[trained.train]).argmax())]
        lines.append(("held out", f"{_many(scores.rows, 'row')}: accuracy {scores.score:.2%}"))
        lines.append(("baseline", f"always {shown(usual, 60)}: accuracy {scores.baseline:.2%}"))
    else:
        lines.append(("held out", f"{_many(scores.rows, 'row')}: R^2 {scores.score:.4f}, RMSE {scores.rmse:.6g}"))
        lines.append(("baseline", f"always the mean: R^2 {scores.baseline:.4f}, RMSE {scores.baseline_rmse:.6g}"))
    lines.append(("model", f"saved to {options.save}" if options.save else "not saved; --save FILE keeps it"))
    return lines


def draw(trained: tabular.Trained, folder: Path) -> None:
    """Write pictures of a training."""
    figures = {"learning_curves": plots.learning_curves(trained.history)}
    names, answers, t = trained.schema.classes, trained.answers, trained.targets[trained.test]
    if names is not None and answers is not None:
        figures["confusion_matrix"] = plots.confusion_matrix(t, answers.argmax(axis=1), class_names=names)
        figures["calibration"] = plots.calibration(t, answers)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png")
    print(f"\npictures in {folder}: {', '.join(f'{name}.png' for name in figures)}")


def predict(options: argparse.Namespace) -> int:
    """Write what a model says to each row of a table, as CSV."""
    _not_onto(options.output, options.data, options.model)
    where = {"backend": options.backend, "device": options.device}
    schema, answers, targets, unknown, dtype = tabular.apply(
        options.model, options.data, delimiter=options.delimiter, header=options.header, **where
    )
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    if schema.classes is None:
        write([schema.target])
        for value in answers:
            write([repr(float(value)) if dtype == "float64" else f"{value:.9g}"])
    else:
        write([schema.target, *(f"probability of {name}" for name in schema.classes)])
        for row in answers:
            write([schema.classes[int(row.argmax())], *(f"{p:.6f}" for p in row)])
    if options.output:
        atomic_write(options.output, [text.getvalue().encode()])
    else:
        sys.stdout.write(text.getvalue())
        sys.stdout.flush()
    said = _many(len(answers), "row")
    if targets is not None:  # the table has the answers
        scores = tabular.scored(schema, answers, targets, targets)
        good = f"accuracy {scores.score:.2%}" if schema.classes else f"R^2 {scores.score:.4f}, RMSE {scores.rmse:.6g}"
        said += f"; beside the column {shown(schema.target, 60)} of the table: {good}"
    elif unknown is not None:
        said += f"; not compared with the column {shown(schema.target, 60)}: {unknown}"
    print(said + (f"; written to {options.output}" if options.output else ""), file=sys.stderr)
    return 0


def compare(options: argparse.Namespace) -> int:
    """Print the errors of each backend, layer by layer, and where they part in training; 1 if they do not agree."""
    model = portnn.MLP.load(options.model, dtype=options.dtype)
    if options.data.endswith(".safetensors"):
        x, targets = datasets.read_safetensors(options.data)
    else:
        column = int(options.target) if options.target.lstrip("-").isdigit() else options.target
        x, targets = datasets.read_csv(options.data, target=column, dtype=model.dtype)  # type: ignore[assignment]
    samples = check_count("compare_backends", "samples", options.samples)
    x, t = x[:samples], targets[:samples]
    if x.dtype.kind in "iu":  # images are stored as bytes, networks see [0, 1]
        x = x.astype(model.dtype) / 255.0
    labels = t.ndim == 1 and t.dtype.kind in "iu" and model.sizes[-1] > 1
    loss = options.loss or ("cross_entropy" if labels else "mse")
    optimizer = OPTIMIZERS[options.optimizer](options.learning_rate)
    named = (name.strip().partition(":") for name in options.backends.split(","))
    found = testing.compare_backends(
        *(model, x, t, [get_backend(name, device or None) for name, _, device in named]),
        loss=loss,
        steps=options.steps,
        optimizer=optimizer,
        batch_size=options.batch_size,
        seed=options.seed,
    )
    print(f"{model}: {len(x)} samples, {loss}")
    print(found)
    print("They agree." if found.agree else "They do NOT agree.")
    return 0 if found.agree else 1


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with 2."""
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}; {self.prog} --help lists the options\n")


def parser() -> Parser:
    """Return the commands and their options."""
    parser = Parser(prog="python -m portnn", description=portnn.__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("train", help="train a network on a table, plain or gzip CSV")
    _table_options(command)
    command.add_argument("--target", required=True, metavar="COLUMN", help="what is to be predicted")
    command.add_argument("--task", choices=("auto", "classification", "regression"), default="auto", help=_TASK)
    command.add_argument("--save", metavar="FILE", help="write the model as safetensors")
    command.add_argument("--hidden", type=_widths, default=(64, 64), metavar="N,N", help="hidden layers (64,64; none)")
    command.add_argument("--activation", default="relu", help="of the hidden layers (relu)")
    command.add_argument("--epochs", type=int, metavar="N", help="at most (200; below 200 rows 50)")
    command.add_argument("--patience", type=int, default=20, metavar="N", help="epochs without a better loss (20)")
    command.add_argument("--batch-size", type=int, default=32, metavar="N", help="rows per step (32)")
    command.add_argument("--learning-rate", type=float, default=3e-3, metavar="R", help="of Adam (0.003)")
    command.add_argument("--test-fraction", type=float, default=0.2, metavar="F", help="of the rows held out (0.2)")
    command.add_argument("--seed", type=int, default=0, help="of the split, the start and the order (0)")
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    command.add_argument("--drop", type=_names, default=(), metavar="A,B", help="columns to leave out")
    command.add_argument(
        "--categorical", type=_names, default=(), metavar="A,B", help="columns whose numbers are names"
    )
    command.add_argument("--missing", choices=("refuse", "drop"), default="refuse", help="rows with missing values")
    command.add_argument("--log", metavar="FILE", help="write a line per epoch as CSV")
    command.add_argument("--plot", metavar="DIR", help="write pictures (needs matplotlib)")
    command.set_defaults(run=train)

    command = commands.add_parser("predict", help="let a model that train has saved answer for each row of a table")
    command.add_argument("--model", required=True, metavar="FILE", help="what train --save wrote")
    _table_options(command)
    command.add_argument("--output", metavar="FILE", help="where to write the CSV (the standard output)")
    command.set_defaults(run=predict)

    command = commands.add_parser(
        "info", help="what works here: libraries, devices, dtypes; or what is in a model file"
    )
    command.add_argument("model", nargs="?", metavar="MODEL", help="a file that MLP.save or train --save wrote")
    command.set_defaults(run=info)

    command = commands.add_parser("compare", help="do array libraries compute the same numbers with a model?")
    command.add_argument("model", metavar="MODEL", help="a file that MLP.save wrote")
    command.add_argument("--backends", required=True, metavar="A,B", help="such as numpy,cupy,torch:cuda")
    command.add_argument("--data", required=True, metavar="FILE", help="a table (CSV, plain or gzip) or safetensors")
    command.add_argument("--target", default="0", metavar="COLUMN", help="target column of a table: position or name")
    command.add_argument("--loss", choices=LOSSES, help="by default cross_entropy for labels, else mse")
    command.add_argument("--samples", type=int, default=256, metavar="N", help="use the first N samples (256)")
    command.add_argument("--steps", type=int, default=20, metavar="K", help="training steps to follow (20; 0: none)")
    command.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="of these steps (sgd)")
    command.add_argument("--learning-rate", type=float, default=0.1, metavar="R", help="of these steps (0.1)")
    command.add_argument("--batch-size", type=int, metavar="N", help="of these steps (all samples)")
    command.add_argument("--seed", type=int, default=0, help="of the order of the samples (0)")
    command.add_argument("--dtype", choices=("float32", "float64"), help="that of the model unless given")
    command.set_defaults(run=compare)
    return parser


_TASK = "auto: classes if the target holds texts, or whole numbers with few different ones"


def _table_options(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--data", required=True, metavar="FILE", help="a table with the names of its columns in line 1"
    )
    command.add_argument("--delimiter", default="auto", metavar="C", help="one of , ; tab | (what line 1 has most of)")
    command.add_argument("--no-header", dest="header", action="store_false", help="columns are called 1, 2, ...")
    command.add_argument("--backend", default="numpy", help="numpy, torch, jax, cupy (numpy)")
    command.add_argument("--device", help="cpu, cuda:0, ... (the library's own)")


def _not_onto(path: str | None, *sources: str) -> None:
    """Refuse to write over what is read."""
    for source in sources:
        if path is not None and os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise ValueError(f"{shown(path, 200)} is the file that is read, and would be lost; name another to write")


def _widths(text: str) -> tuple[int, ...]:
    widths = (
        () if text in ("", "none") else tuple(int(part) if part.strip().isdigit() else 0 for part in text.split(","))
    )
    if not all(widths):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a list of widths such as 64,64, or none")
    return widths


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)})" if len(names) > most else "")


def _many(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    options = parser().parse_args(arguments)
    if getattr(options, "delimiter", "") == "tab":
        options.delimiter = "\t"
    try:
        code: int = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (portnn.NonFiniteError, MemoryError) as error:
        return _say(options, error, 1)
    except (ValueError, TypeError, OSError, ImportError, portnn.BackendError) as error:
        return _say(options, error, 2)
    except KeyboardInterrupt:
        return _say(options, "interrupted", 130)
    return code


def _say(options: argparse.Namespace, error: Any, code: int) -> int:
    """Print one line to the standard error."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.strerror}: {shown(error.filename, 200)}"
    for words, (option, hint) in HINTS.items():
        if hasattr(options, option):
            text = text.replace(words, hint)
    text = " ".join(text.split()).removeprefix(f"{options.command}: ")
    print(f"portnn {options.command}: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
