"""A vector in parts is one vector to whatever is done with it."""

import numpy as np
import pytest
from tolerances import assert_same, assert_within, first_gradient

import portnn
from portnn.backends import device, namespace
from portnn.backends.parts import Parts, joined
from portnn.clipping import clip_by_norm, clip_by_value

SHAPES = ((2, 3), (3,), (2,))
RNG = np.random.default_rng(3)
VECTOR = RNG.standard_normal((2, 11))


def cut(a=VECTOR):
    return Parts.cut(np.array(a), SHAPES)


def test_what_it_looks_like():
    parts = cut()
    assert (parts.shape, parts.ndim, parts.dtype, parts.shapes) == ((2, 11), 2, np.float64, SHAPES)
    assert device(parts) == device(VECTOR)
    assert [part.shape for part in parts.parts] == [(2, 2, 3), (2, 3), (2, 2)]
    assert_same(parts.joined(), VECTOR)
    assert joined(3.0) == 3.0


def test_a_slice_that_is_a_part_is_that_part():
    parts = cut()
    assert parts[..., 6:9] is parts.parts[1]
    matrix = parts[..., 0:6]
    assert namespace(matrix).reshape(matrix, (2, 2, 3)) is parts.parts[0]
    assert_same(matrix.joined(), VECTOR[:, :6])
    for other in (slice(6, 8), slice(5, 9), slice(None), slice(0, 11), slice(6, 9, 2)):
        assert_same(parts[..., other], VECTOR[..., other])
    assert_same(parts[0], VECTOR[0])


@pytest.mark.parametrize(
    "f",
    [
        lambda a: a * 2.0 - 1.0 / (3.0 + a * a),
        lambda a: -abs(a) + a**2,
        lambda a: VECTOR * a + VECTOR,
        lambda a: a * VECTOR[:, :1],
        lambda a: a * VECTOR[0],
        lambda a: namespace(a).where(a > 0.0, a, namespace(a).zeros_like(a)),
        lambda a: namespace(a).maximum(namespace(a).sqrt(namespace(a).abs(a)), VECTOR),
        lambda a: namespace(a).astype(a <= 0.5, np.float32),
        lambda a: namespace(a).isfinite(a / VECTOR),
        lambda a: namespace(a).concat([a, a], axis=-1) * 3.0,
    ],
)
def test_what_acts_on_each_number_acts_on_each_part(f):
    found = f(cut())
    assert isinstance(found, Parts)
    assert_same(found.joined(), f(VECTOR))


@pytest.mark.parametrize(
    "f",
    [
        lambda a: namespace(a).max(namespace(a).abs(a), axis=-1, keepdims=True),
        lambda a: namespace(a).min(a, axis=-1),
        lambda a: namespace(a).all(namespace(a).isfinite(a), axis=-1),
        lambda a: namespace(a).any(a > 2.0, axis=-1),
        lambda a: namespace(a).max(a),
        lambda a: namespace(a).sum(a, axis=0),
        lambda a: namespace(a).matmul(a, namespace(a).matrix_transpose(a)),
        lambda a: namespace(a).argmax(a, axis=-1),
        lambda a: namespace(a).flip(a, axis=-1),
        lambda a: namespace(a).concat([a, a], axis=0),
        lambda a: np.ones((3, 1, 1)) * a,
        lambda a: namespace(a).multiply(np.ones((3, 2, 11)), a),
    ],
)
def test_what_is_asked_of_the_whole_is_what_the_whole_gives(f):
    found = f(cut())
    assert not isinstance(found, Parts)
    assert_same(found, f(VECTOR))


def test_a_matrix_is_a_part_of_a_joined_vector():
    parts = cut()
    xp = namespace(parts)
    again = xp.concat([xp.reshape(parts.parts[0], (2, -1)), *parts.parts[1:]], axis=-1)
    assert again.parts[0] is parts.parts[0]
    assert_same(again.joined(), VECTOR)
    assert_same(xp.reshape(np.zeros((2, 3)), (3, 2)), np.zeros((3, 2)))
    assert_same(xp.reshape(parts, (22,)), VECTOR.reshape(22))


def test_a_sum_is_the_sum_of_the_sums():
    found = namespace(cut()).sum(cut(), axis=-1, keepdims=True)
    assert found.shape == (2, 1)
    assert_within(found, VECTOR.sum(axis=-1, keepdims=True), first_gradient(VECTOR, "float64"))


def test_vectors_cut_in_different_ways_are_joined():
    other = Parts.cut(VECTOR, ((5,), (6,)))
    assert_same(cut() + other, VECTOR + VECTOR)


@pytest.mark.parametrize(
    "optimizer",
    [
        portnn.SGD(0.1, momentum=0.9, nesterov=True),
        portnn.Adam(0.1, amsgrad=True),
        portnn.AdamW(0.1),
        portnn.RMSprop(0.1, momentum=0.5),
        portnn.Adagrad(0.1),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_optimizers_do_not_see_the_difference(optimizer):
    def run(make):
        params, state = make(VECTOR), {name: make(a) for name, a in optimizer.init(VECTOR).items()}
        for k in range(3):
            grad = clip_by_norm(clip_by_value(make(VECTOR * (k - 1.0)), np.asarray(1.0)), np.asarray(2.0))
            params, state = optimizer.update(params, grad, state, optimizer.row(k), np.arange(11.0) % 2)
        return {"params": params, **state}

    whole = run(np.array)
    for name, a in run(cut).items():
        assert isinstance(a, Parts)
        assert_within(a.joined(), whole[name], first_gradient(whole[name], "float64"))


@pytest.mark.parametrize("members", [None, 2])
@pytest.mark.parametrize("batch_size", [2, 6], ids=["three steps", "one step"])
def test_a_compiled_chunk_writes_vectors_and_joins_none(monkeypatch, batch_size, members):
    """XLA joins number by number: an epoch of 784-128-10 (Adam, batches of 8192) took 128 ms, and 105 without."""
    pytest.importorskip("jax", reason="jax is not installed")
    import portnn.backends.jax as room

    texts, compiled = [], room._compiled

    def spied(*about):
        chunk = compiled(*about)

        def run(*args):
            texts.append(chunk.lower(*args).as_text())
            return chunk(*args)

        return run

    monkeypatch.setattr(room, "_compiled", spied)
    model = portnn.MLP([5, 4, 3], backend="jax", members=members)
    x, t = RNG.standard_normal((6, 5)), np.arange(6) % 3
    portnn.fit(model, x, t, epochs=1, batch_size=batch_size, optimizer=portnn.Adam(), progress=False)
    assert len(texts) == 1
    joins = [line for line in texts[0].splitlines() if "concatenate" in line and "39xf32>" in line.split("->")[-1]]
    assert not joins
    assert texts[0].count("dynamic_update_slice") >= 12  # four parts of parameters and of both moments
