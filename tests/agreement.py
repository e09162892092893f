"""The agreement table: what each library computes, held against a reference of higher precision.

``python tests/agreement.py`` (``nox -s agree``) prints one row per thing computed and one column per library that is
here: the worst error in float32 and in float64, in the unit of the row, which also has a bar. ``--backend NAME`` for
some of them, ``--markdown FILE`` for a page. ``test_agreement.py`` holds every entry to its bar.

References: 40 digits for functions and losses; NumPy's longdouble for networks and optimizers in float64, float64 for
float32. They are written down anew in ``references.py``; none of them is what a library of the table said.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import references
import tolerances
from libraries import FLOATS, LIBRARIES, Library
from mpmath import mpf

import portnn
from portnn import optimizers, primitives, random
from portnn.activations import ACTIVATIONS, get_activation
from portnn.backends.base import Backend
from portnn.losses import LOSSES, weighted_mean

SIZES = [784, 128, 64, 10]
ROWS_IN_A_LONG_SUM = 60_000


@dataclasses.dataclass(frozen=True)
class Column:
    """A library, eager or with its functions compiled."""

    library: Library
    compiled: bool = False

    @property
    def name(self) -> str:
        """As the table names it."""
        return self.library.name + (" jit" if self.compiled else "")

    def __call__(self, f: Callable[..., Any], *arrays: Any) -> Any:
        """Return f of these arrays, handed to the library and back to the host."""
        given = [self.library.make(a, given_up=True) for a in arrays]
        if self.compiled:
            import jax

            f = jax.jit(f)
        with self.library.backend.scope():
            found = f(*given)
        return tuple(map(self.library.to_numpy, found)) if isinstance(found, tuple) else self.library.to_numpy(found)

    @contextlib.contextmanager
    def chunks(self) -> Iterator[None]:
        """Let ``fit`` run its chunks as it does, or on JAX, which has a column for that, by the plain loop."""
        if self.compiled or self.library.backend_name != "jax":
            yield
            return
        cls = type(self.library.backend)
        compiling = cls.compile_chunk
        cls.compile_chunk = Backend.loop_chunk
        try:
            yield
        finally:
            cls.compile_chunk = compiling

    def model(self, sizes: list[int], dtype: str, **options: Any) -> portnn.MLP:
        """Return a network there."""
        return portnn.MLP(sizes, dtype=dtype, **self.library.where, **options)


def columns(names: list[str] | None = None) -> list[Column]:
    """Return a column per library that is here, and one more for each that compiles."""
    found = []
    for library in LIBRARIES.values():
        plain = library.backend_name == "array_api_strict" and library.name != "array_api_strict"
        asked = not names or any(library.name == n or library.name.startswith(f"{n}-") for n in names)
        if plain or library.readonly or not asked or library.why_not:
            continue
        found.append(Column(library))
        if library.backend_name == "jax":
            found.append(Column(library, compiled=True))
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table: ``measure(column, dtype)`` is the worst error in ``unit``; None where no bar is set."""

    group: str
    name: str
    unit: str
    bar: dict[str, float]
    measure: Callable[[Column, str], float]


ROWS: list[Row] = []


def row(group: str, name: str, unit: str, bar: float | dict[str, float]) -> Callable[..., Any]:
    """Put a measurement into the table."""

    def put(measure: Callable[[Column, str], float]) -> Callable[[Column, str], float]:
        bars = bar if isinstance(bar, dict) else dict.fromkeys(FLOATS, bar)
        ROWS.append(Row(group, name, unit, bars, measure))
        return measure

    return put


def wide(a: np.ndarray) -> np.ndarray:
    """Return ``a`` in a precision higher than its own (on machines whose longdouble has more digits than float64)."""
    return a.astype(np.longdouble if a.dtype == np.float64 else np.float64)


def worst(actual: np.ndarray, exact: np.ndarray, unit: Any) -> float:
    """Return the largest error in ``unit``; infinity for a NaN, or for another shape or dtype than expected."""
    if actual.shape != exact.shape:
        return np.inf
    error = np.abs(wide(actual) - exact) / unit
    return float(np.max(np.where(np.isnan(error), np.inf, error)))


