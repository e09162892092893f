"""Rows of ``test_bad_inputs.py``: what is handed wrongly to the core, on every array library.

A row that must work gives the very bits that a plain array gives.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import array_api_strict
import numpy as np
import pytest
from tolerances import assert_same, assert_within, first_gradient

import portnn
from portnn import MLP, SGD, Adagrad, Adam, AdamW, NonFiniteError, RMSprop, schedules
from portnn.backends import get_backend
from portnn.callbacks import CSVLog
from portnn.errors import shown
from portnn.feed import Feed
from portnn.history import History, Reached
from portnn.losses import Loss, cross_entropy, huber

N, FEATURES, CLASSES = 12, 4, 3
X = np.random.default_rng(1).normal(size=(N, FEATURES)).astype("float32")
LABELS = np.arange(N) % CLASSES
TARGETS = np.random.default_rng(2).normal(size=(N, CLASSES)).astype("float32")
NAN, INF = float("nan"), float("inf")


def bits(a: Any) -> str:
    """A fingerprint of the numbers that an argument holds."""
    if not (hasattr(a, "dtype") and hasattr(a, "shape")):
        return repr(a)
    if isinstance(a, np.ndarray):
        return hashlib.sha256(np.asarray(a).tobytes()).hexdigest() if a.dtype != object else repr(a)
    try:
        return hashlib.sha256(get_backend(a).to_numpy(a).tobytes()).hexdigest()
    except (TypeError, ValueError, NotImplementedError):  # such as those of the meta device
        return f"{type(a)} {a.shape}"


def check_message(message: str, lines: int = 1) -> None:
    """Not long, of so many lines at most, and no array in it."""
    assert len(message) <= 500, message
    assert message.count("\n") < lines, message
    assert not re.search(r"\b([Aa]rray|tensor)\([\[\d]|\[\[|(-?\d+\.\d*(e[+-]\d+)?,?\s+){6}", message), (
        f"an array in: {message}"
    )


class Case:
    """A small model on one library, and good arguments for everything that takes some.

    Where something is to be refused, there is more that must not change: the model has batch norm with its running
    statistics, and a fit goes on from a history and has a log on the disk.
    """

    def __init__(self, library: Any, folder: Path, refused: bool = False) -> None:
        self.library, self.make, self.folder = library, library.make, folder
        self.x, self.t = self.make(X), self.make(LABELS)
        self.network_options = {"normalization": "batch"} if refused else {}
        self.history = History(loss=[1.5], epoch_seconds=[0.25])
        self.history.reached = Reached(1, 0, {})
        self.fit_options: dict[str, Any] = {}
        if refused:
            (folder / "log.csv").write_text("epoch,loss\n1,1.5\n")
            self.fit_options = {"resume": self.history, "callbacks": [CSVLog(folder / "log.csv")]}
        self.model = self.network()

    def network(self, *sizes: int, **options: Any) -> MLP:
        sizes = sizes or (FEATURES, 5, CLASSES)
        return MLP(sizes, **{**self.library.where, **self.network_options, **options})

    def state(self) -> list[Any]:
        """What an error must leave as it was: parameters, running statistics, history, files."""
        arrays = [a for a in (self.model.params, self.model.running) if a is not None]
        files = {path.name: path.read_bytes() for path in sorted(self.folder.iterdir()) if path.is_file()}
        return [*map(bits, arrays), self.history.to_dict(), self.history.reached, files]

    def call(self, name: str, x: Any, t: Any, **options: Any) -> Any:
        """Hand ``x``, and what else it wants, to a function of portnn."""
        if name == "fit":
            good = {"epochs": 1, "batch_size": 6, "progress": False, "optimizer": SGD(0.1)}
            options = {**good, **self.fit_options, **options}
            with eagerly(self):
                return portnn.fit(self.model, x, t, **options)
        if name == "evaluate":
            return portnn.evaluate(self.model, x, t, **options)
        if name == "loss_and_grad":
            return self.model.loss_and_grad(x, t, **options)
        return {"predict": partial(portnn.predict, self.model), "call": self.model, "vjp": self.model.vjp}[name](x)


TARGETED = ("fit", "evaluate", "loss_and_grad")
VALUES = (*TARGETED, "predict")  # these look at the values of x
ON_DEVICE = ("loss_and_grad", "call", "vjp")  # these want x where the model is
FROM_HOST = ("fit", "evaluate", "predict")  # these take NumPy's arrays too
ALL = (*VALUES, "call", "vjp")


def eagerly(case: Case) -> contextlib.AbstractContextManager[Any]:
    """Run JAX's steps as they are written: to compile them anew for every row would take minutes."""
    if case.library.backend_name != "jax":
        return contextlib.nullcontext()
    import jax

    return jax.disable_jit()


Attempt = tuple[dict[str, Any], Callable[[], Any]]


class Row(NamedTuple):
    """One row: each of ``attempts(case)``, arguments and a call, must raise ``error``; without one, must return."""

    name: str
    attempts: Callable[[Case], Iterator[Attempt]]
    error: type[Exception] | None = None
    words: str = ""
    where: Callable[[Any], bool] = lambda library: True
    derived: bool = False  # whether an exception of a derived class will do
    lines: int = 1  # that the message may have


def bad(
    number: str, through: tuple[str, ...], change: Callable[[Case], dict], error: Any, words: str, *where: Any
) -> Row:
    """The changed arguments, handed to each of the named functions."""

    def attempts(case: Case) -> Iterator[Attempt]:
        for name in through:
            arguments = {"x": case.x, "t": case.t, **change(case)}
            yield arguments, lambda name=name, arguments=arguments: case.call(name, **arguments)

    return Row(number, attempts, error, words, *where)


def refused(number: str, error: type[Exception], words: str, *calls: Callable[[Case], Any]) -> Row:
    """Calls of any kind."""
    return Row(number, lambda case: (({}, partial(call, case)) for call in calls), error, words)


def works(number: str, check: Callable[[Case], None], *where: Any) -> Row:
    """A function that raises AssertionError where something does not work."""
    return Row(number, lambda case: iter([({}, partial(check, case))]), None, "", *where)


def only(*names: str) -> Callable[[Any], bool]:
    return lambda library: library.backend_name in names


def apart_from(*names: str) -> Callable[[Any], bool]:
    return lambda library: library.backend_name not in names


def changed(a: np.ndarray, index: Any, value: Any, dtype: str | None = None) -> np.ndarray:
    a = a.astype(dtype or a.dtype)
    a[index] = value
    return a


class Sparse:
    """What SciPy's sparse matrices look like from outside."""

    shape, dtype = (N, FEATURES), np.dtype("float32")

    def tocsr(self) -> Sparse:
        return self


