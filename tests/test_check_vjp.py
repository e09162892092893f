"""The checker of derivatives itself: a right pullback passes, one wrong by 0.1 % in any one entry does not."""

import functools
import re

import numpy as np
import pytest
import tolerances

from portnn.activations import ACTIVATIONS, get_activation
from portnn.losses import LOSSES
from portnn.primitives import linear
from portnn.testing import check_vjp

rng = np.random.default_rng(13)
ROWS, OUTPUTS = 4, 3
# Values of both signs between 1/4 and 2, away from the kinks at 0 and, as the differences of a loss, at 1.
Z = rng.choice([-1.0, 1.0], size=(ROWS, OUTPUTS)) * rng.permutation(np.linspace(0.25, 2.0, 12)).reshape(ROWS, OUTPUTS)
LABELS = np.asarray([2, 0, 1, 1])
YES_NO = (rng.random((ROWS, OUTPUTS)) < 0.5).astype(float)
COUNTS = rng.integers(0, 4, size=(ROWS, OUTPUTS)).astype(float)
SHARE = np.asarray([0.5, 0.3, 0.2])


def loss(name, t, **options):
    return functools.partial(LOSSES[name].pair, t=t, **options), [Z + t if LOSSES[name].kind == "values" else Z]


def drawn(*shapes):
    return [rng.normal(size=shape) for shape in shapes]


# name -> (pair, arguments)
PAIRS = {name: (get_activation(name), [Z]) for name in [*ACTIVATIONS, "leaky_relu(0.2)", "elu(0.5)"]}
PAIRS |= {
    "cross_entropy": loss("cross_entropy", LABELS),
    "cross_entropy of probabilities": loss("cross_entropy", rng.dirichlet(np.ones(OUTPUTS), size=ROWS)),
    "cross_entropy, smoothed": loss("cross_entropy", LABELS, label_smoothing=0.1),
    "binary_cross_entropy": loss("binary_cross_entropy", YES_NO),
    "binary_cross_entropy, weighted outputs": loss("binary_cross_entropy", YES_NO, output_share=SHARE),
    "mse": loss("mse", COUNTS),
    "mae": loss("mae", COUNTS),
    "huber": loss("huber", COUNTS),
    "huber(0.6)": loss("huber", COUNTS, delta=0.6),
    "poisson": loss("poisson", COUNTS),
    "linear": (linear, drawn((ROWS, 5), (5, 2), (2,))),
    "linear without bias": (linear, drawn((ROWS, 5), (5, 2))),
    "linear of members": (linear, drawn((2, ROWS, 3), (2, 3, 2), (2, 2))),
    "linear of members with one x": (linear, drawn((ROWS, 3), (2, 3, 2), (2, 2))),
}
every = pytest.mark.parametrize(("f", "args"), PAIRS.values(), ids=PAIRS)


def spoiled(f, argument, entry, factor):
    """Return the pair with one entry of one cotangent multiplied, or made that part of dy where it is 0."""

    def pair(*given):
        y, vjp = f(*given)

        def wrong(dy):
            cotangents = [np.array(c) for c in vjp(dy)]
            flat = cotangents[argument].reshape(-1)
            flat[entry] = flat[entry] * factor if flat[entry] else dy.reshape(-1)[entry] * (factor - 1.0)
            return tuple(cotangents)

        return y, wrong

    return pair


def test_all_there_is_takes_part():
    assert set(ACTIVATIONS) | set(LOSSES) <= set(PAIRS)


@every
def test_the_right_pullback_passes(f, args):
    assert check_vjp(f, args) < tolerances.central_difference(1.0)


@every
@pytest.mark.parametrize("factor", [1.001, 0.999])
def test_one_entry_wrong_by_one_per_mille_is_found(f, args, factor):
    for argument, a in enumerate(args):
        for entry in range(a.size):
            with pytest.raises(AssertionError, match=rf"^check_vjp: argument {argument}: the pullback says"):
                check_vjp(spoiled(f, argument, entry, factor), args)


@every
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_directions_of_other_seeds_find_it_too(f, args, seed):
    assert check_vjp(f, args, seed=seed) < tolerances.central_difference(1.0)
    with pytest.raises(AssertionError, match="the pullback says"):
        check_vjp(spoiled(f, len(args) - 1, 0, 1.001), args, seed=seed)


@every
def test_a_derivative_wrong_as_a_whole_is_found(f, args):
    for argument in range(len(args)):
        for spoil in (np.negative, np.zeros_like, lambda c: c * 1.001):

            def pair(*given, argument=argument, spoil=spoil):
                y, vjp = f(*given)
                return y, lambda dy: tuple(spoil(c) if i == argument else c for i, c in enumerate(vjp(dy)))

            with pytest.raises(AssertionError, match=re.escape(f"check_vjp: argument {argument}: the pullback says")):
                check_vjp(pair, args)
