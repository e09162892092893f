"""What a network gets right: loss and accuracy over many samples, and its outputs, in bounded memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy

from portnn import checks
from portnn.activations import sigmoid
from portnn.autograd import value_of
from portnn.backends import HOST, Array, namespace, one_of
from portnn.backends.base import Batch, Metrics
from portnn.chunked import by_chunks, wants_chunks
from portnn.datasets.streams import Stream
from portnn.diagnosis import read_back, unsound
from portnn.feed import CHUNK_ROWS, Feed, as_index
from portnn.group import ALONE, Group
from portnn.guests import taken_in
from portnn.losses import Loss, counted, get_loss
from portnn.memory import check_finite, enough, outputs_want, samples_want
from portnn.mlp import MLP, check_model
from portnn.network import forward, zero_of
from portnn.objective import check_losses
from portnn.pure import Pure, name_of, network_key
from portnn.stream_feed import StreamFeed
from portnn.trace import Place, finite_rows


def evaluate(
    model: MLP,
    x: Any,
    t: Array | None = None,
    *,
    loss: Any = "cross_entropy",
    sample_weight: Array | None = None,
    class_weight: Any = None,
) -> dict[str, Any]:
    """Return ``{"loss": mean loss, "accuracy": fraction of right answers}``, in bounded memory.

    Arguments as in :func:`fit`, streams of samples too. The accuracy (of labels: the largest logit; of binary targets:
    the sign) is there for losses of classes and counts every sample alike. No penalty is added. With members, lists of
    one number each.

    Raises
    ------
    NonFiniteError
        Outputs or losses are NaN or infinity; the error names the first array in which, and the samples.

    Examples
    --------
    >>> import numpy as np
    >>> model = MLP([2, 2], init="zeros")
    >>> evaluate(model, np.eye(2), np.asarray([0, 1]))
    {'loss': 0.6931471824645996, 'accuracy': 0.5}

    """
    who = "evaluate"
    check_model(who, model)
    entry = get_loss(loss)
    check_finite(model, who)
    with model.scope():
        data = checked(model, entry, x, t, sample_weight, class_weight, who)
        judge, feed = make_judge(model, entry, data.share), data.feed(model, who, one_pass=True)
        return judged(model, judge, feed, who, "evaluate(model, x[:{0}], t[:{0}])")


def predict(model: MLP, x: Any) -> Array:
    """Return the raw outputs ``(n, n_outputs)`` for many samples in bounded memory.

    Those for a :class:`portnn.datasets.Stream` come back as a NumPy array.

    ``x`` may be a NumPy array whatever the model's library, or an array of a third library, which is read where it lies
    if the model's library or NumPy can (DLPack; ValueError where it is on another device). Outputs come back in the
    library of ``x``. For a lazy array of chunks, such as Dask's, they are one too, with the same chunks of rows.

    Raises
    ------
    NonFiniteError
        Outputs are NaN or infinity; the error names the first array in which, and the samples. (``model(x)`` looks at
        nothing and returns them.)

    Examples
    --------
    >>> import numpy as np
    >>> predict(MLP([2, 3], init="zeros"), np.ones((4, 2))).shape
    (4, 3)

    """
    check_model("predict", model)
    if wants_chunks(model.params, x):
        check_finite(model, "predict")
        return by_chunks(model, model.params, x, "predict", finite=True)
    (y,) = _in_blocks(model, x, lambda y: (y,), CHUNK_ROWS, "predict")
    return y


class EnsemblePrediction(NamedTuple):
    """What the members of an ensemble predict together: two arrays ``(n, n_outputs)``, see :func:`ensemble_predict`."""

    mean: Array
    spread: Array


def ensemble_predict(model: MLP, x: Array, *, kind: str) -> EnsemblePrediction:
    """Return mean and spread of what the members predict for many samples, in bounded memory.

    With p_m the prediction of member m of M: mean = sum_m p_m / M, spread = sqrt(sum_m (p_m - mean)^2 / M). That is the
    standard deviation of a population, 0 for one member and NumPy's ``std``; torch's divides by M - 1.

    Parameters
    ----------
    model
        A network with members.
    x
        ``(n, n_features)``, as for :func:`predict`; mean and spread come back in its library.
    kind
        What the outputs are, in the words of :class:`portnn.losses.Loss`: ``"classes"``, p is their softmax, the
        probabilities of the classes; ``"binary"``, p is the sigmoid of each, the probability of a yes; ``"values"``, p
        is the output itself.

    Notes
    -----
    Probabilities are averaged, not logits, as in Lakshminarayanan, Pritzel, Blundell, "Simple and scalable predictive
    uncertainty estimation using deep ensembles", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np
    >>> model = MLP([1, 1], members=2, init="zeros", dtype="float64")
    >>> model.params = np.asarray([[1.0, 0.0], [3.0, 0.0]])  # y = x and y = 3 x
    >>> ensemble_predict(model, np.asarray([[1.0], [2.0]]), kind="values")
    EnsemblePrediction(mean=array([[2.],
           [4.]]), spread=array([[1.],
           [2.]]))

    """
    who = "ensemble_predict"
    check_model(who, model)
    of = predicted(kind, model.sizes[-1], who)
    if model.members is None:
        raise TypeError(f"{who}: the model is a single network; use predict, or make it with members=M")
    rows = max(CHUNK_ROWS // model.members, 1)
    return EnsemblePrediction(*_in_blocks(model, x, lambda y: _mean_and_spread(of(y)), rows, who))


def predicted(kind: str, n_outputs: int, who: str) -> Callable[[Array], Array]:
    """Return the function from raw outputs to what they predict: probabilities of classes, of a yes, or themselves."""
    functions = {"classes": _softmax, "binary": lambda y: sigmoid(y)[0], "values": lambda y: y}
    function: Callable[[Array], Array] = functions[one_of(f"kind of {who}", kind, functions)]
    if kind == "classes" and n_outputs == 1:
        message = f"{who}: kind 'classes' wants an output per class, the network has 1 in all; use 'binary'"
        raise ValueError(message)
    return function


def _softmax(y: Array) -> Array:
    """Return exp(y) / sum exp(y) over the outputs.

    Numerical stability: the largest of each row is subtracted first, so that no exponential overflows.
    """
    xp = namespace(y)
    e = xp.exp(y - xp.max(y, axis=-1, keepdims=True))
    return e / xp.sum(e, axis=-1, keepdims=True)


def _mean_and_spread(p: Array) -> tuple[Array, Array]:
    """Return mean and standard deviation over the first axis.

    Numerical stability: what is averaged is the difference to the first member, so that the spread of members that
    agree is exactly 0; and deviations are divided by the largest before they are squared, which could overflow.
    """
    xp = namespace(p)
    first = p[:1, ...]
    mean = first + xp.mean(p - first, axis=0, keepdims=True)
    off = xp.abs(p - mean)
    largest = xp.max(off, axis=0, keepdims=True)
    unit = xp.where(largest > 0.0, largest, xp.ones_like(largest))
    off = off / unit
    spread = unit * xp.sqrt(xp.mean(off * off, axis=0, keepdims=True))
    return mean[0, ...], spread[0, ...]


def _in_blocks(model: MLP, x: Array, f: Callable[[Array], tuple[Array, ...]], rows: int, who: str) -> tuple[Array, ...]:
    """Return what ``f`` makes of the outputs, so many samples at a time, in the library of ``x``."""
    check_finite(model, who)
    backend = model.backend
    with model.scope():
        with enough(backend, lambda: samples_want(model, x, who)):
            feed, leave = _feed_of(model, x, who)
            on_host, layers = feed.from_files or not backend.owns(feed.x), model.layers
        known = network_key(model)

        def outputs(params: Array, running: Array | None, x: Array) -> Array:
            return forward(layers, params, x, running=running, zero=zero_of(params))[0]

        run = backend.compiled(Pure(outputs, known and ("outputs", known)))
        blocks, sound = [], []
        with enough(backend, lambda: outputs_want(model, feed.n, rows, who, f"{who}(model, x[:{{0}}])")):
            for batch in feed.in_order(rows):
                y = run(model.params, model.running, batch["x"])
                blocks.append(f(y))
                sound += [backend.xp.all(backend.xp.isfinite(a)) for a in (y, *blocks[-1])[blocks[-1][0] is y :]]
                if on_host:
                    blocks[-1] = tuple(backend.to_numpy(a) for a in blocks[-1])
            if bool(backend.xp.all(backend.xp.stack(sound))):  # one read in all
                concat = numpy.concatenate if on_host else backend.xp.concat
                return tuple(leave(concat(arrays, axis=-2)) for arrays in zip(*blocks, strict=True))
        behind = Place("mean or spread", words="the mean or the spread of the outputs is")
        raise unsound(who, model, feed, lambda batch: _sound(model, run, batch, f), behind)


def _feed_of(model: MLP, x: Any, who: str) -> tuple[Any, Callable[[Array], Array]]:
    """Return the batches of samples without targets, and the way back to their library."""
    if isinstance(x, Stream):
        checks.check_features(x, model.sizes[0], who)
        return StreamFeed(model.backend, x, {}, model.params.dtype, who), lambda y: y
    x, leave = _taken_in(model, x, who)
    backend = model.backend if model.backend.owns(x) else HOST
    checks.check_samples(who, x=x)
    checks.check_finite(x, backend, model.dtype, who)
    return Feed(model.backend, x, {}, model.params.dtype, one_pass=True), leave


def _sound(model: MLP, run: Callable[..., Array], batch: Batch, f: Callable[[Array], tuple[Array, ...]]) -> Array:
    """Return for which samples of a batch the outputs, and then what ``f`` makes of them, are finite."""
    y = run(model.params, model.running, batch["x"])
    good = finite_rows(model.backend, y)
    return good if not good.all() else numpy.logical_and.reduce([finite_rows(model.backend, a) for a in f(y)])


class Data(NamedTuple):
    """Samples that have been checked: x where it was, the rest on the host.

    ``weight`` is one number per sample or None, ``share`` one per output or None, ``classes`` one per class or None.
    ``unit`` is what the weights were multiplied by on their way, a power of 2, ``numbers`` what the caller calls the
    samples, None for 0, 1, ...
    """

    x: Array
    t: numpy.ndarray
    weight: numpy.ndarray | None
    share: numpy.ndarray | None
    classes: numpy.ndarray | None
    unit: float = 1.0
    numbers: numpy.ndarray | None = None

    def feed(self, model: MLP, who: str, *, one_pass: bool = False) -> Any:
        """Return the batches of these samples: a :class:`portnn.feed.Feed`, or what is like one."""
        with enough(model.backend, lambda: samples_want(model, self.x, who)):
            with HOST.scope():
                weight = None if self.weight is None else self.weight.astype(model.dtype)
            others = {"t": self.t, "weight": weight}
            if isinstance(self.x, Stream):
                return StreamFeed(model.backend, self.x, others, model.params.dtype, who)
            return Feed(model.backend, self.x, others, model.params.dtype, one_pass=one_pass, numbers=self.numbers)

    def rows(self, index: numpy.ndarray, model: MLP, who: str) -> Data:
        """Return some of the samples."""
        if isinstance(self.x, Stream):
            raise ValueError(f"{who}: of a Stream no part is held out by validation_split; give validation_data")
        home = model.backend if model.backend.owns(self.x) else HOST
        weight = None if self.weight is None else self.weight[index]
        if weight is not None and not weight.any():
            raise ValueError(f"{who}: the weights of one side of the split are all zero")
        with enough(home, lambda: samples_want(model, self.x, f"{who}: validation_split")):
            x = home.take(self.x, as_index(home, index, self.x.shape[0]))
        return self._replace(x=x, t=self.t[index], weight=weight, numbers=index)


def checked(model: MLP, loss: Loss, x: Array, t: Array, sample_weight: Any, class_weight: Any, who: str) -> Data:
    """Look at everything that was handed in, before any kernel; at the numbers in files when they are read."""
    with enough(model.backend, functools.partial(samples_want, model, x, who)):
        if isinstance(x, Stream):
            if t is not None:
                raise ValueError(f"{who}: t must be left out, a Stream has its targets")
            x.check_unchanged()
            t = x.t
            checks.check_features(x, model.sizes[0], who)
        else:
            x, _ = _taken_in(model, x, who)
        n = checks.check_samples(who, x=x)
        n_outputs = model.sizes[-1]
        host = checks.check_targets(t, loss, n, n_outputs, model.dtype, who)
        weight = checks.check_sample_weight(sample_weight, n, who)
        classes = checks.class_weights(class_weight, host, loss, n_outputs, who)
        given = weight
        weight, share = checks.fold_class_weights(classes, host, loss, given, who)
        unit = 1.0 if weight is None else checks.unit_of(weight, given, None if share is not None else classes, host)
        if not isinstance(x, Stream):
            checks.check_finite(x, model.backend if model.backend.owns(x) else HOST, model.dtype, who)
        return Data(x, host, weight, share, classes, unit)


def _taken_in(model: MLP, x: Array, who: str) -> tuple[Array, Callable[[Array], Array]]:
    """Return ``x``, a matrix of the right width, as the model can go through it, and the way back to its library."""
    x, leave = taken_in(model.backend, x, who)
    checks.check_features(x, model.sizes[0], who)
    return x, leave


class Judge(NamedTuple):
    """What judges a batch: ``sums`` is a function (params, running, batch) -> sums over its samples.

    They are of the loss, of weights, of right answers and of outputs that are finite; ``good`` tells, on the host, for
    which samples outputs are, and losses: one number for all of them where the loss takes the mean itself.
    """

    sums: Callable[[Array, Array | None, Batch], Metrics]
    good: Callable[[Array, Array | None, Batch], tuple[numpy.ndarray, numpy.ndarray]]


def make_judge(model: MLP, loss: Loss, share: numpy.ndarray | None) -> Judge:
    """Return what judges batches by a loss."""
    backend = model.backend
    count = counter(loss)
    options = {} if share is None else {"output_share": model.backend.asarray(share, model.params.dtype)}
    layers, network, pair = model.layers, network_key(model), name_of(loss.pair)
    known = network and pair and ("judge", network, pair, loss.kind, None if share is None else share.tobytes())

    def judge(params: Array, running: Array | None, batch: Batch) -> Metrics:
        y, _ = forward(layers, params, batch["x"], running=running, zero=zero_of(params))
        weight = batch.get("weight")
        values = value_of(loss.pair(y, batch["t"], **options), "loss")
        check_losses(values, y)
        per_sample = count(y, batch["t"])
        if values.ndim == y.ndim - 1:
            per_sample["loss"] = values if weight is None else counted(values, weight) * weight
        elif weight is not None:
            raise ValueError(f"loss {loss.name!r} returns one number per batch: sample weights need one per sample")
        if weight is not None:
            per_sample["weight"] = weight
        xp = namespace(y)
        per_sample["finite"] = xp.astype(xp.all(xp.isfinite(y), axis=-1), y.dtype)
        sums = {name: xp.sum(a, axis=-1) for name, a in per_sample.items()}
        return sums if "loss" in sums else {**sums, "loss": values * y.shape[-2]}  # a loss that takes the mean itself

    def good(params: Array, running: Array | None, batch: Batch) -> tuple[numpy.ndarray, numpy.ndarray]:
        y, _ = forward(layers, params, batch["x"], running=running, zero=zero_of(params))
        values, weight = value_of(loss.pair(y, batch["t"], **options), "loss"), batch.get("weight")
        values = values if weight is None else counted(values, weight)
        return finite_rows(backend, y), numpy.isfinite(backend.to_numpy(values))

    return Judge(backend.compiled(Pure(judge, known or None)), good)


def counter(loss: Loss) -> Callable[[Array, Array], Metrics]:
    """Return the function (y, t) -> {"accuracy": 1 for each right answer}, or of nothing for a loss without classes."""

    def classes(y: Array, t: Array) -> Metrics:
        xp = namespace(y)
        labels = xp.argmax(t, axis=-1) if t.dtype == y.dtype else t
        return {"accuracy": xp.astype(xp.argmax(y, axis=-1) == labels, y.dtype)}

    def binary(y: Array, t: Array) -> Metrics:
        xp = namespace(y)
        right = xp.astype((y > 0.0) == (t > 0.5), y.dtype)
        return {"accuracy": xp.mean(right, axis=-1)}

    return {"classes": classes, "binary": binary}.get(loss.kind, lambda y, t: {})


def judged(
    model: MLP, judge: Judge, feed: Feed, who: str, example: str, group: Group = ALONE, **place: Any
) -> dict[str, Any]:
    """Return the means that ``judge`` sums up over all batches of ``feed``; ``example``: see :mod:`portnn.memory`.

    The ranks of a group judge a part each. NonFiniteError where outputs or losses are not finite; ``place`` is what
    else is known of where that was.
    """
    sums: dict[str, Any] = {}

    def good_of(batch: Batch) -> numpy.ndarray:
        outputs, losses = judge.good(model.params, model.running, batch)
        return outputs & losses if losses.ndim == outputs.ndim else outputs

    with group.together(), enough(model.backend, lambda: outputs_want(model, feed.n, CHUNK_ROWS, who, example)):
        for batch in feed.in_order(min(CHUNK_ROWS, -(-feed.n // group.size)), group):
            total, finite = read_back(model.backend, judge.sums(model.params, model.running, batch), ())
            if not (finite and (total["finite"] == batch["x"].shape[0]).all()):
                outputs, losses = judge.good(model.params, model.running, batch)
                mean = losses.ndim < outputs.ndim and not losses.all()
                raise unsound(who, model, feed, good_of, Place("loss"), mean=mean, **place)
            sums = added(sums, total)
    return means(functools.reduce(added, group.gathered(sums), {}), feed.n)


def added(sums: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return sums with others added to them, of which some may lack: those of no samples."""
    return {name: sums.get(name, 0.0) + more.get(name, 0.0) for name in {**sums, **more}}


def means(sums: dict[str, Any], n: int) -> dict[str, Any]:
    """Turn sums over samples into means: plain floats, or a list of them with members."""
    weight = sums.get("weight", n)
    over = {"loss": weight, "accuracy": n}
    return {name: numpy.asarray(sums[name] / over[name]).tolist() for name in over if name in sums}