class DataFrame:
    """What a table of pandas looks like from outside."""

    shape, columns, dtype = (N, FEATURES), list("abcd"), np.dtype("float32")


class Series:
    """A column of such a table: what an array has, and no columns."""

    shape, dtype, ndim = (N,), np.dtype("int64"), 1


def foreign(case: Case) -> Any:
    """An array of a library that is not the model's."""
    return X.copy() if case.library.backend_name == "array_api_strict" else array_api_strict.asarray(X)


def out_of_reach() -> Any:
    """An array of another library, in memory that the host does not see."""
    return array_api_strict.asarray(X, device=array_api_strict.Device("device1"))


# -- the values of x --------------------------------------------------------------------------------------------------


def value_rows() -> Iterator[Row]:
    """A bad number in x, in an array of the library and in one of NumPy."""
    for number, value, dtype, words in (
        ("1 NaN in x", NAN, "float32", "Input X contains NaN, first at row 3, feature 2"),
        ("1 NaN in float64 x", NAN, "float64", "Input X contains NaN, first at row 3, feature 2"),
        ("2 infinity in x", -INF, "float32", "Input X contains infinity, first at row 3, feature 2"),
        ("37 1e300 into float32", 1e300, "float64", r"too large for dtype\('float32'\), first at row 3, .*1e\+300"),
        ("37 1e39 into float32", 1e39, "float64", r"too large for dtype\('float32'\)"),
        ("48 beyond 2**53", 2**53 + 2, "int64", "loses precision as float32: 9007199254740994 .* row 3, feature 2"),
        ("48 below -2**53", -(2**60), "int64", "loses precision"),
        ("48 unsigned beyond 2**53", 2**63, "uint64", "loses precision"),
    ):
        a = changed(X if dtype[0] == "f" else abs(X), (3, 2), value, dtype)
        yield bad(number, VALUES, lambda c, a=a: {"x": c.make(a)}, ValueError, words)
        yield bad(f"{number}, from the host", FROM_HOST, lambda c, a=a: {"x": a}, ValueError, words)


def layout_rows() -> Iterator[Row]:
    """The same numbers in another layout or dtype: as host arrays, and as arrays of the library."""
    wide = np.random.default_rng(3).normal(size=(N, 40)).astype("float32")
    t = LABELS
    read_only = wide.copy()
    read_only.flags.writeable = False
    host = {
        "41 read-only": read_only,
        "42 Fortran order": np.asfortranarray(wide),
        "43 strided rows": np.repeat(wide, 2, axis=0)[::2],
        "43 strided columns": np.repeat(wide, 3, axis=1)[:, ::3],
        "43 reversed rows": wide[::-1],
        "43 reversed columns": wide[:, ::-1],
        "44 broadcast rows": np.broadcast_to(wide[:1], (N, 40)),
        "44 broadcast columns": np.broadcast_to(wide[:, :1], (N, 40)),
        "45 big-endian float": wide.astype(">f4"),
        "45 big-endian double": wide.astype(">f8"),
        "45 big-endian int": (wide * 9).astype(">i2"),
        "46 float16": wide.astype("float16"),
        "46 longdouble": wide.astype("longdouble"),
        "47 uint8": (abs(wide) * 100).clip(0, 255).astype("uint8"),
        "47 int8": (wide * 40).clip(-128, 127).astype("int8"),
        "47 uint16": (abs(wide) * 9999).astype("uint16"),
        "48 bool": wide > 0,
        "48 int64 up to 2**53": changed(wide, (0, 0), 2**53, "int64"),
        "48 float64": wide.astype("float64") + 1e-9,
    }

    def host_check(case: Case, a: np.ndarray) -> None:
        plain = np.ascontiguousarray(a.astype("float32"))
        before = a.tobytes()
        for given in (a, plain):
            model = case.network(40, 8, CLASSES)
            with eagerly(case):
                history = portnn.fit(model, given, t, epochs=2, batch_size=6, progress=False)
            results = [
                np.asarray(history["loss"]),
                case.library.to_numpy(model.params),
                np.asarray(list(portnn.evaluate(model, given, t).values())),
                portnn.predict(model, given),
            ]
            expected = results if given is a else expected  # noqa: F821  the first of two turns
        for one, other in zip(results, expected, strict=True):
            assert_same(one, other)
        assert results[3].dtype == np.float32
        assert a.tobytes() == before

    for name, a in host.items():
        yield works(f"{name}, from the host", partial(host_check, a=a))

    def native_check(case: Case, change: Callable[[Any, Any], Any], to_the_bit: bool = True) -> None:
        xp = case.library.xp
        x = change(xp, case.make(wide))
        plain = case.make(np.ascontiguousarray(case.library.to_numpy(xp.astype(x, xp.float32))))
        for name in ALL:
            both = []
            for given in (x, plain):
                case.model = case.network(40, 8, CLASSES)
                result = case.call(name, given, case.make(t))
                both.append([*_arrays(case, result), case.library.to_numpy(case.model.params)])
            for one, other in zip(*both, strict=True):
                if to_the_bit:
                    assert_same(one, other)
                else:
                    assert_within(one, other, first_gradient(other, "float32"))

    def transposed(xp: Any, x: Any) -> Any:
        columns = xp.reshape(xp.matrix_transpose(x), (-1,))  # written out column by column
        return xp.matrix_transpose(xp.reshape(columns, (40, N)))

    other_order = {"42 transposed": transposed, "44 broadcast": lambda xp, x: xp.broadcast_to(x[:1, ...], (N, 40))}
    for name, change in other_order.items():
        yield works(name, partial(native_check, change=change, to_the_bit=False))
    for name, change in {
        "43 strided": lambda xp, x: xp.concat([x, x], axis=0)[::2, ...],
        "43 flipped": lambda xp, x: xp.flip(x, axis=0),
        "46 float64": lambda xp, x: xp.astype(x, xp.float64) + 1e-9,
        "47 uint8": lambda xp, x: xp.astype(xp.abs(x) * 60.0, xp.uint8),
        "47 int16": lambda xp, x: xp.astype(x * 60.0, xp.int16),
        "48 bool": lambda xp, x: x > 0.0,
        "56 int64": lambda xp, x: xp.astype(x * 60.0, xp.int64),
    }.items():
        yield works(name, partial(native_check, change=change))
    halves = {"46 bfloat16": "bfloat16", "46 half": "float16"}
    for name, dtype in halves.items():
        change = lambda xp, x, dtype=dtype: x.to(getattr(xp, dtype))  # noqa: E731
        yield works(f"{name} of torch", partial(native_check, change=change), only("torch"))
        change = lambda xp, x, dtype=dtype: x.astype(dtype)  # noqa: E731
        yield works(f"{name} of jax", partial(native_check, change=change), only("jax"))

    def target_check(case: Case, change: Callable[[np.ndarray], np.ndarray], loss: str) -> None:
        weights = np.linspace(0.5, 2.0, N)
        plain = np.arange(N) % 2 if loss != "mse" else TARGETS[:, :2]
        for name in TARGETED:
            both = []
            for f in (change, np.ascontiguousarray):
                case.model = case.network(FEATURES, 2)
                result = case.call(name, case.x, f(plain), sample_weight=f(weights), loss=loss)
                both.append([*_arrays(case, result), case.library.to_numpy(case.model.params)])
            for one, other in zip(*both, strict=True):
                assert_same(one, other)

    for name, change in {
        "41 read-only targets": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
        "42 Fortran targets": np.asfortranarray,
        "43 reversed targets": lambda a: a[::-1].copy()[::-1],
        "43 strided targets": lambda a: np.repeat(a, 2, axis=0)[::2],
        "45 big-endian targets": lambda a: a.astype(a.dtype.newbyteorder(">")),
    }.items():
        yield works(name, partial(target_check, change=change, loss="cross_entropy"))
        yield works(f"{name}, real", partial(target_check, change=change, loss="mse"))
    for dtype in ("uint8", "int8", "int32", "uint64", "bool"):
        change = lambda a, dtype=dtype: a if a.dtype.kind == "f" else a.astype(dtype)  # noqa: E731
        yield works(f"48 {dtype} labels", partial(target_check, change=change, loss="cross_entropy"))


