"""The network inside the tools of others: JAX's and torch's derivatives, SciPy, optax and torch.optim."""

import functools
import importlib.util

import libraries  # noqa: F401  float64 in JAX, before its first array
import numpy as np
import pytest
import tolerances
from tolerances import assert_same, assert_within, first_gradient

import portnn
from portnn import MLP
from portnn.hosts import _vector

rng = np.random.default_rng(23)
ROWS, SIZES = 7, [3, 5, 4, 2]
X, DY = rng.normal(size=(ROWS, SIZES[0])), rng.normal(size=(ROWS, SIZES[-1]))
LABELS = rng.integers(0, 2, ROWS)
WEIGHTS = np.asarray([1.0, 0.0, 2.5, 0.5, 3.0, 1.0, 0.25])


def network(sizes=SIZES, **options):
    """Return a float64 model whose biases are not zero."""
    model = MLP(sizes, **{"activation": "tanh", "init": "glorot_normal", "dtype": "float64", **options})
    model.params = np.random.default_rng(5).normal(scale=0.5, size=tuple(model.params.shape))
    return model


def here(a):
    return np.asarray(a.detach() if hasattr(a, "detach") else a)


def within(actual, expected):
    assert_within(here(actual), here(expected), first_gradient(here(expected), "float64"))


def pulled_back(model):
    """Return the hand-written derivatives of sum(DY * y)."""
    _, vjp = model.vjp(X)
    return vjp(DY)


# -- JAX --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def jax():
    return pytest.importorskip("jax", reason="jax is not installed")


@pytest.fixture(params=["numpy", "jax"])
def in_jax(request, jax):
    """A model, of JAX or of NumPy, and JAX arrays: a pure function follows its arguments, whoever holds it."""
    model = network()
    there = model.to(backend=request.param)
    return there, jax.numpy.asarray(model.params), jax.numpy.asarray(X), jax.numpy.asarray(DY)


def test_jax_grad_is_the_pullback(jax, in_jax):
    model, params, x, dy = in_jax
    gradients = jax.grad(lambda p, x: (dy * model.apply(p, x)).sum(), argnums=(0, 1))
    for of in (gradients, jax.jit(gradients)):
        for one, other in zip(of(params, x), pulled_back(network()), strict=True):
            within(one, other)


def test_jax_jit_of_the_value_and_of_the_pullback(jax, in_jax):
    model, params, x, dy = in_jax
    within(jax.jit(model.apply)(params, x), network()(X))
    d_params, dx = jax.jit(lambda p, x: model.forward(p, x)[1](dy))(params, x)
    for one, other in zip((d_params, dx), pulled_back(network()), strict=True):
        within(one, other)


def test_jax_vmap_over_parameters_and_over_inputs(jax, in_jax):
    model, params, x, _ = in_jax
    several = jax.numpy.stack([params, 2.0 * params, -params])
    mapped = jax.vmap(model.apply, (0, None))(several, x)
    within(mapped, np.stack([here(model.apply(p, x)) for p in several]))
    one_by_one = jax.vmap(lambda row: model.apply(params, row[None, :])[0, :])(x)
    within(one_by_one, network()(X))


def test_jax_hessian_is_the_derivative_of_the_pullback(jax, in_jax):
    model, params, x, dy = in_jax
    hessian = jax.hessian(lambda p: (dy * model.apply(p, x)).sum())(params)
    of_ours = jax.jacfwd(lambda p: model.forward(p, x)[1](dy)[0])(params)
    within(hessian, of_ours)
    within(hessian, here(hessian).T)
    assert here(hessian).any()


def test_jax_products_are_in_full_precision_whoever_holds_the_model(jax):
    model, like = network(dtype="float32"), jax.numpy.zeros((2, 3), dtype="float32")
    params = jax.numpy.asarray(model.params)
    assert "HIGHEST" in jax.jit(model.apply).lower(params, like).as_text()
    pullback = jax.jit(lambda p, x: model.forward(p, x)[1](model.apply(p, x)))
    assert "HIGHEST" in pullback.lower(params, like).as_text()
    assert "DEFAULT" not in pullback.lower(params, like).as_text()


