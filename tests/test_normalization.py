"""Layer norm and batch norm: values, pullbacks, running statistics, against higher precision, differences and torch."""

import numpy as np
import pytest
import tolerances
from tolerances import assert_same, assert_within

from portnn.normalization import EPS, batch_norm, fixed_norm, layer_norm, moved
from portnn.testing import check_vjp

rng = np.random.default_rng(2)
LEADS = [(), (3,)]
PAIRS = {
    "layer": (layer_norm, 3),
    "batch": (lambda *args: (batch_norm(*args)[0][0], batch_norm(*args)[1]), 3),
    "fixed": (fixed_norm, 5),
}


def case(lead, dtype="float64", n=7, features=5):
    """Return x, gain, shift, mean, variance and dy; x has an offset that is large beside its spread."""
    shapes = [(*lead, n, features), *[(*lead, features)] * 4, (*lead, n, features)]
    x, gain, shift, mean, variance, dy = (rng.normal(size=shape) for shape in shapes)
    return [a.astype(dtype) for a in (x + 3.0, gain, shift, mean + 3.0, np.exp(variance), dy)]


def by_definition(kind, x, gain, shift, mean, variance):
    """Return y in the highest precision that NumPy has."""
    x, gain, shift, mean, variance = (a.astype(np.longdouble) for a in (x, gain, shift, mean, variance))
    if kind == "layer":
        mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    elif kind == "batch":
        mean, variance = x.mean(axis=-2, keepdims=True), x.var(axis=-2, keepdims=True)
    else:
        mean, variance = mean[..., None, :], variance[..., None, :]
    return (x - mean) / np.sqrt(variance + np.longdouble(EPS)) * gain[..., None, :] + shift[..., None, :]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("kind", PAIRS)
def test_values(library, kind, lead, dtype):
    given = case(lead, dtype)[:5]
    pair, n = PAIRS[kind]
    y = library.to_numpy(pair(*(library.make(a) for a in given[:n]))[0])
    assert y.dtype == dtype
    exact = by_definition(kind, *given)
    # x / s loses eps |x| / s of a difference: few_steps of its terms
    assert_within(y, exact, tolerances.few_steps(np.maximum(np.abs(given[0]), np.abs(exact)), dtype))


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_pullbacks_are_those_of_central_differences(library, kind, lead):
    x, gain, shift, *_ = case(lead)
    pair, _ = PAIRS[kind]
    found = check_vjp(pair, [library.make(a) for a in (x, gain, shift)])
    assert found < tolerances.central_difference(np.abs(x).max())


@pytest.mark.parametrize("lead", LEADS)
def test_the_pullback_with_fixed_statistics(library, lead):
    x, gain, shift, mean, variance, _ = (library.make(a) for a in case(lead))
    found = check_vjp(lambda *args: fixed_norm(*args, mean, variance), [x, gain, shift])
    assert found < tolerances.central_difference(3.0)


@pytest.mark.parametrize("features", [1, 5, 300])
def test_layer_norm_is_that_of_torch(library, features):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x, gain, shift, _, _, dy = case((), features=features)
    norm = torch.nn.LayerNorm(features, dtype=torch.float64)
    norm.load_state_dict({"weight": torch.tensor(gain), "bias": torch.tensor(shift)})
    leaf = torch.tensor(x, requires_grad=True)
    theirs = norm(leaf)
    theirs.backward(torch.tensor(dy))
    y, vjp = layer_norm(*(library.make(a) for a in (x, gain, shift)))
    expected = [leaf.grad, norm.weight.grad, norm.bias.grad]
    assert_within(
        library.to_numpy(y), theirs.detach().numpy(), tolerances.few_steps(theirs.detach().numpy(), "float64")
    )
    for got, right in zip(vjp(library.make(dy)), expected, strict=True):
        # of one feature there is nothing but rounding, enlarged by 1 / sqrt(eps)
        size = np.maximum(np.abs(right.numpy()), np.abs(dy).max() * (1 / np.sqrt(EPS) if features == 1 else 1))
        assert_within(library.to_numpy(got), right.numpy(), tolerances.first_gradient(size, "float64"))


