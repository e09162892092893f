"""A model's loss and residuals as functions of one float64 vector: what SciPy's optimizers ask for.

No SciPy is needed here: its convention, NumPy vectors in float64 in and out, is that of many other optimizers, too. On
another library or device, and in float32, each call rounds the vector to the model's dtype and moves it there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy

from portnn import checks
from portnn.autograd import pair_of
from portnn.backends import HOST, Array, device, namespace
from portnn.evaluation import checked
from portnn.feed import CHUNK_ROWS, Feed
from portnn.layout import Layer, has_parts, placed
from portnn.losses import get_loss, penalty
from portnn.mlp import MLP, check_model
from portnn.network import forward, weights_of
from portnn.primitives import linear, only
from portnn.pure import Pure, name_of, network_key

Vector = numpy.ndarray
MOST = 2**22  # numbers of a Jacobian made at once on the device


def scipy_objective(
    model: MLP,
    x: Array,
    t: Array,
    loss: Any = "cross_entropy",
    *,
    sample_weight: Array | None = None,
    class_weight: Any = None,
    l1: float = 0.0,
    l2: float = 0.0,
) -> Callable[[Any], tuple[float, Vector]]:
    """Return the function params -> (loss, gradient) over all samples, for ``minimize(f, x0, jac=True)`` of SciPy.

    The loss is that of :meth:`portnn.MLP.loss_and_grad`, mean plus penalty, in bounded memory: blocks of rows are
    added, and the penalty is taken, in float64.

    Parameters
    ----------
    model
        A single network. It says sizes, library, device and dtype; its parameters are neither used nor changed.
    x, t, loss, sample_weight, class_weight, l1, l2
        As in :func:`portnn.fit`. They are checked now, once, and moved to the device once if they fit; ``x`` is read
        where it lies, so do not write into it while f is in use.

    Returns
    -------
    f
        Takes ``(n_params,)``, anything that NumPy makes a float64 vector of, and returns a float and a new float64
        vector. Where the loss overflows, it is infinite or NaN.

    Notes
    -----
    A network with dropout or batch norm is taken as it predicts: nothing is dropped, ``model.running`` is fixed.
    In float32 the loss moves in steps of some 1e-7 of its size, below which a line search finds no descent: L-BFGS-B
    then ends with ABNORMAL near the optimum. For tolerances below 1e-6 make the model with ``dtype="float64"``.

    Examples
    --------
    >>> import numpy as np
    >>> model = MLP([1, 1], dtype="float64")
    >>> f = scipy_objective(model, np.asarray([[1.0], [2.0]]), np.asarray([3.0, 5.0]), "mse")
    >>> f(np.asarray([1.0, 0.0]))
    (6.5, array([-8., -5.]))

    With SciPy: ``model.params = scipy.optimize.minimize(f, model.params, jac=True, method="L-BFGS-B").x``.

    """
    who, entry = "scipy_objective", get_loss(loss)
    _single(model, who)
    l1, l2 = (float(checks.check_number(who, name, value, 0.0)) for name, value in (("l1", l1), ("l2", l2)))
    backend, dtype, n_params, scope = model.backend, model.params.dtype, model.n_params, model.scope
    with scope():
        data = checked(model, entry, x, t, sample_weight, class_weight, who)
        feed = data.feed(model, who)
        share = None if data.share is None else backend.asarray(data.share, dtype)
        objective = model.objective(entry, output_share=share, who=who)
        decayed = backend.to_numpy(model.decayed()).astype("float64")
    weight = numpy.ones(feed.n) if data.weight is None else data.weight
    network, pair = network_key(model), name_of(entry.pair)
    shares = None if data.share is None else data.share.tobytes()
    fixed = None if model.running is None else backend.to_numpy(model.running).tobytes()
    known = network and pair and ("objective", network, pair, shares, fixed)

    def of_block(params: Array, batch: dict[str, Array]) -> tuple[Array, Array]:
        return objective(params, batch["x"], batch["t"], batch.get("weight"))[:2]

    run = backend.compiled(Pure(of_block, known or None))

    def f(params: Any) -> tuple[float, Vector]:
        host = _vector(params, n_params, who)
        value, grad = 0.0, numpy.zeros(n_params)
        with scope(), HOST.scope():
            there = backend.asarray(host, dtype)
            for rows in _blocks(feed.n, CHUNK_ROWS):
                part = float(weight[rows].sum() / weight.sum())
                of_rows, slope = run(there, feed.gather(rows))
                value += part * float(of_rows)
                grad += part * backend.to_numpy(slope)
            if l1 or l2:
                more, slope = penalty(host, decayed, l1, l2)
                value, grad = value + float(more), grad + slope
        return value, grad

    return f


def scipy_residuals(
    model: MLP, x: Array, t: Array, *, sample_weight: Array | None = None
) -> tuple[Callable[[Any], Vector], Callable[[Any], Vector]]:
    """Return the functions params -> residuals and params -> their Jacobian, for ``least_squares`` of SciPy.

    Residual i n_outputs + k is sqrt(w_i) (y_ik - t_ik), with y the raw outputs and w the sample weights. Half the sum
    of their squares, which least_squares minimizes, is n n_outputs / 2 times the loss ``"mse"`` without weights.

    Parameters
    ----------
    model
        A single network. It says sizes, library, device and dtype; its parameters are neither used nor changed.
    x, t
        ``(n, n_features)`` and ``(n, n_outputs)``, or ``(n,)`` for one output, as in :func:`portnn.fit`.
    sample_weight
        ``(n,)``, not negative.

    Returns
    -------
    residuals
        Takes ``(n_params,)`` and returns ``(n n_outputs,)`` in float64.
    jacobian
        Takes ``(n_params,)`` and returns ``(n n_outputs, n_params)`` in float64, all of it in host memory: for some
        thousands of parameters at most. A row is the gradient of one output of one sample, for which the derivative of
        a weight is the product of what enters it and what leaves it: no product of matrices sums over samples.

    Examples
    --------
    >>> import numpy as np
    >>> model = MLP([1, 1], dtype="float64")
    >>> residuals, jacobian = scipy_residuals(model, np.asarray([[1.0], [2.0]]), np.asarray([3.0, 5.0]))
    >>> residuals([1.0, 0.0]), jacobian([1.0, 0.0])
    (array([-2., -3.]), array([[1., 1.],
           [2., 1.]]))

    With SciPy: ``model.params = scipy.optimize.least_squares(residuals, model.params, jac=jacobian).x``.

    """
    who, loss = "scipy_residuals", get_loss("mse")
    _single(model, who)
    backend, dtype, layers, n_params, scope = (
        model.backend,
        model.params.dtype,
        model.layers,
        model.n_params,
        model.scope,
    )
    running = model.running
    n_outputs = model.sizes[-1]
    with scope():
        data = checked(model, loss, x, t, None, None, who)
        feed = Feed(backend, data.x, {}, dtype)
    n = feed.n
    targets = checks.check_targets(t, loss, n, n_outputs, "float64", who)
    weight = checks.check_sample_weight(sample_weight, n, who)
    root = None if weight is None else numpy.sqrt(weight)[:, None]
    # of a weight the derivatives for all samples of a block are made at once
    widest = n_params if has_parts(layers) else max(layer.fan_in * layer.fan_out for layer in layers)
    rows_at_once, slopes = max(1, min(CHUNK_ROWS, MOST // widest)), _by_samples if has_parts(layers) else _slopes

    def residuals(params: Any) -> Vector:
        out = numpy.empty((n, n_outputs))
        with scope(), HOST.scope():
            there = backend.asarray(_vector(params, n_params, who), dtype)
            for rows in _blocks(n, CHUNK_ROWS):
                out[rows] = backend.to_numpy(forward(layers, there, feed.gather(rows)["x"], running=running)[0])
            out -= targets
            if root is not None:
                out *= root
        return out.reshape(-1)

    def jacobian(params: Any) -> Vector:
        out = numpy.empty((n, n_outputs, n_params))
        with scope(), HOST.scope():
            there = backend.asarray(_vector(params, n_params, who), dtype)
            for rows in _blocks(n, rows_at_once):
                for k, part, values in slopes(layers, there, feed.gather(rows)["x"], running):
                    out[rows, k, part] = backend.to_numpy(values)
            if root is not None:
                out *= root[:, :, None]
        return out.reshape(n * n_outputs, n_params)

    return residuals, jacobian


def _by_samples(
    layers: tuple[Layer, ...], params: Array, x: Array, running: Array | None
) -> Iterator[tuple[int, slice, Array]]:
    """Do what :func:`_slopes` does for any network: each sample is the batch of a member, all have the same parameters.

    So a pullback for each output gives the gradients of all samples.
    """
    xp, n = namespace(params), x.shape[0]
    each = xp.broadcast_to(params, (n, params.shape[-1]))
    y, pullback = forward(layers, each, x[:, None, :], running=running)
    eye = xp.eye(y.shape[-1], dtype=params.dtype, device=device(params))
    for k in range(y.shape[-1]):
        d_params, _ = pullback(xp.broadcast_to(eye[k : k + 1, :], y.shape))
        yield k, slice(0, params.shape[-1]), d_params


def _slopes(
    layers: tuple[Layer, ...], params: Array, x: Array, running: Array | None
) -> Iterator[tuple[int, slice, Array]]:
    """Go through (output k, a part of the parameters, d output k / d part for each sample: ``(batch, length)``).

    For a layer z = a weight + bias: d y_k / d weight_ij = a_i d y_k / d z_j, and d y_k / d bias = d y_k / d z.
    """
    xp, kept = namespace(params), []
    before, after = placed(layers, params)
    y = x if before is None else before(x)[0]
    zero = xp.zeros((), dtype=params.dtype, device=device(params))
    for i, (layer, weight) in enumerate(zip(layers, weights_of(layers, params), strict=True)):
        z, _ = linear(y, weight, None if layer.bias is None else params[layer.bias])
        given = (z, zero) if layer.compares_with_zero else (z,)
        out, pullback = pair_of(layer.activation, f"MLP: the activation of layer {i}", *given)
        kept.append((layer, weight, y, pullback))
        y = out
    eye = xp.eye(y.shape[-1], dtype=params.dtype, device=device(params))
    if after is not None:
        (eye,) = after(y)[1](eye)
    for k in range(y.shape[-1]):
        dy = xp.broadcast_to(eye[k : k + 1, :], y.shape)
        for layer, weight, a, pullback in reversed(kept):
            dz = only(pullback(dy))
            if layer.bias is not None:
                yield k, layer.bias, dz
            products = a[:, :, None] * dz[:, None, :]
            yield k, layer.weight, xp.reshape(products, (x.shape[0], math.prod(products.shape[1:])))
            dy = xp.matmul(dz, xp.matrix_transpose(weight))


def _blocks(n: int, rows: int) -> Iterator[slice]:
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def _single(model: MLP, who: str) -> None:
    check_model(who, model)
    if model.members is not None:
        raise ValueError(f"{who}: the model has {model.members} members; choose one of them, model[i]")


def _vector(params: Any, n_params: int, who: str) -> Vector:
    vector = numpy.asarray(params, dtype="float64")
    if vector.shape != (n_params,):
        raise ValueError(f"{who}: got params of shape {vector.shape}, expected ({n_params},)")
    return vector