def drawn(seed: int, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return standard normal numbers."""
    return random.normal(random.key(seed), shape, dtype=dtype)


# -- primitives -------------------------------------------------------------------------------------------------------


def product_unit(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """sqrt(n) u |A||B|: the bar of products is four of these."""
    return tolerances.product(a, b, a.dtype) / 4.0


@functools.cache
def affine(dtype: str) -> tuple[np.ndarray, ...]:
    """Return x, weight, bias, dy of a layer of 784 inputs, the inputs all positive."""
    shapes = ((64, 784), (784, 100), (100,), (64, 100))
    x, *others = (drawn(i, shape, dtype) for i, shape in enumerate(shapes))
    return np.abs(x), *others


@row("matrix products", "x weight, 784 terms", "sqrt(n) u |A||B|", tolerances.BARS["product"])
def forward_product(column: Column, dtype: str) -> float:
    x, weight, *_ = affine(dtype)
    y = column(lambda x, w: primitives.linear(x, w)[0], x, weight)
    return worst(y, wide(x) @ wide(weight), product_unit(x, weight))


@row("matrix products", "its pullback: dx, dweight", "sqrt(n) u |A||B|", tolerances.BARS["product"])
def backward_products(column: Column, dtype: str) -> float:
    x, weight, bias, dy = affine(dtype)
    dx, dweight, _ = column(lambda x, w, b, dy: primitives.linear(x, w, b)[1](dy), x, weight, bias, dy)
    return max(
        worst(dx, wide(dy) @ wide(weight).T, product_unit(dy, weight.T)),
        worst(dweight, wide(x).T @ wide(dy), product_unit(x.T, dy)),
    )


@row("matrix products", "members: x weight[m], 3 of them", "sqrt(n) u |A||B|", tolerances.BARS["product"])
def member_products(column: Column, dtype: str) -> float:
    x, weight = affine(dtype)[0], drawn(5, (3, 784, 20), dtype)
    y = column(lambda x, w: primitives.linear(x, w)[0], x, weight)
    return worst(y, wide(x) @ wide(weight), product_unit(x, weight))


def sum_unit(x: np.ndarray) -> np.ndarray:
    """u sum|x|: the bar of long sums is 32 of these."""
    return tolerances.long_sum(x, 0, x.dtype) / 32.0


@row("sums over 60,000 rows", "bias gradient, 60,000 rows", "u sum|x|", tolerances.BARS["long sum"])
def long_sum(column: Column, dtype: str) -> float:
    cases = [np.full((ROWS_IN_A_LONG_SUM, 3), 0.1, dtype), drawn(6, (ROWS_IN_A_LONG_SUM, 5), dtype)]
    return max(worst(column(primitives.sum_rows, x), wide(x).sum(axis=0), sum_unit(x)) for x in cases)


@row("sums over 60,000 rows", "mean loss, 60,000 rows", "u sum|x|", tolerances.BARS["long sum"])
def long_mean(column: Column, dtype: str) -> float:
    x = np.abs(drawn(7, (ROWS_IN_A_LONG_SUM,), dtype))
    one = np.ones(1, dtype)
    mean = column(lambda x, one: weighted_mean(x, one, ROWS_IN_A_LONG_SUM)[0], x, one)
    return worst(mean, wide(x).sum() / ROWS_IN_A_LONG_SUM, sum_unit(x) / ROWS_IN_A_LONG_SUM)


POINTS = np.unique(np.concatenate([np.linspace(-80.0, 80.0, 401), np.linspace(-3.0, 3.0, 100)]))
SLOPES = POINTS[np.abs(POINTS) > 1e-3]  # off the kinks


def value_in_ulps(name: str, column: Column, dtype: str) -> float:
    z = POINTS.astype(dtype)
    exact = references.exact(name, z)
    # z Phi(z) and its like: where Phi is below the normal numbers, its digits are lost
    keep = (exact.high == 0.0) | tolerances.Exact(exact.high / np.maximum(np.abs(z), 1.0)).normal(dtype)
    if name == "gelu_tanh":  # the tail falls like exp(2a): the rounding of 2a alone soon is more than 8 ulp of it
        keep &= z > -2.0
    y = column(lambda z: get_activation(name)(z)[0], z[keep])
    return float(np.max(references.exact(name, z[keep]).ulps(y)))


def slope_in_eps(name: str, column: Column, dtype: str) -> float:
    z = SLOPES.astype(dtype)
    exact = slopes(name, dtype)
    (dz,) = column(lambda z, dy: get_activation(name)(z)[1](dy), z, np.ones_like(z))
    return worst(dz, exact, np.finfo(dtype).eps * float(np.max(np.abs(exact))))


@functools.cache
def slopes(name: str, dtype: str) -> np.ndarray:
    formula, h = references.FORMULAS[name], mpf("1e-18")
    return references.longdouble([references.mp.diff(formula, mpf(float(z)), h=h) for z in SLOPES.astype(dtype)])


for activation in ACTIVATIONS:
    beyond = " above -2" if activation == "gelu_tanh" else ""
    row("activations", f"{activation}, value{beyond}", "ulp", tolerances.ULPS)(
        functools.partial(value_in_ulps, activation)
    )
    row("their derivatives", f"{activation}, derivative", "eps max|f'|", tolerances.BARS["formula"])(
        functools.partial(slope_in_eps, activation)
    )


# -- losses -----------------------------------------------------------------------------------------------------------


@functools.cache
def loss_case(name: str, dtype: str) -> tuple[np.ndarray, ...]:
    """Return outputs, targets, the exact values, and the exact derivatives of their sum."""
    y = (4.0 * drawn(8, (30, 7), dtype)).astype(dtype)
    u = random.uniform(random.key(9), y.shape, dtype=dtype)
    targets = {"cross_entropy": np.arange(30, dtype=np.int32) % 7, "poisson": np.floor(5.0 * u)}
    t = targets.get(name, u if name == "binary_cross_entropy" else drawn(10, y.shape, dtype)).astype(
        np.int32 if name == "cross_entropy" else dtype
    )
    rows = []
    for outputs, target in zip(y, t, strict=True):
        target = int(target) if t.ndim == 1 else [mpf(float(v)) for v in target]
        rows.append(references.loss_row(name, [mpf(float(v)) for v in outputs], target))
    values, derivatives = zip(*rows, strict=True)
    return y, t, references.longdouble(list(values)), references.longdouble(derivatives)


def loss_in_eps(name: str, column: Column, dtype: str) -> float:
    y, t, values, derivatives = loss_case(name, dtype)

    def f(y: Any, t: Any, dvalues: Any) -> tuple[Any, Any]:
        values, vjp = LOSSES[name].pair(y, t)
        return values, vjp(dvalues)[0]

    got = column(f, y, t, np.ones(len(y), dtype))
    eps = float(np.finfo(dtype).eps)
    return max(worst(a, b, eps * float(np.max(np.abs(b)))) for a, b in zip(got, (values, derivatives), strict=True))


for loss in LOSSES:
    row("losses and their derivatives", f"{loss}, value and derivative", "eps max", tolerances.BARS["formula"])(
        functools.partial(loss_in_eps, loss)
    )


# -- gradients --------------------------------------------------------------------------------------------------------


@functools.cache
def classes(n: int, n_features: int) -> tuple[np.ndarray, np.ndarray]:
    """Return samples of ten classes, in [0, 1] and mostly 0 as images are, and their labels."""
    labels = np.arange(n, dtype=np.int32) % 10
    mean = np.maximum(random.normal(random.key(11), (10, n_features)), 0.0)[labels]
    x = np.clip(0.4 * mean + 0.3 * random.normal(random.key(12), (n, n_features)), 0.0, 1.0)
    return x.astype(np.float32), labels


@functools.cache
def first_gradients(dtype: str, hidden: str, members: int) -> list[np.ndarray]:
    """Return the exact gradient of each member."""
    x, labels = classes(128, SIZES[0])
    params = np.atleast_2d(portnn.MLP(SIZES, dtype=dtype, members=members).params)
    if hidden == "relu":
        assert min(references.nearest_kink(SIZES, wide(p), x) for p in params) > 3e-6
    return [references.network_gradient(SIZES, wide(p), x, labels, hidden)[1] for p in params]


def gradient(column: Column, dtype: str, hidden: str, members: int | None) -> np.ndarray:
    """Return the gradient there."""
    x, labels = classes(128, SIZES[0])
    model = column.model(SIZES, dtype, activation=hidden, members=members)
    objective = model.objective("cross_entropy")
    params = column.library.to_numpy(model.params)
    return column(lambda p, x, t: objective(p, x, t, None)[1], params, x.astype(dtype), labels)


def gradient_in_u(hidden: str, members: int | None, column: Column, dtype: str) -> float:
    got = np.atleast_2d(gradient(column, dtype, hidden, members))
    u = 0.5 * float(np.finfo(dtype).eps)
    each = zip(got, first_gradients(dtype, hidden, members or 1), strict=True)
    return max(worst(g, exact, u * float(np.max(np.abs(exact)))) for g, exact in each)


for hidden, members in (("relu", None), ("tanh", None), ("relu", 3)):
    named = f"784-128-64-10 {hidden}" + (f", {members} members" if members else "")
    put = row("gradient of 784-128-64-10", named, "u max|g|", tolerances.BARS["gradient"])
    put(functools.partial(gradient_in_u, hidden, members))


# -- training ---------------------------------------------------------------------------------------------------------

UPDATES = {
    "sgd": (optimizers.SGD(0.1), functools.partial(references.sgd, rate=0.1)),
    "momentum": (optimizers.SGD(0.1, momentum=0.9), functools.partial(references.sgd, rate=0.1, momentum=0.9)),
    "nesterov": (
        optimizers.SGD(0.1, momentum=0.9, nesterov=True),
        functools.partial(references.sgd, rate=0.1, momentum=0.9, nesterov=True),
    ),
    "adam": (optimizers.Adam(0.01), functools.partial(references.adam, rate=0.01)),
    "adamw": (
        optimizers.AdamW(0.01, weight_decay=0.1),
        functools.partial(references.adam, rate=0.01, decay=0.1),
    ),
    "rmsprop": (optimizers.RMSprop(0.01), functools.partial(references.rmsprop, rate=0.01)),
    "adagrad": (optimizers.Adagrad(0.01), functools.partial(references.adagrad, rate=0.01)),
}


def update_in_ulps(name: str, column: Column, dtype: str) -> float:
    """Two updates from zero, so that no digit of the update is lost in the parameter."""
    optimizer, formula = UPDATES[name]
    grads = [drawn(13, (500,), dtype), np.abs(drawn(14, (500,), dtype)) * np.sign(drawn(13, (500,), dtype))]
    start = np.zeros(500, dtype)

    def two(params: Any, *grads: Any) -> Any:
        state = optimizer.init(params)
        for step, grad in enumerate(grads):
            params, state = optimizer.update(params, grad, state, optimizer.row(step), None)
        return params

    exact = formula(wide(start), lambda _, k: wide(grads[k]), 2)
    return worst(column(two, start, *grads), exact, np.finfo(dtype).eps * np.abs(exact))


for name in UPDATES:
    row("optimizer updates", f"{name}, two steps", "eps |update|", tolerances.BARS["update"])(
        functools.partial(update_in_ulps, name)
    )

STEPS, BATCH = 300, 16
RATES = {"sgd": 0.1, "adam": 1e-3}


@functools.cache
def trajectory(optimizer: str, dtype: str, seed: int) -> np.ndarray:
    """Return the parameters after 300 steps in higher precision."""
    x, labels = classes(10 * BATCH, SIZES[0])

    def grad(params: np.ndarray, k: int) -> np.ndarray:
        epoch, batch = divmod(k, 10)
        rows = random.order(0, epoch, len(x))[batch * BATCH :][:BATCH]
        return references.network_gradient(SIZES, params, x[rows], labels[rows], "tanh")[1]

    start = wide(portnn.MLP(SIZES, dtype=dtype, seed=seed).params)
    return {"sgd": references.sgd, "adam": references.adam}[optimizer](start, grad, STEPS, RATES[optimizer])


def run_off(optimizer: str, members: int | None, column: Column, dtype: str) -> float:
    """Train 300 steps by ``fit``, in chunks compiled where the library compiles."""
    x, labels = classes(10 * BATCH, SIZES[0])
    model = column.model(SIZES, dtype, activation="tanh", members=members)
    with column.chunks():
        portnn.fit(
            model,
            x.astype(dtype),
            labels,
            optimizer={"sgd": optimizers.SGD, "adam": optimizers.Adam}[optimizer](RATES[optimizer]),
            epochs=STEPS // 10,
            batch_size=BATCH,
            progress=False,
        )
    got = np.atleast_2d(column.library.to_numpy(model.params))
    return max(worst(p, trajectory(optimizer, dtype, seed), 1.0) for seed, p in enumerate(got))


SGD_BAR, ADAM_BAR = tolerances.BARS["sgd"], tolerances.BARS["adam"]
row("300 steps of SGD", "SGD, 300 steps", "max|d params|", SGD_BAR)(functools.partial(run_off, "sgd", None))
row("300 steps of SGD", "SGD, 300 steps, 2 members", "max|d params|", SGD_BAR)(functools.partial(run_off, "sgd", 2))
row("300 steps of Adam", "Adam, 300 steps", "max|d params|", ADAM_BAR)(functools.partial(run_off, "adam", None))


@functools.cache
def digits() -> tuple[np.ndarray, ...]:
    """Return the embedded digits."""
    return portnn.datasets.load_digits()


@functools.cache
def accuracy_of_the_reference(seed: int) -> float:
    """Return the test accuracy of the same training in float64, in percent."""
    x, labels, xt, tt = digits()
    sizes, per_epoch = [64, 32, 10], len(x) // 50

    def grad(params: np.ndarray, k: int) -> np.ndarray:
        epoch, batch = divmod(k, per_epoch)
        rows = random.order(seed, epoch, 50 * per_epoch)[batch * 50 :][:50]
        return references.network_gradient(sizes, params, x[rows], labels[rows])[1]

    params = portnn.MLP(sizes, dtype="float64", seed=seed).params
    params = references.sgd(params, grad, 10 * per_epoch, 0.1)
    h = np.maximum(xt @ params[: 64 * 32].reshape(64, 32) + params[2048:2080], 0.0)
    return 100.0 * float(np.mean(np.argmax(h @ params[2080:2400].reshape(32, 10) + params[2400:], axis=1) == tt))


@row(
    "test accuracy after 10 epochs",
    "test accuracy, 3 seeds, 10 epochs",
    "percentage points",
    tolerances.BARS["accuracy"],
)
def accuracy(column: Column, dtype: str) -> float:
    x, t, xt, tt = digits()
    n, off = len(x) // 50 * 50, []
    for seed in range(3):
        model = column.model([64, 32, 10], dtype, seed=seed)
        with column.chunks():
            portnn.fit(
                *(model, x[:n], t[:n]), optimizer=portnn.SGD(0.1), batch_size=50, epochs=10, seed=seed, progress=False
            )
        off.append(100.0 * portnn.evaluate(model, xt, tt)["accuracy"] - accuracy_of_the_reference(seed))
    return float(np.max(np.abs(off)))


def fingerprint(column: Column, dtype: str) -> str:
    """Return the SHA-256 of all parameters after a short training."""
    x, labels = classes(500, 784)
    model = column.model([784, 64, 10], dtype)
    with column.chunks():
        portnn.fit(model, x.astype(dtype), labels, epochs=2, batch_size=64, progress=False)
    return hashlib.sha256(column.library.to_numpy(model.params).tobytes()).hexdigest()


@row("SHA-256 of the parameters in 5 runs", "5 runs: different SHA-256", "beyond the first", tolerances.BARS["repeats"])
def repeated(column: Column, dtype: str) -> float:
    return float(len({fingerprint(column, dtype) for _ in range(5)}) - 1)


# -- the table --------------------------------------------------------------------------------------------------------


def measured(rows: list[Row], there: list[Column]) -> dict[str, dict[str, dict[str, float]]]:
    """Return errors by row, column and dtype, in the row's unit."""
    table: dict[str, dict[str, dict[str, float]]] = {}
    for line in rows:
        table[line.name] = {c.name: {d: line.measure(c, d) for d in line.bar} for c in there}
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return table


def largest_difference(there: list[Column]) -> dict[str, tuple[float, str, str]]:
    """Return how far apart any two columns' gradients of 784-128-64-10 are, in u max|g|, and which two."""
    found = {}
    for dtype in FLOATS:
        each = {c.name: gradient(c, dtype, "relu", None) for c in there}
        u = 0.5 * float(np.finfo(dtype).eps) * float(np.max(np.abs(first_gradients(dtype, "relu", 1)[0])))
        pairs = [(worst(each[a], wide(each[b]), u), a, b) for a in each for b in each if a <= b]
        found[dtype] = max(pairs)
    return found


def condensed(rows: list[Row], table: Any) -> tuple[list[Row], Any]:
    """Return one line per group, the worst of its rows."""
    groups = {r.group: [other for other in rows if other.group == r.group] for r in rows}
    short = {}
    for group, members in groups.items():
        names = [r.name for r in members]
        short[group] = {c: {d: max(table[n][c][d] for n in names) for d in members[0].bar} for c in table[names[0]]}
    return [dataclasses.replace(members[0], name=group) for group, members in groups.items()], short


def number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}" if value < 0.01 else f"{value:.2g}" if value < 100 else f"{value:.0f}"


