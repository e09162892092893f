"""Dropout: masks that are the same bits on every library and look random, what they do, and rates of each member."""

import hashlib
import itertools

import numpy as np
import pytest
import tolerances
from tolerances import assert_same, assert_within

import portnn
from portnn import random
from portnn.dropout import dropout, limit_of, mixed, sample_words, unit_words
from portnn.testing import check_vjp

HOST = np.zeros(1)
rng = np.random.default_rng(3)


def words(seed=0, epoch=0, samples=2000, units=300, layer=0, member_seed=0):
    """Return the words of one layer: ``(samples, units)``."""
    of_units = unit_words(member_seed, [*[0] * layer, units])
    return mixed(sample_words(seed, epoch, samples), of_units)


def kept(rate, **kwargs):
    return words(**kwargs) <= limit_of(rate, HOST)[0]


# -- the pair ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.9, (0.0, 0.5, 0.9)])
def test_what_is_kept_is_enlarged_and_the_rest_is_zero(library, dtype, rate):
    x = rng.normal(size=(3, 7, 5)).astype(dtype)
    dy = rng.normal(size=x.shape).astype(dtype)
    word = np.stack([words(member_seed=m, samples=7, units=5) for m in range(3)])
    like = library.make(x)
    y, vjp = dropout(like, library.make(word), *limit_of(rate, like))
    q = 1.0 - np.broadcast_to(np.reshape(rate, (-1, 1, 1)), (3, 1, 1))
    mask = (word.astype(np.int64) + 2**31 < np.rint(q * 2**32)).astype(dtype) * (1.0 / q).astype(dtype)
    assert_same(library.to_numpy(y), x * mask)
    (dx,) = vjp(library.make(dy))
    assert_same(library.to_numpy(dx), dy * mask)


def test_the_pullback_is_that_of_central_differences(library):
    x = library.make(rng.normal(size=(6, 5)))
    word = library.make(words(samples=6, units=5))
    assert check_vjp(lambda x: dropout(x, word, *limit_of(0.4, x)), [x]) < tolerances.central_difference(1.0)


def test_it_is_torchs_dropout_but_for_the_choice():
    """Values are kept times 1 / (1 - p), as torch does it: the two agree wherever both keep."""
    torch = pytest.importorskip("torch", reason="torch is not installed")
    x = rng.normal(size=(200, 30)).astype("float32")
    theirs = torch.nn.functional.dropout(torch.tensor(x), 0.3).numpy()
    ours, _ = dropout(x, words(samples=200, units=30), *limit_of(0.3, x))
    both = (theirs != 0.0) & (ours != 0.0)
    assert both.mean() > 0.4
    assert_within(ours[both], theirs[both].astype(float), 4 * tolerances.unit("float32") * np.abs(theirs[both]))


# -- the words --------------------------------------------------------------------------------------------------------


def test_words_are_the_same_bits_on_every_library(library):
    sample, unit = sample_words(5, 3, 40), np.stack([unit_words(seed, [7, 0, 9]) for seed in (0, 1)])
    got = library.to_numpy(mixed(library.make(sample), library.make(unit)))
    assert got.dtype == np.int32
    digest = hashlib.sha256(np.ascontiguousarray(got).tobytes()).hexdigest()
    assert digest[:16] == "e6532fea8669f600"


def test_words_are_the_same_bits_under_jit():
    jax = pytest.importorskip("jax", reason="jax is not installed")
    sample, unit = sample_words(5, 3, 40), unit_words(1, [7])
    assert_same(np.asarray(jax.jit(mixed)(sample, unit)), mixed(sample, unit))


def test_words_are_those_of_lowbias32_in_arithmetic_without_a_width():
    sample, unit = sample_words(1, 2, 3), unit_words(4, [5])

    def lowbias32(x):
        x &= 0xFFFFFFFF
        x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
        x = ((x ^ (x >> 15)) * 0x846CA68B) & 0xFFFFFFFF
        return x ^ (x >> 16)

    exact = [[lowbias32(int(s) ^ int(u)) >> 16 for u in unit] for s in sample]
    assert_same((mixed(sample, unit).view(np.uint32) >> 16).astype(np.int64), np.asarray(exact))