# -- torch ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture(params=["numpy", "torch"])
def in_torch(request, torch):
    model = network()
    there = model.to(backend=request.param)
    return there, torch.asarray(model.params.copy()), torch.asarray(X.copy()), torch.asarray(DY.copy())


def test_torch_autograd_is_the_pullback(torch, in_torch):
    model, params, x, dy = in_torch
    params, x = params.requires_grad_(), x.requires_grad_()
    for one, other in zip(
        torch.autograd.grad((dy * model.apply(params, x)).sum(), (params, x)), pulled_back(network()), strict=True
    ):
        within(one, other)


# torch's own, where it takes derivatives forward
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_torch_func_grad_vmap_jacrev_and_hessian(torch, in_torch):
    model, params, x, dy = in_torch
    func = torch.func

    def total(p, x):
        return (dy * model.apply(p, x)).sum()

    for one, other in zip(func.grad(total, argnums=(0, 1))(params, x), pulled_back(network()), strict=True):
        within(one, other)
    several = torch.stack([params, 2.0 * params, -params])
    mapped = func.vmap(model.apply, in_dims=(0, None))(several, x)
    within(mapped, torch.stack([model.apply(p, x) for p in several]))
    within(func.vmap(lambda row: model.apply(params, row[None, :])[0, :])(x), network()(X))
    jacobian = func.jacrev(model.apply)(params, x)
    _, vjp = network().vjp(X)
    for i, k in np.ndindex(*DY.shape):
        unit = np.zeros_like(DY)
        unit[i, k] = 1.0
        within(jacobian[i, k], vjp(unit)[0])
    hessian = func.hessian(total)(params, x)
    within(hessian, func.jacrev(lambda p: model.forward(p, x)[1](dy)[0])(params))


def test_torch_products_are_in_full_precision_whoever_holds_the_model(torch):
    switch, seen = torch.backends.mkldnn.matmul, []

    def watching(z):
        seen.append(switch.fp32_precision)
        return z, lambda dy: (seen.append(switch.fp32_precision), dy)[1:]

    model, before = network(activation=[watching, watching], dtype="float32"), switch.fp32_precision
    switch.fp32_precision = "tf32"
    try:
        y, vjp = model.forward(torch.asarray(model.params.copy()), torch.asarray(X.astype("float32")))
        vjp(y)
        assert switch.fp32_precision == "tf32"
    finally:
        switch.fp32_precision = before
    assert seen == ["ieee"] * 4


# -- SciPy ------------------------------------------------------------------------------------------------------------

BACKENDS = [name for name in ("numpy", "torch", "jax", "array_api_strict") if importlib.util.find_spec(name)]
optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("loss", ["cross_entropy", "mse", "huber"])
@pytest.mark.parametrize(
    "options", [{}, {"sample_weight": WEIGHTS, "l1": 0.03, "l2": 0.2}, {"class_weight": [1.0, 3.0]}]
)
@pytest.mark.parametrize("rows", [3, 100])
def test_scipy_objective_is_loss_and_grad(backend, loss, options, rows, monkeypatch):
    monkeypatch.setattr(portnn.hosts, "CHUNK_ROWS", rows)
    model = network(backend=backend)
    t = LABELS if loss == "cross_entropy" else DY
    start = here(model.backend.to_numpy(model.params)).copy()
    f = portnn.scipy_objective(model, X, t, loss, **options)
    for params in (start, start[::-1]):
        value, grad = f(params)
        expected, slope = network().loss_and_grad(X, t, loss, **options) if params is start else (None, None)
        if expected is None:
            twin = network()
            twin.params = params
            expected, slope = twin.loss_and_grad(X, t, loss, **options)
        assert type(value) is float
        assert (grad.dtype, grad.shape) == (np.dtype("float64"), (model.n_params,))
        assert_within(value, expected, tolerances.few_steps(expected, "float64"))
        within(grad, slope)
    assert_same(model.backend.to_numpy(model.params), start)


