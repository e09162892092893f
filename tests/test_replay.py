"""Steps that are recorded and replayed: the same bits as the steps themselves, without what they cost."""

import functools
import gc
import tracemalloc
import weakref

import numpy as np
import pytest
from libraries import LIBRARIES
from tolerances import assert_same, assert_within, first_gradient

import portnn
import portnn.backends
from portnn.backends import HOST, namespace
from portnn.backends.base import Rows
from portnn.backends.tape import NotRecordedError, Tape
from portnn.losses import Loss, cross_entropy, get_loss
from portnn.step import Chunks, make_step

N, BATCH = 44, 8  # four batches of 8 are recorded, checked and replayed; the last one has 4
RNG = np.random.default_rng(5)
X = RNG.standard_normal((N, 6))
LABELS = RNG.integers(0, 3, N)
TARGETS = RNG.standard_normal((N, 3))


@pytest.fixture(params=["numpy", "torch"])
def replaying(request):
    library = LIBRARIES[request.param]
    if library.why_not:
        pytest.skip(library.why_not)
    return library


def trained(library, how, *, model=None, t=LABELS, x=X, **options):
    """Return the parameters and the history after three epochs."""
    network = portnn.MLP(**{"sizes": [6, 5, 3], "seed": 1, **library.where, **(model or {})})
    options = {"epochs": 3, "batch_size": BATCH, "progress": False, "compile": how, **options}
    history = portnn.fit(network, x, t, **options)
    history.pop("epoch_seconds")
    return library.to_numpy(network.params), history