def cell(line: Row, errors: dict[str, float]) -> str:
    """Return both dtypes' errors, marked where they break the bar."""
    return " / ".join(
        "-" if d not in errors else number(errors[d]) + ("" if errors[d] <= line.bar[d] else " !!") for d in FLOATS
    )


def lines(rows: list[Row], table: dict[str, dict[str, dict[str, float]]]) -> Iterator[list[str]]:
    """Return the cells of each line, the heading first."""
    yield ["", "unit", "bar", *next(iter(table.values()))]
    for line in rows:
        bars = sorted(set(line.bar.values()), reverse=True)
        bar = " / ".join(number(line.bar[d]) if d in line.bar else "-" for d in FLOATS) if len(bars) > 1 else ""
        bar = bar or (f"- / {number(bars[0])}" if len(line.bar) == 1 else number(bars[0]))
        yield [line.name, line.unit, bar, *(cell(line, errors) for errors in table[line.name].values())]


def page(there: list[Column], rows: list[Row], table: Any, apart: Any) -> str:
    """Return the table in Markdown, with what it was measured on."""
    head, *body = lines(rows, table)
    text = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    text += ["| " + " | ".join(c.replace("|", "&#124;") for c in cells) + " |" for cells in body]
    versions = ", ".join(sorted({f"{c.library.name} {c.library.backend.version}" for c in there}))
    return "\n".join(
        [*text, "", *told(apart), "", f"Measured with {versions}; Python {platform.python_version()}.", ""]
    )


