"""A network for a table: from named columns of numbers and texts to a model file that knows them, and back to answers.

This is what ``python -m portnn train`` and ``predict`` do. Numbers are standardized inside the model; a text becomes as
many inputs as its column has categories, 1 for its own and 0 for the others. The file keeps the :class:`Schema`.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy

from portnn import random
from portnn.callbacks import Callback, EarlyStopping
from portnn.console import many
from portnn.datasets.columns import Column, Table, column_names, find, read_columns
from portnn.errors import FormatError, shown
from portnn.evaluation import predict, predicted
from portnn.files import StrPath
from portnn.history import History
from portnn.mlp import MLP
from portnn.optimizers import Adam
from portnn.scaling import Standardize
from portnn.schema import KEY, Schema, check_range, known_targets, schema_of
from portnn.training import fit

MIN_ROWS, ENOUGH = 10, 200  # to train at all, and to tell by a tenth of them when to stop
UPDATES, PATIENT = 4000, 400  # of Adam: a linear model is there after so many; less says nothing of a few rows
MAX_CLASSES = 200
FEW = 20  # whole numbers with at most so many different ones are taken for classes


class Scores(NamedTuple):
    """How good answers are on rows with known targets, and what the simplest answer of all gives there.

    ``score`` is the accuracy, or R^2 = 1 - sum (t - y)^2 / sum (t - mean t)^2; ``baseline`` is that of the most
    frequent class, or of the mean, of the training rows. ``rmse`` is in the unit of the target, None for classes.
    """

    rows: int
    score: float
    baseline: float
    rmse: float | None = None
    baseline_rmse: float | None = None


@dataclass
class Trained:
    """A model of a table with all that there is to say about its training."""

    model: MLP
    schema: Schema
    history: History
    table: Table
    train: numpy.ndarray
    test: numpy.ndarray
    best_epoch: int | None  #: the one whose parameters the model has, None where nothing was put back
    scores: Scores | None
    answers: numpy.ndarray | None = None  #: of the held-out rows: probabilities or values
    targets: numpy.ndarray = field(default_factory=lambda: numpy.zeros(0))  #: of all rows: labels or values
    held_back: int = 0  #: training rows that only early stopping saw
    tried: int = 0  #: training rows that told in a first training how many epochs it takes, and were in the second


def train(
    path: StrPath,
    target: str,
    *,
    task: str = "auto",
    hidden: Sequence[int] = (64, 64),
    activation: str = "relu",
    epochs: int | None = None,
    patience: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 3e-3,
    test_fraction: float = 0.2,
    seed: int = 0,
    dtype: str = "float32",
    backend: Any = "numpy",
    device: Any = None,
    drop: Collection[str] = (),
    categorical: Collection[str] = (),
    missing: str = "refuse",
    delimiter: str = "auto",
    header: bool = True,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    savable: bool = False,
) -> Trained:
    """Read a table, hold rows out, train on the others, and measure on those that were held out.

    If there are at least 200 training rows, a tenth of them decides when to stop: after ``patience`` epochs (20)
    without a lower loss the best parameters are put back; ``epochs`` is then at most 200, unless it is given. Of fewer
    rows none can be spared: a fifth of them tells in a first training how many epochs it takes, some 4000 updates at
    most and the patience at least 400 of them; then all are trained on for as many, or for ``epochs`` if it is given.
    Classes are held out in proportion. With ``savable`` a table is refused of which :func:`save` would know too much.
    ValueError, FormatError and OSError say in a sentence what is wrong with the
    table or an option.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "sizes.csv")
    ...     size = path.write_text("size,kind\\n" + "1.5,small\\n7.5,large\\n" * 20)
    ...     trained = train(path, "kind", epochs=20, progress=False)
    >>> trained.schema.classes, trained.scores.score, trained.scores.baseline
    (('large', 'small'), 1.0, 0.5)

    """
    if not 0.0 <= test_fraction < 1.0:
        raise ValueError(f"the test fraction must be in [0, 1), got {test_fraction:g}")
    names = column_names(path, delimiter=delimiter, header=header)
    find(target, names)
    if target in drop:
        raise ValueError(f"{shown(target)} is both the target and left out")
    options = {"categorical": categorical, "drop": drop, "missing": missing, "delimiter": delimiter, "header": header}
    try:
        table = read_columns(path, **options)  # type: ignore[arg-type]
    except FormatError as error:
        place, found, _ = str(error).partition(f": column {shown(target, 40)} has more than ")
        if not found:
            raise
        raise FormatError(
            f"{place}: the target {shown(target, 60)} has more than {MAX_CLASSES} different texts, at most "
            f"{MAX_CLASSES} can be classes"
        ) from None
    n = len(table.values)
    if n < MIN_ROWS:
        raise ValueError(
            f"{n} {'row is' if n == 1 else 'rows are'} too few to train on: at least {MIN_ROWS} are needed"
        )
    for column in table.columns:
        texts = 0 if column.name in (target, *categorical) else len(column.categories or ())
        if column.categories and texts == n > FEW:
            raise ValueError(
                f"column {shown(column.name, 60)} has another text in each of the {n} rows, such as "
                f"{shown(column.categories[0], 40)}: a network can learn nothing from a name or a date that does not "
                "come again; leave it out, or write it as numbers"
            )
    columns = tuple(column for column in table.columns if column.name != target)
    if not columns:
        raise ValueError(f"the only column is the target {shown(target)}; there is nothing to predict it from")
    classes, targets = _targets(*table.column(target), task)
    schema = Schema(columns, target, classes)
    if savable:
        schema.check_room()
    if classes is None:
        check_range(target, targets, dtype, training=True)
    training, test = _split(targets, classes, test_fraction, seed)
    x = schema.inputs(table, dtype, training=True)
    scaling = _scaling(schema, x[training], dtype)

    sizes = [schema.n_inputs, *hidden, 1 if classes is None else len(classes)]
    _check_memory(sizes, dtype)

    def network(**scalings: Any) -> MLP:
        return MLP(sizes, activation=activation, dtype=dtype, backend=backend, device=device, seed=seed, **scalings)

    model, t = network(inputs=scaling), targets
    if classes is None:  # trained on targets of mean 0 and deviation 1, whatever their unit
        outputs = Standardize.fit(targets[training])
        scaled = network(inputs=scaling, outputs=outputs.inverse())
        t = ((targets - outputs.mean) / outputs.std)[:, None]
    held = 0.1 if len(training) >= ENOUGH else None
    held_back = -int(-0.1 * len(training) // 1) if held else 0
    stop = EarlyStopping("val_loss", patience=patience or 20)

    def trained(model: MLP, epochs: int, held: float | None, callbacks: Sequence[Callback]) -> History:
        n = len(training) - (-int(-held * len(training) // 1) if held else 0)
        return fit(
            model,
            x[training].astype(dtype),
            t[training],
            loss="mse" if classes is None else "cross_entropy",
            optimizer=Adam(learning_rate),
            epochs=epochs,
            batch_size=min(batch_size, n),
            validation_split=held,
            seed=seed,
            callbacks=callbacks,
            progress=progress,
        )

    tried, history = 0, History()
    if epochs is None and held is None:
        tried = -int(-0.2 * len(training) // 1)
        steps, of_all = (math.ceil(n / batch_size) for n in (len(training) - tried, len(training)))
        stop = EarlyStopping("val_loss", patience=patience or max(20, math.ceil(PATIENT / steps)))
        first = model.to()
        history = trained(first, max(50, math.ceil(UPDATES / steps)), 0.2, [stop])
        if history.interrupted:  # what there is, then
            model, held, held_back, tried = first, 0.2, tried, 0
        else:
            epochs = max(1, round(stop.best_epoch * steps / of_all))
    if not history.interrupted:
        history = trained(model, epochs or 200, held, [*([stop] if held else []), *callbacks])
    if classes is None:
        scaled.params = model.params
        model = scaled
    best = stop.best_epoch if held and history else None
    result = Trained(model, schema, history, table, training, test, best, None, None, targets)
    result.held_back, result.tried = held_back, tried
    if len(test):
        result.answers = answers(model, schema, x[test])
        result.scores = scored(schema, result.answers, targets[test], targets[training])
    return result


def answers(model: MLP, schema: Schema, x: numpy.ndarray) -> numpy.ndarray:
    """Return probabilities ``(rows, n_classes)`` or values ``(rows,)``."""
    y = predict(model, x.astype(model.dtype)).astype("float64")
    return y[:, 0] if schema.classes is None else predicted("classes", y.shape[1], "predict")(y)


def scored(schema: Schema, given: numpy.ndarray, t: numpy.ndarray, seen: numpy.ndarray) -> Scores:
    """Compare answers with targets, and with the most frequent class or the mean of those ``seen`` in training."""
    if schema.classes is not None:
        usual = numpy.bincount(seen.astype("int64")).argmax()
        return Scores(len(t), float((given.argmax(axis=1) == t).mean()), float((t == usual).mean()))
    squares = [float(((t - y) ** 2).mean()) for y in (given, seen.mean(), t.mean())]
    r2, baseline = (1.0 - s / squares[2] if squares[2] else float("nan") for s in squares[:2])
    return Scores(len(t), r2, baseline, squares[0] ** 0.5, squares[1] ** 0.5)


def save(trained: Trained, path: StrPath) -> None:
    """Write the model with its schema."""
    trained.model.save(path, metadata={KEY: trained.schema.described()})


def apply(path: StrPath, table_path: StrPath, *, delimiter: str = "auto", header: bool = True, **where: Any) -> Any:
    """Return the schema in a model file, its answers for each row of a table, the targets if the table has them, ...

    ... why they were not understood if it has others, and the dtype of the model.
    """
    model = MLP.load(path, **where)
    schema = _schema(path, model)
    options: dict[str, Any] = {"delimiter": delimiter, "header": header}
    targets, unknown = None, None
    if schema.target in column_names(table_path, **options):
        try:  # known targets are welcome, but nobody asked for them
            targets = known_targets(table_path, schema, options)
        except FormatError as error:
            unknown = str(error).removeprefix(f"read_columns: {shown(os.fspath(table_path))}: ")
    table = read_columns(table_path, wanted=schema.columns, **options)
    return schema, answers(model, schema, schema.inputs(table, model.dtype)), targets, unknown, model.dtype


def labelled(
    path: StrPath, table_path: StrPath, model: MLP, *, target: str | None = None, **reading: Any
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return inputs and targets of each row of a table as ``model``, that of the file, was trained on them.

    ``target`` names their column where it is not that of the training. Targets are labels ``(rows,)``, int64, or values
    ``(rows, 1)`` in the unit of the table.
    """
    schema = _schema(path, model)
    schema = schema if target is None else schema._replace(target=target)
    t = known_targets(table_path, schema, reading)
    x = schema.inputs(read_columns(table_path, wanted=schema.columns, **reading), model.dtype)
    return x.astype(model.dtype), t[:, None] if schema.classes is None else t.astype("int64")