OPTIMIZERS = {
    "sgd": portnn.SGD(0.1),
    "momentum": portnn.SGD(0.1, momentum=0.9),
    "nesterov": portnn.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": portnn.Adam(0.01),
    "amsgrad": portnn.Adam(0.01, amsgrad=True),
    "adamw": portnn.AdamW(0.01, weight_decay=0.1),
    "rmsprop": portnn.RMSprop(0.01, momentum=0.5),
    "adagrad": portnn.Adagrad(0.05),
    "schedule": portnn.Adam(portnn.schedules.cosine(0.1, 12)),
}
VARIANTS = {
    **{name: {"optimizer": optimizer} for name, optimizer in OPTIMIZERS.items()},
    **{
        a: {"model": {"activation": a}}
        for a in (*("identity", "leaky_relu", "elu", "selu", "tanh", "sigmoid"), *("softplus", "gelu", "silu", "mish"))
    },
    **{loss: {"loss": loss, "t": TARGETS} for loss in ("mse", "mae", "huber")},
    "binary": {"loss": "binary_cross_entropy", "t": (TARGETS > 0).astype("float32")},
    "probabilities": {"t": np.exp(TARGETS) / np.exp(TARGETS).sum(axis=1, keepdims=True)},
    "smoothing": {"loss": functools.partial(cross_entropy, label_smoothing=0.1)},
    "weights": {"sample_weight": np.linspace(0.0, 2.0, N), "class_weight": [1.0, 2.0, 3.0]},
    "members": {"model": {"members": 3}, "optimizer": portnn.Adam(0.01)},
    "clipped": {"clip_value": 0.05, "clip_norm": 0.1},
    "penalty": {"l1": 0.01, "l2": 0.02},
    "deep": {"model": {"sizes": [6, 5, 5, 5, 5, 5, 3]}},  # twelve pieces: joined in two turns
    "linear": {"model": {"sizes": [6, 3]}},
    "no bias": {"model": {"bias": False}},
    "batches of one": {"batch_size": 1},
    "one batch": {"batch_size": N},
    "in order": {"shuffle": False},
    "images": {"x": (abs(X) * 50).astype("uint8")},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_bits_as_step_by_step(replaying, name, dtype):
    options = dict(VARIANTS[name])
    options["model"] = {**options.get("model", {}), "dtype": dtype}
    replayed, history = trained(replaying, True, **options)
    plain, expected = trained(replaying, False, **options)
    assert_same(replayed, plain)
    assert history == expected


@pytest.mark.parametrize(("n", "batch_size"), [(900, 300), (608, 608), (1632, 1024), (1000, 999)])
@pytest.mark.parametrize("members", [None, 2])
def test_batches_of_more_than_256_rows(replaying, n, batch_size, members):
    """The bias gradient of many rows joins what is left over along another axis than that of the parameters."""
    x, t = np.resize(X, (n, 6)), np.resize(LABELS, n)
    options = {"model": {"members": members}, "x": x, "t": t, "batch_size": batch_size, "epochs": 4}
    replayed, history = trained(replaying, "auto", **options)
    plain, expected = trained(replaying, False, **options)
    assert_same(replayed, plain)
    assert history == expected


@pytest.mark.parametrize("of", [lambda x: x[:, 1:], lambda x: x[::-1, 1:], lambda x: np.asfortranarray(x[:, 1:])])
def test_samples_in_another_layout_are_the_same_samples(of):
    numpy = LIBRARIES["numpy"]
    wide = np.concatenate([LABELS[:, None], X], axis=1).astype("float32")
    one, _ = trained(numpy, "auto", x=of(wide))
    other, _ = trained(numpy, "auto", x=np.ascontiguousarray(of(wide)))
    assert_same(one, other)


@pytest.mark.parametrize("of", [np.ascontiguousarray, np.asfortranarray])
@pytest.mark.parametrize("features", [13, 6])
def test_batches_in_order_begin_anywhere_in_memory(replaying, features, of):
    """A view of the samples lies and begins elsewhere than the copy that is trained on: products may differ in bits."""
    x = of(np.random.default_rng(2).standard_normal((60, features)).astype("float32"))
    t = np.arange(60) % 3
    options = {"model": {"sizes": [features, 9, 3]}, "t": t, "shuffle": False, "batch_size": 10}
    replayed, history = trained(replaying, "auto", x=replaying.make(x), **options)
    plain, expected = trained(replaying, False, x=replaying.make(x), **options)
    again, _ = trained(replaying, False, x=replaying.make(np.ascontiguousarray(x)), **options)
    assert_same(replayed, plain)
    assert_same(again, plain)
    assert history == expected


@pytest.mark.parametrize("of", [np.ascontiguousarray, np.asfortranarray])
def test_the_loop_on_torch_sees_batches_as_the_replay_does(of):
    library = LIBRARIES["torch"]
    if library.why_not:
        pytest.skip(library.why_not)
    x = library.make(of(np.arange(65, dtype="float32").reshape(5, 13)))
    for start in range(3):
        batch = library.backend.batch({"x": Rows(library.backend, x)}, start, start + 2)["x"]
        assert batch.is_contiguous()
        assert batch.data_ptr() % 64 == 0
        assert_same(library.to_numpy(batch), np.arange(65, dtype="float32").reshape(5, 13)[start : start + 2])


def test_a_batch_that_is_fetched_otherwise_is_noticed(monkeypatch):
    """What is replayed is compared with what the loop would do, not with itself."""
    numpy = LIBRARIES["numpy"]
    take_into = type(HOST).take_into

    def a_row_late(self, out, rows, start, stop):
        take_into(self, out, rows, start, stop)
        if out.ndim > 1:
            out[...] = np.roll(out, 1, axis=0)

    monkeypatch.setattr(
        type(HOST), "take_into", lambda self, out, *a: (a_row_late if out.ndim > 1 else take_into)(self, out, *a)
    )
    with pytest.raises(NotRecordedError, match="a replayed step differs from the step itself in"):
        trained(numpy, True)


def test_no_layout_is_copied_as_a_whole_for_a_batch():
    source = np.zeros((60_000, 20), dtype="float32")[:, 1:]
    rows, out = Rows(HOST, source, np.arange(0, 60_000, 2000)), np.empty((8, 19), dtype="float32")
    tracemalloc.start()
    try:
        HOST.take_into(out, rows, 0, 8)
        assert tracemalloc.get_traced_memory()[1] < source.nbytes / 100
    finally:
        tracemalloc.stop()


def recorded(library, sizes=(6, 5, 3), optimizer=None, loss="cross_entropy", steps=5, **options):
    """Return a chunk, the arguments of its runs, and the model."""
    model = portnn.MLP(list(sizes), **library.where, **options)
    step = make_step(model, get_loss(loss), optimizer or portnn.Adam(0.01))
    run = model.backend.compile_chunk(step, steps, BATCH)
    optimizer = optimizer or portnn.Adam(0.01)
    state = {"params": model.backend.asarray(model.params, copy=True), **optimizer.init(model.params)}
    x = np.tile(X, (10, 1))[: steps * BATCH].astype("float32")
    t = np.tile(LABELS, 10)[: steps * BATCH]
    chunk = {"x": Rows(model.backend, library.make(x)), "t": Rows(model.backend, library.make(t))}
    return run, (state, chunk, [optimizer.row(k) for k in range(steps)]), step


def test_a_step_is_run_four_times_and_no_namespace_is_looked_up_after_that(replaying, monkeypatch):
    """What NumPy and torch cost beside their products: the interpreter must do nothing but call them."""
    run, (state, chunk, rows), step = recorded(replaying)
    asked = []
    plain = step.run
    step.run = lambda *args: asked.append("step") or plain(*args)
    state, _ = run(state, chunk, rows)
    assert asked == ["step"] * 4, "two recorded, two to compare with; the last of the five is replayed"
    for module in ("primitives", "network", "losses", "activations", "optimizers", "evaluation", "objective", "step"):
        room = getattr(portnn, module)
        if hasattr(room, "namespace"):
            monkeypatch.setattr(room, "namespace", lambda a: asked.append("namespace") or namespace(a))
    before = list(asked)
    run(state, chunk, rows)
    assert asked == before


def test_a_replayed_step_allocates_nothing_of_size():
    """A vector of parameters and the hidden values of a batch take 160 and 128 kB."""
    library = LIBRARIES["numpy"]
    run, (state, chunk, rows), _ = recorded(library, sizes=(6, 4000, 3))
    state, _ = run(state, chunk, rows)

    def peak(f):
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            f()
            return tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()

    vector = 4 * portnn.MLP([6, 4000, 3]).n_params
    model = portnn.MLP([6, 4000, 3])
    step = make_step(model, get_loss("cross_entropy"), portnn.Adam(0.01))
    loop = model.backend.loop_chunk(step, 5, BATCH)
    copies = {name: a.copy() for name, a in state.items()}
    assert peak(lambda: loop(copies, chunk, rows)) > 3 * vector, "step by step it does"
    assert peak(lambda: run(state, chunk, rows)) < vector / 4


def test_gradients_are_made_in_their_places(replaying):
    """Of torch those that lie on a boundary of 64 bytes, since its products look at that."""
    run, arguments, _ = recorded(replaying, sizes=(6, 16, 16, 16, 16, 16, 16))
    replay = getattr(run, "__wrapped__", run)
    run(*arguments)
    concats = [number for number, call in enumerate(replay.tape.calls) if call.name == "concat"]
    assert len(concats) == 3, "eight pieces, four, and the two of these"
    assert replay.tape.left == {number: [] for number in concats}
    casts = sum(call.name == "astype" for call in replay.tape.calls) if replaying.name == "torch" else 0
    assert [len(calls) for calls in replay.programs] == [len(replay.tape.calls) - 3 - casts] * 2
    assert casts in (0, 5 + 2), "of comparisons: of each hidden layer, of labels with classes and with outputs"


def test_a_library_that_looks_at_where_it_writes_is_asked_to_join(monkeypatch):
    """MKL's products depend on how their memory is aligned. Here those into part of a vector are wrong."""
    bind, wrong = type(HOST).bind, []

    def careless(self, call):
        run = bind(self, call)
        if call.name == "matmul" and call.out.base is not None and call.out.base.ndim == 1:
            wrong.append(call)
            return lambda: (run(), call.out.__imul__(1.0 + 2**-20))
        return run

    plain, expected = trained(LIBRARIES["numpy"], False)
    monkeypatch.setattr(type(HOST), "bind", careless)
    replayed, history = trained(LIBRARIES["numpy"], True)
    assert wrong
    assert_same(replayed, plain)
    assert history == expected


def test_parameters_and_gradient_trade_places(replaying):
    """To write over what the products of all cores have just read takes longer than the update itself."""
    run, (state, chunk, rows), _ = recorded(replaying, sizes=(6, 16, 3), optimizer=portnn.SGD(0.1))
    replay = getattr(run, "__wrapped__", run)
    seen = [(state := run(state, chunk, rows)[0])["params"] for _ in range(4)]
    assert len(replay.programs) == 2
    address = replaying.backend.memory
    assert len({address(params)[0] for params in seen}) == 2
    programs, _ = replay.tape.in_turns(replay.places[0])
    assert len({address(calls[-1].out)[0] for calls in programs}) == 1, "metrics have one place"
    products = [[call for call in calls if call.name == "matmul"] for calls in programs]
    for even, odd in zip(*products, strict=True):
        assert {address(a)[0] for a in (*even.args, even.out)} != {address(a)[0] for a in (*odd.args, odd.out)}


@pytest.mark.parametrize("wrong_at", [0, 1])
def test_places_that_give_other_numbers_are_not_traded(replaying, monkeypatch, wrong_at):
    """Here the products of one of the two programs are wrong: those of even steps or those of odd ones."""
    steps, made = type(replaying.backend).bind, []

    def careless(self, call):
        run, number = steps(self, call), len(made)
        made.append(call.name)
        in_half = number // wrong["calls"] if wrong["calls"] else -1
        if call.name == "matmul" and in_half == wrong_at:
            return lambda: (run(), call.out.__imul__(1.0 + 2**-20))
        return run

    wrong = {"calls": 0}
    prepare = portnn.backends.replay._Replay._prepare

    def counting(self, tape):
        wrong["calls"] = len(tape.program()) if self.in_turns else 0
        made.clear()
        prepare(self, tape)

    whole = {"x": X[: 5 * BATCH], "t": LABELS[: 5 * BATCH]}
    plain, expected = trained(replaying, False, **whole)
    monkeypatch.setattr(type(replaying.backend), "bind", careless)
    monkeypatch.setattr(portnn.backends.replay._Replay, "_prepare", counting)
    replayed, history = trained(replaying, True, **whole)
    assert_same(replayed, plain)
    assert history == expected
    assert wrong["calls"] == 0, "they were given up"


class Keeping(portnn.SGD):
    """Keeps the gradient, whose place is then not free."""

    def init(self, params):
        return {"last": namespace(params).zeros_like(params)}

    def update(self, params, grad, state, h, decayed=None):
        params -= (grad + state["last"]) * h[0]
        return params, {"last": grad}


class Twice(portnn.SGD):
    """Writes the parameters in two goes."""

    def update(self, params, grad, state, h, decayed=None):
        params -= grad * h[0]
        params *= 0.5
        return params, state


@pytest.mark.parametrize("optimizer", [Keeping(0.1), Twice(0.1)], ids=["keeping", "twice"])
def test_places_that_are_not_free_are_not_traded(replaying, optimizer):
    replayed, history = trained(replaying, True, optimizer=optimizer)
    plain, expected = trained(replaying, False, optimizer=optimizer)
    assert_same(replayed, plain)
    assert history == expected
    run, arguments, _ = recorded(replaying, optimizer=optimizer)
    run(*arguments)
    assert len(getattr(run, "__wrapped__", run).programs) == 1


def test_memory_is_used_again(replaying):
    run, arguments, _ = recorded(replaying, sizes=(6, *[7] * 12, 3), optimizer=portnn.SGD(0.1))
    replay = getattr(run, "__wrapped__", run)
    run(*arguments)
    hidden = [call for call in replay.tape.calls if tuple(call.out.shape) == (BATCH, 7)]
    memory = {replaying.backend.memory(call.out)[0] for call in hidden}
    assert len(hidden) >= 3 * 12
    assert len(memory) < 2 * len(hidden) / 3


def test_what_no_product_needs_is_kept_out_of_its_memory(replaying):
    """It is in the caches of all cores, and slow to write to."""
    run, arguments, _ = recorded(replaying, sizes=(6, *[7] * 12, 3), optimizer=portnn.SGD(0.1))
    replay = getattr(run, "__wrapped__", run)
    run(*arguments)
    address = replaying.backend.memory
    products = [call for call in replay.tape.calls if call.name == "matmul"]
    masks = [call for call in replay.tape.calls if call.name == "astype" and tuple(call.out.shape) == (BATCH, 7)]
    shared = {address(a)[0] for call in products for a in (*call.args, call.out)}
    assert len(masks) == 12
    assert not shared & {address(call.out)[0] for call in masks}


def test_a_result_is_written_over_what_is_not_needed_any_more(replaying):
    """But not where the same memory is read in another order, which torch refuses and NumPy does in a copy."""

    def step(state, batch, h):
        xp, params = namespace(batch["x"]), state["params"]
        a = batch["x"] * 2.0
        b = a + 1.0  # a is needed below
        c = b * b  # b is not
        d = a + a[::1, ...] + c  # nor c; the middle is a and a view that is all of it
        e = d + xp.matrix_transpose(d)
        f = e - e[:, :1]
        return {"params": params + xp.sum(f, axis=0)}, {"loss": f[:, 0]}

    x = RNG.standard_normal((5 * BATCH, BATCH))
    chunk = {"x": Rows(replaying.backend, replaying.make(x))}
    fresh = {"params": replaying.make(np.zeros(BATCH), given_up=True)}
    run = replaying.backend.compile_chunk(step, 5, BATCH)
    state, metrics = run(dict(fresh), chunk, [(0.0,)] * 5)
    plain, expected = replaying.backend.loop_chunk(step, 5, BATCH)(
        {"params": replaying.make(np.zeros(BATCH))}, chunk, [(0.0,)] * 5
    )
    assert_same(replaying.to_numpy(state["params"]), replaying.to_numpy(plain["params"]))
    assert_same(replaying.to_numpy(metrics["loss"]), replaying.to_numpy(expected["loss"]))
    replay = getattr(run, "__wrapped__", run)
    a, b, c, *rest = (call for call in replay.tape.calls if call.name in ("multiply", "add", "subtract"))
    same = replay.tape.same
    assert same(b.out, c.out)
    assert not same(a.out, b.out)
    middle, d, e, f = rest[:4]
    assert same(middle.out, a.out)
    assert same(d.out, middle.out) or same(d.out, c.out)
    assert not same(e.out, d.out)
    assert not same(f.out, e.out)


# -- what cannot be recorded ------------------------------------------------------------------------------------------


def peeking(y, t):
    """A loss that looks at a value."""
    return cross_entropy(y, t) if float(namespace(y).sum(y)) < 1e9 else None


def noisy(y, t):
    """A loss that is another one each time."""
    return cross_entropy(y * RNG.uniform(0.5, 1.5), t)


def first_target(y, t):
    """A loss with a number of the batch as a factor, which is the same in the first batches."""
    values, vjp = cross_entropy(y, t)
    factor = namespace(t).astype(t[0], y.dtype) + 1.0
    return values * factor, lambda dvalues: (vjp(dvalues * factor)[0],)


def indexing(y, t):
    """A loss that indexes with an array."""
    values, vjp = cross_entropy(y, t)
    return values[t * 0], vjp


@pytest.mark.parametrize(
    ("loss", "said"),
    [(peeking, "looks at the values"), (noisy, "differs from the step itself"), (indexing, "an array indexed by")],
)
def test_what_stands_in_the_way_is_said(replaying, loss, said):
    with pytest.raises(NotRecordedError, match=said) as caught:
        trained(replaying, True, loss=Loss("own", loss, "classes"))
    assert caught.value.__notes__ == ["fit: compile=True; compile='auto' or False runs steps as they are written"]


@pytest.mark.parametrize("loss", [peeking, indexing])
def test_functions_of_the_user_are_run_as_they_are_written_unless_asked(replaying, loss):
    """Without a word: whoever wrote a loss for NumPy may read values in it, and is called at every step."""
    calls = []

    def own(y, t):
        calls.append(y)
        return loss(y, t)

    replayed, _ = trained(replaying, "auto", loss=Loss("own", own, "classes"))
    assert len(calls) == 3 * 6
    plain, _ = trained(replaying, False, loss=Loss("own", loss, "classes"))
    assert_same(replayed, plain)


def test_a_pure_function_of_the_user_is_recorded_if_asked(replaying):
    def own(y, t):
        values, vjp = cross_entropy(y * 2.0, t)
        return values, lambda dvalues: (vjp(dvalues)[0] * 2.0,)

    asked, _ = trained(replaying, True, loss=Loss("own", own, "classes"))
    plain, _ = trained(replaying, False, loss=Loss("own", own, "classes"))
    assert_same(asked, plain)


def test_a_number_of_the_batch_is_no_constant(replaying):
    t = np.where(np.arange(N) < 3 * BATCH, 0, LABELS)
    options = {"loss": Loss("own", first_target, "classes"), "t": t, "shuffle": False}
    replayed, _ = trained(replaying, True, **options)
    plain, _ = trained(replaying, False, **options)
    assert_same(replayed, plain)


def test_a_wrapped_loss_of_ours_is_a_function_of_the_user(replaying):
    """functools.wraps copies the name of the module; what the wrapper reads from elsewhere may change."""
    factor = [1.0]

    @functools.wraps(cross_entropy)
    def wrapped(y, t):
        values, vjp = cross_entropy(y, t)
        f = factor[0]
        return values * f, lambda dvalues: (vjp(dvalues * f)[0],)

    def stop(model, history):
        factor[0] = 0.0

    _, history = trained(replaying, "auto", loss=Loss("own", wrapped, "classes"), callbacks=stop)
    assert history["loss"][1:] == [0.0, 0.0]


class Trading(portnn.SGD):
    """Hands its arrays back in each other's places."""

    def init(self, params):
        xp = namespace(params)
        return {"a": xp.zeros_like(params), "b": xp.ones_like(params)}

    def update(self, params, grad, state, h, decayed=None):
        params -= state["b"] * h[0]
        return params, {"a": state["b"], "b": state["a"]}


class Functional(portnn.SGD):
    """Changes nothing in place."""

    def update(self, params, grad, state, h, decayed=None):
        return params - grad * h[0], state


def test_states_that_trade_places_are_refused(replaying):
    with pytest.raises(NotRecordedError, match="another array of its state as 'a'"):
        trained(replaying, True, optimizer=Trading(0.1))
    auto, _ = trained(replaying, "auto", optimizer=Trading(0.1))
    plain, _ = trained(replaying, False, optimizer=Trading(0.1))
    assert_same(auto, plain)


def test_an_optimizer_that_returns_new_arrays(replaying):
    replayed, _ = trained(replaying, True, optimizer=Functional(0.1))
    plain, _ = trained(replaying, False, optimizer=portnn.SGD(0.1))
    assert_same(replayed, plain)


# -- fit(compile=...) -------------------------------------------------------------------------------------------------


def test_compile_is_one_of_three(library):
    model = portnn.MLP([6, 3], **library.where)
    before = library.to_numpy(model.params)
    with pytest.raises(ValueError, match="fit: compile must be True, False or 'auto', got 'yes'"):
        portnn.fit(model, X, LABELS, compile="yes")
    assert_same(library.to_numpy(model.params), before)
    with pytest.raises(ValueError, match="fit: compile must be True, False or 'auto', got 0"):
        portnn.fit(model, X, LABELS, compile=0)


class Falling(portnn.SGD):
    """Has a rate of its own."""

    def rate(self, step):
        return 0.1 / (step + 1)


class Remembering(portnn.SGD):
    """Asks of a vector what only an array can be asked."""

    def init(self, params):
        return {"last": namespace(params).stack([namespace(params).zeros_like(params)] * 3)}

    def update(self, params, grad, state, h, decayed=None):
        xp = namespace(grad)
        last = xp.concat([state["last"][1:, :], grad[None, :]], axis=0)
        size = xp.sqrt(grad @ grad)
        along = xp.sum(last * grad, axis=-1)
        return params - grad * (h[0] / (1.0 + size + xp.sum(along))), {"last": last}


@pytest.mark.parametrize("optimizer", [Falling(0.1), Remembering(0.1)], ids=["falling", "remembering"])
def test_optimizers_of_the_user_train_as_they_are_written(library, optimizer):
    auto, history = trained(library, "auto", optimizer=optimizer, model={"dtype": "float64"})
    plain, expected = trained(library, False, optimizer=optimizer, model={"dtype": "float64"})
    assert_within(auto, plain, first_gradient(plain, "float64"))
    assert history.get("learning_rate") == expected.get("learning_rate")
    if isinstance(optimizer, Falling):
        assert history["learning_rate"][0] == 0.1 / 6


def test_compile_where_there_is_nothing_to_compile_with():
    strict = LIBRARIES["array_api_strict"]
    if strict.why_not:
        pytest.skip(strict.why_not)
    with pytest.raises(ValueError, match="array_api_strict has nothing to compile with; use compile='auto'"):
        trained(strict, True)
    auto, _ = trained(strict, "auto")
    plain, _ = trained(strict, False)
    assert_same(auto, plain)


def test_jax_says_why_it_goes_step_by_step():
    jax = LIBRARIES["jax"]
    if jax.why_not:
        pytest.skip(jax.why_not)
    loss = Loss("own", peeking, "classes")
    with pytest.warns(RuntimeWarning, match=r"fit: steps run one by one, they cannot be compiled \(\w*Error") as said:
        auto, history = trained(jax, "auto", loss=loss)
    assert len(said) == 1, "once, not for every shape of a chunk"
    plain, expected = trained(jax, False)
    assert_same(auto, plain)
    assert history == expected
    with pytest.raises(TypeError, match="tracer value encountered"):
        trained(jax, True, loss=loss)


def test_a_mistake_of_the_user_is_not_blamed_on_compiling(library):
    def wrong(y, t):
        return 1 // 0, t

    with pytest.raises(ZeroDivisionError):  # and a warning would be an error here
        trained(library, "auto", loss=Loss("own", wrong, "classes"))


def test_running_out_of_memory_is_no_reason_to_go_step_by_step(monkeypatch):
    step = make_step(portnn.MLP([6, 3]), get_loss("cross_entropy"), portnn.SGD(0.1))
    chunks = Chunks(HOST, step, "auto")

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(type(HOST), "compile_chunk", lambda *_: full)
    with pytest.raises(MemoryError):
        chunks.run(1, 2, {}, {}, [], {})


# -- the namespace of recorded arrays ---------------------------------------------------------------------------------


def test_constants_are_not_recorded():
    tape = Tape(HOST)
    assert isinstance(tape.ones((2,), dtype=tape.float32), np.ndarray)
    assert tape.isdtype(np.float32, "real floating")
    assert tape.calls == []


def test_an_array_of_numpy_on_the_left_is_recorded():
    tape = Tape(HOST)
    a = tape.hold(np.asarray([1.0, 2.0]))
    for made in (np.asarray([3.0, 4.0]) - a, 3.0 - a, np.float64(3.0) * a):
        assert made.tape is tape
    assert [call.name for call in tape.calls] == ["subtract", "subtract", "multiply"]


def test_views_are_memory_and_no_calls():
    tape = Tape(HOST)
    a = tape.hold(np.arange(6.0))
    part = tape.reshape(a, (2, 3))[1:, ...]
    part += 10.0
    assert a.value.tolist() == [0.0, 1.0, 2.0, 13.0, 14.0, 15.0]
    assert [call.name for call in tape.calls] == ["add"]
    a[0:2] = part[0, 0:2]
    assert a.value.tolist()[:2] == [13.0, 14.0]


def replayed_calls(replaying, compute):
    """Return the names of the calls and what they write when they are run again on other numbers."""
    backend = replaying.backend
    tape, a = Tape(backend), backend.asarray(np.asarray([[-1.0, 0.5], [2.0, -3.0]], "float32"))
    results = compute(tape, tape.hold(a))
    calls = tape.program()
    program = [backend.bind(call) for call in calls]
    a[...] = backend.asarray(np.asarray([[0.0, 3.0], [-2.0, -2.0]], "float32"))
    for run in program:
        run()
    return [call.name for call in calls], [replaying.to_numpy(r.value).tolist() for r in results]


def test_a_comparison_and_its_cast_are_one_call_of_a_library_that_can(replaying):
    def compute(xp, a):
        return [xp.astype(a > 0.0, a.dtype)]

    names, found = replayed_calls(replaying, compute)
    assert names == (["greater"] if replaying.name == "torch" else ["greater", "astype"])
    assert found == [[[0.0, 1.0], [0.0, 0.0]]]


def test_a_comparison_that_is_also_used_otherwise_stays(replaying):
    def compute(xp, a):
        larger = a > 0.0
        return [xp.astype(larger, a.dtype), xp.logical_not(larger)]

    names, found = replayed_calls(replaying, compute)
    assert names == ["greater", "astype", "logical_not"]
    assert found == [[[0.0, 1.0], [0.0, 0.0]], [[True, False], [True, True]]]


def test_a_cast_to_the_memory_of_what_is_compared_is_right(replaying):
    """What is written first would be compared afterwards, in the other order."""

    def compute(xp, a):
        b = a + 1.0
        larger = b.T > 1.0
        del b  # its memory is used again for the cast
        return [xp.astype(larger, a.dtype)]

    names, found = replayed_calls(replaying, compute)
    assert names == ["add", "greater", "astype"]
    assert found == [[[0.0, 0.0], [1.0, 0.0]]]


def test_labels_of_another_dtype_are_compared(replaying):
    labels = replaying.backend.asarray(np.asarray([1, 1], "int32"))

    def compute(xp, a):
        return [xp.astype(xp.argmax(a, axis=-1) == xp.hold(labels), a.dtype)]

    names, found = replayed_calls(replaying, compute)
    assert names == ["argmax", "equal"] + ["astype"] * (replaying.name == "numpy")
    assert found == [[1.0, 0.0]]


def test_numbers_of_another_dtype_are_compared_as_the_standard_has_it(replaying):
    """torch by itself would round the number to the dtype of the array."""
    tenth = replaying.backend.asarray(np.asarray(3.1, "float64"))

    def compute(xp, a):
        return [xp.astype(a + 0.1 >= xp.hold(tenth), a.dtype)]

    _, found = replayed_calls(replaying, compute)
    assert found == [[[0.0, 0.0], [0.0, 0.0]]]  # 3.1 in float32 is less than in float64


def test_a_fraction_is_none_of_the_integers(replaying):
    """torch would take 0.5 for 0 beside them, and True for 1."""
    labels = replaying.backend.asarray(np.asarray([[0, 1], [2, 1]], "int32"))

    def compute(xp, a):
        held = xp.hold(labels)
        half, true = np.float32(0.5), True
        return [xp.astype(b, a.dtype) for b in (held >= 0.5, held >= half, held > 1, (held > 1) == true)]

    _, found = replayed_calls(replaying, compute)
    assert found == 2 * [[[0.0, 1.0], [1.0, 1.0]]] + 2 * [[[0.0, 0.0], [1.0, 0.0]]]


def test_a_number_can_be_written_over_a_part(replaying):
    def compute(xp, a):
        b = a + 1.0
        b[0, ...] = 7.0
        return [b]

    _, found = replayed_calls(replaying, compute)
    assert found == [[[7.0, 7.0], [-1.0, -1.0]]]


@pytest.mark.parametrize("epochs", [1, 2, 9], ids=["recorded once", "recorded twice", "compared"])
def test_memory_of_a_short_training_is_let_go_at_once(monkeypatch, epochs):
    tapes = weakref.WeakSet()
    made = Tape.__init__

    def noted(self, *args):
        made(self, *args)
        tapes.add(self)

    monkeypatch.setattr(Tape, "__init__", noted)
    gc.disable()
    try:
        trained(LIBRARIES["numpy"], True, epochs=epochs, batch_size=N)
        assert not tapes
    finally:
        gc.enable()


def test_a_number_that_changes_from_step_to_step_is_read_in_each(replaying):
    one = replaying.backend.asarray(np.asarray(1.0, "float32"))

    def compute(xp, a):
        return [xp.maximum(a, a[0, 0]), xp.maximum(a, one), xp.minimum(one, a)]

    _, found = replayed_calls(replaying, compute)
    assert found == [[[0.0, 3.0], [0.0, 0.0]], [[1.0, 3.0], [1.0, 1.0]], [[0.0, 1.0], [-2.0, -2.0]]]


@pytest.mark.parametrize("shape", [(4, 3), (2, 4, 32), (5, 33), (3, 1), (7,)])
@pytest.mark.parametrize("keepdims", [True, False])
def test_maxima_of_short_rows(replaying, shape, keepdims):
    a = np.random.default_rng(0).integers(-9, 9, shape).astype("float32")
    a[..., -1].reshape(-1)[0] = np.nan
    there = replaying.backend.asarray(np.zeros_like(a))
    tape = Tape(replaying.backend)
    result = tape.max(tape.hold(there), axis=-1, keepdims=keepdims)
    there[...] = replaying.backend.asarray(a)
    for call in tape.program():
        replaying.backend.bind(call)()
    assert_same(replaying.to_numpy(result.value), np.max(a, axis=-1, keepdims=keepdims))
