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
from portnn.layout import check_seeds, check_sizes, initial_params, layout, per_layer
from portnn.members import chosen
from portnn.network import forward, weights_of, zero_of
from portnn.scaling import Scaling, check_width


class MLP(Derivatives):
    """A multilayer perceptron: x -> activation(x weight + bias), layer after layer; the last one gives raw outputs.

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
    inputs, outputs
        A :class:`portnn.Standardize` or :class:`portnn.Rescale` as the first and the last layer, so that raw pixels or
        physical units go in and come out; losses are in the units of the outputs. None leaves numbers as they are.
    matmul_precision
        ``"float32"``, or ``"tf32"`` for faster and coarser products where the device has them.

    Attributes
    ----------
    params
        ``(n_params,)`` or ``(members, n_params)``: weight 0 row by row, bias 0, weight 1, bias 1, ...
    weights, biases
        Tuples of views into ``params``: ``(in_features, out_features)`` and ``(out_features,)``, after the member axis.

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
        inputs: Scaling | None = None,
        outputs: Scaling | None = None,
        matmul_precision: str = "float32",
    ) -> None:
        self.sizes = check_sizes(sizes)
        self.layers = layout(self.sizes, activation, bias, inputs, outputs)
        self.backend = get_backend(backend, device)
        self.dtype = dtype_name(dtype)
        self._check_width(self.dtype)
        self.matmul_precision = one_of("matmul_precision", matmul_precision, ("float32", "tf32"))
        self.members = None if members is None else checks.check_count("MLP", "members", members)
        self.seed, seeds = check_seeds(seed, self.members)
        dtype_object = self.backend.float_dtype(self.dtype)
        start = initial_params(self.layers, per_layer("init", init, len(self.layers)), seeds)
        self._params = self.backend.asarray(start if members is not None else start[0, :], dtype_object, copy=True)
        if self._params.dtype != dtype_object:  # a library that hands out another width under that name
            raise ValueError(f"MLP: {self.backend.name} gave {self._params.dtype} for dtype {self.dtype!r}")

    def __repr__(self) -> str:
        """Show what was asked for."""
        names = [describe_activation(layer.activation) for layer in self.layers]
        shared = len(set(names[:-1])) <= 1 and names[-1] == "identity"
        shown = repr((names[0] if len(names) > 1 else "identity") if shared else names)
        scalings = {"inputs": self.layers[0].before, "outputs": self.layers[-1].after}
        extra = "".join(f", {name}={type(s).__name__}" for name, s in scalings.items() if s is not None)
        extra += "" if self.members is None else f", members={self.members}"
        return (
            f"MLP({self.sizes}, activation={shown}, dtype={self.dtype!r}, backend={self.backend.name!r}, "
            f"device={self.backend.device_name!r}{extra})"
        )

    # -- parameters -------------------------------------------------------------------------------------------

    @property
    def n_params(self) -> int:
        """Number of parameters of one network: the sum of (fan_in + 1) fan_out over the layers with a bias."""
        last = self.layers[-1]
        return (last.weight if last.bias is None else last.bias).stop

    @property
    def params(self) -> Array:
        """The parameters, one flat vector (per member); set it to copy new values in."""
        return self._params

    @params.setter
    def params(self, value: Array) -> None:
        theirs, shape = checks.check_array(value, "MLP.params", "value"), tuple(self._params.shape)
        if tuple(value.shape) != shape:
            raise ValueError(f"MLP.params: got shape {tuple(value.shape)}, expected {shape}")
        value = value if self.backend.owns(value) else theirs.to_numpy(value)
        with self.backend.scope(), HOST.scope():  # what is too large becomes infinite, which fit and predict refuse
            self._params = self.backend.asarray(value, self._params.dtype, copy=True)

    @property
    def weights(self) -> tuple[Array, ...]:
        """Views of the weights, ``(in_features, out_features)`` each."""
        return self.weights_of(self._params)

    @property
    def biases(self) -> tuple[Array | None, ...]:
        """Views of the biases, ``(out_features,)`` each; None where a layer has none."""
        return tuple(None if layer.bias is None else self._params[..., layer.bias] for layer in self.layers)

    def decayed(self) -> Array:
        """Return a vector that is 1 where a parameter is a weight and 0 where it is a bias, which no decay touches."""
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
            return forward(self.layers, self._params, x, zero=zero_of(self._params))[0]

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
        return {**self.__dict__, "_params": self.backend.to_numpy(self._params)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Put the parameters back on their device."""
        self.__dict__.update(state)
        self._params = self.backend.asarray(self._params, self.backend.float_dtype(self.dtype), copy=True)

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
        params = target.received(self._params, self.backend, target.float_dtype(dtype))
        return self._with(backend=target, dtype=dtype, _params=params)

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
            if isinstance(at, int):
                params = self.backend.asarray(self._params[at, ...], copy=True)
                return self._with(members=None, seed=seeds[at], _params=params)
            params = self.backend.xp.stack([self._params[i, ...] for i in at])
            return self._with(members=len(at), seed=[seeds[i] for i in at], _params=params)

    def __iter__(self) -> Iterator[MLP]:
        """Go through the members, each as a network of its own."""
        all_of_them: Any = chosen(slice(None), self.members)
        return map(self.__getitem__, all_of_them)

    def _with(self, **changes: Any) -> MLP:
        new = object.__new__(MLP)
        new.__dict__.update(self.__dict__, **changes)
        return new

    def check_finite(self, who: str) -> None:
        """Raise ValueError that names the first weight or bias with a NaN or an infinity."""
        xp = self.backend.xp
        with self.scope():
            if bool(xp.all(xp.isfinite(self._params))):
                return
            for kind, arrays in (("weights", self.weights), ("biases", self.biases)):
                for i, a in enumerate(arrays):
                    if a is not None and not bool(xp.all(xp.isfinite(a))):
                        message = f"{who}: {kind}[{i}] of the model holds NaN or infinity; train or load it again"
                        raise ValueError(message)

    def save(self, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> None:
        """Write the model to a safetensors file, whole or not at all.

        Tensors ``layers.i.weight`` (in_features, out_features) and ``layers.i.bias``; the configuration is in the
        metadata under ``portnn``, beside texts of yours, which ``portnn.model_file.metadata`` reads. Parameters that
        are not finite, and activations of your own, are refused.
        """
        self.check_finite("MLP.save")
        config = {"sizes": self.sizes, "dtype": self.dtype, "members": self.members, "seed": self.seed}
        model_file.write(path, config, self.layers, self.backend.to_numpy(self._params), metadata)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, backend: Any = "numpy", device: Any = None, dtype: str | None = None
    ) -> MLP:
        """Read a model that :meth:`save` wrote, on any backend and in either dtype.

        Raises FormatError if the file is not such a model; nothing in a file is ever executed.
        """
        config, params = model_file.read(path)
        model = cls(**config, init="zeros")
        model.params = params
        model.check_finite("MLP.load")
        return model.to(backend=backend, device=device, dtype=dtype)