def test_streams_are_those_of_portnn_random():
    base = random.fold_in(random.fold_in(random.key(7), 4), 2)
    assert_same(sample_words(7, 2, 9), random.words(base, 9))
    base = random.fold_in(random.key(7), 5)
    assert_same(unit_words(7, [2, 3])[2:], random.words(random.fold_in(base, 1), 3))


RATES = [0.05, 0.2, 0.5, 0.9]


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("axis", [0, 1, None], ids=["units", "samples", "all"])
def test_every_unit_and_every_sample_is_dropped_at_the_rate(rate, axis):
    """The number kept is binomial: within 5 standard deviations, of 2,300 numbers one in 750 seeds is not."""
    keep = kept(rate)
    share = keep.mean(axis=axis)
    sigma = np.sqrt(rate * (1.0 - rate))
    assert_within(share, np.full(np.shape(share), 1.0 - rate), tolerances.standard_error(sigma, keep.size / share.size))
    if axis is not None:  # and scattered as much as a binomial number is: chi-square over its mean
        n = share.size
        chi = ((share - share.mean()) ** 2).sum() * (keep.size / n) / (rate * (1 - rate)) / (n - 1)
        assert_within(chi, 1.0, tolerances.standard_error(np.sqrt(2.0), n - 1))


@pytest.mark.parametrize("rate", RATES)
def test_the_expectation_is_the_input(rate):
    x = np.abs(rng.normal(size=300))
    y, _ = dropout(np.broadcast_to(x, (2000, 300)), words(), *limit_of(rate, x))
    sigma = np.sqrt(rate / (1.0 - rate)) * np.sqrt((x * x).mean())
    assert_within(y.mean(), x.mean(), tolerances.standard_error(sigma, y.size))


def pairs_of_masks(rate):
    """Masks that must have nothing to do with one another, by what is different."""
    one = kept(rate)
    yield "neighboring samples", one[1:], one[:-1]
    yield "samples 128 apart", one[128:], one[:-128]
    yield "neighboring units", one[:, 1:], one[:, :-1]
    yield "units 64 apart", one[:, 64:], one[:, :-64]
    yield "epochs", one, kept(rate, epoch=1)
    yield "distant epochs", one, kept(rate, epoch=1024)
    yield "seeds", one, kept(rate, seed=1)
    yield "layers", one, kept(rate, layer=1)
    yield "members", one, kept(rate, member_seed=1)
    yield "mirrored", one, one[::-1, ::-1]


@pytest.mark.parametrize("rate", [0.2, 0.5])
def test_masks_are_not_correlated(rate):
    for what, a, b in pairs_of_masks(rate):
        off = (a - (1.0 - rate)) * (b - (1.0 - rate)) / (rate * (1.0 - rate))
        assert abs(off.mean()) < tolerances.standard_error(1.0, off.size), what


def correlations(of):
    """Return the correlation of each two columns, in standard deviations: the diagonal and one half left out."""
    a = of.astype(float)
    a = (a - a.mean(axis=0)) / a.std(axis=0)
    return ((a.T @ a) / np.sqrt(len(a)))[np.triu_indices(a.shape[1], 1)]


@pytest.mark.parametrize("of", ["units", "samples"])
def test_no_two_units_and_no_two_samples_go_together(of):
    """Each of 45,000 correlations is normal: their mean square is 1, and 6 sigma is passed once in 10,000 seeds."""
    keep = kept(0.5, samples=300 if of == "samples" else 2000, units=2000 if of == "samples" else 300)
    found = correlations(keep if of == "units" else keep.T)
    assert np.abs(found).max() < 6.0
    assert_within((found**2).mean(), 1.0, tolerances.standard_error(np.sqrt(2.0), found.size))