def told(apart: dict[str, tuple[float, str, str]]) -> list[str]:
    return [
        f"Largest difference between any two gradients of 784-128-64-10 in {dtype}: {number(size)} u max|g| "
        f"({a}, {b}); the bar is {number(tolerances.BARS['gradient'])}."
        for dtype, (size, a, b) in apart.items()
    ]


def main() -> int:
    """Print the table; 1 if an entry breaks its bar."""
    parser = argparse.ArgumentParser(description="Print how far each array library is from references.")
    parser.add_argument("--backend", action="append", metavar="NAME", help="a column (all that are here)")
    parser.add_argument("--rows", metavar="TEXT", help="only rows whose group or name contains TEXT")
    parser.add_argument("--brief", action="store_true", help="one line per group of rows: the worst of them")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table as a page, too")
    options = parser.parse_args()
    there, began = columns(options.backend), time.perf_counter()
    if not there:
        parser.error(f"none of {', '.join(options.backend or LIBRARIES)} can be used here")
    rows = [r for r in ROWS if not options.rows or options.rows in f"{r.group} {r.name}"]
    table = measured(rows, there)
    apart = largest_difference(there) if any("gradient of" in r.group for r in rows) else {}
    if options.brief:
        rows, table = condensed(rows, table)
    cells = list(lines(rows, table))
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    print("worst error in float32 / float64")
    for row_of_cells in cells:
        print("  ".join(c.ljust(w) for c, w in zip(row_of_cells, widths, strict=True)).rstrip())
    print(*told(apart), sep="\n")
    if options.markdown:
        options.markdown.write_text(page(there, rows, table, apart), encoding="utf-8")
    broken = [
        f"{r.name}: {c}: {d}" for r in rows for c in table[r.name] for d in r.bar if not table[r.name][c][d] <= r.bar[d]
    ] + [f"gradients: {d}: {a}, {b}" for d, (size, a, b) in apart.items() if not size <= tolerances.BARS["gradient"]]
    print(f"{len(rows)} rows, {len(there)} columns, {time.perf_counter() - began:.0f} s:", end=" ")
    print("all within the bars" if not broken else f"{len(broken)} BREAK THE BAR: " + "; ".join(broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