def _schema(path: StrPath, model: MLP) -> Schema:
    """Return the schema in a file, which must fit the model in it."""
    schema = schema_of(path)
    if schema is None:
        raise FormatError(f"{shown(str(path))} knows no columns: it was not made by `python -m portnn train`")
    if model.sizes[0] != schema.n_inputs or model.sizes[-1] != len(schema.classes or "1") or model.members:
        raise FormatError(f"{shown(str(path))}: the network {model.sizes} does not fit its table")
    return schema


def _targets(column: Column, values: numpy.ndarray, task: str) -> tuple[tuple[str, ...] | None, numpy.ndarray]:
    """Return the classes and labels, or None and numbers."""
    name = shown(column.name, 60)
    different = numpy.unique(values)
    if len(different) == 1:
        only = shown(column.categories[0], 60) if column.categories else f"{values[0]:g}"
        raise ValueError(f"the target {name} is {only} in all {len(values)} rows: there is nothing to learn")
    if task == "regression" and column.categories is not None:
        raise ValueError(
            f"the target {name} holds texts, such as {shown(column.categories[0])}; regression wants numbers"
        )
    if column.categories is not None:
        return column.categories, values.astype("int64")
    whole = bool((values == numpy.trunc(values)).all())
    few = whole and len(different) <= FEW and 2 * len(different) <= len(values)
    if task == "regression" or (task == "auto" and not few):
        return None, values
    if len(different) > MAX_CLASSES:
        raise ValueError(
            f"the target {name} has {len(different)} different numbers, at most {MAX_CLASSES} can be classes"
        )
    texts = tuple(str(int(v)) if v == numpy.trunc(v) else repr(float(v)) for v in different)
    return texts, numpy.searchsorted(different, values)