def _arrays(case: Case, result: Any) -> list[np.ndarray]:
    """The numbers in what a function of portnn returned, pullbacks and seconds left out."""
    if isinstance(result, dict):
        return [np.asarray(value) for name, value in result.items() if name != "epoch_seconds"]
    pieces = result if isinstance(result, tuple) else (result,)
    return [case.library.to_numpy(piece) for piece in pieces if not callable(piece)]


# -- shapes, kinds, targets, weights ----------------------------------------------------------------------------------

LATE = np.zeros((9001, FEATURES), "float32")
LATE[9000, 1] = NAN  # not among the first rows that are looked at

SHAPES = [
    bad("1 NaN in a late row", VALUES, lambda c: {"x": c.make(LATE), "t": np.zeros(9001, "int64")}, ValueError,
        "Input X contains NaN, first at row 9000, feature 1"),
    bad("8 no samples", VALUES, lambda c: {"x": c.make(X[:0]), "t": c.make(LABELS[:0])}, ValueError,
        r"Found array with 0 sample\(s\) \(shape=\(0, 4\)\) while a minimum of 1"),
    bad("9 no features", ALL, lambda c: {"x": c.make(X[:, :0])}, ValueError,
        r"0 feature\(s\) \(shape=\(12, 0\)\) while a minimum of 1 is required\."),
    bad("10 one axis", ALL, lambda c: {"x": c.make(X[0])}, ValueError, r"Expected 2D array.*\(4,\).*Reshape your data"),
    bad("10 no axis", ALL, lambda c: {"x": c.make(X[0, 0])}, ValueError, "Expected 2D array, got 0D.*Reshape"),
    bad("11 three axes", ALL, lambda c: {"x": c.make(X[None])}, ValueError, r"dim 3.*\(1, 12, 4\).*flatten"),
    bad("12 lengths differ", TARGETED, lambda c: {"t": c.make(LABELS[:11])}, ValueError,
        r"inconsistent numbers of samples: \[12, 11\]"),
    bad("12 a single target", TARGETED, lambda c: {"t": c.make(1)}, ValueError, "inconsistent numbers of samples"),
    bad("14 features", ALL, lambda c: {"x": c.make(X[:, :2])}, ValueError,
        r"X has 2 features, but MLP is expecting 4 features as input.*\(12, 2\)"),
    bad("30 empty batch", ("loss_and_grad",), lambda c: {"x": c.make(X[:0]), "t": LABELS[:0]}, ValueError,
        "loss_and_grad: empty batch"),
]  # fmt: skip

KINDS = [
    bad("16 complex x", ALL, lambda c: {"x": c.make(X, "complex64")}, ValueError, "Complex data not supported: x"),
    bad("16 complex t", TARGETED, lambda c: {"t": c.make(TARGETS, "complex64")}, ValueError, "Complex data not.*: t"),
    bad("16 complex weights", TARGETED, lambda c: {"sample_weight": c.make(X[:, 0], "complex64")}, ValueError,
        "Complex data not supported: sample_weight"),
    bad("17 strings", ALL, lambda c: {"x": X.astype("U")}, ValueError, "could not convert string to float: x"),
    bad("17 bytes", ALL, lambda c: {"x": X.astype("S")}, ValueError, "could not convert string to float: x"),
    bad("17 objects", ALL, lambda c: {"x": X.astype("O")}, ValueError, "could not convert string to float: x.*'O'"),
    bad("17 dates", ALL, lambda c: {"x": np.zeros((N, FEATURES), "M8[s]")}, ValueError, r"x has dtype .*'<M8\[s\]'"),
    bad("17 records", ALL, lambda c: {"x": np.zeros((N, FEATURES), "f4,i4")}, ValueError, "x has dtype .*'<f4'"),
    bad("17 string labels", TARGETED, lambda c: {"t": LABELS.astype("U")}, ValueError, "string to float: t has dtype"),
    bad("17 object weights", TARGETED, lambda c: {"sample_weight": np.ones(N, "O")}, ValueError, "sample_weight has"),
    bad("18 sparse", ALL, lambda c: {"x": Sparse()}, TypeError, r"Sparse data was passed for x, dense.*x\.toarray\(\)"),
    bad("18 sparse of torch", ALL, lambda c: {"x": c.make(X).to_sparse()}, TypeError, r"Sparse.*dense: x\.to_dense\(\)",
        only("torch")),
    bad("26 masked x", ALL, lambda c: {"x": np.ma.masked_less(X, 0)}, TypeError, r"masked arrays.*x\.filled"),
    bad("26 masked t", TARGETED, lambda c: {"t": np.ma.masked_less(LABELS, 1)}, TypeError, r"masked arrays.*t\.filled"),
    bad("26 masked weights", TARGETED, lambda c: {"sample_weight": np.ma.ones(N)}, TypeError,
        r"masked arrays.*sample_weight\.filled"),
    bad("26 numpy.matrix", ALL, lambda c: {"x": X.view(np.matrix)}, TypeError, r"numpy\.matrix.*numpy\.asarray\(x\)"),
    bad("49 requires_grad x", ALL, lambda c: {"x": c.make(X).requires_grad_()}, TypeError,
        r"x is a torch tensor with requires_grad=True; pass x\.detach\(\)", only("torch")),
    bad("49 requires_grad float64 x", ALL, lambda c: {"x": c.make(X, "float64").requires_grad_()}, TypeError,
        r"x\.detach\(\)", only("torch")),
    bad("49 requires_grad t", TARGETED, lambda c: {"t": c.make(TARGETS).requires_grad_(), "loss": "mse"}, TypeError,
        r"t\.detach\(\)", only("torch")),
    bad("49 requires_grad weights", TARGETED, lambda c: {"sample_weight": c.make(np.ones(N)).requires_grad_()},
        TypeError, r"sample_weight\.detach\(\)", only("torch")),
    bad("51 another library", ON_DEVICE, lambda c: {"x": foreign(c)}, ValueError,
        "x and the parameters must use the same namespace: x is a .* array, the parameters are"),
    bad("51 another library, not the host", FROM_HOST, lambda c: {"x": out_of_reach()}, ValueError,
        "must use the same namespace: x is a array_api_strict array", apart_from("array_api_strict")),
    bad("52 another device", ALL, lambda c: {"x": get_backend("array_api_strict", "device2").asarray(X)}, ValueError,
        r"x is on device device2, the parameters are on (cpu|device1)", only("array_api_strict")),
    bad("52 the meta device", ALL, lambda c: {"x": c.make(X).to("meta")}, ValueError,
        "x is on device meta, the parameters are on", only("torch")),
    bad("52 labels without values", TARGETED, lambda c: {"t": c.make(LABELS).to("meta")}, ValueError,
        "t cannot be copied to the host", only("torch")),
    *(bad(f"53 {name}", ALL, lambda c, a=a: {"x": a}, TypeError, f"x is a {name}, which is not a supported array type")
      for name, a in (("list", X.tolist()), ("DataFrame", DataFrame()), ("NoneType", None), ("str", "x"), ("int", 3))),
    bad("53 list of labels", TARGETED, lambda c: {"t": LABELS.tolist()}, TypeError, "t is a list, which is not a supp"),
    bad("53 Series of labels", TARGETED, lambda c: {"t": Series()}, TypeError,
        r"t is a Series, which is not a supported array type; convert it first, for example numpy\.asarray\(t\)"),
    bad("53 Series of weights", TARGETED, lambda c: {"sample_weight": Series()}, TypeError, "weight is a Series"),
    bad("53 list of weights", TARGETED, lambda c: {"sample_weight": [1.0] * N}, TypeError, "sample_weight is a list"),
]  # fmt: skip

