"""Keras: the list of arrays ``[kernel, bias, kernel, bias, ...]`` of Dense layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy

from portnn.exchange.stack import Given, check_single, stacked, to_host
from portnn.mlp import MLP
from portnn.scaling import Scaling


def from_keras(
    source: Any,
    activation: Any = None,
    *,
    backend: Any = "numpy",
    device: Any = None,
    inputs: Scaling | None = None,
    outputs: Scaling | None = None,
) -> MLP:
    """Return the model with the weights of a stack of Keras ``Dense`` layers.

    Parameters
    ----------
    source
        ``keras_model.get_weights()``, a list ``[kernel, bias, kernel, bias, ...]`` in which biases may be missing, or
        the Keras model itself. A kernel is (in_features, out_features), a bias (out_features,).
    activation
        As for :class:`MLP`; a list of arrays does not say it. Keras' ``"gelu"``, ``"elu"``, ``"selu"``, ``"silu"`` and
        ``"softplus"`` are ours; its leaky_relu has another slope: ``"leaky_relu(0.2)"`` since Keras 3.
    backend, device
        Where the model is to live.
    inputs, outputs
        A scaling before the first layer and behind the last, as for :class:`MLP`.

    Examples
    --------
    >>> import numpy as np
    >>> from_keras([np.asarray([[1.0], [2.0]]), np.asarray([3.0])]).params
    array([1., 2., 3.])

    """
    who = "from_keras"
    arrays = source.get_weights() if hasattr(source, "get_weights") else source
    if isinstance(arrays, Mapping | str) or not isinstance(arrays, Sequence):
        raise TypeError(f"{who}: expected a list of arrays [kernel, bias, ...], got a {type(source).__name__}")
    layers: list[Given] = []
    for i, array in enumerate(arrays):
        after_kernel = bool(layers) and layers[-1].bias is None
        if len(getattr(array, "shape", ())) == 1 and after_kernel:
            layers[-1] = layers[-1]._replace(bias=to_host(array, who, f"array {i}", 1, "(out_features,)"))
        else:
            kernel = to_host(array, who, f"array {i}", 2, "(in_features, out_features), a kernel, or a bias behind one")
            layers.append(Given(f"layer {len(layers)}", kernel, None))
    if not layers:
        raise ValueError(f"{who}: the list is empty, expected [kernel, bias, ...]")
    if activation is None and len(layers) > 1:
        message = f"{who}: a list of arrays does not say what stands between the layers; give it: activation='relu'"
        raise ValueError(message)
    return stacked(who, layers, activation, backend, device, inputs, outputs)


def to_keras(model: MLP) -> list[numpy.ndarray]:
    """Return ``[kernel, bias, kernel, bias, ...]`` as ``keras_model.set_weights`` takes them: copies, in its dtype.

    Examples
    --------
    >>> [a.shape for a in to_keras(MLP([4, 3, 2]))]
    [(4, 3), (3,), (3, 2), (2,)]

    """
    check_single(model, "to_keras")
    arrays = [a for pair in zip(model.weights, model.biases, strict=True) for a in pair if a is not None]
    return [numpy.array(model.backend.to_numpy(a), order="C") for a in arrays]
