"""Starts: the variance each promises, and the same start to the bit wherever and however wide it is drawn."""

import numpy as np
import pytest
import tolerances
from tolerances import assert_same, assert_within

import portnn
from portnn import initializers
from portnn.initializers import INITIALIZERS, get_initializer
from portnn.random import key

IN, OUT = 240, 60
# name -> variance of a weight of a layer of IN inputs and OUT outputs
VARIANCES = {
    "he_normal": 2.0 / IN,
    "he_uniform": 2.0 / IN,
    "glorot_normal": 2.0 / (IN + OUT),
    "glorot_uniform": 2.0 / (IN + OUT),
    "lecun_normal": 1.0 / IN,
    "lecun_uniform": 1.0 / IN,
    "normal": 1.0,
    "uniform": 1.0 / 3.0,
    "zeros": 0.0,
    "orthogonal": 1.0 / IN,  # OUT columns of length 1
}


def test_every_initializer_is_in_the_table():
    assert set(VARIANCES) == set(INITIALIZERS)


@pytest.mark.parametrize(("name", "variance"), VARIANCES.items())
def test_mean_and_variance(name, variance):
    w = get_initializer(name)(key(1), IN, OUT)
    assert (w.shape, w.dtype) == ((IN, OUT), np.float64)
    assert_within(w.mean(), 0.0, tolerances.standard_error(np.sqrt(variance), w.size))
    # w^2 has the deviation sqrt(2) variance for a normal weight and less for the others
    assert_within((w * w).mean(), variance, tolerances.standard_error(np.sqrt(2.0) * variance, w.size))


@pytest.mark.parametrize("name", [name for name in VARIANCES if name.endswith("uniform")])
def test_uniform_weights_fill_their_interval_and_do_not_leave_it(name):
    w, edge = get_initializer(name)(key(2), IN, OUT), np.sqrt(3.0 * VARIANCES[name])
    assert 0.999 * edge < np.abs(w).max() < edge


@pytest.mark.parametrize("name", VARIANCES)
def test_scale_multiplies_every_weight(name):
    w, larger = INITIALIZERS[name]()(key(3), 6, 5), INITIALIZERS[name](scale=4.0)(key(3), 6, 5)
    assert_same(larger, 4.0 * w)


def test_parameters_of_normal_and_uniform():
    assert_same(initializers.normal(0.25)(key(0), 4, 3), 0.25 * initializers.normal()(key(0), 4, 3))
    w = initializers.uniform(2.0, 3.0)(key(0), IN, OUT)
    assert 2.0 < w.min() < 2.001
    assert 2.999 < w.max() < 3.0
    assert_within(w.mean(), 2.5, tolerances.standard_error(np.sqrt(1.0 / 12.0), w.size))


@pytest.mark.parametrize(("fan_in", "fan_out"), [(7, 7), (9, 4), (4, 9), (1, 5), (5, 1)])
def test_orthogonal_weights_keep_lengths(fan_in, fan_out):
    w = initializers.orthogonal()(key(4), fan_in, fan_out)
    gram = w.T @ w if fan_in >= fan_out else w @ w.T
    assert_within(gram, np.eye(min(fan_in, fan_out)), tolerances.few_steps(1.0, "float64"))


def test_orthogonal_weights_point_everywhere():
    """Without the signs of R's diagonal the first entry would always be negative."""
    corners = [initializers.orthogonal()(key(seed), 3, 3)[0, 0] for seed in range(40)]
    assert 8 < sum(c > 0.0 for c in corners) < 32


@pytest.mark.parametrize("name", VARIANCES)
def test_the_start_is_the_same_to_the_bit_on_every_library_and_float32_is_float64_rounded(library, name):
    host = portnn.MLP([5, 4, 3], init=name, dtype="float64", seed=9).params
    for dtype in ("float32", "float64"):
        there = portnn.MLP([5, 4, 3], init=name, dtype=dtype, seed=9, **library.where).params
        assert_same(library.to_numpy(there), host.astype(dtype))


def test_member_i_starts_as_a_single_network_of_seed_plus_i_does(library):
    members = library.to_numpy(portnn.MLP([5, 4, 3], members=3, seed=2**64 - 2, **library.where).params)
    assert members.shape == (3, 5 * 4 + 4 + 4 * 3 + 3)
    for i, seed in enumerate([2**64 - 2, 2**64 - 1, 0]):
        assert_same(members[i], library.to_numpy(portnn.MLP([5, 4, 3], seed=seed, **library.where).params))


def test_members_may_have_a_seed_each():
    members = portnn.MLP([5, 4], members=2, seed=[30, 7]).params
    for i, seed in enumerate([30, 7]):
        assert_same(members[i], portnn.MLP([5, 4], seed=seed).params)
    with pytest.raises(ValueError, match="2 seeds for members=3"):
        portnn.MLP([5, 4], members=3, seed=[30, 7])


def test_layers_and_seeds_differ_and_biases_start_at_zero():
    model = portnn.MLP([4, 4, 4], seed=0)
    assert not np.any(model.weights[0] == model.weights[1])
    assert not np.any(model.weights[0] == portnn.MLP([4, 4, 4], seed=1).weights[0])
    assert all(not np.any(b) for b in model.biases)


def test_a_layer_starts_alike_whatever_the_other_layers_are():
    """The key of a layer depends on its number alone: to change the last layer leaves the start of the first."""
    a, b = portnn.MLP([4, 5, 3], seed=6), portnn.MLP([4, 5, 7, 2], bias=False, seed=6)
    assert_same(a.weights[0], b.weights[0])


def test_every_layer_may_have_a_start_of_its_own(library):
    def twos(key, fan_in, fan_out):
        return np.full((fan_in, fan_out), 2.0)

    model = portnn.MLP([4, 3, 2, 2], init=["zeros", twos, initializers.normal(3.0)], seed=1, **library.where)
    first, second, third = (library.to_numpy(w) for w in model.weights)
    assert not first.any()
    assert_same(second, np.full((3, 2), 2.0, "float32"))
    alone = portnn.MLP([4, 3, 2, 2], init=initializers.normal(3.0), seed=1).weights[2]
    assert_same(third, alone)
    with pytest.raises(ValueError, match="2 entries in init for 3 layers"):
        portnn.MLP([4, 3, 2, 2], init=["zeros", "zeros"])


def test_a_start_of_the_wrong_shape_is_refused():
    with pytest.raises(ValueError, match=r"init of layer 0 gave shape \(2, 3\), expected \(3, 2\)"):
        portnn.MLP([3, 2], init=lambda key, fan_in, fan_out: np.zeros((fan_out, fan_in)))


def test_an_unknown_start_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"unknown init 'he'.*'he_normal'"):
        portnn.MLP([3, 2], init="he")


def test_signals_keep_their_size_through_twenty_layers():
    """What the variances are for: outputs of the size of the inputs, neither vanished nor exploded."""
    x = np.random.default_rng(0).normal(size=(50, 100))
    for activation, init in (("relu", "he_normal"), ("selu", "lecun_normal"), ("identity", "orthogonal")):
        y = portnn.MLP([100] * 21, activation=activation, init=init, dtype="float64")(x)
        assert 0.3 < np.sqrt((y * y).mean()) < 3.0