TARGET_ROWS = [
    *(bad(f"{number} in t", TARGETED, lambda c, v=value: {"t": c.make(changed(TARGETS, (4, 1), v, "float64")),
          "loss": "mse"}, ValueError, words)
      for number, value, words in (
          ("3 NaN", NAN, r"Input y contains NaN \(argument t, first at row 4\)"),
          ("4 infinity", INF, r"Input y contains infinity \(argument t, first at row 4\)"),
          ("37 1e300", 1e300, r"Input y contains a value too large for dtype\('float32'\)"),
      )),
    bad("3 NaN as a label", TARGETED, lambda c: {"t": c.make(changed(LABELS, 4, NAN, "float32"))}, ValueError,
        "Input y contains NaN"),
    bad("6 t is None", TARGETED, lambda c: {"t": None}, ValueError,
        "requires y to be passed, but the target y is None"),
    bad("19 label = n_classes", TARGETED, lambda c: {"t": c.make(changed(LABELS, 3, 3))}, ValueError,
        r"label 3 at row 3 out of range \[0, 2\]"),
    bad("19 label 255", TARGETED, lambda c: {"t": c.make(changed(LABELS, 3, 255, "uint8"))}, ValueError,
        "label 255 at row 3"),
    bad("20 label -1", TARGETED, lambda c: {"t": c.make(changed(LABELS, 3, -1))}, ValueError,
        r"label -1 at row 3 out of range \[0, 2\]"),
    bad("21 float labels", TARGETED, lambda c: {"t": c.make(changed(LABELS, 3, 1.5, "float32"))}, TypeError,
        "integer labels"),
    bad("22 one-hot sums to 2", TARGETED, lambda c: {"t": c.make(changed(np.eye(3)[LABELS], 5, [1.0, 1.0, 0.0]))},
        ValueError, "row 5 of t is not a distribution over classes: it sums to 2"),
    bad("22 one-hot of integers", TARGETED, lambda c: {"t": c.make(changed(np.eye(3, dtype="int32")[LABELS], 5, 0))},
        ValueError, "row 5 of t .* sums to 0"),
    bad("22 negative probability", TARGETED, lambda c: {"t": c.make(changed(np.eye(3)[LABELS], 5, [1.5, -0.5, 0.0]))},
        ValueError, "row 5 of t .* lowest is -0.5"),
    bad("22 too few classes", TARGETED, lambda c: {"t": c.make(np.eye(2)[LABELS % 2])}, ValueError,
        r"t has shape \(12, 2\), cross_entropy of .* 3 outputs expects integer labels \(12,\) or \(12, 3\)"),
    bad("22 binary above 1", TARGETED, lambda c: {"t": c.make(changed(abs(np.sign(TARGETS)), (5, 0), 2.0)),
        "loss": "binary_cross_entropy"}, ValueError, r"binary_cross_entropy expects t in \[0, 1\], row 5"),
    bad("22 mse of labels", TARGETED, lambda c: {"loss": "mse"}, ValueError, r"t has shape \(12,\), mse .* \(12, 3\)"),
    bad("23 negative weight", TARGETED, lambda c: {"sample_weight": c.make(changed(X[:, 0] ** 2, 7, -1.0))}, ValueError,
        "sample_weight must be non-negative, got -1"),
    bad("24 weights all zero", TARGETED, lambda c: {"sample_weight": c.make(np.zeros(N))}, ValueError,
        "sample_weight must have at least one non-zero"),
    *(bad(f"25 weight {value}", TARGETED, lambda c, v=value: {"sample_weight": c.make(changed(X[:, 0] ** 2, 7, v))},
          ValueError, "sample_weight contains NaN or infinity") for value in (NAN, INF)),
    *(bad(f"25 weights of shape {shape}", TARGETED, lambda c, s=shape: {"sample_weight": c.make(np.ones(s))},
          ValueError, rf"sample_weight has shape {re.escape(str(shape))}, expected \(12,\)")
      for shape in ((11,), (N, 1), ())),
    *(bad(f"25 class weights {shown(spec)}", TARGETED, lambda c, s=spec: {"class_weight": s}, ValueError, words)
      for spec, words in (
          ([1.0, 2.0], "class_weight must be 3 non-negative finite numbers"), ([1.0, NAN, 1.0], "class_weight must"),
          ([1.0, -1.0, 1.0], "class_weight must"), ([0.0, 0.0, 0.0], "class_weight must .* not all zero"),
          ({0: "a"}, "not all zero; entry 0 is 'a'$"), (["a", "b", "c"], "entry 0 is 'a'$"),
          (3.5, "not all zero; got float$"), ([[1], [1, 2], 3], r"entry 0 is \[1\]$"),
          ({1: 1j}, "entry 1 is 1j$"), ({2: None}, "entry 2 is None"),
          (np.asarray([1, 2j, 1]), r"entry 0 is \(1\+0j\)$"), (np.ones((3, 1)), r"got ndarray of shape \(3, 1\)$"),
          ({3: 1.0}, "class_weight names class 3, the classes are 0 to 2"), ("ballanced", "class_weight .*'balanced'"),
      )),
    *(bad(f"1 validation data: {what}", ("fit",), lambda c, f=change: {"validation_data": f(c)}, ValueError, words)
      for what, change, words in (
          ("NaN", lambda c: (c.make(changed(X, (3, 2), NAN)), c.t), "fit: validation_data: Input X contains NaN"),
          ("labels", lambda c: (c.x, c.make(LABELS + 1)), "fit: validation_data: label 3 at row 2"),
          ("lengths", lambda c: (c.x, c.make(LABELS[1:])), r"fit: validation_data: .* \[12, 11\]"),
      )),
]  # fmt: skip

