"""The network: one flat vector of parameters, and the list of pullbacks run in reverse."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from portnn import checks, model_file
from portnn.activations import describe_activation
from portnn.autograd import Array as Recorded
from portnn.backends import HOST, Array, dtype_name, get_backend, one_of
from portnn.backends.base import FLOATS
from portnn.chunked import by_chunks, wants_chunks
from portnn.derivatives import Derivatives
from portnn.layout import (
    check_seeds,
    check_sizes,
    first_running,
    initial_params,
    layout,
    of_members,
    options,
    per_layer,
)
from portnn.members import chosen
from portnn.network import forward, weights_of, zero_of
from portnn.scaling import Scaling, check_width
from portnn.trace import stored


class MLP(Derivatives):
    """A multilayer perceptron: x -> activation(x weight + bias), layer after layer; the last one gives raw outputs.

    With all that a hidden layer can have: x -> x + dropout(activation(normalization(x weight + bias))). Dropout, and
    batch norm by the statistics of each batch, are for :func:`portnn.fit`; everywhere else, outputs, losses and
    derivatives are those of the network in prediction, which drops nothing and uses the running statistics.

    Parameters
    ----------
    sizes
        Numbers of features, from inputs to outputs; ``[n, k]`` alone is a linear model.
    activation
        One name or function for all hidden layers, or a sequence: one for each hidden layer, or one
        for every layer, outputs included (which otherwise have none). Names: identity, relu, leaky_relu, elu, selu,
        tanh, sigmoid, softplus, gelu, gelu_tanh, silu, mish; ``"leaky_relu(0.2)"`` sets the slope, ``"elu(0.5)"``
        alpha. A function of yours takes z and returns ``y, vjp``, or y alone, which portnn.autograd differentiates.
    init
        The initial weights: a name of :mod:`portnn.initializers`, one of its functions, or a sequence of one per layer.
    bias
        True, False, or a sequence of one per layer.
    dtype
        ``"float32"`` or ``"float64"``: of parameters, activations, gradients and optimizer state.
    backend, device
        Where the parameters live: a name, a namespace that follows the Array API standard, or an array.
    seed
        An integer in [0, 2**64), None for one from the operating system, or one for each member.
    members
        None for one network; M for M networks that compute together, with seeds seed, seed + 1, ...; ``model[i]`` is
        one of them.
    dropout
        The rate in [0, 1) at which outputs of hidden units are dropped in training, and the rest enlarged by
        1 / (1 - rate); or a sequence of one entry per hidden layer, each of them a rate, or a sequence of one rate for
        each member.
    normalization
        None, ``"layer"`` or ``"batch"``, before the activation of every hidden layer, or a sequence of one per hidden
        layer; see :mod:`portnn.normalization`.
    residual
        True: every hidden layer that is as wide as its input adds it to its output; or a sequence of one per hidden
        layer.
    inputs, outputs
        A :class:`portnn.Standardize` or :class:`portnn.Rescale` as the first and the last layer, so that raw pixels or
        physical units go in and come out; losses are in the units of the outputs. None leaves numbers as they are.
    matmul_precision
        ``"float32"``, or ``"tf32"`` for faster and coarser products where the device has them.

    Attributes
    ----------
    params
        ``(n_params,)`` or ``(members, n_params)``: weight 0 row by row, bias 0, weight 1, bias 1, ...; the gain and the
        shift of a normalization stand behind the bias of their layer.
    weights, biases, gains, shifts
        Tuples of views into ``params``: ``(in_features, out_features)`` and ``(out_features,)``, after the member axis.
    running
        ``(n_running,)`` or ``(members, n_running)``: of each batch norm the running mean and the running variance,
        which training moves a tenth of the way to those of each batch; None without.

    Examples
    --------
    >>> import numpy as np
    >>> model = MLP([2, 3, 1], activation="tanh", dtype="float64")
    >>> model
    MLP([2, 3, 1], activation='tanh', dtype='float64', backend='numpy', device='cpu')
    >>> model.n_params, model(np.asarray([[0.0, 1.0]])).shape
    (13, (1, 1))

    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: Any = "relu",
        init: Any = "he_normal",
        bias: bool | Sequence[bool] = True,
        dtype: str = "float32",
        backend: Any = "numpy",
        device: Any = None,
        seed: int | Sequence[int] | None = 0,
        members: int | None = None,
        dropout: Any = 0.0,
        normalization: Any = None,
        residual: bool | Sequence[bool] = False,
        inputs: Scaling | None = None,
        outputs: Scaling | None = None,
        matmul_precision: str = "float32",
    ) -> None:
        self.sizes = check_sizes(sizes)
        self.members = None if members is None else checks.check_count("MLP", "members", members)
        hidden = {"dropout": dropout, "normalization": normalization, "residual": residual}
        self.layers = layout(self.sizes, activation, bias, inputs, outputs, **hidden, members=self.members)
        self.backend = get_backend(backend, device)
        self.dtype = dtype_name(dtype)
        self._check_width(self.dtype)
        self.matmul_precision = one_of("matmul_precision", matmul_precision, ("float32", "tf32"))
        self.seed, seeds = check_seeds(seed, self.members)
        dtype_object = self.backend.float_dtype(self.dtype)
        start = initial_params(self.layers, per_layer("init", init, len(self.layers)), seeds)
        self._params = self.backend.asarray(start if members is not None else start[0, :], dtype_object, copy=True)
        first = first_running(self.layers, self.members)
        self._running = None if first is None else self.backend.asarray(first, dtype_object, copy=True)
        if self._params.dtype != dtype_object:  # a library that hands out another width under that name
            raise ValueError(f"MLP: {self.backend.name} gave {self._params.dtype} for dtype {self.dtype!r}")

    def __repr__(self) -> str:
        """Show what was asked for."""
        names = [describe_activation(layer.activation) for layer in self.layers]
        shared = len(set(names[:-1])) <= 1 and names[-1] == "identity"
        shown = repr((names[0] if len(names) > 1 else "identity") if shared else names)
        scalings = {"inputs": self.layers[0].before, "outputs": self.layers[-1].after}
        extra = "".join(f", {name}={value!r}" for name, value in options(self.layers).items())
        extra += "".join(f", {name}={type(s).__name__}" for name, s in scalings.items() if s is not None)
        extra += "" if self.members is None else f", members={self.members}"
        return (
            f"MLP({self.sizes}, activation={shown}, dtype={self.dtype!r}, backend={self.backend.name!r}, "
            f"device={self.backend.device_name!r}{extra})"
        )

    # -- parameters -------------------------------------------------------------------------------------------

    @property
    def n_params(self) -> int:
        """Number of parameters of one network: (fan_in + 1) fan_out for a layer with a bias, 2 fan_out for its norm."""
        return self.layers[-1].stop

    @property
    def params(self) -> Array:
        """The parameters, one flat vector (per member); set it to copy new values in."""
        return self._params

    @params.setter
    def params(self, value: Array) -> None:
        self._params = self._copied(value, self._params, "MLP.params")

    @property
    def running(self) -> Array | None:
        """The running statistics of batch norm, or None; set them to copy new values in."""
        return self._running

    @running.setter
    def running(self, value: Array | None) -> None:
        if self._running is None:
            if value is not None:
                message = "MLP.running: the model has no batch norm, so it keeps no statistics; expected None"
                raise ValueError(message)
        else:
            new = self._copied(value, self._running, "MLP.running")
            checks.check_running(self.backend.to_numpy(new), self.layers, "MLP.running")
            self._running = new

    def _adopt(self, params: Array, running: Array | None) -> None:
        """Take arrays over without a copy, for which there may be no room: those of a training that has ended."""
        self._params, self._running = params, running

    def _copied(self, value: Any, like: Array, who: str) -> Array:
        theirs, shape = checks.check_array(value, who, "value"), tuple(like.shape)
        if tuple(value.shape) != shape:
            raise ValueError(f"{who}: got shape {tuple(value.shape)}, expected {shape}")
        value = value if self.backend.owns(value) else theirs.to_numpy(value)
        with self.backend.scope(), HOST.scope():  # what is too large becomes infinite, which fit and predict refuse
            return self.backend.asarray(value, like.dtype, copy=True)

    @property
    def weights(self) -> tuple[Array, ...]:
        """Views of the weights, ``(in_features, out_features)`` each."""
        return self.weights_of(self._params)

    @property
    def biases(self) -> tuple[Array | None, ...]:
        """Views of the biases, ``(out_features,)`` each; None where a layer has none."""
        return self._views("bias")

    @property
    def gains(self) -> tuple[Array | None, ...]:
        """Views of the gains of the normalizations, ``(out_features,)`` each; None where a layer has none."""
        return self._views("gain")

    @property
    def shifts(self) -> tuple[Array | None, ...]:
        """Views of the shifts of the normalizations, ``(out_features,)`` each; None where a layer has none."""
        return self._views("shift")

    def _views(self, part: str) -> tuple[Array | None, ...]:
        return tuple(self._params[..., a.parts[part][0]] if part in a.parts else None for a in self.layers)

    def decayed(self) -> Array:
        """Return a vector that is 1 where a parameter is a weight, and 0 elsewhere: no decay touches what is not."""
        mask = HOST.xp.zeros(self.n_params, dtype=HOST.xp.float32)
        for layer in self.layers:
            mask[layer.weight] = 1.0
        return self.backend.asarray(mask, self._params.dtype)

    def weights_of(self, params: Array) -> tuple[Array, ...]:
        """Return the views of the weights in any vector like ``params``, a gradient for example."""
        return weights_of(self.layers, params)

    # -- forward ----------------------------------------------------------------------------------------------

    def scope(self) -> AbstractContextManager[Any]:
        """Return the context in which this model computes: its device, and the precision of its products."""
        return self.backend.scope(self.matmul_precision)

    def __call__(self, x: Array) -> Array:
        """Return the raw outputs, ``(batch, n_outputs)`` or ``(members, batch, n_outputs)``, for a batch of inputs.

        ``x`` is an array of the parameters' library, on their device; another dtype is cast. For logits of a
        classifier, the class is the largest and softmax gives the probabilities. For a lazy array of chunks, such as
        Dask's, the outputs are one too; those for an array that :mod:`portnn.autograd` records are recorded.
        """
        if wants_chunks(self._params, x):
            return by_chunks(self, self._params, x, "MLP")
        if isinstance(x, Recorded):
            return self.apply(self._params, x)
        with self.scope():
            x = self._input(x, "MLP")
            if not self.backend.is_concrete(x):  # differentiated by others, perhaps
                return self.apply(self._params, x)
            return forward(self.layers, self._params, x, running=self._running, zero=zero_of(self._params))[0]

    def _check_width(self, dtype: str) -> None:
        if dtype in FLOATS:
            check_width(self.layers[0].before, self.layers[-1].after, dtype)

    def _check(self, x: Any, who: str) -> None:
        """Look at the metadata of ``x`` alone."""
        checks.check_input(x, self._params, self.backend, self.sizes[0], who, members=self.members)

    def _input(self, x: Any, who: str) -> Array:
        """Return ``x`` in the parameters' dtype, checked."""
        self._check(x, who)
        return x if x.dtype == self._params.dtype else self.backend.xp.astype(x, self._params.dtype)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle and copy the parameters as a host array; the library is opened anew where they are read."""
        arrays = {name: self.__dict__[name] for name in ("_params", "_running")}
        arrays = {name: None if a is None else self.backend.to_numpy(a) for name, a in arrays.items()}
        return {**self.__dict__, **arrays}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put the parameters back on their device."""
        self.__dict__.update(state)
        dtype = self.backend.float_dtype(self.dtype)
        self._params = self.backend.asarray(self._params, dtype, copy=True)
        self._running = None if self._running is None else self.backend.asarray(self._running, dtype, copy=True)

    # -- copies and files -------------------------------------------------------------------------------------

    def to(self, *, backend: Any = None, device: Any = None, dtype: str | None = None) -> MLP:
        """Return a new model with the same numbers (rounded where the dtype is narrower) on another library or device.

        Examples
        --------
        >>> model = MLP([2, 1]).to(dtype="float64")
        >>> str(model.params.dtype)
        'float64'

        """
        target = (
            self.backend
            if backend is None and device is None
            else get_backend(self.backend if backend is None else backend, device)
        )
        dtype = self.dtype if dtype is None else dtype_name(dtype)
        self._check_width(dtype)
        params, running = (
            None if a is None else target.received(a, self.backend, target.float_dtype(dtype))
            for a in (self._params, self._running)
        )
        return self._with(backend=target, dtype=dtype, _params=params, _running=running)

    def __getitem__(self, index: Any) -> MLP:
        """Return member ``index`` as a network of its own, or an MLP of those at a slice or a sequence of numbers.

        It has its own copy of the parameters, and the seed that it started from. TypeError for a model without
        members, IndexError beyond them.

        Examples
        --------
        >>> model = MLP([2, 1], members=3, seed=5)
        >>> model[-1].members, model[-1].seed, model[:2].members, model[:2].seed
        (None, 7, 2, [5, 6])

        """
        at, (_, seeds) = chosen(index, self.members), check_seeds(self.seed, self.members)
        with self.scope():
            params, running = (None if a is None else self._rows(a, at) for a in (self._params, self._running))
        new = {"layers": of_members(self.layers, at), "_params": params, "_running": running}
        if isinstance(at, int):
            return self._with(members=None, seed=seeds[at], **new)
        return self._with(members=len(at), seed=[seeds[i] for i in at], **new)

    def _rows(self, a: Array, at: int | list[int]) -> Array:
        if isinstance(at, int):
            return self.backend.asarray(a[at, ...], copy=True)
        return self.backend.xp.stack([a[i, ...] for i in at])

    def __iter__(self) -> Iterator[MLP]:
        """Go through the members, each as a network of its own."""
        all_of_them: Any = chosen(slice(None), self.members)
        return map(self.__getitem__, all_of_them)

    def __len__(self) -> int:
        """Return the number of members; TypeError for a single network."""
        all_of_them: Any = chosen(slice(None), self.members)
        return len(all_of_them)

    def __bool__(self) -> bool:
        """A model is true, a single network too, which has no length."""
        return True

    def _with(self, **changes: Any) -> MLP:
        new = object.__new__(MLP)
        new.__dict__.update(self.__dict__, **changes)
        return new

    def check_finite(self, who: str) -> None:
        """Raise ValueError that names the first weight, bias, gain, shift or running statistic with NaN or infinity."""
        arrays = {"params": self._params} | ({} if self._running is None else {"running": self._running})
        with self.scope():
            place = stored(self.backend, self.layers, arrays)
        if place is not None:
            name = place.array if "[" in place.array else f"{place.array} of layer {place.layer}"
            raise ValueError(f"{who}: {name} of the model holds NaN or infinity; train or load it again")

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
        """Write the model to a safetensors file, whole or not at all.

        Tensors ``layers.i.weight`` (in_features, out_features) and ``layers.i.bias``, of a normalization ``gain``,
        ``shift``, ``running_mean`` and ``running_variance``; the configuration is in the metadata under ``portnn``,
        beside texts of yours, which ``portnn.model_file.metadata`` reads. Parameters that are not finite, and
        activations of your own, are refused.
        """
        self.check_finite("MLP.save")
        config = {"sizes": self.sizes, "dtype": self.dtype, "members": self.members, "seed": self.seed}
        running = None if self._running is None else self.backend.to_numpy(self._running)
        model_file.write(path, config, self.layers, self.backend.to_numpy(self._params), running, metadata)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, backend: Any = "numpy", device: Any = None, dtype: str | None = None
    ) -> MLP:
        """Read a model that :meth:`save` wrote, on any backend and in either dtype.

        Raises FormatError if the file is not such a model, or not as it was saved (its SHA-256 is in it); nothing in a
        file is ever executed.
        """
        config, params, running = model_file.read(path)
        model = cls(**config, init="zeros")
        model.params, model.running = params, running
        return model.to(backend=backend, device=device, dtype=dtype)