def test_scipy_objective_of_a_float32_model_and_a_mean_loss():
    model = network(dtype="float32")
    f = portnn.scipy_objective(model, X, LABELS, l2=0.1)
    value, grad = f(network().params)
    expected, slope = network().loss_and_grad(X, LABELS, l2=0.1)
    assert grad.dtype == np.float64
    assert_within(value, expected, tolerances.few_steps(expected, "float32"))
    assert_within(grad, slope, first_gradient(slope, "float32"))

    def mean_loss(y, t):
        d = y - t
        return (d * d).mean(), lambda s: (2.0 * s * d / d.size,)

    value, grad = portnn.scipy_objective(network(), X, DY, mean_loss)(network().params)
    expected, slope = network().loss_and_grad(X, DY, "mse")
    assert_within(value, expected, tolerances.few_steps(expected, "float64"))
    within(grad, slope)


@pytest.mark.parametrize("backend", BACKENDS)
def test_lbfgs_finds_the_minimum_of_ridge_regression(backend):
    n, features, outputs, l2 = 40, 4, 2, 0.3
    x, t = rng.normal(size=(n, features)), rng.normal(size=(n, outputs))
    model = MLP([features, outputs], dtype="float64", backend=backend)
    f = portnn.scipy_objective(model, x, t, "mse", l2=l2)
    start = model.backend.to_numpy(model.params)
    found = optimize.minimize(f, start, jac=True, method="L-BFGS-B", options={"gtol": 1e-10, "ftol": 0.0})
    design = np.concatenate([x, np.ones((n, 1))], axis=1)
    curvature = 2.0 / (n * outputs) * design.T @ design + l2 * np.diag([1.0] * features + [0.0])
    exact = np.linalg.solve(curvature, 2.0 / (n * outputs) * design.T @ t)
    bound = tolerances.minimum(found.jac, np.linalg.eigvalsh(curvature).min(), np.abs(design).max() * np.abs(t).max())
    assert_within(found.x, exact.reshape(-1), bound)
    model.params = found.x
    assert_same(model.backend.to_numpy(model.params), found.x)


def test_lbfgs_is_no_worse_than_scikit_learn():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    x, t, l2 = rng.normal(size=(60, 5)), rng.integers(0, 3, 60), 0.05
    theirs = linear_model.LogisticRegression(C=1.0 / (60 * l2), tol=1e-10, max_iter=1000).fit(x, t)
    f = portnn.scipy_objective(MLP([5, 3], dtype="float64"), x, t, l2=l2)
    at_theirs, slope = f(np.concatenate([theirs.coef_.T.reshape(-1), theirs.intercept_]))
    options = {"gtol": 1e-10, "ftol": 0.0, "maxiter": 1000}
    found = optimize.minimize(f, np.zeros(18), jac=True, method="L-BFGS-B", options=options)
    weights = found.x[:15].reshape(5, 3)
    assert found.fun <= at_theirs + tolerances.few_steps(at_theirs, "float64")
    # the curvature along weights is at least l2; a number added to all biases changes nothing
    bound = tolerances.minimum(found.jac, l2, 1.0) + tolerances.minimum(slope, l2, 1.0)
    assert_within(weights, theirs.coef_.T, bound)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rows", [3, 100])
def test_jacobian_of_the_residuals(backend, rows, monkeypatch, torch):
    monkeypatch.setattr(portnn.hosts, "CHUNK_ROWS", rows)
    options = {"activation": ["relu", "gelu", "softplus"], "bias": [True, False, True]}
    plain, model = network(**options), network(**options, backend=backend)
    params = plain.params.copy()
    for weight in (None, WEIGHTS):
        residuals, jacobian = portnn.scipy_residuals(model, X, DY, sample_weight=weight)
        root = np.ones((ROWS, 1)) if weight is None else np.sqrt(weight)[:, None]
        within(residuals(params), (root * (plain(X) - DY)).reshape(-1))
        expected = here(torch.func.jacrev(plain.apply)(torch.asarray(params), torch.asarray(X.copy())))
        within(jacobian(params), (root[:, :, None] * expected).reshape(ROWS * 2, -1))
        assert jacobian(params).dtype == residuals(params).dtype == np.float64