# -- hyperparameters --------------------------------------------------------------------------------------------------

COUNTS = [
    bad(f"27 {name} {value!r}", ("fit",), lambda c, n=name, v=value: {n: v}, ValueError,
        rf"fit: {name} must be an int in the range \[1, inf\)\. Got {re.escape(repr(value))}")
    for name in ("batch_size", "epochs") for value in (0, -1, 2.5, True, "8", [8])
]  # fmt: skip

SIZES = [
    *(refused(f"31 hidden {hidden!r}", ValueError, rf"hidden_layer_sizes must be > 0, got \[{hidden!r}\]",
              lambda c, h=hidden: c.network(4, h, 3)) for hidden in (0, -3, "a", 2.5, True, None)),
    refused("31 no sizes", ValueError, r"MLP: sizes must name inputs and outputs, such as \[784, 10\], got \[4\]",
            lambda c: c.network(4)),
    refused("31 sizes is a number", TypeError, "sizes must be a sequence .* got 7", lambda c: MLP(7)),
    refused("31 members", ValueError, r"MLP: members must be an int in the range \[1, inf\)",
            *(lambda c, m=m: c.network(members=m) for m in (0, -1, 1.5, True))),
    refused("31 activations", ValueError, "MLP: 3 activations for 1 hidden layers",
            lambda c: c.network(activation=["relu"] * 3)),
    refused("31 biases", ValueError, "MLP: 3 entries in bias for 2 layers", lambda c: c.network(bias=[True] * 3)),
    refused("31 an initializer's shape", ValueError, r"init of layer 0 gave shape \(5, 4\), expected \(4, 5\)",
            lambda c: c.network(init=lambda key, i, o: np.zeros((o, i)))),
]  # fmt: skip

