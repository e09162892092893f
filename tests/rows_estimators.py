"""Rows of ``test_bad_inputs.py``: what is handed wrongly to the estimators.

They are fitted before, and must be after an error as they were. On NumPy they are given NumPy's arrays; on the other
libraries the same arrays of theirs, under scikit-learn's dispatch.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import array_api_strict
import numpy as np
import pandas
import pytest
import scipy.sparse
import sklearn
from rows_core import Attempt, Case, Row, bits, changed, only
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from tolerances import assert_same

from portnn import NonFiniteError
from portnn.estimators import MLPClassifier, MLPRegressor
from portnn.feed import Feed

N, FEATURES = 30, 4
X = np.random.default_rng(11).normal(size=(N, FEATURES))
Y = np.arange(N) % 3
TWO = np.asarray(["no", "yes"])[np.arange(N) % 2]
REAL = np.random.default_rng(12).normal(size=N)
WEIGHT = np.linspace(0.5, 2.0, N)
NAN, INF = float("nan"), float("inf")
SMALL = {"hidden_layer_sizes": (3,), "max_iter": 2, "random_state": 0}
LIBRARIES = ("numpy", "array_api_strict", "torch", "jax")
Kind = type[MLPClassifier] | type[MLPRegressor]


def everywhere(library: Any) -> bool:
    return library.name in LIBRARIES


def on_host(library: Any) -> bool:
    return library.name == "numpy"


@contextlib.contextmanager
def dispatch(case: Case) -> Iterator[None]:
    """Let scikit-learn follow arrays of other libraries, and think that so few epochs are enough."""
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "MLPClassifier: too few samples to hold out", UserWarning)
        patch.setitem(os.environ, "SCIPY_ARRAY_API", "1")
        with sklearn.config_context(array_api_dispatch=case.library.backend_name != "numpy"):
            yield


def make(case: Case, a: Any) -> Any:
    """Arrays of numbers as those of the library; labels that are strings have none."""
    plain = isinstance(a, np.ndarray) and type(a) is np.ndarray and a.dtype.kind in "biufc"
    return case.make(a) if plain else a


def fingerprint(estimator: Any) -> dict[str, Any]:
    """What an error must leave as it was; parameters apart, which a row sets."""
    given = estimator.get_params(deep=False)
    given.update(dict.fromkeys(("_callback_fit_ctx", "_skl_callbacks_to_teardown")))  # scikit-learn's own
    kept = {name: value for name, value in vars(estimator).items() if name not in given}
    found = {}
    for name, value in kept.items():
        arrays = value if isinstance(value, list | tuple) else [value]
        found[name] = [
            bits(a) if hasattr(a, "dtype") else a if isinstance(a, int | float | str) else id(a) for a in arrays
        ]
    return found


def row(
    number: str,
    error: type[Exception],
    words: str,
    x: Any = X,
    y: Any = Y,
    weight: Any = None,
    *,
    kind: Kind = MLPClassifier,
    call: str = "fit",
    where: Callable[[Any], bool] = everywhere,
    **params: Any,
) -> Row:
    """An estimator that was fitted, then given ``params`` and called with what is wrong."""

    def attempts(case: Case) -> Iterator[Attempt]:
        with dispatch(case):
            good = REAL if kind is MLPRegressor else Y
            estimator = kind(**SMALL).fit(make(case, X), make(case, good) if kind is MLPRegressor else good)
            for fresh in (False, True):
                if fresh and call != "fit":
                    break
                used = kind(**SMALL) if fresh else estimator
                before = fingerprint(used)
                used.set_params(**params)
                given = [a(case) if callable(a) else make(case, a) for a in (x, y, weight)]
                arguments = {"fit": given, "predict": given[:1], "score": given[:2], "predict_proba": given[:1]}.get(
                    call, given
                )
                yield {"X": given[0], "y": given[1]}, partial(getattr(used, call), *arguments)
                assert fingerprint(used) == before, "an estimator was changed by an error"

    return Row(f"{number} ({kind.__name__[3:].lower()})", attempts, error, words, where, derived=True, lines=8)


def works(number: str, check: Callable[[Case], None], where: Callable[[Any], bool] = everywhere) -> Row:
    def run(case: Case) -> None:
        with dispatch(case):
            check(case)

    return Row(f"{number} (estimators)", lambda case: iter([({}, partial(run, case))]), None, "", where)


both = {"classifier": (MLPClassifier, Y), "regressor": (MLPRegressor, REAL)}

DATA = [
    *(
        row(f"{number}, {call}", ValueError, words, changed(X, (3, 2), value), y, kind=kind, call=call)
        for number, value, words in (
            ("1 NaN in X", NAN, r"^Input X contains NaN"),
            ("2 infinity in X", INF, r"^Input X contains infinity"),
            ("2 -infinity in X", -INF, r"^Input X contains infinity"),
        )
        for kind, y in both.values()
        for call in ("fit", "predict")
    ),
    row("3 NaN in y", ValueError, "^Input y contains NaN", y=changed(Y, 4, NAN, "float64"), where=on_host),
    row("3 NaN in y", ValueError, "^Input y contains NaN", y=changed(REAL, 4, NAN), kind=MLPRegressor),
    row("4 infinity in y", ValueError, "^Input y contains infinity", y=changed(REAL, 4, INF), kind=MLPRegressor),
    row("5 continuous y", ValueError, "Unknown label type: continuous", y=REAL),
    *(
        row("6 y is None", ValueError, "requires y to be passed, but the target y is None", y=None, kind=kind)
        for kind, _ in both.values()
    ),
    *(
        row(f"7 mixed labels, {what}", TypeError, "labels must be all strings or all numbers", y=y, where=on_host)
        for what, y in (
            ("object array", np.asarray([1, "a"] * 15, dtype=object)),
            ("list", [1, "a"] * 15),
            ("tuple", (1.0, "a") * 15),
        )
    ),
    *(
        row(
            f"8 no samples, {call}",
            ValueError,
            r"Found array with 0 sample\(s\) \(shape=\(0, 4\)\) while a minimum of 1",
            X[:0],
            Y[:0],
            call=call,
        )
        for call in ("fit", "predict")
    ),
    row("9 no features", ValueError, r"0 feature\(s\) \(shape=\(30, 0\)\) while a minimum of 1 is required.", X[:, :0]),
    *(
        row(
            f"10 {what}, {call}",
            ValueError,
            r"Expected 2D array, got \dD array instead.*Reshape your data",
            a,
            call=call,
        )
        for what, a in (("one axis", X[0]), ("no axis", X[0, 0:1][0:1].reshape(())))
        for call in ("fit", "predict")
    ),
    row("11 three axes", ValueError, "Found array with dim 3", X.reshape(N, 2, 2)),
    row("12 lengths differ", ValueError, r"inconsistent numbers of samples: \[30, 29\]", y=Y[:29]),
    *(
        row(
            f"14 features, {call}",
            ValueError,
            "X has 2 features, but MLPClassifier is expecting 4 features as input",
            X[:, :2],
            call=call,
        )
        for call in ("predict", "predict_proba", "score")
    ),
    row("16 complex X", ValueError, "Complex data not supported: X has dtype complex128", X + 1j, where=on_host),
    row(
        "16 complex y",
        ValueError,
        "Complex data not supported: y has dtype complex128",
        y=REAL + 1j,
        kind=MLPRegressor,
        where=on_host,
    ),
    row(
        "16 complex weights", ValueError, "Complex data not supported: sample_weight", weight=WEIGHT + 1j, where=on_host
    ),
    *(
        row(f"17 {what}", ValueError, "could not convert string to float", a, where=on_host)
        for what, a in (
            ("strings", np.full((N, FEATURES), "a")),
            ("objects", np.full((N, FEATURES), "a", dtype=object)),
            ("a list", [["a"] * FEATURES] * N),
        )
    ),
    row(
        "23 negative weight", ValueError, "sample_weight must be non-negative, got -1", weight=changed(WEIGHT, 7, -1.0)
    ),
    row("24 weights all zero", ValueError, "sample_weight must have at least one non-zero", weight=0.0 * WEIGHT),
    row("25 weight NaN", ValueError, "Input sample_weight contains NaN", weight=changed(WEIGHT, 7, NAN)),
    row("25 too few weights", ValueError, r"sample_weight has shape \(29,\), expected \(30,\)", weight=WEIGHT[:29]),
    *(
        row(f"26 masked {what}", TypeError, rf"masked arrays are not supported, {what} is one", *given, where=on_host)
        for what, given in (
            ("X", (np.ma.masked_less(X, 0),)),
            ("y", (X, np.ma.masked_less(Y, 1))),
            ("sample_weight", (X, Y, np.ma.masked_less(WEIGHT, 1))),
        )
    ),
    row(
        "37 1e39 into float32",
        ValueError,
        r"too large for dtype\('float32'\)",
        changed(X, (3, 2), 1e39),
        dtype="float32",
    ),
    *(
        row(f"48 beyond 2**53, {what}", ValueError, "loses precision as float64: 9007199254740994", a, where=where)
        for what, a, where in (
            ("array", changed(X, (3, 2), 2**53 + 2, "int64"), everywhere),
            ("list", changed(X, (3, 2), 2**53 + 2, "int64").tolist(), on_host),
        )
    ),
    row(
        "49 requires_grad",
        TypeError,
        r"x\.detach\(\)|X\.detach\(\)",
        lambda c: c.make(X).requires_grad_(),
        where=only("torch"),
    ),
    row(
        "51 another library",
        ValueError,
        r"MLPClassifier.predict\(\) must use the same namespace",
        lambda c: foreign(c),
        call="predict",
        where=lambda library: everywhere(library) and library.name != "numpy",
    ),
    row(
        "52 another device",
        ValueError,
        "same namespace and the same device.*device1",
        lambda c: array_api_strict.asarray(X, device=array_api_strict.Device("device1")),
        call="predict",
        where=lambda library: library.name == "array_api_strict",
    ),
]


def foreign(case: Case) -> Any:
    return X.copy() if case.library.backend_name == "array_api_strict" else array_api_strict.asarray(X)


PARAMETERS = [
    *(
        row(
            f"27 {name} {value!r}",
            ValueError,
            rf"'{name}' .*an int in the range \[1, inf\)\. Got {re.escape(repr(value))} ",
            where=on_host,
            **{name: value},
        )
        for name in ("batch_size", "max_iter")
        for value in (0, -1, 2.5, True)
    ),
    *(
        row(
            f"31 hidden {hidden!r}",
            ValueError,
            rf"hidden_layer_sizes must be > 0, got {re.escape(repr(list(hidden)))}",
            where=on_host,
            hidden_layer_sizes=hidden,
        )
        for hidden in ((0,), (-3,), ("a",), (True,))
    ),
    *(
        row(
            f"33 rate {rate!r}",
            ValueError,
            rf"'learning_rate_init' .* in the range \(0.0, inf\)\. Got {rate!r}",
            where=on_host,
            learning_rate_init=rate,
        )
        for rate in (NAN, INF, 0.0, -1.0)
    ),
    *(
        row(
            f"34 {name} {value!r}",
            ValueError,
            rf"'{name}' .* in the range .*\. Got {re.escape(repr(value))}",
            where=on_host,
            **{name: value},
        )
        for name, value in (  # a momentum of 1 is scikit-learn's, whose numbers are those of these estimators
            ("momentum", 1.5),
            ("momentum", NAN),
            ("beta_1", 1.0),
            ("beta_2", 1.0),
            ("epsilon", 0.0),
            ("epsilon", -1e-8),
            ("alpha", -1.0),
            ("alpha", INF),
            ("alpha", NAN),
            ("validation_fraction", 1.0),
            ("clip_norm", 0.0),
        )
    ),
    row("34 dropout 1", ValueError, r"dropout must be a number in \[0, 1\), got 1.0", where=on_host, dropout=1.0),
    *(
        row(f"35 {name} {value!r}", ValueError, rf"{allowed}.*did you mean '{meant}'\?", where=on_host, **{name: value})
        for name, value, allowed, meant in (
            ("activation", "rellu", "expected one of 'identity'", "relu"),
            ("solver", "admm", "must be a str among", "adam"),
            ("learning_rate", "adaptiv", "must be a str among", "adaptive"),
            ("loss", "cross_entrpy", "must be a str among", "cross_entropy"),
            ("dtype", "float23", "must be a str among", "float32"),
        )
    ),
    row(
        "35 an array as a solver",
        ValueError,
        r"Got ndarray of shape \(1000,\) instead",
        where=on_host,
        solver=np.ones(1000),
    ),
    *(
        row(
            f"58 random_state {seed!r}",
            ValueError,
            "'random_state' parameter of MLPClassifier must be",
            where=on_host,
            random_state=seed,
        )
        for seed in (-1, "x", 2**64)
    ),
    row(
        "60 one sample of a class",
        ValueError,
        "validation set is too small",
        y=np.asarray([0] * 29 + [1]),
        where=on_host,
        early_stopping=True,
    ),
    row("60 few samples", ValueError, "validation set is too small", X[:6], Y[:6], where=on_host, early_stopping=True),
    row(
        "36 learning rate 1e30",
        NonFiniteError,
        "Solver produced non-finite.*epoch 1, batch 2: the outputs of layer 1",
        solver="sgd",
        learning_rate_init=1e30,
        activation="identity",
        batch_size=15,
        dtype="float32",
    ),
    row(
        "36 learning rate 1e30, as scikit-learn says it",
        ValueError,
        "Solver produced non-finite parameter weights",
        where=on_host,
        solver="sgd",
        learning_rate_init=1e30,
        batch_size=15,
        dtype="float32",
    ),
]


def _not_fitted(case: Case) -> Iterator[Attempt]:
    for kind, _ in both.values():
        yield {}, partial(kind().predict, make(case, X))


def _partial_fit(what: str) -> Callable[[Case], Iterator[Attempt]]:
    def attempts(case: Case) -> Iterator[Attempt]:
        fresh = MLPClassifier(**SMALL)
        known = MLPClassifier(**SMALL).partial_fit(X, Y, classes=[0, 1, 2, 3])
        before = fingerprint(known)
        yield (
            {},
            {
                "no classes": partial(fresh.partial_fit, X, Y),
                "a new class": partial(known.partial_fit, X, changed(Y, 3, 7)),
                "changed classes": partial(known.partial_fit, X, Y, classes=list(range(2000))),
                "continuous classes": partial(fresh.partial_fit, X, Y, classes=REAL),
            }[what],
        )
        assert fingerprint(known) == before
        assert not [name for name in vars(fresh) if name.endswith("_")]

    return attempts


def _nan_weight(case: Case) -> Iterator[Attempt]:
    for kind, y in both.values():
        with dispatch(case):
            estimator = kind(**SMALL).fit(X, y)
            estimator.coefs_[1][1, 0] = NAN
            before = fingerprint(estimator)
            words = partial(estimator.set_params(warm_start=True).fit, X, y), partial(estimator.predict, X)
            for call in (*words, partial(estimator.model_.save, case.folder / "never-written")):
                yield {}, call
            assert fingerprint(estimator) == before


def _one_class(case: Case) -> None:
    """13: everything is of the one class, for sure."""
    for label in (3, "only"):
        y = np.full(N, label)
        b = MLPClassifier(**SMALL).fit(make(case, X), make(case, y))
        probabilities = b.predict_proba(make(case, X))
        assert tuple(probabilities.shape) == (N, 1)
        assert_same(np.asarray(case.library.to_numpy(probabilities), "float64"), np.ones((N, 1)))
        predicted = b.predict(make(case, X))
        assert set(np.asarray(predicted if label == "only" else case.library.to_numpy(predicted)).tolist()) == {label}


def _sparse(case: Case) -> None:
    """18: sparse samples are made dense."""
    dense = np.where(abs(X) > 1.0, X, 0.0)
    for kind, y in both.values():
        assert_same(
            kind(**SMALL).fit(scipy.sparse.csr_array(dense), y).coefs_[0], kind(**SMALL).fit(dense, y).coefs_[0]
        )


def _clipped_batch(case: Case) -> None:
    """28: one warning, and the numbers of a batch of all."""
    with pytest.warns(UserWarning, match="batch_size 99 is larger than the 30 samples") as caught:
        a = MLPClassifier(**SMALL, batch_size=99).fit(X, Y)
    assert len([w for w in caught if "batch_size" in str(w.message)]) == 1
    assert_same(a.coefs_[0], MLPClassifier(**SMALL, batch_size=N).fit(X, Y).coefs_[0])


def _lonely_sample(case: Case) -> None:
    """29: a last batch of one sample, and a set of one."""
    for n, batch_size in ((7, 6), (1, 1)):
        for kind, y in both.values():
            b = kind(**SMALL, batch_size=batch_size).fit(make(case, X[:n]), make(case, y[:n]))
            assert np.isfinite(b.loss_)


def _linear(case: Case) -> None:
    """32: no hidden layer."""
    b = MLPRegressor(**{**SMALL, "hidden_layer_sizes": ()}).fit(X, REAL)
    assert_same(b.predict(X), (X @ b.coefs_[0] + b.intercepts_[0])[:, 0])


def _layouts(case: Case) -> None:
    """41 to 45, 47, 48: the same numbers, however they lie in memory: the same network to the bit."""
    read_only = X.copy()
    read_only.flags.writeable = False
    small = (X * 20.0).astype("int16").astype("float64")
    for a, plain in (
        (read_only, X), (np.asfortranarray(X), X), (np.repeat(X, 2, axis=0)[::2], X), (X[::-1], X[::-1].copy()),
        (np.broadcast_to(X[:1], X.shape), np.repeat(X[:1], N, axis=0)), (X.astype(">f8"), X),
        (small.astype(">i2"), small), (abs(small).astype("uint8"), abs(small)),
        (X > 0, (X > 0).astype("float64")), (small.astype("int64"), small),
    ):  # fmt: skip
        before = a.tobytes()
        one, other = MLPClassifier(**SMALL).fit(a, Y), MLPClassifier(**SMALL).fit(plain, Y)
        assert_same(one.coefs_[0], other.coefs_[0])
        assert_same(one.predict_proba(a), other.predict_proba(plain))
        assert one.coefs_[0].dtype.isnative
        assert a.tobytes() == before


def _halves(case: Case) -> None:
    """46: half precision becomes single, never double without a word."""
    half = X.astype("float16")
    single = half.astype("float32")
    tables = [pandas.DataFrame(half, columns=list("abcd"))] if case.library.name == "numpy" else []
    made = [case.make(half)] if case.library.backend_name in ("numpy", "jax", "torch") else []
    if case.library.backend_name == "torch":
        made.append(case.make(single).to(case.library.xp.bfloat16))
    for a in [*tables, *made]:
        b = MLPClassifier(**SMALL).fit(a, Y)
        assert "float32" in str(b.coefs_[0].dtype)
        assert "float32" in str(b.predict_proba(a).dtype)


def _follows_x(case: Case) -> None:
    """50, 56: y and weights of NumPy; what comes back is of the library of X, integers too."""
    for a in (X, (X * 9.0).astype("int32")):
        b = MLPRegressor(**SMALL).fit(case.make(a), REAL, WEIGHT)
        assert case.library.backend.owns(b.predict(case.make(a)))
        assert case.library.backend.owns(b.coefs_[0])


def _tables(case: Case) -> None:
    """53: lists of lists and data frames."""
    plain = MLPClassifier(**SMALL).fit(X, TWO)
    listed = MLPClassifier(**SMALL).fit(X.tolist(), TWO.tolist())
    table = MLPClassifier(**SMALL).fit(pandas.DataFrame(X, columns=list("abcd")), pandas.Series(TWO))
    assert_same(listed.coefs_[0], plain.coefs_[0])
    assert_same(table.coefs_[0], plain.coefs_[0])
    assert listed.predict(X.tolist()).tolist() == plain.predict(X).tolist()


def _seeds(case: Case) -> None:
    """58: integers of NumPy are seeds."""
    a, b = (MLPClassifier(**{**SMALL, "random_state": seed}).fit(X, Y) for seed in (3, np.int64(3)))
    assert_same(a.coefs_[0], b.coefs_[0])


def _out_of_memory(case: Case) -> Iterator[Attempt]:
    """57: as in the core."""
    with dispatch(case):
        b = MLPClassifier(**SMALL).fit(X, Y)

        def full(*_: Any, **__: Any) -> Any:
            raise MemoryError

        for call in (partial(b.fit, X, Y), partial(b.predict, X)):
            before = fingerprint(b)

            def crowded(call: Callable[[], Any] = call) -> None:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(Feed, "gather", full)
                    patch.setattr(Feed, "chunk", full)
                    call()

            yield {}, crowded
            assert fingerprint(b) == before
        b.fit(X, Y)


ROWS = [
    *DATA,
    *PARAMETERS,
    Row("15 not fitted (estimators)", _not_fitted, NotFittedError, "is not fitted yet", on_host),
    *(
        Row(f"59 partial_fit with {what} (estimators)", _partial_fit(what), ValueError, words, on_host, lines=8)
        for what, words in (
            ("no classes", "classes must be passed on the first call to partial_fit"),
            ("a new class", r"`y` has classes not in `self.classes_`: \[7\]"),
            (
                "changed classes",
                r"`classes=\[.*\.\.\..*\]` is not the same as on last call to partial_fit, was: \[0 1 2 3\]",
            ),
        )
    ),
    Row(
        "5 continuous classes in partial_fit (estimators)",
        _partial_fit("continuous classes"),
        ValueError,
        "Unknown label type: continuous",
        on_host,
    ),
    Row("39 NaN in a weight (estimators)", _nan_weight, ValueError, r"weights\[1\] of the model holds NaN", on_host),
    Row(
        "57 out of memory (estimators)",
        _out_of_memory,
        MemoryError,
        r"out of memory: .* want about \d+ bytes; try ",
        on_host,
    ),
    works("13 a single class", _one_class),
    works("18 sparse", _sparse, on_host),
    works("28 batch larger than the data", _clipped_batch, on_host),
    works("29 last batch of one", _lonely_sample),
    works("32 no hidden layer", _linear, on_host),
    works("41 layouts", _layouts, on_host),
    works("46 half precision", _halves),
    works("50 y of NumPy", _follows_x, lambda library: everywhere(library) and library.name != "numpy"),
    works("53 lists and data frames", _tables, on_host),
    works("58 seeds of NumPy", _seeds, on_host),
]