@pytest.mark.parametrize("n", [2, 7, 600])
def test_batch_norm_is_that_of_torch_with_its_running_statistics(library, n):
    """Values, gradients, and the statistics after five batches, then prediction with them."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    _, gain, shift, *_ = case(())
    norm = torch.nn.BatchNorm1d(5, dtype=torch.float64)
    norm.load_state_dict({"weight": torch.tensor(gain), "bias": torch.tensor(shift)}, strict=False)
    mean, variance = library.make(np.zeros(5)), library.make(np.ones(5))
    for _ in range(5):
        x, *_, dy = case((), n=n)
        norm.zero_grad()
        leaf = torch.tensor(x, requires_grad=True)
        theirs = norm(leaf)
        theirs.backward(torch.tensor(dy))
        (y, of_batch, spread), vjp = batch_norm(*(library.make(a) for a in (x, gain, shift)))
        mean, variance = moved(mean, of_batch), moved(variance, spread * (n / (n - 1)))
        expected = [leaf.grad.numpy(), norm.weight.grad.numpy(), norm.bias.grad.numpy()]
        assert_within(library.to_numpy(y), theirs.detach().numpy(), tolerances.few_steps(np.abs(x).max(), "float64"))
        for got, right in zip(vjp(library.make(dy)), expected, strict=True):
            assert_within(
                library.to_numpy(got), right, tolerances.first_gradient(max(1.0, np.abs(right).max()), "float64")
            )
    for got, right in ((mean, norm.running_mean), (variance, norm.running_var)):
        assert_within(library.to_numpy(got), right.numpy(), tolerances.few_steps(3.0, "float64"))
    norm.eval()
    leaf = torch.tensor(x, requires_grad=True)
    y, vjp = fixed_norm(*(library.make(a) for a in (x, gain, shift)), mean, variance)
    norm(leaf).backward(torch.tensor(dy))
    theirs = norm(leaf).detach().numpy()
    assert_within(library.to_numpy(y), theirs, tolerances.few_steps(np.abs(x).max(), "float64"))
    assert_within(
        library.to_numpy(vjp(library.make(dy))[0]), leaf.grad.numpy(), tolerances.first_gradient(dy, "float64")
    )


@pytest.mark.parametrize("kind", ["layer", "batch"])
def test_an_offset_does_not_cancel(library, kind):
    """Mean 1e4 and spread 1 in float32: E x^2 - (E x)^2 would be off by 1e8 u = 6."""
    x, gain, shift, mean, variance, _ = case((), "float32", n=64, features=64)
    x = x + np.float32(1e4)
    pair, _ = PAIRS[kind]
    y = library.to_numpy(pair(*(library.make(a) for a in (x, gain, shift)))[0])
    exact = by_definition(kind, x, gain, shift, mean, variance)
    # the mean is off by log2(n) roundings of 1e4
    assert_within(y, exact, 8.0 * tolerances.unit("float32") * 1e4 * np.abs(gain).max())


def test_equal_numbers_give_the_shift(library):
    x, shift = np.full((4, 3), 2.0), np.asarray([1.0, 2.0, 3.0])
    for pair in (layer_norm, PAIRS["batch"][0]):
        y, vjp = pair(*(library.make(a) for a in (x, np.ones(3), shift)))
        assert_same(library.to_numpy(y), np.broadcast_to(shift, (4, 3)))
        dx = library.to_numpy(vjp(library.make(np.ones((4, 3))))[0])
        assert_within(dx, np.zeros((4, 3)), tolerances.few_steps(1 / np.sqrt(EPS), "float64"))


def test_a_nan_is_seen(library):
    x = np.ones((4, 3))
    x[1, 2] = np.nan
    for pair in (layer_norm, PAIRS["batch"][0]):
        with library.backend.scope():
            y = library.to_numpy(pair(*(library.make(a) for a in (x, np.ones(3), np.zeros(3))))[0])
        assert np.isnan(y).any()


def test_a_large_gradient_of_layer_norm_is_orthogonal_to_constants_and_to_what_it_gives():
    """Neither an offset nor a factor of x changes y (up to eps): dx is orthogonal to 1 and nearly to x."""
    x, _, _, _, _, dy = case((), features=50)
    dx = layer_norm(x, np.ones(50), np.zeros(50))[1](dy)[0]
    off = x - x.mean(axis=-1, keepdims=True)
    assert_within(dx.sum(axis=-1), np.zeros(7), tolerances.few_steps(np.abs(dx).sum(), "float64"))
    assert np.abs((dx * off).sum(axis=-1)).max() < 10.0 * EPS * np.abs(dy).max() * 50
