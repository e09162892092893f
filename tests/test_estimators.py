"""The estimators beside scikit-learn's own: same start, same batches, same numbers."""

from __future__ import annotations

import copy
import functools
import inspect
import itertools
import os
import pickle
import re
import signal
import subprocess
import sys
import warnings
from typing import ClassVar

import numpy as np
import pytest
import sklearn
import sklearn.neural_network as theirs
from scipy import sparse
from sklearn import clone
from sklearn.callback import ScoringMonitor
from sklearn.datasets import load_iris, make_multilabel_classification
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import PoissonRegressor
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_param_validation
from tolerances import BARS, assert_same, assert_within, exchanged, first_gradient

import portnn
from portnn import estimators as ours
from portnn.estimators import descent, losses, updates
from portnn.pure import name_of
from portnn.step import make_step

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # few epochs are enough here

IRIS, SPECIES = load_iris(return_X_y=True)
IRIS = (IRIS - IRIS.mean(axis=0)) / IRIS.std(axis=0)
rng = np.random.default_rng(0)
ORDER = rng.permutation(150)
IRIS, SPECIES = IRIS[ORDER], SPECIES[ORDER]
TWO = np.where(SPECIES == 1, "yes", "no")
MANY, LABELS = make_multilabel_classification(n_samples=90, n_features=6, n_classes=3, random_state=0)
LINEAR = IRIS @ rng.normal(size=(4, 3)) + np.sin(IRIS[:, :1])
COUNTS = rng.poisson(np.exp(0.5 * LINEAR[:, 0]))
WEIGHTS = rng.uniform(0.2, 3.0, size=150)
WIDTH = {"hidden_layer_sizes": (7, 5), "random_state": 0, "max_iter": 12, "batch_size": 32}

# name -> (kind, samples, targets)
PROBLEMS = {
    "two classes": ("MLPClassifier", IRIS, TWO),
    "three classes": ("MLPClassifier", IRIS, SPECIES),
    "labels": ("MLPClassifier", MANY, LABELS),
    "one output": ("MLPRegressor", IRIS, LINEAR[:, 0]),
    "three outputs": ("MLPRegressor", IRIS, LINEAR),
    "counts": ("MLPRegressor", IRIS, COUNTS),
}


def pair(kind, **options):
    return getattr(theirs, kind)(**{**WIDTH, **options}), getattr(ours, kind)(**{**WIDTH, **options})


def assert_equal(a, b, solver="adam"):
    """The same network and history, to the rounding of a few hundred steps."""
    for one, other in zip(a.coefs_ + a.intercepts_, b.coefs_ + b.intercepts_, strict=True):
        assert_within(other, one, BARS["adam"]["float64"])
    assert (a.n_iter_, a.t_, a.n_layers_, a.n_outputs_) == (b.n_iter_, b.t_, b.n_layers_, b.n_outputs_)
    assert a.out_activation_ == b.out_activation_
    assert_within(b.loss_, a.loss_, BARS["adam"]["float64"] * max(1.0, a.loss_))
    if solver != "lbfgs":
        scale = max(1.0, max(a.loss_curve_))
        assert_within(b.loss_curve_, a.loss_curve_, BARS["adam"]["float64"] * scale)
        assert (a.best_loss_ is None) == (b.best_loss_ is None)
        assert a._no_improvement_count == b._no_improvement_count


@pytest.mark.parametrize("kind", ["MLPClassifier", "MLPRegressor"])
def test_parameters_come_in_their_order_with_their_defaults_and_limits(kind):
    of_theirs, of_ours = (list(inspect.signature(getattr(of, kind)).parameters.values()) for of in (theirs, ours))
    same_place = [(p.name, p.default, p.kind) for p in of_ours[: len(of_theirs)]]
    assert same_place == [(p.name, p.default, p.kind) for p in of_theirs]
    assert {p.kind for p in of_ours[len(of_theirs) :]} == {inspect.Parameter.KEYWORD_ONLY}
    limits = [getattr(of, kind)._parameter_constraints for of in (theirs, ours)]
    for name in set(limits[0]) - {"activation", "loss"}:  # of which there are more here
        said = [
            [sorted(re.findall(r"[^\s{},]+", str(limit))) for limit in of[name]] for of in limits
        ]  # sets have no order
        assert said[1] == said[0], name
    check_param_validation(kind, getattr(ours, kind)())


# -- same numbers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_weights_are_those_of_scikit_learn(problem, solver):
    kind, x, y = PROBLEMS[problem]
    options = {"solver": solver, "alpha": 0.01, **({"loss": "poisson"} if problem == "counts" else {})}
    a, b = pair(kind, **options)
    a.fit(x, y), b.fit(x, y)
    assert_equal(a, b, solver)
    for method in ("predict", "predict_proba", "predict_log_proba"):
        if hasattr(a, method):
            one, other = getattr(a, method)(x), getattr(b, method)(x)
            assert type(one) is type(other)
            assert one.dtype == other.dtype
            if one.dtype.kind == "f":
                assert_within(other, one, BARS["adam"]["float64"] * np.maximum(1.0, np.abs(one)))
            else:
                assert_same(other, one)
    assert_within(b.score(x, y), a.score(x, y), BARS["adam"]["float64"])


@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
def test_each_activation_starts_and_moves_as_theirs(activation):
    a, b = pair("MLPClassifier", activation=activation, solver="sgd", learning_rate_init=0.1)
    assert_equal(a.fit(IRIS, SPECIES), b.fit(IRIS, SPECIES))