OPTIMIZERS = (SGD, Adam, AdamW, RMSprop, Adagrad)
SCHEDULES: dict[str, dict[str, float]] = {
    "constant": {"learning_rate": 0.1},
    "step_decay": {"learning_rate": 0.1, "every": 5, "factor": 0.5},
    "exponential": {"learning_rate": 0.1, "every": 5, "factor": 0.5},
    "inverse_scaling": {"learning_rate": 0.1, "power": 0.5},
    "cosine": {"learning_rate": 0.1, "steps": 10, "warmup": 1, "final": 0.0},
    "one_cycle": {"learning_rate": 0.1, "steps": 9, "rise": 0.3, "start": 0.1, "final": 0.1},
    "ReduceOnPlateau": {"learning_rate": 0.1, "patience": 3, "threshold": 0.1, "minimum": 0.0},
}
NO_AMOUNT = ("finite number >= 0", (NAN, INF, -0.5, "0.1", 1j, True, None))
NO_COUNT = ("whole number of at least [0-2]", (2.5, "5", -1, True, NAN, None))
RANGES = {  # of the arguments of schedules: what is said, and what is none
    **dict.fromkeys(("learning_rate", "factor", "power", "final", "start", "threshold", "minimum"), NO_AMOUNT),
    **dict.fromkeys(("every", "steps", "warmup", "patience"), NO_COUNT),
    "rise": (r"number in \(0, 1\)", ("a", 0.0, 1.0, NAN, None)),
}
ABOVE = (1.0, 1.5, -0.1, NAN, INF, "a", None, True)
NUMBERS = [
    *(refused(f"33 {kind.__name__} learning_rate {rate!r}", ValueError,
              rf"{kind.__name__}: learning_rate must be a number in \(0, inf\), got {re.escape(repr(rate))}",
              lambda c, k=kind, r=rate: k(r))
      for kind in OPTIMIZERS for rate in (NAN, INF, 0.0, -1.0, "fast", True, None)),
    refused("33 an array of rates", ValueError, r"got ndarray of shape \(2, 500\)", lambda c: SGD(np.ones((2, 500)))),
    *(refused(f"33 no rate of {type(rates).__name__}", ValueError,
              r"SGD: learning_rate must be a number in \(0, inf\), got ",
              lambda c, r=rates: SGD(r)) for rates in ([], (), {0.1}, {0: 0.1}, b"ab", iter([0.1]))),
    *(refused(f"33 rate of a member {rate!r}", ValueError,
              rf"{kind.__name__}: learning_rate\[1\] must be a number in \(0, inf\), got {re.escape(repr(rate))}",
              lambda c, k=kind, r=rate: k([0.1, r]))
      for kind in OPTIMIZERS for rate in (NAN, INF, 0.0, -1.0, "0.1", True, None, [0.1])),
    refused("33 an array with a bad rate", ValueError, r"Adam: learning_rate\[2\] must be .*, got -1.0",
            lambda c: Adam(c.make([1.0, 2.0, -1.0]))),
    refused("33 one plateau for two members", ValueError,
            r"SGD: learning_rate\[0\] and learning_rate\[2\] are one schedule, which observes one loss; make one for",
            lambda c: SGD([p := schedules.ReduceOnPlateau(0.1), 0.1, p])),
    refused("33 a schedule of a member", ValueError, "SGD: the schedule of member 1 gave learning rate -1.0 at step 3",
            lambda c: SGD([0.1, lambda step: -1.0]).rate(3)),
    *(refused(f"34 {kind.__name__} {name} of each member", ValueError, f"{name} must be a number in .*, got ",
              lambda c, k=kind, n=name: k(0.1, **{n: [0.5, 0.6]}))
      for kind, name in ((SGD, "momentum"), (Adam, "beta1"), (AdamW, "eps"), (RMSprop, "decay"))),
    refused("34 a decay of a member", ValueError, r"AdamW: weight_decay\[1\] must be a number in \[0, inf\), got -0.5",
            lambda c: AdamW(weight_decay=[0.0, -0.5])),
    *(bad(f"33 {name} for no members", ("fit",), lambda c, o=optimizer: {"optimizer": o}, ValueError,
          rf"^fit: {name} has 2 entries, the model has no members; give one number, or make it with "
          r"MLP\(\.\.\., members=2\)$")
      for name, optimizer in (("SGD: learning_rate", SGD([0.1, 0.2])),
                              ("AdamW: weight_decay", AdamW(weight_decay=[0.1, 0.2])))),
    refused("33 rates for other members", ValueError,
            r"^fit: Adam: learning_rate has 2 entries, the model has 3 members; give one number, or one entry for each "
            r"of the 3$",
            lambda c: portnn.fit(c.network(members=3), c.x, c.t, optimizer=Adam((0.1, 0.2)))),
    *(bad(f"34 {name} for no members", ("fit", "loss_and_grad"), lambda c, n=name: {n: [0.1, 0.2]}, ValueError,
          rf"^(fit|loss_and_grad): {name} has 2 entries, the model has no members; ") for name in ("l1", "l2")),
    refused("34 l2 of a member", ValueError, r"^fit: l2\[1\] must be a finite number >= 0, got -1.0$",
            lambda c: portnn.fit(c.network(members=2), c.x, c.t, l2=[1.0, -1.0])),
    *(refused(f"33 a schedule that gives {rate}", ValueError, f"the schedule gave learning rate {rate} at step 0",
              lambda c, r=rate: c.call("fit", c.x, c.t, optimizer=SGD(lambda step: r))) for rate in (NAN, -1.0)),
    *(refused(f"33 a schedule that gives {what}", ValueError,
              rf"^SGD: the schedule gives no learning rate at step 0 \({what}: ",
              lambda c, s=schedule: c.call("fit", c.x, c.t, optimizer=SGD(s)))
      for what, schedule in (("TypeError", lambda step: 1j), ("ValueError", lambda step: "fast"))),
    refused("33 a schedule that grows beyond float64", ValueError, "gives no learning rate at step 5 .OverflowError: ",
            lambda c: SGD(schedules.exponential(0.1, 1, 1e300)).rate(5)),
    *(refused(f"33 {argument} of {name}", ValueError, rf"^{name}: {argument} must be a {words}, got ",
              *(lambda c, n=name, g={**good, argument: value}: getattr(schedules, n)(**g) for value in values))
      for name, good in SCHEDULES.items() for argument in good for words, values in (RANGES[argument],)),
    *(refused(f"34 {kind.__name__} {name}", ValueError, rf"{kind.__name__}: {name} must be a number in {interval}, ",
              *(lambda c, k=kind, n=name, v=v: k(0.1, **{n: v}) for v in values))
      for kind, name, interval, values in (
          (SGD, "momentum", r"\[0, 1\)", ABOVE), (RMSprop, "momentum", r"\[0, 1\)", ABOVE),
          (RMSprop, "decay", r"\[0, 1\)", ABOVE), (Adam, "beta1", r"\[0, 1\)", ABOVE),
          (AdamW, "beta2", r"\[0, 1\)", ABOVE),
          *((k, "eps", r"\(0, inf\)", (0.0, -1e-8, NAN, INF)) for k in (Adam, AdamW, RMSprop, Adagrad)),
          (AdamW, "weight_decay", r"\[0, inf\)", (-0.1, NAN, INF)),
      )),
    refused("34 Nesterov without momentum", ValueError, "SGD: nesterov=True wants momentum > 0",
            lambda c: SGD(1, nesterov=True)),
    refused("34 a text for a flag", ValueError,
            r"(nesterov|amsgrad|progress) must be True or False, got ('no'|1.0|None)$",
            *(lambda c, v=v: SGD(0.1, momentum=0.9, nesterov=v) for v in ("no", 1, None)),
            *(lambda c, k=k: k(amsgrad="no") for k in (Adam, AdamW)),
            lambda c: c.call("fit", c.x, c.t, progress="no")),
    *(bad(f"34 {name} {value}", through, lambda c, n=name, v=value: {n: v}, ValueError,
          rf"(fit|loss_and_grad): {name} must be a finite number {sign} 0, got {re.escape(repr(value))}")
      for name, through, sign in (
          ("l1", ("fit", "loss_and_grad"), ">="), ("l2", ("fit", "loss_and_grad"), ">="),
          ("clip_value", ("fit",), ">"), ("clip_norm", ("fit",), ">"),
      ) for value in (-1e-3, NAN, INF, "a")),
    bad("34 no clipping at all", ("fit",), lambda c: {"clip_norm": 0.0}, ValueError, "clip_norm must be .* > 0"),
    *(bad(f"34 label smoothing {s}", TARGETED, lambda c, s=s: {"loss": partial(cross_entropy, label_smoothing=s)},
          ValueError, r"label_smoothing must be in \[0, 1\), got ") for s in (1.0, -0.1, NAN)),
    *(bad(f"34 huber delta {d}", TARGETED, lambda c, d=d: {"t": c.make(TARGETS), "loss": partial(huber, delta=d)},
          ValueError, r"delta must be > 0, got ") for d in (0.0, -1.0, NAN)),
    refused("34 slope of leaky_relu", ValueError, r"slope of leaky_relu must be in \[0, 1\], got 2",
            lambda c: c.network(activation="leaky_relu(2)")),
    *(bad(f"34 validation_split {v}", ("fit",), lambda c, v=v: {"validation_split": v}, ValueError,
          rf"validation_split={v!r} of 12 samples leaves none.*\(0, 1\)") for v in (0.0, 1.0, -0.5, NAN, 0.99)),
    *(bad(f"34 {name} {type(value).__name__}", ("fit",), lambda c, n=name, v=value: {n: v}, ValueError, words)
      for name, value, words in (
          ("validation_split", "0.2", r"fit: validation_split must be a number in \(0, 1\), got '0.2'$"),
          ("validation_split", [0.2], r"must be a number in \(0, 1\), got \[0.2\]$"),
          ("validation_split", np.ones(3), r"must be a number in \(0, 1\), got ndarray of shape \(3,\)$"),
          ("validation_split", True, r"must be a number in \(0, 1\), got True$"),
          ("shuffle", "no", "fit: shuffle must be True, False or a function of the epoch, got 'no'$"),
          ("shuffle", 0.5, "fit: shuffle must be True, False or a function of the epoch, got 0.5$"),
          ("per_batch", "no", "fit: per_batch must be True or False, got 'no'$"),
      )),
]  # fmt: skip