def _split(
    targets: numpy.ndarray, classes: Sequence[str] | None, fraction: float, seed: int
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Return the training and the test rows, of each class in proportion, as a pure function of the seed."""
    key = random.fold_in(random.key(random.check_seed(seed, "train")), random.Purpose.SPLIT)
    order = random.permutation(key, len(targets))
    groups = [order] if classes is None else [order[targets[order] == c] for c in range(len(classes))]
    test = numpy.concatenate([rows[: round(fraction * len(rows))] for rows in groups])
    if fraction and not len(test):
        test = max(groups, key=len)[:1]
        if classes and max(map(len, groups)) < 2:
            raise ValueError(f"each of the {len(classes)} classes has one row only: there is nothing to learn from")
    training = numpy.setdiff1d(order, test)
    for name, rows in zip(classes or (), groups, strict=False):
        if len(rows) and not numpy.isin(rows, training).any():
            raise ValueError(
                f"the test fraction {fraction:g} leaves no row of the class {shown(name, 60)} to train on, which has "
                f"{many(len(rows), 'row')} in all; lower it"
            )
    if len(training) < 2:
        raise ValueError(f"the test fraction {fraction:g} leaves {len(training)} rows to train on")
    return training, numpy.sort(test)


def _check_memory(sizes: Sequence[int], dtype: str) -> None:
    """Refuse a network that this machine has no memory to train: that shows only after a minute, or ends in a kill."""
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return
    n_params = sum((fan_in + 1) * fan_out for fan_in, fan_out in itertools.pairwise(sizes))
    # parameters, gradient, Adam's two means, and the parameters of before in case of a NaN
    wanted = 5 * n_params * (4 if dtype == "float32" else 8)
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if wanted > there:
        raise MemoryError(
            f"a network {' - '.join(map(str, sizes))} has {n_params:,} parameters and wants about "
            f"{wanted / 2**30:,.0f} GiB to train, this machine has {there / 2**30:,.0f}; take narrower layers"
        )


def _scaling(schema: Schema, x: numpy.ndarray, dtype: str) -> Standardize:
    """Return the scaling of the inputs: numbers to mean 0 and deviation 1, zeros and ones of texts as they are."""
    fitted = Standardize.fit(x)
    mean, std = numpy.asarray(fitted.mean), numpy.asarray(fitted.std)
    at = 0
    for column in schema.columns:
        if column.categories is None:
            if (x[:, at] == x[0, at]).all():  # it becomes 0, whatever it is divided by: not by too little for float32
                mean[at], std[at] = x[0, at], max(1.0, abs(x[0, at]) * 2.0**-20)
            elif dtype == "float32" and abs(mean[at]) * 2.0**-20 > std[at]:  # too few digits are left, see check_width
                raise ValueError(
                    f"column {shown(column.name, 60)} lies around {mean[at]:g} and varies by {std[at]:g}, too little "
                    "for float32: use dtype='float64', or subtract and divide before"
                )
            at += 1
        else:
            width = len(column.categories)
            mean[at : at + width], std[at : at + width] = 0.0, 1.0
            at += width
    return Standardize(mean.tolist(), std.tolist())