@pytest.mark.parametrize(
    "options",
    [
        {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.3, "power_t": 0.3},
        {"solver": "sgd", "learning_rate": "adaptive", "tol": 0.05, "n_iter_no_change": 1, "max_iter": 40},
        {"solver": "sgd", "momentum": 0.0},
        {"solver": "sgd", "momentum": 1.0, "learning_rate_init": 1e-4},
        {"solver": "sgd", "nesterovs_momentum": False},
        {"beta_1": 0.0, "beta_2": 0.5, "epsilon": 1e-2},
        {"shuffle": False},
        {"batch_size": "auto"},
        {"alpha": 0.0},
        {"alpha": 30.0},
        {"tol": 0.05, "n_iter_no_change": 2, "max_iter": 100},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_each_option_means_what_it_means_there(options, weighted):
    weight = WEIGHTS if weighted else None
    a, b = pair("MLPRegressor", **options)
    assert_equal(a.fit(IRIS, LINEAR[:, 0], weight), b.fit(IRIS, LINEAR[:, 0], weight))


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("problem", ["two classes", "three classes", "labels", "one output", "counts"])
def test_sample_weights(problem, solver):
    kind, x, y = PROBLEMS[problem]
    a, b = pair(kind, solver=solver, alpha=1.0, **({"loss": "poisson"} if problem == "counts" else {}))
    weight = 100.0 * WEIGHTS[: x.shape[0]]
    assert_equal(a.fit(x, y, weight), b.fit(x, y, weight), solver)


def test_one_weight_for_all_samples():
    a = ours.MLPClassifier(**WIDTH, alpha=30.0).fit(IRIS, TWO, np.full(150, 3.0))
    assert_same(ours.MLPClassifier(**WIDTH, alpha=30.0).fit(IRIS, TWO, 3.0).coefs_[0], a.coefs_[0])


def test_their_coefs_copied_in_go_on_as_theirs_do():
    a, b = pair("MLPClassifier", solver="sgd", shuffle=False, warm_start=True)
    a.fit(IRIS, SPECIES), b.fit(IRIS, SPECIES)
    a.coefs_, a.intercepts_ = [[rng.normal(size=w.shape) for w in of] for of in (a.coefs_, a.intercepts_)]
    b.coefs_, b.intercepts_ = [[w.copy() for w in of] for of in (a.coefs_, a.intercepts_)]
    assert_within(b.predict_proba(IRIS), a.predict_proba(IRIS), exchanged(1.0, 7, np.float64))
    assert_equal(a.fit(IRIS, SPECIES), b.fit(IRIS, SPECIES))


@pytest.mark.parametrize("problem", ["two classes", "labels", "one output", "three outputs"])
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
def test_early_stopping_holds_out_the_same_samples(problem, weighted):
    kind, x, y = PROBLEMS[problem]
    weight = WEIGHTS[: x.shape[0]] if weighted else None
    a, b = pair(kind, early_stopping=True, max_iter=60, learning_rate_init=0.03, n_iter_no_change=4)
    a.fit(x, y, weight), b.fit(x, y, weight)
    assert a.best_loss_ is b.best_loss_ is None
    assert_within(b.validation_scores_, a.validation_scores_, BARS["adam"]["float64"] * 10.0)
    assert_within(b.best_validation_score_, a.best_validation_score_, BARS["adam"]["float64"])
    assert_equal(a, b)


def test_early_stopping_of_many_classes_is_stratified():
    """scikit-learn says so of itself, but stratifies two classes only."""
    y = np.repeat([0, 1, 2], [30, 60, 60])
    seen = []

    class Spy(ours.MLPClassifier):
        def _scored(self, y, targets, weight):
            seen.append(np.bincount(targets))
            return super()._scored(y, targets, weight)

    Spy(early_stopping=True, max_iter=2, validation_fraction=0.2).fit(IRIS, y)
    assert seen[0].tolist() == [6, 12, 12]
    y = np.repeat([0, 1, 2], [1, 60, 89])
    with pytest.warns(UserWarning, match="too few samples to hold out a fraction of each class"):
        Spy(early_stopping=True, max_iter=2).fit(IRIS, y)


def test_the_best_network_of_early_stopping_is_kept():
    b = ours.MLPRegressor(**WIDTH, early_stopping=True, learning_rate_init=0.3, validation_data=(IRIS, LINEAR))
    b.fit(IRIS, LINEAR)
    assert b.validation_scores_[-1] < b.best_validation_score_  # or the test shows nothing
    assert_within(b.score(IRIS, LINEAR), b.best_validation_score_, BARS["adam"]["float64"])
    assert len(b.validation_scores_) == b.n_iter_


def test_warm_start_and_partial_fit_remember_what_theirs_do():
    for solver in ("sgd", "adam"):
        a, b = pair("MLPClassifier", solver=solver, warm_start=True, learning_rate="invscaling")
        for _ in range(3):
            assert_equal(a.fit(IRIS, SPECIES), b.fit(IRIS, SPECIES))
        for _ in range(4):
            a.partial_fit(IRIS, SPECIES), b.partial_fit(IRIS, SPECIES)
            b = pickle.loads(pickle.dumps(b))
            assert_equal(a, b)
    a, b = pair("MLPRegressor")
    for _ in range(4):
        assert_equal(a.partial_fit(IRIS, LINEAR), b.partial_fit(IRIS, LINEAR))


def test_float32_stays_float32():
    for solver in ("adam", "lbfgs"):
        b = ours.MLPClassifier(**WIDTH, solver=solver).fit(IRIS.astype("float32"), SPECIES)
        assert {w.dtype.name for w in (*b.coefs_, *b.intercepts_)} == {"float32"}
        assert b.predict_proba(IRIS.astype("float32")).dtype == np.float32
    assert ours.MLPRegressor(**WIDTH, dtype="float32").fit(IRIS, COUNTS).predict(IRIS).dtype == np.float32
    assert ours.MLPRegressor(**WIDTH, dtype="float64").fit(IRIS.astype("float32"), COUNTS).coefs_[0].dtype == np.float64


def test_lbfgs_computes_in_float64_on_float32_samples(monkeypatch):
    """A loss in float32 moves in steps of 1e-7, from which a line search learns nothing."""
    seen, objective = [], ours.quasi_newton.scipy_objective
    monkeypatch.setattr(
        ours.quasi_newton, "scipy_objective", lambda m, *a, **k: seen.append(m) or objective(m, *a, **k)
    )
    b = ours.MLPClassifier(**WIDTH, solver="lbfgs").fit(IRIS.astype("float32"), SPECIES)
    assert [model.dtype for model in seen] == ["float64"]
    assert b.coefs_[0].dtype == np.float32


def test_poisson_without_hidden_layers_is_the_generalized_linear_model():
    glm = PoissonRegressor(alpha=0, tol=1e-10).fit(IRIS, COUNTS)
    b = ours.MLPRegressor("poisson", (), alpha=0, solver="lbfgs", tol=1e-10, max_iter=2000).fit(IRIS, COUNTS)
    # gradients of 1e-10 over the least curvature of the deviance, some 1e-3 here, times the largest rate's slope
    assert_within(b.predict(IRIS), glm.predict(IRIS), 1e-7 / 1e-3 * glm.predict(IRIS))


def test_the_losses_are_those_that_scikit_learn_reports():
    base = sys.modules["sklearn.neural_network._base"]
    y, t = rng.normal(size=(20, 3)), rng.poisson(1.0, size=(20, 3)).astype(float)
    bits = (t > 0).astype(float)
    for pair_of, value in (
        (losses.reported_squared_error, base.squared_loss(t, y)),
        (losses.half_squared_error, 3 * base.squared_loss(t, y)),
        (losses.half_poisson_deviance, base.poisson_loss(t, np.exp(y))),
    ):
        assert_within(pair_of(y, t)[0].mean(), value, first_gradient(value, np.float64))
    value = base.binary_log_loss(bits, 1.0 / (1.0 + np.exp(-y)))
    assert_within(losses.log_loss_of_labels(y, bits)[0].mean(), value, first_gradient(value, np.float64))


def test_steps_with_these_losses_and_updates_are_known_to_be_equal():
    """Without that NumPy would run them as they are written, and not record them."""

    def step(loss, optimizer):
        return make_step(portnn.MLP([3, 2]), loss, optimizer, per_batch=True)

    for loss in (losses.SQUARED, losses.POISSON, losses.LABELS, losses.CLASSES):
        for optimizers in ((updates.SGD(0.1), updates.SGD(0.2)), (updates.Adam(0.1), updates.Adam(0.2))):
            one, other = (step(loss, optimizer) for optimizer in optimizers)
            assert one == other
            assert one.key is not None
    assert step(losses.SQUARED, updates.Adam(0.1)) != step(losses.SQUARED, portnn.Adam(0.1))
    assert step(losses.SQUARED, updates.SGD(0.1)) != step(losses.POISSON, updates.SGD(0.1))
    mine = portnn.losses.Loss("mine", lambda y, t: losses.half_squared_error(y, t))
    inner = portnn.schedules.constant(0.1)  # a function of portnn's that depends on what it was made with
    assert step(mine, updates.SGD(0.1)).key is None
    assert name_of(inner) is None


@pytest.mark.parametrize("name", ["half_squared_error", "half_poisson_deviance", "log_loss_of_labels"])
def test_the_losses_have_the_derivatives_of_their_values(name):
    t = np.asarray([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    portnn.testing.check_vjp(lambda y: getattr(losses, name)(y, t), (rng.normal(size=(3, 2)),))


def test_updates_follow_theirs():
    stochastic = sys.modules["sklearn.neural_network._stochastic_optimizers"]
    grads = rng.normal(size=(30, 4))
    cases = [
        (stochastic.AdamOptimizer, updates.Adam(0.1, 0.8, 0.9, 1e-3), (0.1, 0.8, 0.9, 1e-3)),
        (stochastic.SGDOptimizer, updates.SGD(0.1, momentum=0.7, nesterov=True), (0.1, "constant", 0.7, True)),
        (stochastic.SGDOptimizer, updates.SGD(0.1, momentum=0.7, nesterov=False), (0.1, "constant", 0.7, False)),
    ]
    for cls, rule, options in cases:
        p, q = [np.ones(4)], np.ones(4)
        optimizer, state = cls(p, *options), rule.init(q)
        for k, g in enumerate(grads):
            optimizer.update_params(p, [g])
            q, state = rule.update(q, g.copy(), state, rule.row(k))
        assert_within(q, p[0], 8.0 * len(grads) * np.finfo(float).eps * np.abs(p[0]).max())


# -- from_sklearn -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_fitted_estimator_of_theirs_becomes_ours(problem, solver):
    kind, x, y = PROBLEMS[problem]
    extra = {"loss": "poisson"} if problem == "counts" else {"learning_rate": "invscaling", "learning_rate_init": 0.02}
    a, _ = pair(kind, solver=solver, **extra)
    a.fit(x, y)
    before = [w.copy() for w in a.coefs_]
    b = ours.from_sklearn(a)
    assert b.get_params().items() >= a.get_params().items()
    assert_equal(a, b, solver)
    assert_within(b.score(x, y), a.score(x, y), BARS["adam"]["float64"])
    for name, value in vars(a).items():  # lists and arrays are copies
        assert vars(b).get(name) is not value or not isinstance(value, list | np.ndarray), name
    if solver != "lbfgs":
        a.partial_fit(x, y), b.partial_fit(x, y)
        assert_equal(a, b)
        assert not np.array_equal(a.coefs_[0], before[0])


@pytest.mark.parametrize("solver", ["sgd", "adam", "lbfgs"])
@pytest.mark.parametrize("problem", ["three classes", "one output"])
def test_what_became_ours_is_fitted_further_and_cloned(problem, solver):
    kind, x, y = PROBLEMS[problem]
    a, _ = pair(kind, solver=solver, warm_start=True)
    b = ours.from_sklearn(a.fit(x, y))
    assert_equal(clone(a).fit(x, y), clone(b).fit(x, y), solver)
    before = b.loss_
    assert_equal(a.fit(x, y), b.fit(x, y), solver)
    assert b.loss_ < before


def test_what_is_not_theirs_is_refused():
    with pytest.raises(TypeError, match="of a pipeline pass the last step"):
        ours.from_sklearn(make_pipeline(theirs.MLPClassifier()))
    with pytest.raises(NotFittedError):
        ours.from_sklearn(theirs.MLPClassifier())


# -- what theirs refuse -----------------------------------------------------------------------------------------------


def test_more_activations_and_one_for_each_layer():
    b = ours.MLPClassifier((6, 5), ["gelu", "leaky_relu(0.1)"], max_iter=3, random_state=0).fit(IRIS, SPECIES)
    a = ours.MLPClassifier((6, 5), "relu", max_iter=3, random_state=0).fit(IRIS, SPECIES)
    described = [portnn.activations.describe_activation(layer.activation) for layer in b.model_.layers]
    assert described == ["gelu", "leaky_relu(0.1)", "identity"]
    assert not np.array_equal(a.coefs_[0], b.coefs_[0])
    own = ours.MLPClassifier((6, 5), portnn.activations.relu, max_iter=3, random_state=0).fit(IRIS, SPECIES)
    assert_same(own.coefs_[0], a.coefs_[0])


def test_a_class_weight_is_a_sample_weight():
    weights = np.where(SPECIES == 1, 5.0, 1.0)
    a = ours.MLPClassifier(**WIDTH).fit(IRIS, SPECIES, weights * WEIGHTS)
    b = ours.MLPClassifier(**WIDTH, class_weight={0: 1, 1: 5, 2: 1}).fit(IRIS, SPECIES, WEIGHTS)
    assert_same(b.coefs_[0], a.coefs_[0])
    some = np.r_[0:20, 50:150]
    counts = np.bincount(SPECIES[some])[SPECIES[some]]
    a = ours.MLPClassifier(**WIDTH).fit(IRIS[some], SPECIES[some], 120 / (3 * counts))
    b = ours.MLPClassifier(**WIDTH, class_weight="balanced").fit(IRIS[some], SPECIES[some])
    assert_within(b.coefs_[0], a.coefs_[0], BARS["adam"]["float64"])


def test_losses_of_portnn_and_of_the_user():
    smoothed = portnn.losses.Loss("smoothed", lambda y, t: portnn.losses.cross_entropy(y, t, 0.2), "classes")
    for loss in (portnn.losses.cross_entropy, smoothed, lambda y, t: portnn.losses.cross_entropy(y, t)[0]):
        b = ours.MLPClassifier(**WIDTH, loss=loss).fit(IRIS, TWO)
        assert (b.n_outputs_, b.out_activation_) == (2, "softmax")
        assert b.predict_proba(IRIS).shape == (150, 2)
        assert set(b.predict(IRIS)) <= {"yes", "no"}
    plain = ours.MLPClassifier(**WIDTH, loss=portnn.losses.cross_entropy).fit(IRIS, SPECIES)
    assert_same(plain.coefs_[0], ours.MLPClassifier(**WIDTH).fit(IRIS, SPECIES).coefs_[0])
    mse = ours.MLPRegressor("mse", **WIDTH, alpha=0.0, solver="lbfgs").fit(IRIS, LINEAR)
    half = ours.MLPRegressor(**WIDTH, alpha=0.0, solver="lbfgs").fit(IRIS, LINEAR)
    assert_within(mse.loss_, 2.0 * half.loss_, 0.5 * half.loss_)  # the same minimum on another scale
    for loss in ("mae", "huber", portnn.losses.huber):
        assert ours.MLPRegressor(loss, **WIDTH).fit(IRIS, LINEAR).predict(IRIS).shape == LINEAR.shape
    own = portnn.losses.Loss("binary", portnn.losses.binary_cross_entropy, "binary")
    assert ours.MLPClassifier(**WIDTH, loss=own).fit(MANY, LABELS).predict_proba(MANY).shape == LABELS.shape


def test_clipping_callbacks_and_validation_data():
    seen = []
    b = ours.MLPRegressor(**WIDTH, clip_norm=1e-3, solver="sgd", momentum=0.0, learning_rate_init=1.0, alpha=0.0)
    b.set_params(callbacks=lambda model, history: seen.append(model.params.copy()), batch_size=150).fit(IRIS, COUNTS)
    steps = [np.linalg.norm(after - before) for before, after in itertools.pairwise(seen)]
    assert_within(steps, np.full(11, 1e-3), 64.0 * np.finfo(float).eps)  # differences of parameters of the order of 1
    stops = ours.MLPClassifier(**WIDTH, callbacks=[lambda model, history: len(history["loss"]) == 3])
    assert stops.fit(IRIS, SPECIES).n_iter_ == 3
    scored = ours.MLPClassifier(**WIDTH, validation_data=(IRIS[:40], TWO[:40])).fit(IRIS[40:], TWO[40:])
    assert len(scored.validation_scores_) == scored.n_iter_ == 12
    assert scored.validation_scores_[-1] == scored.score(IRIS[:40], TWO[:40])


@pytest.mark.parametrize("library_name", ["torch", "jax", "array_api_strict"])
def test_any_backend_trains_the_same_network(library_name):
    pytest.importorskip(library_name)
    a = ours.MLPClassifier(**WIDTH, early_stopping=True).fit(IRIS, TWO)
    b = ours.MLPClassifier(**WIDTH, early_stopping=True, backend=library_name).fit(IRIS, TWO)
    assert b.model_.backend.name == library_name
    assert type(b.coefs_[0]) is np.ndarray
    assert not b.coefs_[0].flags.writeable  # a copy, into which writing would change nothing
    assert_within(b.coefs_[0], a.coefs_[0], BARS["adam"]["float64"])
    assert_same(b.predict(IRIS), a.predict(IRIS))
    again = pickle.loads(pickle.dumps(b)).fit(IRIS, TWO)
    assert_within(again.coefs_[0], a.coefs_[0], BARS["adam"]["float64"])


def test_a_start_of_portnn():
    b = ours.MLPClassifier((6,), init="he_normal", max_iter=1, learning_rate_init=1e-12, random_state=0)
    assert not b.fit(IRIS, TWO).intercepts_[0].round(9).any()
    assert_same(b.coefs_[0], clone(b).fit(IRIS, TWO).coefs_[0])
    assert not np.array_equal(b.coefs_[0], clone(b).set_params(random_state=1).fit(IRIS, TWO).coefs_[0])


# -- in scikit-learn's machinery --------------------------------------------------------------------------------------


def test_sparse_matrices_of_all_kinds():
    thin = np.where(np.abs(IRIS) > 0.7, IRIS, 0.0)
    a = ours.MLPClassifier(**WIDTH, early_stopping=True).fit(thin, TWO)
    for kind in (sparse.csr_matrix, sparse.csc_array, sparse.coo_array):
        b = ours.MLPClassifier(**WIDTH, early_stopping=True).fit(kind(thin), TWO)
        assert_same(b.coefs_[0], a.coefs_[0])
        assert_same(b.predict_proba(kind(thin)), a.predict_proba(thin))


def test_a_sparse_matrix_is_made_dense_in_blocks(monkeypatch):
    b = ours.MLPRegressor(**WIDTH).fit(IRIS, LINEAR)
    expected, heights = b.predict(IRIS), []
    monkeypatch.setattr(ours.samples, "ROWS", 64)
    monkeypatch.setattr(ours.samples, "predict", lambda model, x: heights.append(len(x)) or portnn.predict(model, x))
    assert_within(b.predict(sparse.csr_array(IRIS)), expected, exchanged(expected, 7, np.float64))
    assert heights == [64, 64, 22]


def test_pipelines_searches_and_copies():
    search = GridSearchCV(
        make_pipeline(StandardScaler(), ours.MLPClassifier(**WIDTH)),
        {"mlpclassifier__activation": ["gelu", "relu"], "mlpclassifier__dtype": [None, "float32"]},
        n_jobs=2,
        cv=3,
    ).fit(IRIS, TWO)
    assert len(search.cv_results_["params"]) == 4
    assert not np.isnan(search.cv_results_["mean_test_score"]).any()
    assert cross_val_score(ours.MLPRegressor(**WIDTH), IRIS, COUNTS, cv=3).shape == (3,)
    b = search.best_estimator_[-1]
    for twin in (copy.deepcopy(b), pickle.loads(pickle.dumps(b))):
        assert_same(twin.predict_proba(IRIS), b.predict_proba(IRIS))
        twin.coefs_[0][:] = 0.0  # of the twin alone
        assert np.abs(b.coefs_[0]).max() > 0.0
        assert not np.array_equal(twin.predict_proba(IRIS), b.predict_proba(IRIS))


def test_weights_written_or_replaced_count():
    b = ours.MLPRegressor(**WIDTH).fit(IRIS, COUNTS)
    b.intercepts_[-1][:] += 1.0
    shifted = b.predict(IRIS)
    b.intercepts_[-1] = b.intercepts_[-1] - 1.0
    assert_within(shifted, b.predict(IRIS) + 1.0, exchanged(shifted, 7, np.float64))
    assert_same(pickle.loads(pickle.dumps(b)).predict(IRIS), b.predict(IRIS))


def test_a_shallow_copy_does_not_train_the_original():
    b = ours.MLPRegressor(**WIDTH).fit(IRIS, COUNTS)
    before = b.predict(IRIS)
    copy.copy(b).partial_fit(IRIS, COUNTS)
    assert_same(b.predict(IRIS), before)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_callbacks_of_scikit_learn(solver):
    class Third:
        seen: ClassVar[list] = []

        def setup(self, estimator, context):
            self.seen.append("setup")

        def teardown(self, estimator, context):
            self.seen.append("teardown")

        def on_fit_task_begin(self, estimator, context):
            self.seen.append(f"begin {context.task_name} {context.task_id}")

        def on_fit_task_end(self, estimator, context, *, X, y, fitted_estimator):
            self.seen.append(f"end {context.task_name} {context.task_id}")
            assert fitted_estimator.predict(X).shape == y.shape
            return context.task_name != "fit" and context.task_id == 2

    Third.seen = []
    name = "epoch" if solver == "adam" else "iteration"
    b = ours.MLPClassifier(**WIDTH, solver=solver, callbacks=[Third()]).fit(IRIS, TWO)
    rounds = [f"{what} {name} {i}" for i in range(3) for what in ("begin", "end")]
    assert Third.seen == ["setup", "begin fit 0", *rounds, "end fit 0", "teardown"]
    assert b.n_iter_ == 3
    assert not hasattr(b, "_skl_callbacks")
    monitor = ScoringMonitor(scoring="accuracy")
    b = ours.MLPClassifier(**WIDTH, solver=solver).set_callbacks(monitor).fit(IRIS, TWO)
    scores = monitor.get_logs()
    assert scores is not None
    search = GridSearchCV(b, {"alpha": [0.1, 1.0]}, cv=2).set_callbacks(ScoringMonitor(scoring="accuracy"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert search.fit(IRIS, TWO).best_score_ > 0.3


def test_an_interrupted_fit_keeps_the_last_steps():
    def third(model, history):
        if len(history["loss"]) == 3:
            raise KeyboardInterrupt

    with pytest.warns(UserWarning, match="training interrupted"):
        b = ours.MLPClassifier(**WIDTH, callbacks=third).fit(IRIS, SPECIES)
    a = ours.MLPClassifier(**{**WIDTH, "max_iter": 3}).fit(IRIS, SPECIES)
    assert b.n_iter_ == 3
    assert_same(b.coefs_[0], a.coefs_[0])


def test_verbose_prints_each_epoch(capsys):
    ours.MLPClassifier(**{**WIDTH, "max_iter": 2}, verbose=True, early_stopping=True).fit(IRIS, TWO)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["Iteration", "Validation"] * 2
    ours.MLPClassifier(**{**WIDTH, "max_iter": 2}, verbose=True, solver="lbfgs").fit(IRIS, TWO)
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == ["Iteration 1", "Iteration 2"]


def test_a_warning_says_that_it_has_not_converged():
    for options in ({}, {"solver": "lbfgs"}):
        with pytest.warns(ConvergenceWarning, match="MLPRegressor: ") as warned:
            ours.MLPRegressor(**{**WIDTH, "max_iter": 2}, **options).fit(IRIS, COUNTS)
        assert warned[0].filename == __file__  # the line of the user's


def test_one_class_is_certain():
    b = ours.MLPClassifier(**WIDTH).fit(IRIS, np.full(150, "only"))
    assert set(b.predict(IRIS)) == {"only"}
    assert_same(b.predict_proba(IRIS), np.ones((150, 1)))
    assert_same(b.predict_log_proba(IRIS), np.zeros((150, 1)))


def test_the_logarithm_of_a_probability_that_rounds_to_0_is_finite():
    b = ours.MLPClassifier((), solver="lbfgs", alpha=0.0, max_iter=2).fit([[0.0], [1.0]], [0, 1])
    b.coefs_[0][:] = 2000.0
    assert b.predict_proba([[-1.0]])[0, 1] == 0.0
    assert_within(b.predict_log_proba([[-1.0]])[0, 1], -2000.0 + b.intercepts_[0][0], 1e-10)


# -- what the network may have beside ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "value"), [("dropout", 0.3), ("normalization", "batch"), ("residual", True)])
def test_what_is_handed_on_to_the_network(name, value):
    if name not in inspect.signature(portnn.MLP).parameters:
        with pytest.raises(TypeError, match=name):
            ours.MLPClassifier((6, 6), **{name: value}).fit(IRIS, TWO)
        return
    b = ours.MLPClassifier((6, 6), **{name: value}, max_iter=3, random_state=0).fit(IRIS, TWO)
    plain = ours.MLPClassifier((6, 6), max_iter=3, random_state=0).fit(IRIS, TWO)
    assert not np.array_equal(b.predict_proba(IRIS), plain.predict_proba(IRIS))
    assert_same(pickle.loads(pickle.dumps(b)).predict_proba(IRIS), b.predict_proba(IRIS))


# -- bad input --------------------------------------------------------------------------------------------------------

LBFGS = {"solver": "lbfgs"}
MIXED = np.asarray([1, "a"] * 75, dtype=object)
# what is wrong -> (parameters, X, y, sample_weight, error, message)
BAD = {
    "an activation": ({"activation": "rely"}, IRIS, TWO, None, ValueError, "did you mean 'relu'"),
    "an activation too many": ({"activation": ["relu"]}, IRIS, TWO, None, ValueError, "1 activations for 2 hidden"),
    "a solver": ({"solver": "newton"}, IRIS, TWO, None, ValueError, "'solver' parameter of MLPClassifier"),
    "a layer": ({"hidden_layer_sizes": (0,)}, IRIS, TWO, None, ValueError, "must be > 0, got"),
    "a loss of values": ({"loss": portnn.losses.mse}, IRIS, TWO, None, ValueError, "one of values"),
    "clipping": ({"clip_norm": -1.0}, IRIS, TWO, None, ValueError, "clip_norm"),
    "clipping by lbfgs": ({"clip_norm": 1.0, **LBFGS}, IRIS, TWO, None, ValueError, "takes no clip_norm"),
    "dropout by lbfgs": ({"dropout": 0.5, **LBFGS}, IRIS, TWO, None, ValueError, "one function to minimize"),
    "functions for lbfgs": ({"callbacks": print, **LBFGS}, IRIS, TWO, None, ValueError, "has no epochs"),
    "callbacks": ({"callbacks": [3]}, IRIS, TWO, None, TypeError, "callbacks has 3, .* or sklearn.callback; leave it"),
    "a class of callbacks": (
        {"callbacks": [portnn.callbacks.EarlyStopping]},
        *(IRIS, TWO, None, TypeError),
        r"^MLPClassifier: callbacks has the class EarlyStopping, expected an object of it: EarlyStopping\(...\)$",
    ),
    "validation data": ({"validation_data": (IRIS,)}, IRIS, TWO, None, ValueError, r"must be a pair"),
    "validation labels": ({"validation_data": (IRIS, SPECIES)}, IRIS, SPECIES > 0, None, ValueError, "not in `self.c"),
    "a split": ({"early_stopping": True}, IRIS[:8], TWO[:8], None, ValueError, "test_size = 1 should be greater"),
    "mixed labels": ({}, IRIS, MIXED, None, TypeError, "all strings or all numbers"),
    "continuous labels": ({}, IRIS, LINEAR[:, 0], None, ValueError, "Unknown label type: continuous"),
    "several columns": ({}, IRIS, np.stack([SPECIES, SPECIES], 1), None, ValueError, "MultiOutputClassifier"),
    "a NaN": ({}, np.full((3, 2), np.nan), [0, 1, 0], None, ValueError, "Input X contains NaN"),
    "a mask": ({}, np.ma.masked_array(IRIS, IRIS > 0), TWO, None, TypeError, "masked arrays are not supported"),
    "negative weights": ({}, IRIS, TWO, -WEIGHTS, ValueError, "must be non-negative"),
    "no weights": ({}, IRIS, TWO, 0 * WEIGHTS, ValueError, "at least one non-zero"),
    "too few weights": ({}, IRIS, TWO, WEIGHTS[:9], ValueError, r"sample_weight has shape \(9,\), expected \(150,\)"),
    "huge numbers": (
        {"solver": "sgd"},
        1e300 * IRIS,
        TWO,
        None,
        ValueError,
        "Solver produced non-finite parameter weights",
    ),
    "huge by lbfgs": (LBFGS, 1e300 * IRIS, TWO, None, ValueError, "Solver produced non-finite parameter weights"),
}


def same(a, b):
    """Equal, arrays in lists too; what else an estimator keeps must be the very object of before."""
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, np.ndarray):
        return np.array_equal(a, b)
    return a is b or (isinstance(a, str | int | float | tuple) and a == b)


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_named_and_changes_nothing(what):
    options, x, y, weight, error, message = BAD[what]
    with pytest.raises(error, match=message) as raised:
        ours.MLPClassifier(**{**WIDTH, **options}).fit(x, y, weight)
    assert len(str(raised.value)) < 700
    b = ours.MLPClassifier(**WIDTH).fit(IRIS, TWO)
    before = {
        name: list(value) if isinstance(value, list) else value
        for name, value in vars(b).items()
        if name not in options
    }
    with pytest.raises(error, match=message):
        b.set_params(**options).fit(x, y, weight)
    after = {name: value for name, value in vars(b).items() if name not in options}
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert same(after[name], value), name


def test_a_fit_that_diverges_says_where():
    x = IRIS.copy()
    x[140] = 1e300
    with pytest.raises(descent.DivergedError) as caught:
        ours.MLPRegressor(**WIDTH, solver="sgd", activation="identity").fit(x, LINEAR)
    error, cause = caught.value, caught.value.__cause__
    assert (error.epoch, error.array, error.samples, error.n_samples) == (1, "loss", (140,), 1)
    assert (error.batch, error.layer, error.members) == (cause.batch, cause.layer, cause.members)
    assert error.history is cause.history is not None


@pytest.mark.parametrize(
    ("x", "y", "options", "array", "samples"),
    [
        (IRIS, 1e200 * LINEAR, {}, "loss", 5),
        (IRIS, np.where(np.arange(150) == 7, 1e200, LINEAR[:, 0]), {}, "loss", (7,)),
        (1e300 * IRIS, LINEAR, {}, "loss", 5),
        (IRIS, LINEAR, {"alpha": 1e308}, "params", ()),
        (0.0 * IRIS, LINEAR, {"loss": "mae", "init": lambda key, i, o: np.full((i, o), 1e160)}, "gradient", ()),
    ],
    ids=["targets", "one target", "samples", "a step", "a penalty"],
)
def test_lbfgs_that_diverges_says_where(x, y, options, array, samples):
    with pytest.raises(descent.DivergedError, match=r"^Solver produced non-finite .*solver='lbfgs', after 0 iter") as e:
        ours.MLPRegressor(**WIDTH, solver="lbfgs", **options).fit(x, y)
    error = e.value
    assert (error.array, error.epoch, error.batch, error.history) == (array, None, None, None)
    assert error.samples == samples or len(error.samples) == samples


def test_rates_beyond_the_dtype_are_no_predictions():
    b = ours.MLPRegressor("poisson", (), solver="lbfgs").fit(abs(IRIS), COUNTS)
    x = abs(IRIS)
    x[[3, 40]] = np.sign(b.coefs_[0][:, 0]) * 1e6
    for method in (b.predict, lambda x: b.score(x, COUNTS)):
        with pytest.raises(portnn.NonFiniteError, match=r"^MLPRegressor\.predict: exp\(outputs\) is NaN or inf") as e:
            method(x)
        assert (e.value.array, e.value.samples, e.value.n_samples) == ("predictions", (3, 40), 2)


def test_another_solver_begins_with_an_optimizer_of_its_own():
    b = ours.MLPClassifier(**WIDTH).fit(IRIS, TWO)
    fresh = ours.MLPClassifier(**WIDTH, solver="sgd").partial_fit(IRIS, TWO, classes=["no", "yes"])
    fresh.coefs_, fresh.intercepts_ = ([w.copy() for w in of] for of in (b.coefs_, b.intercepts_))
    del fresh._optimizer
    b.set_params(solver="sgd").partial_fit(IRIS, TWO)
    assert_same(b.coefs_[0], fresh.partial_fit(IRIS, TWO).coefs_[0])


def test_partial_fit_says_what_it_needs():
    b = ours.MLPClassifier(**WIDTH)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        b.partial_fit(IRIS, TWO)
    with pytest.raises(ValueError, match="not in `self"):
        b.partial_fit(IRIS, TWO, classes=["no", "perhaps"])
    assert not [name for name in vars(b) if name.endswith("_")]
    b.partial_fit(IRIS, TWO, classes=["no", "perhaps", "yes"])
    with pytest.raises(ValueError, match="not the same as on last call"):
        b.partial_fit(IRIS, TWO, classes=["no", "yes"])
    with pytest.raises(ValueError, match="early_stopping"):
        b.set_params(early_stopping=True).partial_fit(IRIS, TWO)
    with pytest.raises(ValueError, match="wants all of the data"):
        b.set_params(early_stopping=False, class_weight="balanced").partial_fit(IRIS, TWO)
    assert not hasattr(ours.MLPClassifier(solver="lbfgs"), "partial_fit")
    assert not hasattr(ours.MLPRegressor(solver="lbfgs"), "partial_fit")
    with pytest.raises(ValueError, match="expects y >= 0"):
        ours.MLPRegressor("poisson").fit(IRIS, LINEAR)
    with pytest.raises(ValueError, match="set warm_start=False"):
        ours.MLPRegressor(warm_start=True, max_iter=1).fit(IRIS, COUNTS).set_params(hidden_layer_sizes=3).fit(
            IRIS, COUNTS
        )
    with pytest.raises(NotFittedError):
        ours.MLPRegressor().predict(IRIS)


def test_a_diverging_fit_keeps_its_best_network_with_early_stopping():
    b = ours.MLPRegressor(**WIDTH, early_stopping=True, solver="sgd", learning_rate_init=0.1, activation="identity")
    with pytest.warns(ConvergenceWarning, match="training diverged, the best network is kept"):
        b.fit(IRIS, LINEAR)
    assert np.isnan(b.validation_scores_[-1])
    assert np.isfinite(r2_score(LINEAR, b.predict(IRIS)))
    assert (b.n_iter_, b.loss_curve_) == (1, [b.loss_])
    assert b.history_["loss"] == b.loss_curve_


def test_a_fit_that_diverges_before_any_network_was_scored_is_an_error():
    options = {**WIDTH, "early_stopping": True, "solver": "sgd"}
    a, b = (of.MLPClassifier(**options, learning_rate_init=1e300) for of in (theirs, ours))
    for each in (a, b):
        with pytest.raises(ValueError, match=r"^Solver produced non-finite"), np.errstate(all="ignore"):
            each.fit(1e10 * IRIS, TWO)
    with pytest.raises(NotFittedError):
        b.predict(IRIS)
    b.set_params(learning_rate_init=1e-3, warm_start=True).fit(IRIS, TWO)
    before = b.coefs_[0].copy(), b.loss_
    with pytest.warns(ConvergenceWarning, match="diverged"):  # the best is that of the fit before
        b.set_params(solver="adam", learning_rate_init=1e300).fit(IRIS, TWO)
    assert_same(b.coefs_[0], before[0])
    assert (b.loss_, b.n_iter_) == (before[1], 0)


def test_importing_portnn_does_not_import_scikit_learn():
    code = "import sys, portnn; assert not {'sklearn', 'scipy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys; sys.modules['sklearn'] = None; import portnn.estimators"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'needs scikit-learn 1.9 or later: python -m pip install "scikit-learn>=1.9"' in done.stderr


# -- found in review --------------------------------------------------------------------------------------------------


def few(**options):
    return ours.MLPClassifier(**{"hidden_layer_sizes": (6,), "random_state": 0, "max_iter": 8, **options})


def test_callbacks_of_portnn_are_told_of_begin_and_end(tmp_path):
    stop = portnn.callbacks.EarlyStopping("val_accuracy", patience=2)
    log = portnn.callbacks.CSVLog(tmp_path / "log.csv")
    model = few(max_iter=60, callbacks=[stop, log], validation_data=(IRIS[100:], SPECIES[100:]))
    for _ in range(2):  # the second fit knows nothing of the first
        model.fit(IRIS[:100], SPECIES[:100])
        assert model.n_iter_ == stop.best_epoch + 2
        assert model.score(IRIS[100:], SPECIES[100:]) == stop.best  # what was put back is what predicts
        lines = (tmp_path / "log.csv").read_text().splitlines()
        assert len(lines) == model.n_iter_ + 1
        assert "val_accuracy" in lines[0]


def test_a_network_that_a_list_of_weights_cannot_hold_is_not_moved():
    with pytest.raises(ValueError, match="normalizations or residuals"):
        portnn.exchange.from_sklearn(few(normalization="layer").fit(IRIS, SPECIES))
    mixed = few(hidden_layer_sizes=(6, 5), activation=["gelu", "logistic"]).fit(IRIS, SPECIES)
    moved = portnn.exchange.from_sklearn(mixed)
    assert_same(moved(IRIS), mixed.model_(IRIS))
    assert_same(portnn.exchange.to_sklearn(moved, copy.deepcopy(mixed)).predict_proba(IRIS), mixed.predict_proba(IRIS))


def test_running_statistics_outlive_a_change_of_dtype():
    model = few(normalization="batch", max_iter=40).fit(IRIS * 10.0 + 100.0, SPECIES)
    before = np.asarray(model.model_.running)
    model.partial_fit((IRIS * 10.0 + 100.0).astype("float32"), SPECIES)
    assert np.max(np.abs(np.asarray(model.model_.running) - before)) < 0.5 * np.max(np.abs(before))


def test_weights_of_a_wrong_shape_are_refused():
    model = few(hidden_layer_sizes=(3,)).fit(IRIS, TWO)
    model.coefs_[0] = model.coefs_[0].T.copy()
    with pytest.raises(ValueError, match=r"coefs_\[0\] has shape \(3, 4\), expected \(4, 3\)"):
        model.predict(IRIS)


def test_masks_of_dropout_follow_random_state_and_move_on(monkeypatch):
    from portnn import loop

    seeds, original = [], loop.sample_words
    monkeypatch.setattr(loop, "sample_words", lambda seed, *rest: seeds.append(seed) or original(seed, *rest))
    for state in (1, 2):
        few(dropout=0.5, max_iter=1, random_state=state).fit(IRIS, SPECIES)
    warm = few(dropout=0.5, max_iter=1, warm_start=True, shuffle=False)
    for _ in range(3):
        warm.fit(IRIS, SPECIES)
    assert len(set(seeds)) == len(seeds) == 5


def test_a_random_state_that_is_shared_is_drawn_from_as_by_scikit_learn():
    k = {"hidden_layer_sizes": (5,), "max_iter": 100, "tol": 0.05, "n_iter_no_change": 2}
    states = [np.random.RandomState(0) for _ in range(2)]
    for _ in range(2):
        both = zip((theirs, ours), states, strict=True)
        pair = [of.MLPClassifier(random_state=state, **k).fit(IRIS, TWO) for of, state in both]
        assert pair[0].n_iter_ == pair[1].n_iter_ < 100
        assert_within(pair[1].coefs_[0], pair[0].coefs_[0], 1e-12)


def test_what_model_hands_out_is_a_copy():
    model = few().fit(IRIS, SPECIES)
    before = model.predict_proba(IRIS)
    model.model_.params[:] = 0.0
    assert_same(model.predict_proba(IRIS), before)


def test_partial_fit_weighs_classes_that_a_batch_lacks():
    model = few(class_weight={"no": 2.0}).partial_fit(IRIS, TWO, classes=["no", "yes"])
    model.partial_fit(IRIS[TWO == "yes"], TWO[TWO == "yes"])
    with pytest.raises(ValueError, match="class_weight names 'nay', the classes are"):
        few(class_weight={"nay": 2.0}).fit(IRIS, TWO)
    for value in (None, "a", 1j, -1.0, np.nan):
        message = f"MLPClassifier: class_weight of 'no' must be a finite number >= 0, got {value!r}"
        with pytest.raises(ValueError, match=re.escape(message)):
            few(class_weight={"no": value}).fit(IRIS, TWO)


@pytest.mark.parametrize(
    "change",
    [{"validation_data": (IRIS[:50], SPECIES[:50])}, {"early_stopping": True}, {"early_stopping": False}],
)
def test_parameters_may_be_set_between_fits(change):
    for start in ({}, {"solver": "lbfgs"}, {"early_stopping": True}):
        model = few(warm_start=True, **start).fit(IRIS, SPECIES)
        model.set_params(solver="adam", **change).fit(IRIS, SPECIES)
        assert len(model.loss_curve_) >= 1


def test_the_best_network_of_early_stopping_does_not_outlive_another_solver():
    model = few(early_stopping=True, warm_start=True, random_state=0, max_iter=4).fit(IRIS, SPECIES)
    first, model.best_validation_score_ = model.coefs_[0].copy(), 2.0  # which no other network reaches
    model.set_params(solver="lbfgs", early_stopping=False, max_iter=30).fit(IRIS, SPECIES)
    of_lbfgs = model.coefs_[0].copy()
    model.set_params(solver="adam", early_stopping=True, max_iter=2, learning_rate_init=1e-5).fit(IRIS, SPECIES)
    assert abs(model.coefs_[0] - of_lbfgs).max() < abs(model.coefs_[0] - first).max()


def test_a_callback_that_fails_changes_no_learning_rate():
    def fails(model, history):
        raise RuntimeError

    options = {"solver": "sgd", "learning_rate": "invscaling", "learning_rate_init": 0.1, "shuffle": False}
    models = [few(**options).partial_fit(IRIS, TWO, classes=["no", "yes"]) for _ in range(2)]
    models[0].set_params(callbacks=[fails])
    for _ in range(3):
        with pytest.raises(RuntimeError):
            models[0].partial_fit(IRIS, TWO)
    models[0].set_params(callbacks=None)
    a, b = (model.partial_fit(IRIS, TWO).coefs_[0] for model in models)
    assert_same(a, b)


def test_slips_around_validation_and_moving():
    shared = theirs.MLPClassifier((4,), random_state=np.random.RandomState(0), max_iter=3).fit(IRIS, TWO)
    assert ours.from_sklearn(shared).random_state is not shared.random_state
    with pytest.raises(TypeError, match="is one of portnn's already"):
        ours.from_sklearn(few().fit(IRIS, TWO))
    with pytest.raises(ValueError, match=r"validation_data: .*inconsistent numbers of samples"):
        few(validation_data=(IRIS, SPECIES[:5])).fit(IRIS, SPECIES)
    with pytest.raises(ValueError, match="validation_data: y has 3 columns, expected 1 as in training"):
        ours.MLPRegressor(hidden_layer_sizes=(3,), validation_data=(IRIS, LINEAR)).fit(IRIS, LINEAR[:, 0])
    with pytest.raises(ValueError, match="the weights of one side of the split are all zero"):
        few(early_stopping=True, random_state=1).fit(IRIS, TWO, sample_weight=np.r_[np.ones(3), np.zeros(147)])


RATES = (np.asarray([0.25, 0.0]), np.asarray([0.25, 0.0], dtype="float32"), [0.25, 0.0])


@pytest.mark.parametrize("rates", RATES, ids=["float64", "float32", "list"])
def test_an_array_of_rates_of_dropout(rates):
    model = few(hidden_layer_sizes=(6, 5), dropout=rates, warm_start=True)
    for of in (model.fit(IRIS, SPECIES).fit(IRIS, SPECIES), clone(model).fit(IRIS, SPECIES).partial_fit(IRIS, SPECIES)):
        assert [layer.dropout and layer.dropout.rate for layer in of.model_.layers] == [0.25, None, None]
    with pytest.raises(ValueError, match=r"^MLP: 2 entries in dropout for 1 hidden layer: \[0.25, 0.0\]$"):
        few(dropout=rates).fit(IRIS, SPECIES)
    with pytest.raises(ValueError, match="one function to minimize"):
        few(dropout=rates, solver="lbfgs").fit(IRIS, SPECIES)
    one = few(dropout=np.float64(0.25)).fit(IRIS, SPECIES)
    assert_same(one.coefs_[0], few(dropout=0.25).fit(IRIS, SPECIES).coefs_[0])


JAX_32 = """
import warnings
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from portnn.estimators import MLPClassifier
warnings.simplefilter("error")
warnings.filterwarnings("ignore", category=ConvergenceWarning)
x = np.random.default_rng(0).normal(size=(60, 3))
t = x @ [1.0, 2.0, 3.0] > 0.0
options = {"hidden_layer_sizes": 5, "max_iter": 4, "random_state": 0}
for solver in ("adam", "lbfgs"):
    there = MLPClassifier(**options, solver=solver, backend="jax").fit(x, t)
    here = MLPClassifier(**options, solver=solver).fit(x.astype("float32"), t)
    apart = abs(there.predict_proba(x) - here.predict_proba(x.astype("float32"))).max()
    print(there.model_.dtype, there.coefs_[0].dtype, there.predict_proba(x).dtype, apart < 1e-4)
try:
    MLPClassifier(**options, backend="jax", dtype="float64").fit(x, t)
except ValueError as error:
    print(error)
"""


def test_samples_in_float64_where_jax_has_none():
    """They are trained on in float32, as JAX itself would; float64 is refused where it is asked for."""
    pytest.importorskip("jax", reason="jax is not installed")
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "0"}
    done = subprocess.run([sys.executable, "-c", JAX_32], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    *trained, refused = done.stdout.splitlines()
    assert trained == ["float32 float32 float32 True"] * 2
    assert refused.startswith("jax on cpu:0 has no float64; enable jax_enable_x64 first: ")
    assert refused.endswith("or use dtype='float32'")


def test_columns_in_another_order_are_refused_as_by_scikit_learn():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    frame = pandas.DataFrame(IRIS, columns=["a", "b", "c", "d"])
    turned, renamed = frame[["b", "a", "c", "d"]], frame.rename(columns={"a": "e"})
    for kind, y in (("MLPClassifier", TWO), ("MLPRegressor", COUNTS)):
        models = [model.fit(frame, y) for model in pair(kind)]
        for other in (turned, renamed):
            said = []
            for model in models:
                for call in (
                    model.predict,
                    functools.partial(model.score, y=y),
                    functools.partial(model.partial_fit, y=y),
                ):
                    with pytest.raises(ValueError, match="feature names should match") as caught:
                        call(other)
                    said.append(str(caught.value))
            assert said[:3] == said[3:]
        if kind == "MLPClassifier":
            with pytest.raises(ValueError, match="feature names should match"):
                models[1].predict_proba(turned)
        with pytest.raises(ValueError, match=r"validation_data: .*feature names should match"):
            clone(models[1]).set_params(validation_data=(turned, y)).fit(frame, y)


def test_an_estimator_keeps_what_goes_on_and_no_history():
    """What a fit that goes on needs is in the pickle: the optimizer's arrays, and not the lists of every epoch."""
    b = ours.MLPClassifier(**WIDTH).fit(IRIS, TWO)
    n = b.model_.n_params
    assert {name: a.shape for name, a in b._optimizer.reached.arrays.items()} == {"m": (n,), "v": (n,)}
    twin = pickle.loads(pickle.dumps(b))
    assert not [a for a in vars(twin._optimizer).values() if isinstance(a, dict)]
    assert_same(twin.partial_fit(IRIS, TWO).coefs_[0], b.partial_fit(IRIS, TWO).coefs_[0])


def test_a_callback_that_leaves_nan_is_named():
    def spoils(model, history):
        if len(history["loss"]) == 3:
            model.params = model.params * np.nan

    with pytest.raises(ValueError, match=r"non-finite parameter weights.*\(fit: epoch 3: the callback spoils left NaN"):
        few(callbacks=[spoils]).fit(IRIS, TWO)


# -- what an independent review found ---------------------------------------------------------------------------------

POISSON = portnn.losses.poisson
OF_COUNTS = [POISSON, functools.partial(POISSON), portnn.losses.Loss("p", functools.partial(POISSON))]


@pytest.mark.parametrize("loss", OF_COUNTS, ids=["function", "partial", "Loss of a partial"])
def test_a_loss_of_counts_is_known_however_it_is_given(loss):
    b = ours.MLPRegressor(loss, **WIDTH).fit(IRIS, COUNTS)
    assert b.out_activation_ == "exp"
    assert_within(b.predict(IRIS), np.exp(b.model_(IRIS)[:, 0]), 8.0 * np.finfo(float).eps * b.predict(IRIS))
    with pytest.raises(ValueError, match="expects y >= 0, row 3 is negative"):
        ours.MLPRegressor(loss, **WIDTH).fit(IRIS, np.where(np.arange(150) == 3, -1, COUNTS))
    with pytest.raises(ValueError, match="one of values, expected one of classes"):
        ours.MLPClassifier(**WIDTH, loss=loss).fit(IRIS, TWO)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_early_stopping_scores_as_theirs_whatever_a_class_weighs(n_classes):
    """Of one learning rate so small that both networks stay at the start: the scores are of the same predictions."""
    y = np.minimum(SPECIES, n_classes - 1)
    options = {"early_stopping": True, "learning_rate_init": 1e-12, "max_iter": 2}
    a, b = pair("MLPClassifier", **options)
    b.set_params(class_weight={0: 1, 1: 50})
    a.fit(IRIS, y, WEIGHTS), b.fit(IRIS, y, WEIGHTS)
    if n_classes == 2:  # of more, other samples are held out, see above
        assert_within(b.validation_scores_, a.validation_scores_, 8.0 * np.finfo(float).eps)
    plain = ours.MLPClassifier(**{**WIDTH, **options}).fit(IRIS, y, WEIGHTS)
    assert b.validation_scores_ == plain.validation_scores_
    assert b.loss_ != plain.loss_


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_linear_model_starts_as_theirs_with_any_activation(solver):
    for activation in ("logistic", "tanh"):
        a, b = pair("MLPClassifier", hidden_layer_sizes=(), activation=activation, solver=solver, max_iter=3)
        assert_equal(a.fit(IRIS, TWO), b.fit(IRIS, TWO), solver)
    one = ours.MLPClassifier(**{**WIDTH, "hidden_layer_sizes": (), "activation": "sigmoid"}).fit(IRIS, TWO)
    two = ours.MLPClassifier(**{**WIDTH, "hidden_layer_sizes": (), "activation": "logistic"}).fit(IRIS, TWO)
    assert_same(one.coefs_[0], two.coefs_[0])


class Mine(ours.MLPClassifier):
    """A subclass as users write them."""

    def __init__(self, width=4, random_state=None):
        super().__init__(hidden_layer_sizes=(width,), max_iter=3, random_state=random_state)
        self.width = width


class Theirs(theirs.MLPRegressor):
    """The same of scikit-learn's, with a parameter that portnn does not know."""

    def __init__(self, width=4, random_state=None):
        super().__init__(hidden_layer_sizes=(width,), max_iter=3, random_state=random_state)
        self.width = width


def test_subclasses_with_an_init_of_their_own():
    b = clone(Mine(5, random_state=0)).fit(IRIS, TWO)
    assert [w.shape for w in b.coefs_] == [(4, 5), (5, 1)]
    plain = ours.MLPClassifier((5,), max_iter=3, random_state=0).fit(IRIS, TWO)
    assert_same(b.coefs_[0], plain.coefs_[0])
    assert Mine().get_params() == {"width": 4, "random_state": None}
    assert GridSearchCV(Mine(random_state=0), {"width": [2, 3]}).fit(IRIS, TWO).best_params_["width"] in (2, 3)
    a = Theirs(6, random_state=0).fit(IRIS, COUNTS)
    moved = ours.from_sklearn(a)
    assert_within(moved.predict(IRIS), a.predict(IRIS), BARS["adam"]["float64"])
    assert (moved.hidden_layer_sizes, moved.max_iter) == ((6,), 3)
    a.partial_fit(IRIS, COUNTS), moved.partial_fit(IRIS, COUNTS)
    assert_within(moved.coefs_[0], a.coefs_[0], BARS["adam"]["float64"])


@pytest.mark.parametrize("problem", ["two classes", "three classes", "labels"])
def test_the_loss_of_certain_mistakes_is_theirs(problem):
    """Probabilities are clipped in the reported loss, so that it, and what stops by it, are the same."""
    kind, x, y = PROBLEMS[problem]
    a, b = pair(kind, max_iter=30, tol=1e-2, n_iter_no_change=2, alpha=0.0)
    x = x * 1000
    a.fit(x, y), b.fit(x, y)
    assert a.n_iter_ == b.n_iter_
    assert_within(b.loss_curve_, a.loss_curve_, BARS["adam"]["float64"] * np.abs(a.loss_curve_).max())
    assert a.loss_curve_[0] > 3.0
    plain = b.set_params(loss=portnn.losses.Loss("l", portnn.losses.binary_cross_entropy, "binary"))
    if problem == "two classes":
        assert plain.fit(x, y).loss_curve_[0] > 1.5 * a.loss_curve_[0]  # the clipping is what makes them the same


def test_the_losses_of_classes_are_those_that_scikit_learn_reports_with_their_bounds():
    base = sys.modules["sklearn.neural_network._base"]
    for dtype in (np.float64, np.float32):
        y = np.asarray([[0.0, 0.1, 1.0], [1e3, 0.0, 0.0], [0.0, -1e3, 2.0], [30.0, 0.0, 0.0]], dtype)
        t = np.asarray([2, 1, 1, 0])
        e = np.exp(y - y.max(axis=1, keepdims=True))
        theirs_ = base.log_loss(np.eye(3)[t], e / e.sum(axis=1, keepdims=True))
        eps = np.finfo(dtype).eps
        assert_within(losses.log_loss_of_classes(y, t)[0].mean(), theirs_, 16.0 * eps * theirs_)
        with np.errstate(over="ignore"):
            p = 1.0 / (1.0 + np.exp(-y))
        value = base.binary_log_loss(np.eye(3)[t].astype(dtype), p)
        assert_within(losses.log_loss_of_labels(y, np.eye(3)[t].astype(dtype))[0].mean(), value, 16.0 * eps * value)


def test_x_val_is_transformed_by_a_pipeline_and_validation_data_is_not():
    x, held = 50.0 + 20.0 * IRIS[:100], 50.0 + 20.0 * IRIS[100:]
    y, y_val = SPECIES[:100], SPECIES[100:]
    scaler = StandardScaler().fit(x)
    options = {**WIDTH, "early_stopping": True}
    expected = ours.MLPClassifier(**options, validation_data=(scaler.transform(held), y_val))
    expected.fit(scaler.transform(x), y)
    assert_same(
        ours.MLPClassifier(**options).fit(scaler.transform(x), y, X_val=scaler.transform(held), y_val=y_val).coefs_[0],
        expected.coefs_[0],
    )
    with sklearn.config_context(enable_metadata_routing=True):
        last = ours.MLPClassifier(**options).set_fit_request(X_val=True, y_val=True)
        pipeline = Pipeline([("scale", StandardScaler()), ("net", last)], transform_input=["X_val"])
        fitted = pipeline.fit(x, y, X_val=held, y_val=y_val)["net"]
    assert fitted.validation_scores_ == expected.validation_scores_
    raw = make_pipeline(StandardScaler(), ours.MLPClassifier(**options, validation_data=(held, y_val))).fit(x, y)
    assert raw[-1].validation_scores_ != expected.validation_scores_  # what the documents warn of
    r = ours.MLPRegressor(**WIDTH).fit(IRIS[:100], LINEAR[:100], X_val=IRIS[100:], y_val=LINEAR[100:])
    assert_within(r.validation_scores_[-1], r.score(IRIS[100:], LINEAR[100:]), 64.0 * np.finfo(float).eps)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, {"X_val": IRIS}, r"^MLPClassifier: X_val and y_val belong together, X_val was given alone$"),
        ({}, {"y_val": TWO}, r"y_val was given alone$"),
        ({"validation_data": (IRIS, TWO)}, {"X_val": IRIS, "y_val": TWO}, "or validation_data, not both"),
        ({"solver": "lbfgs"}, {"X_val": IRIS, "y_val": TWO}, "takes no X_val; use solver='adam'"),
        ({"normalization": "batch", "batch_size": 1}, {}, r"^MLPClassifier: normalization='batch' needs at least 2 "),
    ],
)
def test_slips_in_what_fit_is_given(options, given, message):
    with pytest.raises(ValueError, match=message):
        ours.MLPClassifier(**{**WIDTH, **options}).fit(IRIS, TWO, **given)


def test_matrices_of_labels_hold_zeros_and_ones():
    for matrix, value in ((5 * LABELS, 5), (2 * LABELS - 1, -1), (LABELS + 1, 2)):
        with pytest.raises(
            ValueError, match=rf"^MLPClassifier: a matrix of labels holds zeros and ones, y has {value}"
        ):
            ours.MLPClassifier(**WIDTH).fit(MANY, matrix)
    b = ours.MLPClassifier(**WIDTH).fit(MANY, LABELS)
    before = b.coefs_[0].copy()
    fewer = r"^MLPClassifier: y has 2 columns, expected 3 as in training$"
    with pytest.raises(ValueError, match=fewer):
        b.partial_fit(MANY, LABELS[:, :2])
    assert_same(b.coefs_[0], before)
    with pytest.raises(ValueError, match=r"^MLPClassifier: validation_data: .*y has 2 columns, expected 3"):
        ours.MLPClassifier(**WIDTH, validation_data=(MANY, LABELS[:, :2])).fit(MANY, LABELS)


@pytest.mark.parametrize("kind", [sparse.csr_matrix, sparse.csc_array, np.asarray])
def test_sparse_labels_are_predicted_sparse(kind):
    a, b = pair("MLPClassifier", max_iter=3)
    mine, other = b.fit(MANY, kind(LABELS)).predict(MANY), a.fit(MANY, kind(LABELS)).predict(MANY)
    assert type(mine) is type(other)
    assert not kind(mine != other).sum()
    assert b.score(MANY, LABELS) == a.score(MANY, LABELS)
    assert type(pickle.loads(pickle.dumps(b)).predict(MANY)) is type(other)
    assert type(b.fit(MANY, LABELS).predict(MANY)) is np.ndarray


@pytest.mark.parametrize("normalization", ["layer", "batch"])
def test_normalization_that_is_set_after_a_fit_is_named(normalization):
    b = ours.MLPClassifier(**WIDTH).fit(IRIS, TWO)
    message = (
        rf"^MLPClassifier: normalization='{normalization}' makes a network of 105 parameters, the fitted one has 81"
    )
    with pytest.raises(ValueError, match=message + ".*call fit to begin anew$"):
        b.set_params(normalization=normalization).partial_fit(IRIS, TWO)
    assert b.fit(IRIS, TWO).model_.n_params == 105


def test_early_stopping_of_portnn_watches_the_loss_of_held_out_samples():
    stop = portnn.callbacks.EarlyStopping(patience=3)
    options = {**WIDTH, "max_iter": 300, "learning_rate_init": 0.05, "alpha": 0.0, "callbacks": stop}
    b = ours.MLPClassifier(**options, validation_data=(IRIS[100:], SPECIES[100:])).fit(IRIS[:100], SPECIES[:100])
    assert b.n_iter_ == stop.best_epoch + 3
    assert stop.best == min(b.history_["val_loss"])
    # of the parameters that were put back, by the core's own evaluation
    assert_within(portnn.evaluate(b.model_, IRIS[100:], SPECIES[100:])["loss"], stop.best, 64 * np.finfo(float).eps)
    stop = portnn.callbacks.EarlyStopping(patience=3)
    b = ours.MLPRegressor(**{**options, "callbacks": stop, "early_stopping": True}).fit(IRIS, LINEAR)
    assert len(b.history_["val_loss"]) == b.n_iter_


def test_the_history_of_the_last_call_stays():
    b = few().fit(IRIS, TWO)
    assert b.history_["loss"] == b.loss_curve_
    assert set(b.history_) == {"loss", "accuracy", "learning_rate", "epoch_seconds"}
    assert b.history_.reached is None  # the optimizer's arrays are kept once
    assert dict(pickle.loads(pickle.dumps(b)).history_) == dict(b.history_)
    assert len(b.partial_fit(IRIS, TWO).history_["loss"]) == 1
    assert b.loss_curve_[-1] == b.history_["loss"][0]
    assert not hasattr(b.set_params(solver="lbfgs").fit(IRIS, TWO), "history_")


# -- found by trying scikit-learn's habits on it ----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*class.*:UserWarning")
@pytest.mark.parametrize("seed", range(4))  # with 1 and 2 outputs are positive, where there is nothing to learn
def test_of_one_class_every_answer_is_right(seed):
    """Early stopping then keeps scikit-learn's network: all scores are 1, whatever the sign of the output."""
    a, b = pair("MLPClassifier", early_stopping=True, random_state=seed)
    y = np.full(150, "yes")
    a.fit(IRIS, y), b.fit(IRIS, y)
    assert b.validation_scores_ == a.validation_scores_
    assert b.history_["accuracy"] == [1.0] * b.n_iter_
    assert_equal(a, b)


def test_many_classes_in_a_batch_are_no_warning():
    y, classes = rng.permutation(100)[:32], np.arange(100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ConvergenceWarning)
        for estimator in pair("MLPClassifier"):
            estimator.partial_fit(IRIS[:32], y, classes=classes)
            estimator.fit(IRIS[:32], y)
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        pair("MLPClassifier")[1].fit(IRIS, LINEAR[:, 0])


@pytest.mark.parametrize("first", ["float32", "float64"])
def test_samples_of_another_dtype_leave_the_network_its_own(first):
    second = {"float32": "float64", "float64": "float32"}[first]
    for estimator in pair("MLPRegressor"):
        estimator.partial_fit(IRIS.astype(first), LINEAR).partial_fit(IRIS.astype(second), LINEAR)
        assert {a.dtype.name for a in estimator.coefs_} == {first}
        estimator.set_params(warm_start=True).fit(IRIS.astype(second), LINEAR)
        assert {a.dtype.name for a in estimator.coefs_} == {first}


@pytest.mark.parametrize("first", ["float32", "float64"])
def test_weights_of_another_dtype_leave_the_network_its_own(first):
    second = {"float32": "float64", "float64": "float32"}[first]
    x = IRIS.astype(first)
    estimator = ours.MLPRegressor(hidden_layer_sizes=(6,), random_state=0, max_iter=8).fit(x, LINEAR)
    estimator.coefs_[0] = estimator.coefs_[0].astype(second)
    assert {a.dtype.name for a in estimator.partial_fit(x, LINEAR).coefs_} == {first}


def test_the_best_network_of_an_earlier_fit_is_forgotten(monkeypatch):
    """Early stopping, none, and again, interrupted in the first epoch: the steps in between are not lost."""
    estimator = few(warm_start=True, early_stopping=True).fit(IRIS, SPECIES)
    estimator.set_params(early_stopping=False, max_iter=20).fit(IRIS, SPECIES)
    before = estimator.coefs_[0].copy()
    monkeypatch.setattr(portnn.loop.Loop, "_finish", lambda *_: signal.raise_signal(signal.SIGINT))
    with pytest.warns(UserWarning, match="interrupted"):
        estimator.set_params(early_stopping=True).fit(IRIS, SPECIES)
    assert_same(estimator.coefs_[0], before)


@pytest.mark.parametrize("seed", range(3))
def test_what_an_earlier_kind_of_fit_scored_best_does_not_come_back(seed):
    """Early stopping, then only scores, then early stopping again: the first network is not the best of all."""
    held_out = IRIS[::3], SPECIES[::3]
    estimator = few(warm_start=True, early_stopping=True, max_iter=1, random_state=seed, validation_data=held_out)
    first = estimator.fit(IRIS, SPECIES).coefs_[0].copy()
    estimator.set_params(early_stopping=False, max_iter=60).fit(IRIS, SPECIES)
    estimator.set_params(early_stopping=True, max_iter=1).fit(IRIS, SPECIES)
    assert (estimator.coefs_[0] != first).all()
    assert estimator.best_validation_score_ == estimator.score(*held_out)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_a_sample_of_weight_0_may_have_an_infinite_loss(solver):
    """With scikit-learn's losses as with portnn's: as if it were not there."""
    x, weight = IRIS.copy(), WEIGHTS.copy()
    x[0], weight[0] = 1e4, 0.0
    options = {**WIDTH, "loss": "poisson", "solver": solver, "activation": "identity"}
    with_it = ours.MLPRegressor(**options).fit(x, COUNTS, sample_weight=weight)
    x[0] = 0.0
    assert_same(with_it.coefs_[0], ours.MLPRegressor(**options).fit(x, COUNTS, sample_weight=weight).coefs_[0])


@pytest.mark.parametrize("problem", ["two classes", "three classes", "labels"])
def test_probabilities_too_small_to_be_numbers_are_no_error(problem):
    kind, x, y = PROBLEMS[problem]
    classifier = pair(kind)[1].fit(x, y)
    with np.errstate(all="raise"):
        assert np.isfinite(classifier.predict_proba(x * 1e5)).all()
        assert not np.isnan(classifier.predict_log_proba(x * 1e5)).any()


def test_one_pass_of_few_steps_is_not_recorded(monkeypatch):
    """To record steps pays only where they are replayed."""
    made = []
    real = portnn.step.Chunks

    def chunks(backend, step, how, *rest):
        made.append(how)
        return real(backend, step, how, *rest)

    monkeypatch.setattr(portnn.preparation, "Chunks", chunks)
    a, b = pair("MLPClassifier")
    for estimator in (a, b):
        estimator.partial_fit(IRIS[:64], SPECIES[:64], classes=[0, 1, 2])
    pair("MLPClassifier")[1].fit(IRIS, SPECIES)
    always = ours.MLPClassifier(**WIDTH, compile=np.bool_(True))
    always.partial_fit(IRIS[:64], SPECIES[:64], classes=[0, 1, 2])
    assert made == [False, "auto", True]
    assert_equal(a, b)


def test_sparse_labels_stay_so_when_a_classifier_is_moved():
    fitted = pair("MLPClassifier")[0].fit(MANY, sparse.csr_matrix(LABELS))
    moved = ours.from_sklearn(fitted)
    assert type(moved.predict(MANY)) is type(fitted.predict(MANY))
    assert (moved.predict(MANY) != fitted.predict(MANY)).nnz == 0


def test_a_matrix_of_labels_after_single_ones_is_said_to_be_one():
    classifier = pair("MLPClassifier", warm_start=True)[1].fit(MANY, LABELS[:, 0])
    with pytest.raises(ValueError, match="y is 2-D, unlike the y of before"):
        classifier.fit(MANY, LABELS)


def test_scores_of_an_earlier_fit_end_where_nothing_is_held_out_any_more():
    classifier = pair("MLPClassifier", warm_start=True, early_stopping=True)[1].fit(IRIS, SPECIES)
    assert classifier.validation_scores_
    classifier.set_params(early_stopping=False).fit(IRIS, SPECIES)
    assert (classifier.validation_scores_, classifier.best_validation_score_) == (None, None)


def test_weights_too_small_to_divide_a_penalty_by_are_named():
    tiny = np.full(150, 1e-310)
    with pytest.raises(ValueError, match="sample_weight is so small that a penalty"):
        pair("MLPRegressor")[1].fit(IRIS, LINEAR, sample_weight=tiny)
    pair("MLPRegressor", alpha=0.0)[1].fit(IRIS, LINEAR, sample_weight=tiny)