NAMES = [
    refused(f"35 {what} {name!r}", ValueError,
            rf"unknown {what} {name!r}: expected one of '{first}'.*; did you mean '{meant}'\?", call)
    for what, name, first, meant, call in (
        ("activation", "rellu", "identity", "relu", lambda c: c.network(activation="rellu")),
        ("activation", "rellu", "identity", "relu", lambda c: c.network(4, 3, activation="rellu")),
        ("init", "he_norml", "he_normal", "he_normal", lambda c: c.network(init="he_norml")),
        ("loss", "entropy", "cross_entropy", "cross_entropy", lambda c: c.call("evaluate", c.x, c.t, loss="entropy")),
        ("loss", "msee", "cross_entropy", "mse", lambda c: c.call("loss_and_grad", c.x, c.t, loss="msee")),
        ("optimizer", "adamm", "sgd", "adam", lambda c: c.call("fit", c.x, c.t, optimizer="adamm")),
        ("matmul_precision", "tf23", "float32", "tf32", lambda c: c.network(matmul_precision="tf23")),
        ("backend", "nunpy", "numpy", "numpy", lambda c: MLP([2, 1], backend="nunpy")),
        ("backend", "pytorch", "numpy", "torch", lambda c: MLP([2, 1], backend="pytorch")),
    )
] + [
    refused("35 dtype", ValueError, "dtype must be 'float32' or 'float64', got 'float16'",
            lambda c: c.network(dtype="float16"), lambda c: c.network(dtype=np.float16),
            lambda c: c.model.to(dtype="float16")),
    refused("35 a kind of loss", ValueError, "unknown kind of the loss 'm' 'value': expected .*; did you mean 'values'",
            *(lambda c, n=name: c.call(n, c.x, c.t, loss=Loss("m", cross_entropy, "value")) for name in TARGETED)),
    refused("35 an optimizer without update", TypeError, "optimizer must be a name or have init, row and update; got",
            lambda c: c.call("fit", c.x, c.t, optimizer=0.1)),
    refused("35 a very long name", ValueError, r"unknown activation 'xxx.*\.\.\..*: expected",
            lambda c: c.network(activation="x" * 10_000)),
]  # fmt: skip

SEEDS = [
    refused(f"58 seed {seed!r}", ValueError, rf"seed must be .*in \[0, 2\*\*64\).*got {re.escape(repr(seed))}",
            lambda c, s=seed: c.network(seed=s), lambda c, s=seed: c.call("fit", c.x, c.t, seed=s))
    for seed in (-1, "x", 2**64, 1.5, True)
] + [
    refused("58 seeds of members", ValueError, "MLP: 2 seeds for members=3",
            lambda c: c.network(members=3, seed=[1, 2])),
]  # fmt: skip

# -- what is noticed later, and what works ----------------------------------------------------------------------------


def _explodes(case: Case) -> None:
    """36: the error names epoch, batch and layer, and the parameters of the last good step are kept."""
    options = {"epochs": 1, "batch_size": 6, "shuffle": False, "progress": False, "optimizer": SGD(1e30)}
    model, twin = (case.network(activation="identity") for _ in range(2))
    with pytest.raises(
        NonFiniteError, match="fit: epoch 1, batch 2: the outputs of layer 1 are NaN or infinity"
    ) as caught:
        portnn.fit(model, case.x, case.t, **options)
    check_message(str(caught.value))
    portnn.fit(twin, case.make(X[:6]), case.make(LABELS[:6]), **options)
    assert np.isfinite(case.library.to_numpy(model.params)).all()
    kept, expected = case.library.to_numpy(model.params), case.library.to_numpy(twin.params)
    assert_within(kept, expected, first_gradient(expected, "float32"))  # JAX replays a compiled chunk step by step


def _sure_and_wrong(case: Case) -> None:
    """38: logits of +-1e4 give the loss 2e4 or 0, no log(0)."""
    model = case.network(2, 2, init=lambda key, i, o: np.eye(2), dtype="float32")
    x = case.make([[1e4, -1e4], [-1e4, 1e4]], "float32")
    for t, loss in (([0, 1], 0.0), ([1, 0], 2e4), ([0, 0], 1e4)):
        value, grad = model.loss_and_grad(x, case.make(t))
        assert case.library.to_numpy(value) == loss == portnn.evaluate(model, x, case.make(t))["loss"]
        assert np.isfinite(case.library.to_numpy(grad)).all()
    t = case.make([[0.0, 1.0], [1.0, 0.0]], "float32")
    assert portnn.evaluate(model, x, t, loss="binary_cross_entropy")["loss"] == 1e4


def _clips_the_batch(case: Case) -> None:
    """28: a batch larger than the data is clipped, with one warning."""
    twin, case.model = case.network(), case.network()
    with pytest.warns(UserWarning, match="fit: batch_size 99 is larger than the 12 samples") as caught:
        case.call("fit", case.x, case.t, batch_size=99)
    assert len(caught) == 1
    with eagerly(case):
        portnn.fit(twin, case.x, case.t, batch_size=N, epochs=1, progress=False, optimizer=SGD(0.1))
    assert_same(case.library.to_numpy(case.model.params), case.library.to_numpy(twin.params))


def _lonely_sample(case: Case) -> None:
    """29: a last batch of one sample, and a set of one."""
    for n, batch_size in ((7, 6), (1, 1)):
        history = case.call("fit", case.make(X[:n]), case.make(LABELS[:n]), batch_size=batch_size, epochs=2)
        assert np.isfinite(history["loss"]).all()
        assert np.isfinite(case.library.to_numpy(case.model.params)).all()


def _linear_model(case: Case) -> None:
    """32: no hidden layer."""
    model = case.network(FEATURES, CLASSES, init=lambda key, i, o: np.arange(12.0).reshape(4, 3))
    counts = np.arange(8.0, dtype="float32").reshape(2, 4)
    assert_same(case.library.to_numpy(model(case.make(counts))), counts @ np.arange(12, dtype="float32").reshape(4, 3))


def _follows_x(case: Case) -> None:
    """50: targets and weights of another library; everything follows x."""
    weights = np.linspace(0.5, 2.0, N)
    for name in TARGETED:
        results = []
        for t, w in (
            (case.t, case.make(weights)),
            (LABELS, weights),
            tuple(map(array_api_strict.asarray, (LABELS, weights))),
        ):
            case.model = case.network()
            result = case.call(name, case.x, t, sample_weight=w)
            results.append([*_arrays(case, result), case.library.to_numpy(case.model.params)])
        for one, *others in zip(*results, strict=True):
            for other in others:
                assert_same(other, one)


