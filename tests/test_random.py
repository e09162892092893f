"""Randomness: the published vectors, the same bits on every library, numbers that look like what they are called."""

import hashlib
import itertools

import numpy as np
import pytest
import tolerances
from mpmath import mp, mpf
from tolerances import Exact, assert_same, assert_ulps, assert_within

import portnn
from portnn import random, special
from portnn.backends import HOST

# Random123 1.14, kat_vectors: threefry2x32, 20 rounds: counter, key, result
VECTORS = [
    ((0x00000000, 0x00000000), (0x00000000, 0x00000000), (0x6B200159, 0x99BA4EFE)),
    ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
    ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
]
KEYS = [(0, 0), (0, 1), (0xFFFFFFFF, 0xFFFFFFFF), (0x13198A2E, 0x03707344)]


def signed(*words):
    return np.asarray(words, dtype=np.uint32).view(np.int32)


def sha256(a):
    return hashlib.sha256(np.ascontiguousarray(a).tobytes()).hexdigest()


# -- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counter", "key", "expected"), VECTORS)
def test_threefry_gives_the_vectors_of_random123(library, counter, key, expected):
    got = random.threefry2x32(key, *(library.make(signed(c)) for c in counter))
    for word, right in zip(got, expected, strict=True):
        assert_same(library.to_numpy(word), signed(right))


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**32 - 1, 2**32, 2**64 - 1])
def test_key_and_fold_in_are_those_of_jax(seed):
    jax = pytest.importorskip("jax", reason="jax is not installed")
    theirs = jax.random.key(np.uint64(seed), impl="threefry2x32")
    ours = random.key(seed)
    assert ours == tuple(jax.random.key_data(theirs).tolist())
    for number in (0, 1, 7, 2**32 - 1):
        expected = tuple(jax.random.key_data(jax.random.fold_in(theirs, np.uint32(number))).tolist())
        assert random.fold_in(ours, number) == expected


@pytest.mark.parametrize("n", [0, 1, 2, 7, 1000])
@pytest.mark.parametrize("base", KEYS)
def test_bits_are_the_same_on_every_library(library, base, n):
    there = {"xp": library.xp, "device": library.backend.device}
    for draw in (random.words, random.uniform, random.normal):
        assert_same(library.to_numpy(draw(base, n, **there)), draw(base, n))


def test_bits_are_the_same_under_jit():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    compiled = jax.jit(lambda: random.words((1, 2), 1000, xp=jax.numpy))()
    assert_same(np.asarray(compiled), random.words((1, 2), 1000))


@pytest.mark.parametrize("draw", [random.words, random.uniform, random.normal])
def test_number_i_depends_on_the_key_and_on_i_alone(draw):
    whole = draw((3, 4), 101)
    for n in (1, 2, 50, 100):
        assert_same(draw((3, 4), n), whole[:n])


def test_every_bit_is_set_half_of_the_time():
    words = random.words((0, 7), 40_000).view(np.uint32)
    share = [float(((words >> bit) & 1).mean()) for bit in range(32)]
    assert_within(share, np.full(32, 0.5), tolerances.standard_error(0.5, words.size))


def test_one_bit_of_key_or_counter_changes_half_of_the_bits():
    """The avalanche, over all 128 bits of key and counter at a thousand counters each."""
    counter = np.arange(1000, dtype=np.int32)

    def bits(key, c0, c1):
        return np.stack([w.view(np.uint32) for w in random.threefry2x32(key, c0, c1)])

    base = bits((11, 22), counter, counter + 5)
    for i in range(32):
        flip = int(signed(1 << i)[0])
        for other in (
            bits((11 ^ (1 << i), 22), counter, counter + 5),
            bits((11, 22 ^ (1 << i)), counter, counter + 5),
            bits((11, 22), counter ^ flip, counter + 5),
            bits((11, 22), counter, (counter + 5) ^ flip),
        ):
            changed = np.unpackbits((base ^ other).view(np.uint8))
            assert_within(changed.mean(), 0.5, tolerances.standard_error(0.5, changed.size))