@pytest.mark.parametrize("axis", [0, 1], ids=["samples", "units"])
def test_all_patterns_of_eight_neighbors_are_equally_frequent(axis):
    keep = np.moveaxis(kept(0.5, units=296), axis, -1)
    patterns = keep[:, : keep.shape[1] // 8 * 8].reshape(-1, 8) @ (1 << np.arange(8))
    counts = np.bincount(patterns, minlength=256)
    expected = patterns.size / 256
    chi = ((counts - expected) ** 2 / expected).sum()
    assert_within(chi, 255.0, tolerances.standard_error(np.sqrt(2.0 * 255.0), 1))


def test_no_two_samples_have_one_mask_and_no_two_units():
    for seed, epoch in itertools.product(range(3), range(3)):
        word = words(seed, epoch, 500, 64)
        assert len(np.unique(word, axis=0)) == 500
        assert len(np.unique(word, axis=1).T) == 64


@pytest.mark.parametrize(
    "weak",
    [
        lambda s, u: s[:, None] ^ u[None, :],
        lambda s, u: s[:, None] + u[None, :],
        lambda s, u: (s[:, None] ^ u[None, :]) * np.int32(0x7FEB352D),
    ],
    ids=["exclusive-or", "sum", "one-product"],
)
def test_a_worse_hash_is_found_out(weak, monkeypatch):
    monkeypatch.setitem(globals(), "mixed", weak)
    with pytest.raises(AssertionError):
        test_no_two_units_and_no_two_samples_go_together("units")


# -- in a network -----------------------------------------------------------------------------------------------------

X = rng.normal(size=(37, 4))
LABELS = rng.integers(0, 3, size=37)


def trained(library, epochs=2, seed=0, **kwargs):
    model = portnn.MLP([4, 8, 8, 3], dtype="float64", seed=5, **kwargs, **library.where)
    history = portnn.fit(model, X, LABELS, epochs=epochs, batch_size=8, seed=seed, progress=False)
    return model, history


@pytest.fixture
def host():
    from libraries import LIBRARIES

    return LIBRARIES["numpy"]


def test_all_of_a_rate_of_zero_is_no_dropout(host):
    assert_same(trained(host)[0].params, trained(host, dropout=0.0)[0].params)
    assert_same(trained(host)[0].params, trained(host, dropout=[0.0, 0.0])[0].params)
    assert not np.array_equal(trained(host)[0].params, trained(host, dropout=0.2)[0].params)


def test_training_depends_on_both_seeds_and_on_nothing_else(host):
    one, _ = trained(host, dropout=0.5)
    assert_same(one.params, trained(host, dropout=0.5)[0].params)
    other, _ = trained(host, dropout=0.5, seed=1)
    assert not np.array_equal(one.params, other.params)
    start = portnn.MLP([4, 8, 8, 3], dtype="float64", seed=5)
    team = portnn.MLP([4, 8, 8, 3], dtype="float64", seed=5, members=2, dropout=0.5)
    team.params = np.stack([start.params] * 2)  # two members with one start: their masks differ all the same
    portnn.fit(team, X, LABELS, epochs=2, batch_size=8, progress=False)
    assert_within(team.params[0], one.params, tolerances.BARS["adam"]["float64"])
    assert np.abs(team.params[1] - one.params).max() > 1e-3


def test_prediction_drops_nothing(library):
    plain = portnn.MLP([4, 8, 8, 3], dtype="float64", **library.where)
    model = portnn.MLP([4, 8, 8, 3], dtype="float64", dropout=0.5, **library.where)
    x = library.make(X)
    assert_same(library.to_numpy(model(x)), library.to_numpy(plain(x)))
    assert_same(
        library.to_numpy(model.loss_and_grad(x, LABELS)[1]), library.to_numpy(plain.loss_and_grad(x, LABELS)[1])
    )
    assert portnn.evaluate(model, X, LABELS) == portnn.evaluate(plain, X, LABELS)
    assert_same(portnn.predict(model, X), portnn.predict(plain, X))


def test_each_member_is_a_fit_of_its_own_with_its_own_rates(host):
    """So members of other seeds have masks of their own, and may have rates of their own, layer by layer."""
    rates = [(0.0, 0.3, 0.6), 0.25]
    team, _ = trained(host, members=3, dropout=rates)
    for m in range(3):
        model = portnn.MLP([4, 8, 8, 3], dtype="float64", seed=5 + m, dropout=[rates[0][m], 0.25])
        portnn.fit(model, X, LABELS, epochs=2, batch_size=8, progress=False)
        assert_within(team.params[m], model.params, tolerances.BARS["adam"]["float64"])
        assert team[m].layers[0].dropout.rate == rates[0][m]
    assert team[:2].layers[0].dropout.rate == rates[0][:2]


BAD = [
    (1.0, r"MLP: dropout must be a number in \[0, 1\), got 1.0"),
    (-0.1, r"MLP: dropout must be a number in \[0, 1\), got -0.1"),
    (float("nan"), r"MLP: dropout must be a number in \[0, 1\), got nan"),
    (True, r"MLP: dropout must be a number in \[0, 1\), got True"),
    ("0.5", r"MLP: dropout must be a number in \[0, 1\), got '0.5'"),
    (None, r"MLP: dropout must be a number in \[0, 1\), got None"),
    ([0.1], r"MLP: 1 entries in dropout for 2 hidden layers: \[0.1\]"),
    ([0.1, [0.2, 0.3]], r"MLP: dropout has 2 rates for one layer of a network with no members; an entry"),
    ([0.1, 2.0], r"MLP: dropout must be a number in \[0, 1\), got 2.0"),
]


@pytest.mark.parametrize(("rate", "message"), BAD)
def test_what_is_no_rate_is_refused(rate, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        portnn.MLP([4, 8, 8, 3], dropout=rate)


def test_rates_of_members_are_counted_and_checked():
    with pytest.raises(ValueError, match=r"^MLP: dropout has 2 rates for one layer of a network with 3 members"):
        portnn.MLP([4, 8, 3], members=3, dropout=[[0.1, 0.2]])
    with pytest.raises(ValueError, match=r"^MLP: dropout\[1\] must be a number in \[0, 1\), got 1.5"):
        portnn.MLP([4, 8, 3], members=2, dropout=[[0.1, 1.5]])
    with pytest.raises(
        ValueError, match=r"for 1 hidden layer: \[0.1, 0.2\]; one rate for each .*: dropout=\[\[0.1, 0.2\]\]$"
    ):
        portnn.MLP([4, 8, 3], members=2, dropout=[0.1, 0.2])
    with pytest.raises(
        ValueError, match=r"for 3 hidden layers: .*: dropout=\[\[0.1, 0.2\], \[0.1, 0.2\], \[0.1, 0.2\]\]$"
    ):
        portnn.MLP([4, 8, 8, 8, 3], members=2, dropout=[0.1, 0.2])
    with pytest.raises(ValueError, match=r"for 3 hidden layers: \[0.1, 0.2\]$"):
        portnn.MLP([4, 8, 8, 8, 3], dropout=[0.1, 0.2])


@pytest.mark.parametrize("members", [None, 2])
def test_an_array_of_rates_is_a_list_of_them(library, members):
    rates = np.asarray([[0.125, 0.5], [0.25, 0.375]] if members else [0.125, 0.5])
    options = {"members": members, "residual": np.asarray([False, True])}
    given = portnn.MLP([4, 8, 8, 3], dropout=library.make(rates), **options)
    wanted = portnn.MLP([4, 8, 8, 3], dropout=rates.tolist(), members=members, residual=[False, True])
    assert given.layers == wanted.layers
    assert repr(given) == repr(wanted)


def test_an_optimizer_may_not_take_the_name_of_the_units():
    class Keeps:
        def init(self, params):
            return {"units": params * 0.0}

        def row(self, step):
            return ()

        def update(self, params, grad, state, h, decayed):
            return params, state

    model = portnn.MLP([4, 8, 3], dropout=0.5)
    with pytest.raises(ValueError, match=r"^fit: the optimizer keeps an array named 'units'"):
        portnn.fit(model, X, LABELS, optimizer=Keeps(), epochs=1)