def test_least_squares_of_a_linear_network_is_lstsq():
    n, outputs = 30, 2
    x, t, weight = rng.normal(size=(n, 4)), rng.normal(size=(n, outputs)), rng.random(n) + 0.5
    model = MLP([4, outputs], dtype="float64")
    residuals, jacobian = portnn.scipy_residuals(model, x, t, sample_weight=weight)
    found = optimize.least_squares(
        residuals, model.params, jac=jacobian, method="lm", gtol=1e-15, xtol=1e-15, ftol=1e-15
    )
    design = np.sqrt(weight)[:, None] * np.concatenate([x, np.ones((n, 1))], axis=1)
    exact, *_ = np.linalg.lstsq(design, np.sqrt(weight)[:, None] * t)
    lowest = np.linalg.eigvalsh(design.T @ design).min()
    assert_within(found.x, exact.reshape(-1), tolerances.minimum(found.grad, lowest, n * np.abs(t).max()))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: portnn.scipy_objective(network(members=2), X, LABELS), r"the model has 2 members; .* model\[i\]"),
        (lambda: portnn.scipy_residuals(network(members=2), X, DY), r"scipy_residuals: the model has 2 members"),
        (
            lambda: portnn.scipy_objective(network(), X, LABELS)(np.zeros(3)),
            r"got params of shape \(3,\), expected \(54,\)",
        ),
        (
            lambda: portnn.scipy_residuals(network(), X, DY)[1](np.zeros((54, 1))),
            r"scipy_residuals: got params of shape",
        ),
        (
            lambda: portnn.scipy_objective(network(), X, LABELS, l2=-1.0),
            "scipy_objective: l2 must be a finite number >= 0",
        ),
        (lambda: portnn.scipy_residuals(network(), X, LABELS), r"t has shape \(7,\)"),
        (lambda: portnn.scipy_residuals(network(), X, DY, sample_weight=-WEIGHTS), "must be non-negative"),
        (lambda: portnn.scipy_objective(network(), X[:, :2], LABELS), "X has 2 features"),
    ],
)
def test_what_scipy_functions_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_vector_may_be_anything_that_numpy_reads():
    assert_same(_vector([1, 2.5], 2, "f"), np.asarray([1.0, 2.5]))


# -- other people's optimizers ----------------------------------------------------------------------------------------

STEPS = 50


@functools.cache
def by_portnn(name):
    """Return the parameters after full-batch steps of portnn's own loop."""
    optimizer = {"adam": portnn.Adam(0.01), "sgd": portnn.SGD(0.1, momentum=0.9)}[name]
    model = network()
    portnn.fit(model, X, LABELS, optimizer=optimizer, epochs=STEPS, batch_size=ROWS, shuffle=False, progress=False)
    return model.params


def agrees(params, name):
    exact, bar = by_portnn(name), {"adam": "adam", "sgd": "sgd"}[name]
    assert np.abs(exact - network().params).max() > 0.1
    assert_within(here(params), exact, tolerances.BARS[bar]["float64"])


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("derivative", ["ours", "theirs"])
def test_optax_gives_the_same_numbers(jax, name, derivative):
    optax = pytest.importorskip("optax", reason="optax is not installed")
    model = network(backend="jax")
    optimizer = {"adam": optax.adam(0.01), "sgd": optax.sgd(0.1, momentum=0.9)}[name]
    x, t = jax.numpy.asarray(X), jax.numpy.asarray(LABELS)

    def loss(params):
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), t).mean()

    params, state = model.params, optimizer.init(model.params)
    for _ in range(STEPS):
        model.params = params
        gradient = model.loss_and_grad(x, t)[1] if derivative == "ours" else jax.grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        params = optax.apply_updates(params, updates)
    agrees(params, name)


@pytest.mark.parametrize("name", ["adam", "sgd"])
@pytest.mark.parametrize("derivative", ["ours", "theirs"])
def test_torch_optim_gives_the_same_numbers(torch, name, derivative):
    model = network(backend="torch")
    x, t = torch.asarray(X.copy()), torch.asarray(LABELS.copy())
    params = model.params.clone().requires_grad_()
    made = {"adam": lambda p: torch.optim.Adam(p, 0.01), "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)}
    optimizer = made[name]([params])
    for _ in range(STEPS):
        optimizer.zero_grad()
        if derivative == "ours":
            model.params = params.detach()
            params.grad = model.loss_and_grad(x, t)[1]
        else:
            torch.nn.functional.cross_entropy(model.apply(params, x), t).backward()
        optimizer.step()
    agrees(params, name)