def test_neighbors_in_a_stream_and_streams_of_neighboring_keys_are_uncorrelated():
    n = 40_000
    u = random.uniform((0, 1), n)
    others = [u[1:], u[2:], *(random.uniform(key, n) for key in ((0, 2), (1, 1), random.fold_in((0, 1), 0)))]
    for v in others:
        product = u[: v.size] * v  # of variance 1/9
        assert_within(product.mean(), 0.0, tolerances.standard_error(1.0 / 3.0, v.size))


# -- distributions ----------------------------------------------------------------------------------------------------


def test_uniform_numbers_are_odd_multiples_of_2_to_the_minus_32():
    words = random.words((9, 9), 1000).astype(object)
    assert random.uniform((9, 9), 1000).tolist() == [float(mpf(2 * w + 1) / 2**32) for w in words]


def test_normal_numbers_are_the_inverse_distribution_to_eight_ulp():
    """The most extreme ones of a hundred thousand, and some of the middle."""
    n = 100_000
    u, z = random.uniform((0, 3), n), random.normal((0, 3), n)
    chosen = np.unique(
        np.concatenate([np.argsort(u)[:20], np.argsort(u)[-20:], np.argsort(np.abs(u))[:20], np.arange(100)])
    )
    assert_ulps(z[chosen], Exact([mp.sqrt(2) * mp.erfinv(mpf(float(p))) for p in u[chosen]]))


def test_normal_is_odd_and_rises_with_the_uniform_number():
    u, z = random.uniform((0, 4), 10_000), random.normal((0, 4), 10_000)
    assert (np.diff(z[np.argsort(u)]) > 0.0).all()
    assert (np.sign(z) == np.sign(u)).all()


@pytest.mark.parametrize(
    ("draw", "cdf"),
    [(random.uniform, lambda u: 0.5 * (u + 1.0)), (random.normal, special.normal_cdf)],
    ids=["uniform", "normal"],
)
@pytest.mark.parametrize("seed", range(5))
def test_the_largest_deviation_of_the_distribution_is_that_of_chance(draw, cdf, seed):
    """Kolmogorov and Smirnov: sqrt(n) D is above 2.2 once in eight thousand samples."""
    n = 20_000
    p = cdf(np.sort(draw(random.key(seed), n)))
    steps = np.arange(n + 1) / n
    deviation = max(np.max(steps[1:] - p), np.max(p - steps[:-1]))
    assert np.sqrt(n) * deviation < 2.2
    assert deviation > 0.0


@pytest.mark.parametrize(("draw", "moments"), [(random.uniform, (0, 1 / 3, 0, 1 / 5)), (random.normal, (0, 1, 0, 3))])
def test_four_moments(draw, moments):
    z = draw((0, 5), 100_000)
    for k, expected in enumerate(moments, start=1):
        assert_within((z**k).mean(), expected, tolerances.standard_error((z**k).std(), z.size))


# -- orders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 17, 1000])
def test_a_permutation_holds_every_number_once(n):
    assert sorted(random.permutation((1, 2), n).tolist()) == list(range(n))


def test_all_orders_of_four_are_equally_likely():
    n = 4800
    orders = [tuple(random.permutation((5, i), 4).tolist()) for i in range(n)]
    share = [orders.count(o) / n for o in itertools.permutations(range(4))]
    p = 1.0 / 24.0
    assert_within(share, np.full(24, p), tolerances.standard_error(np.sqrt(p * (1 - p)), n))


def test_equal_words_keep_their_places(monkeypatch):
    monkeypatch.setattr(random, "words", lambda base, n: np.zeros(n, dtype=np.int32))
    assert random.permutation((0, 0), 100).tolist() == list(range(100))


