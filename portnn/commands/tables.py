"""The commands that make a model from a table and use it: ``train`` and ``predict``."""

from __future__ import annotations

import argparse
import csv
import io
import math
import os
import sys
from pathlib import Path

import numpy

from portnn import plots, tabular
from portnn.callbacks import CSVLog
from portnn.checks import check_count, check_number
from portnn.console import many, some, summary, table
from portnn.files import atomic_write, check_target, shown


def train(options: argparse.Namespace) -> int:
    """Train a network on a table, and print how good it is on rows that it has not seen."""
    for path in (options.save, options.log):
        if path is not None and not Path(path).resolve().parent.is_dir():
            raise FileNotFoundError(2, "No such folder", str(Path(path).parent))
        _not_onto(path, options.data)
    _not_twice(save=options.save, log=options.log, plot=options.plot)
    if options.save is not None:
        check_target(options.save)
    if options.plot is not None:
        if Path(options.plot).exists() and not Path(options.plot).is_dir():
            raise NotADirectoryError(20, "Not a folder to write pictures to", options.plot)
        with plots.style.style("train --plot"):  # says if matplotlib is missing, before the training
            Path(options.plot).mkdir(parents=True, exist_ok=True)
    trained = tabular.train(
        options.data,
        options.target,
        task=options.task,
        hidden=options.hidden,
        activation=options.activation,
        epochs=None if options.epochs is None else check_count("train", "epochs", options.epochs),
        patience=None if options.patience is None else check_count("train", "patience", options.patience),
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
        savable=options.save is not None,
    )
    if trained.history.interrupted and not trained.history.get("loss"):
        raise KeyboardInterrupt  # before anything was learned
    unsaved = None
    try:
        if options.save:
            tabular.save(trained, options.save)
    except OSError as error:  # what was found out is told all the same
        unsaved = error
    summary(report(trained, options, saved=unsaved is None))
    schema, t = trained.schema, trained.targets[trained.test]
    if schema.classes is not None and trained.answers is not None:
        labels = trained.answers.argmax(axis=1)
        print()
        rows = [
            [name, str((t == k).sum()), str(((t == k) & (labels == k)).sum()), str((labels == k).sum())]
            for k, name in enumerate(schema.classes)
        ]
        table([f"held out: {schema.target}", "rows", "right", "predicted"], rows)
    if options.plot and trained.history:
        draw(trained, Path(options.plot))
    if unsaved is not None:
        raise unsaved
    return 0


def report(trained: tabular.Trained, options: argparse.Namespace, *, saved: bool) -> list[tuple[str, str]]:
    """Return what there is to say about a training, line by line."""
    schema, model, history = trained.schema, trained.model, trained.history
    rows, columns = trained.table.values.shape
    left_out = f", {trained.table.left_out} with missing values left out" if trained.table.left_out else ""
    numbers = sum(c.categories is None for c in schema.columns)
    texts = len(schema.columns) - numbers
    kinds = [many(n, what) for n, what in ((numbers, "number"), (texts, "text")) if n]
    if schema.classes is None:
        y = trained.targets
        largest, digits = float(numpy.abs(y).max()), 6
        if (span := float(numpy.ptp(y))) > 0.0:  # so many that the two ends differ
            digits = min(17, 6 + max(0, math.floor(math.log10(largest / span))))
        low, high, mean = (f"{value:.{digits}g}" for value in (y.min(), y.max(), y.mean()))
        target = f"{schema.target}: a number from {low} to {high}, mean {mean}"
    else:
        counts = numpy.bincount(trained.targets, minlength=len(schema.classes))
        first = some([f"{name} {n}" for name, n in zip(schema.classes, counts, strict=True)])
        target = f"{schema.target}: {len(schema.classes)} classes ({first})"
    epochs = len(history.get("loss", []))
    ended = ", interrupted" if history.interrupted else ""
    stopping = f", {trained.held_back} of them to stop in time" if trained.held_back else ""
    found = f", as many as {trained.tried} of them chose in a trial" if trained.tried else ""
    best = f", the best was number {trained.best_epoch}" if trained.best_epoch else ""
    lines = [
        ("data", f"{options.data}: {rows} rows, {columns} columns{left_out}"),
        ("target", target),
        ("features", f"{', '.join(kinds)}: {many(schema.n_inputs, 'input')}"),
        (
            "network",
            f"{' - '.join(map(str, model.sizes))}, {options.activation}, {model.n_params:,} parameters; "
            f"{model.backend.name}, {model.dtype}, seed {options.seed}",
        ),
        (
            "training",
            f"{many(len(trained.train), 'row')}{stopping}; {many(epochs, 'epoch')} in "
            f"{sum(history.get('epoch_seconds', [])):.1f} s{found}{best}{ended}",
        ),
    ]
    scores = trained.scores
    if scores is None:
        lines.append(("held out", "no rows"))
    elif schema.classes is not None:
        usual = schema.classes[int(numpy.bincount(trained.targets[trained.train]).argmax())]
        lines.append(("held out", f"{many(scores.rows, 'row')}: accuracy {scores.score:.2%}"))
        lines.append(("baseline", f"always {shown(usual, 60)}: accuracy {scores.baseline:.2%}"))
    else:
        lines.append(("held out", f"{many(scores.rows, 'row')}: {_errors(scores.score, scores.rmse)}"))
        lines.append(("baseline", f"always the mean: {_errors(scores.baseline, scores.baseline_rmse)}"))
    kept = f"saved to {options.save}" if saved else "NOT saved"
    lines.append(("model", kept if options.save else "not saved; --save FILE keeps it"))
    return lines


def _errors(score: float, rmse: float | None) -> str:
    """Return R^2, which values that are all alike do not have, and the root of the mean square."""
    return f"RMSE {rmse:.6g}" if math.isnan(score) else f"R^2 {score:.4f}, RMSE {rmse:.6g}"


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
        _check_writable(text.getvalue(), sys.stdout.encoding)
        sys.stdout.write(text.getvalue())
        sys.stdout.flush()
    said = f"{many(len(answers), 'row')}"
    if targets is not None:  # the table has the answers
        scores = tabular.scored(schema, answers, targets, targets)
        good = f"accuracy {scores.score:.2%}" if schema.classes else _errors(scores.score, scores.rmse)
        said += f"; beside the column {shown(schema.target, 60)} of the table: {good}"
    elif unknown is not None:
        said += f"; not compared with the column {shown(schema.target, 60)}: {unknown}"
    print(said + (f"; written to {options.output}" if options.output else ""), file=sys.stderr)
    return 0


def _check_writable(text: str, encoding: str | None) -> None:
    """Refuse to write what the standard output cannot: with escapes, which are for reports, it were other data."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the standard output has the encoding {encoding}, which has no {text[error.start]!a}; write a file with "
            "--output, or set PYTHONIOENCODING=utf-8"
        ) from None


def _not_twice(**paths: str | None) -> None:
    """Refuse to write two things to one place."""
    seen: dict[str, str] = {}
    for option, path in paths.items():
        if path is not None and (other := seen.setdefault(os.path.realpath(path), option)) != option:
            raise ValueError(f"--{other} and --{option} are both {shown(path, 200)}; name two places to write to")


def _not_onto(path: str | None, *sources: str) -> None:
    """Refuse to write over what is read."""
    for source in sources:
        if path is not None and os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source):
            raise ValueError(f"{shown(path, 200)} is the file that is read, and would be lost; name another to write")