def _out_follows_in(case: Case) -> None:
    """50: predictions come back in the library of x."""
    assert case.library.backend.owns(portnn.predict(case.model, case.x))
    assert type(portnn.predict(case.model, X)) is np.ndarray
    assert_same(portnn.predict(case.model, X), case.library.to_numpy(portnn.predict(case.model, case.x)))


def _numpy_numbers(case: Case) -> None:
    """33, 58: NumPy's scalars are numbers, and do not widen float32."""
    model = case.network(seed=np.int64(3))
    twin = case.network(seed=3)
    options = {"progress": False, "epochs": np.int64(1), "batch_size": np.uint8(6), "seed": np.uint64(2**64 - 1)}
    portnn.fit(
        model, case.x, case.t, optimizer=Adam(np.float64(0.1), beta1=np.float32(0.5)), l2=np.float64(0.1), **options
    )
    portnn.fit(twin, case.x, case.t, optimizer=Adam(0.1, beta1=0.5), l2=0.1, **options)
    assert case.library.dtype_name(model.params) == "float32"
    assert_same(case.library.to_numpy(model.params), case.library.to_numpy(twin.params))


def _huge_weights(case: Case) -> None:
    """25: only the ratios of weights count, however large or small they are in float32."""
    weights = np.linspace(1.0, 2.0, N)
    expected = portnn.evaluate(case.model, case.x, case.t, sample_weight=weights)
    for factor in (2.0**127, 2.0**900, 2.0**-900):
        assert portnn.evaluate(case.model, case.x, case.t, sample_weight=weights * factor) == expected
        loss, grad = case.model.loss_and_grad(case.x, case.t, sample_weight=weights * factor)
        again, same = case.model.loss_and_grad(case.x, case.t, sample_weight=weights)
        assert_same(case.library.to_numpy(loss), case.library.to_numpy(again))
        assert_same(case.library.to_numpy(grad), case.library.to_numpy(same))


def _no_float64(case: Case) -> None:
    """55: a device without float64 gives float32 by default and says so when asked for more."""
    lacking = [
        d for d in case.library.backend.devices() if "float64" not in get_backend(case.library.backend_name, d).dtypes()
    ]
    assert lacking or array_api_strict.__version__ < "2.5", "this version of array_api_strict has such devices"
    for device in lacking:
        model = MLP([FEATURES, CLASSES], backend="array_api_strict", device=device)
        history = portnn.fit(model, X, TARGETS, loss="mse", batch_size=6, epochs=2, progress=False)
        assert history["loss"][1] < history["loss"][0]
        with pytest.raises(ValueError, match=f"array_api_strict on {device} has no float64; use dtype='float32'"):
            MLP([FEATURES, CLASSES], backend="array_api_strict", device=device, dtype="float64")


def _nan_weight(case: Case) -> Iterator[Attempt]:
    """39: one NaN among the parameters."""
    values = case.library.to_numpy(case.model.params)
    values[case.model.layers[1].weight.start + 2] = NAN
    case.model.params = case.make(values)
    for name in FROM_HOST:
        yield {"x": case.x, "t": case.t}, partial(case.call, name, case.x, case.t)
    yield {}, lambda: case.model.save(case.folder / "never-written.safetensors")


WORKS = [
    works("28 batch larger than the data", _clips_the_batch),
    works("29 last batch of one", _lonely_sample),
    works("32 no hidden layer", _linear_model),
    works("33 numbers of NumPy", _numpy_numbers),
    works("25 very large and small weights", _huge_weights),
    works("36 learning rate 1e30", _explodes),
    works("38 logits of 1e4", _sure_and_wrong),
    works("50 targets of another library", _follows_x),
    works("50 predictions for the host", _out_follows_in),
    works("55 no float64", _no_float64, only("array_api_strict")),
    Row("39 NaN in a weight", _nan_weight, ValueError, r"(fit|evaluate|predict|MLP\.save): weights\[1\] of the model"),
]  # fmt: skip

JAX_32 = """
import portnn
model = portnn.MLP([2, 1], backend="jax")
before = bytes(model.params)
for call in (lambda: portnn.MLP([2, 1], backend="jax", dtype="float64"), lambda: model.to(dtype="float64")):
    try:
        print(call())
    except ValueError as error:
        print(error)
assert bytes(model.params) == before and str(model.params.dtype) == "float32"
"""


def _jax_without_x64(case: Case) -> None:
    """54: in a process of its own, since the setting is for the whole of one."""
    done = subprocess.run([sys.executable, "-c", JAX_32], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 2
    for message in said:
        assert message.startswith("jax on cpu:0 has no float64; enable jax_enable_x64 first")
        check_message(message)


def _constant_feature(case: Case) -> None:
    """40: a feature that never changes becomes 0, and nothing is divided by 0."""
    x = np.stack([np.full(N, 7.0), np.arange(N)], axis=1)
    model = MLP([2, 2], inputs=portnn.Standardize.fit(x), init=lambda key, i, o: np.eye(2), **case.library.where)
    y = case.library.to_numpy(model(case.make(x, "float32")))
    assert_same(y[:, 0], np.zeros(N, "float32"))
    assert np.isfinite(y).all()


def _broadcast_parameters(case: Case) -> None:
    """44: a parameter vector with stride 0 is saved as what it shows."""
    model = case.network(3, 2)
    xp = case.library.xp
    model.params = xp.broadcast_to(case.make([0.25], "float32"), (model.n_params,))
    model.save(case.folder / "model.safetensors")
    assert_same(MLP.load(case.folder / "model.safetensors").params, np.full(model.n_params, 0.25, "float32"))


def _out_of_memory(case: Case) -> Iterator[Attempt]:
    """57: the library says that there is no room for a batch; how, differs from one to the next."""
    says = {"torch": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "jax": RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")}  # fmt: skip
    error = says.get(case.library.backend_name, MemoryError("Unable to allocate 9. GiB"))

    def full(*_: Any, **__: Any) -> Any:
        raise error

    for name in FROM_HOST:

        def call(name: str = name) -> None:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Feed, "gather", full)
                patch.setattr(Feed, "chunk", full)
                case.call(name, case.x, case.t)

        yield {"x": case.x, "t": case.t}, call
        case.model(case.x)  # goes on working


WORKS += [
    works("40 constant feature", _constant_feature),
    works("44 broadcast parameters in a file", _broadcast_parameters),
    works("54 JAX without x64", _jax_without_x64, lambda library: library.name == "jax"),
    Row("57 out of memory", _out_of_memory, MemoryError,
        r"(fit|evaluate|predict): out of memory: .* want about \d+ bytes; try (batch_size=3|a batch size of 6)"),
]  # fmt: skip

ROWS = [
    *value_rows(), *SHAPES, *KINDS, *TARGET_ROWS, *COUNTS, *SIZES, *NUMBERS, *NAMES, *SEEDS, *WORKS, *layout_rows()
]  # fmt: skip