def test_the_order_is_a_pure_function_of_seed_and_epoch():
    orders = {(seed, epoch): tuple(random.order(seed, epoch, 50).tolist()) for seed in range(4) for epoch in range(4)}
    assert len(set(orders.values())) == 16
    assert tuple(random.order(2, 3, 50).tolist()) == orders[2, 3]
    # neither is it the order of another epoch for a shifted seed, nor that of what else is drawn
    assert tuple(random.permutation(random.key(0), 50).tolist()) not in orders.values()


@pytest.mark.parametrize(
    ("purpose", "number"), [(random.Purpose.PARAMETERS, 1), (random.Purpose.ORDER, 2), (random.Purpose.SPLIT, 3)]
)
def test_the_numbers_of_the_purposes_never_change(purpose, number):
    assert purpose == number


def test_fit_visits_the_samples_in_that_order(library):
    """The derivative is the sample's own number, 0 to 6, and step k has the rate 8^-k: octal digits of the weight."""
    model = portnn.MLP([1, 1], bias=False, init="zeros", dtype="float64", **library.where)
    portnn.fit(
        model,
        library.make(np.arange(7.0)[:, None]),
        np.zeros((7, 1)),
        loss=lambda y, t: (y[..., 0], lambda dvalues: (dvalues[..., None],)),
        optimizer=portnn.SGD(lambda step: 8.0**-step),
        epochs=2,
        batch_size=1,
        seed=3,
        progress=False,
    )
    visits = np.base_repr(int(-library.to_numpy(model.params)[0] * 8.0**13), 8).zfill(14)
    assert [int(digit) for digit in visits] == [*random.order(3, 0, 7).tolist(), *random.order(3, 1, 7).tolist()]


# -- golden values: a change here changes every result anybody has reported for a seed --------------------------------


def test_golden_orders():
    first = np.stack([random.order(0, epoch, 1000) for epoch in range(3)]).astype("<i4")
    assert sha256(first) == "42bebd6431ba82d6d3b5571dfa7d1351ebe66477d27a880c54a11329db550c04"


@pytest.mark.parametrize(
    ("init", "dtype", "expected"),
    [
        ("he_normal", "<f8", "5fb80b390e73b0c75ab9344c571c0bccfd696a073732dbfc00ed9edc7a415a94"),
        ("he_normal", "<f4", "0571d4dada261ffa11649b68cf2986e33e98ee960d049f049481e34dd698a5c4"),
        ("glorot_uniform", "<f8", "19ad0a8bd9a36d0896033e2ee2112478ca12ee6d8581307642e6c985d3876e90"),
        ("glorot_uniform", "<f4", "c85f15901aef9dae73f9fae7e668b09ff190707c049c18965ae12a1b055c6f63"),
    ],
)
def test_golden_initial_parameters(library, init, dtype, expected):
    model = portnn.MLP([8, 5, 3], init=init, dtype=np.dtype(dtype).name, seed=0, **library.where)
    assert sha256(library.to_numpy(model.params).astype(dtype)) == expected


# -- seeds ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 7, np.int64(7), np.uint8(7), 2**64 - 1])
def test_a_seed_is_any_integer_of_64_bits(seed):
    assert random.check_seed(seed) == int(seed)
    assert type(random.check_seed(seed)) is int


def test_no_seed_draws_one():
    assert random.check_seed(None) != random.check_seed(None)
    assert 0 <= random.check_seed(None) < 2**64


@pytest.mark.parametrize("seed", [-1, 2**64, True, 1.0, "7"])
def test_anything_else_is_no_seed(seed):
    with pytest.raises(ValueError, match=r"fit: seed must be"):
        random.check_seed(seed, "fit")


def test_nothing_here_needs_another_library_than_the_host():
    assert isinstance(random.words((0, 0), 3), np.ndarray)
    assert random.words((0, 0), 3).dtype == HOST.xp.int32
