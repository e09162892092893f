"""Every derivative of a model: pullbacks, tangents, Jacobians, gradients of losses and products with their Hessians."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from portnn import checks
from portnn.autograd import pair_of, together
from portnn.backends import Array, Backend, namespace
from portnn.chunked import by_chunks, wants_chunks
from portnn.curvature import loss_curvature
from portnn.guests import home
from portnn.layout import Layer
from portnn.losses import Loss, counted, get_loss
from portnn.members import column
from portnn.network import forward, running_for
from portnn.objective import Objective, losses_of, make_objective, share_of_losses, shares
from portnn.primitives import Pair, only
from portnn.tangents import jacobian, tangents


class Derivatives:
    """What a model gives beside its outputs; :class:`portnn.MLP` is one."""

    sizes: list[int]
    layers: tuple[Layer, ...]
    backend: Backend
    dtype: str
    members: int | None
    running: Any
    _params: Array
    matmul_precision: str
    scope: Callable[[], AbstractContextManager[Any]]
    _check: Callable[[Any, str], None]
    _input: Callable[[Any, str], Array]
    decayed: Callable[[], Array]

    # -- of the outputs ---------------------------------------------------------------------------------------

    def forward(self, params: Array, x: Array) -> Pair:
        """Return raw outputs and the pullback ``d_params, dx = vjp(dy)`` for given parameters.

        A pure function of ``params``, ``(n_params,)`` or ``(members, n_params)``, and ``x``, ``(batch, n_features)``,
        which may be arrays of any conforming library, traced or recorded: both of one, on one device (ValueError).
        """
        params, x = together(params, x)
        backend = home(self.backend, params, x, "MLP.apply")
        with backend.scope(self.matmul_precision):
            y, pullback = forward(self.layers, params, x, running=running_for(self.running, params))

        def vjp(dy: Array) -> tuple[Array, ...]:
            checks.check_real(dy, "MLP.vjp", "dy", y.dtype)
            with backend.scope(self.matmul_precision):
                return pullback(dy)

        return y, vjp

    def apply(self, params: Array, x: Array) -> Array:
        """Return the raw outputs for given parameters: the pure twin of calling the model.

        Arguments as for :meth:`forward`; works under ``jax.jit`` and ``jax.grad``, and with autograd tensors. Where
        ``x`` is a lazy array of chunks, such as Dask's, and ``params`` is not, the outputs are one too.
        """
        if wants_chunks(params, x):
            return by_chunks(self, params, x, "MLP.apply")
        return self.forward(params, x)[0]

    def vjp(self, x: Array) -> Pair:
        """Return raw outputs y and the pullback ``d_params, dx = vjp(dy)``.

        ``dy`` has the shape of y, ``d_params`` that of ``params``, ``dx`` that of ``x``.

        Examples
        --------
        >>> import numpy as np
        >>> from portnn import MLP
        >>> model = MLP([2, 1], dtype="float64")
        >>> y, vjp = model.vjp(np.asarray([[3.0, 4.0]]))
        >>> d_params, dx = vjp(np.asarray([[1.0]]))
        >>> d_params, bool((dx == model.weights[0].T).all())
        (array([3., 4., 1.]), True)

        """
        with self.scope():
            return self.forward(self._params, self._input(x, "MLP.vjp"))

    def jvp(self, x: Array, dx: Array | None = None, d_params: Array | None = None) -> tuple[Array, Array]:
        """Return raw outputs y and their derivative along a direction: dy = (dy/dx) dx + (dy/dparams) d_params.

        Parameters
        ----------
        x
            ``(batch, n_features)``, or one batch per member.
        dx
            The direction of the inputs, in the shape of ``x``; None for zeros.
        d_params
            The direction of the parameters, in the shape of ``params``; None for zeros, but not both.

        Examples
        --------
        >>> import numpy as np
        >>> from portnn import MLP
        >>> model = MLP([2, 1], dtype="float64")
        >>> model.params = np.asarray([1.0, 1.0, 0.0])
        >>> model.jvp(np.asarray([[3.0, 4.0]]), dx=np.asarray([[1.0, 0.5]]))
        (array([[7.]]), array([[1.5]]))

        """
        who = "MLP.jvp"
        with self.scope():
            x = self._input(x, who)
            dx, d_params = self._directions(x, dx, d_params, who)
            pair, _ = tangents(self.layers, self._params, x, d_params, dx, self.running)
            return pair

    def tangents(
        self, params: Array, x: Array, dx: Array | None = None, d_params: Array | None = None
    ) -> tuple[tuple[Array, Array], Callable[..., tuple[Array, ...]]]:
        """Return ``(y, dy), vjp``: :meth:`jvp` for given parameters, and the pullback of both outputs and derivatives.

        ``d_params, dx = vjp(cotangent of y, cotangent of dy)`` is what a loss needs that contains derivatives of the
        network, such as the residual of a differential equation. A pure function like :meth:`forward`; activations
        must be ones of portnn's, whose second derivatives are known.

        Examples
        --------
        The slope of w^2 (dy/dx)^2 = w^2 in w, at w = 3, with y = w x:

        >>> import numpy as np
        >>> from portnn import MLP
        >>> model = MLP([1, 1], bias=False, init="zeros", dtype="float64")
        >>> (y, dy), vjp = model.tangents(np.asarray([3.0]), np.asarray([[2.0]]), dx=np.asarray([[1.0]]))
        >>> y, dy, vjp(0 * y, 2 * dy)[0]
        (array([[6.]]), array([[3.]]), array([6.]))

        """
        if dx is None and d_params is None:
            raise ValueError(_NO_DIRECTION.format("MLP.tangents"))
        backend = home(self.backend, params, x, "MLP.tangents")
        for name, given in (("dx", dx), ("d_params", d_params)):
            if given is not None:
                checks.check_real(given, "MLP.tangents", name, params.dtype)
        with backend.scope(self.matmul_precision):
            pair, pullback = tangents(self.layers, params, x, d_params, dx, running_for(self.running, params))

        def vjp(y_bar: Array, dy_bar: Array) -> tuple[Array, ...]:
            for name, bar in (("y_bar", y_bar), ("dy_bar", dy_bar)):
                checks.check_real(bar, "MLP.tangents", name, params.dtype)
            with backend.scope(self.matmul_precision):
                return pullback(y_bar, dy_bar)

        return pair, vjp

    def jacobian(self, x: Array) -> Array:
        """Return dy_k / dx_j of every sample: ``(batch, n_outputs, n_features)``, behind the axis of members.

        One matrix product per layer for all samples and outputs; its memory is batch n_outputs max(sizes) numbers.

        Examples
        --------
        >>> import numpy as np
        >>> from portnn import MLP
        >>> model = MLP([2, 3], dtype="float64")
        >>> j = model.jacobian(np.ones((4, 2)))
        >>> j.shape, bool((j[0] == model.weights[0].T).all())
        ((4, 3, 2), True)

        """
        with self.scope():
            return jacobian(self.layers, self._params, self._input(x, "MLP.jacobian"), self.running)

    # -- of a loss --------------------------------------------------------------------------------------------

    def loss_and_grad(
        self,
        x: Array,
        t: Array,
        loss: Any = "cross_entropy",
        *,
        sample_weight: Array | None = None,
        class_weight: Any = None,
        l1: float | Sequence[float] = 0.0,
        l2: float | Sequence[float] = 0.0,
    ) -> tuple[Array, Array]:
        """Return the mean loss of a batch, plus l1 sum |w| + l2/2 sum w^2, and its gradient.

        Parameters
        ----------
        x
            ``(batch, n_features)``.
        t
            Integer labels ``(batch,)`` or targets ``(batch, n_outputs)``; may be a NumPy array.
        loss
            A name, or a pair ``values, vjp = loss(y, t)``; see :mod:`portnn.losses`.
        sample_weight
            ``(batch,)``, not negative: the mean divides by their sum. One of 0 is as if the sample were not there, even
            where its loss is infinite.
        class_weight
            One number per class (a sequence, a mapping or ``"balanced"``) that multiplies the sample weights; for a
            loss with many outputs and no classes, one per output.
        l1, l2
            Numbers of at least 0 that weigh the penalty on the weights w (biases are exempt), or one for each member.

        Returns
        -------
        loss
            0-d, or ``(members,)``.
        grad
            The shape of ``params``.

        Examples
        --------
        >>> import numpy as np
        >>> from portnn import MLP
        >>> model = MLP([2, 2], init="zeros", dtype="float64")
        >>> loss, grad = model.loss_and_grad(np.asarray([[1.0, 2.0]]), np.asarray([0]))
        >>> float(round(loss, 6)), grad
        (0.693147, array([-0.5,  0.5, -1. ,  1. , -0.5,  0.5]))

        """
        with self.scope():
            entry = get_loss(loss)
            x, t, weight, share = self._batch(x, t, entry, sample_weight, class_weight, "loss_and_grad")
            objective = self.objective(entry, output_share=share, l1=l1, l2=l2, who="loss_and_grad")
            value, grad, _ = objective(self._params, x, t, weight)
            return value, grad

    def value_and_grad(self, loss: Any = "cross_entropy", *, l1: Any = 0.0, l2: Any = 0.0) -> Callable[..., Any]:
        """Return the pure function ``loss, grad = f(params, x, t, weight=None)``, for optimizers of other libraries.

        ``loss``, ``l1``, ``l2`` as in :meth:`loss_and_grad`; arrays of the model's library. Only shapes and dtypes are
        looked at, so that it can be compiled.

        Examples
        --------
        >>> import numpy as np
        >>> from portnn import MLP
        >>> f = MLP([1, 1], bias=False, dtype="float64").value_and_grad("mse")
        >>> f(np.asarray([3.0]), np.asarray([[1.0]]), np.asarray([[1.0]]))
        (np.float64(4.0), array([4.]))

        """
        with self.scope():
            objective = self.objective(loss, l1=l1, l2=l2, who="MLP.value_and_grad")

        who, entry, n_outputs = "MLP.value_and_grad", get_loss(loss), self.sizes[-1]

        def f(params: Array, x: Array, t: Array, weight: Array | None = None) -> tuple[Array, Array]:
            home(self.backend, params, x, who)
            checks.check_real(t, who, "t", params.dtype)
            with self.scope():
                t = checks.check_traced_targets(t, entry, x.shape[-2], n_outputs, params.dtype, who)
                if weight is not None:
                    checks.check_real(weight, who, "weight", params.dtype)
                    if tuple(weight.shape) != (x.shape[-2],):
                        raise ValueError(f"{who}: weight has shape {tuple(weight.shape)}, expected ({x.shape[-2]},)")
                    xp = namespace(params)
                    weight = weight if weight.dtype == params.dtype else xp.astype(weight, params.dtype)
                value, grad, _ = objective(params, x, t, weight)
                return value, grad

        return f

    def input_gradient(self, x: Array, t: Array, loss: Any = "cross_entropy") -> tuple[Array, Array]:
        """Return the loss of each sample, ``(batch,)``, and its gradient with respect to its inputs, of the shape of x.

        What a saliency map shows and an adversarial example follows. With members, one of each per member; the
        gradients of members that share ``x`` are added up.

        Examples
        --------
        >>> import numpy as np
        >>> from portnn import MLP
        >>> model = MLP([2, 1], dtype="float64")
        >>> model.params = np.asarray([1.0, 1.0, 0.0])
        >>> model.input_gradient(np.asarray([[1.0, 2.0]]), np.asarray([[0.0]]), loss="mse")
        (array([9.]), array([[6., 6.]]))

        """
        with self.scope():
            entry = get_loss(loss)
            x, t, _, _ = self._batch(x, t, entry, None, None, "MLP.input_gradient")
            y, pullback = forward(self.layers, self._params, x, running=self.running)
            values, loss_pullback = pair_of(entry.pair, "loss", y, t)
            if tuple(values.shape) != tuple(y.shape[:-1]):
                raise ValueError(f"MLP.input_gradient: loss {entry.name!r} returns a number per batch, not per sample")
            dy = loss_pullback(namespace(values).ones_like(values))
            return values, pullback(only(dy))[1]

    def hvp(
        self,
        x: Array,
        t: Array,
        v: Array,
        loss: Any = "cross_entropy",
        *,
        sample_weight: Array | None = None,
        class_weight: Any = None,
        l2: float | Sequence[float] = 0.0,
    ) -> Array:
        """Return H v, H the Hessian of the mean loss of a batch with respect to the parameters.

        ``v`` has the shape of ``params``, everything else is as in :meth:`loss_and_grad`. It costs about two
        gradients, however many parameters there are; activation and loss must be of portnn's. Source: Pearlmutter,
        "Fast exact multiplication by the Hessian", Neural Computation 6, 1994.

        Examples
        --------
        The loss (w x - t)^2 has the second derivative 2 x^2:

        >>> import numpy as np
        >>> from portnn import MLP
        >>> model = MLP([1, 1], bias=False, dtype="float64")
        >>> model.params = np.asarray([1.0])
        >>> model.hvp(np.asarray([[3.0]]), np.asarray([[0.0]]), np.asarray([1.0]), loss="mse")
        array([18.])

        """
        who = "MLP.hvp"
        with self.scope():
            entry = get_loss(loss)
            x, t, weight, share = self._batch(x, t, entry, sample_weight, class_weight, who)
            _, v = self._directions(x, None, v, who, "v")
            (y, dy), pullback = tangents(self.layers, self._params, x, v, None, self.running)
            options = {} if share is None else {"output_share": share}
            values, loss_pullback = pair_of(functools.partial(entry.pair, **options), "loss", y, t)
            bent = loss_curvature(entry, y, t, dy, share)
            of_sample = share_of_losses(values, y, weight, shares(y), whole=True)
            bent = bent * of_sample[..., None] if values.ndim == y.ndim - 1 else bent
            slope = only(loss_pullback(of_sample))
            if weight is not None:
                bent, slope = (counted(a, weight[:, None]) for a in (bent, slope))
            product, _ = pullback(bent, slope)
            l2 = checks.check_penalty(who, "l2", l2, self.members)
            if l2:
                (l2,) = self.backend.scalars((column(l2),), self._params.dtype)
                product = product + v * self.decayed() * l2
            return product

    def objective(
        self, loss: Any, *, output_share: Array | None = None, l1: Any = 0.0, l2: Any = 0.0, who: str = "objective"
    ) -> Objective:
        """Return the pure function (params, x, t, weight) -> (loss, grad, outputs) that is minimized in training.

        Of the network in prediction: dropout, and the statistics of each batch, are in the steps of ``fit`` alone.
        ``weight`` is ``(batch,)`` or None. The function checks nothing.
        """
        return make_objective(losses_of(self, loss, output_share, l1, l2, who), self._params)

    def _batch(
        self, x: Any, t: Any, loss: Loss, sample_weight: Any, class_weight: Any, who: str
    ) -> tuple[Array, Array, Array | None, Array | None]:
        """Return inputs, targets, sample weights and shares of the outputs, checked, where the parameters are."""
        n_outputs, dtype = self.sizes[-1], self._params.dtype
        self._check(x, who)
        n = checks.check_samples(who, x=x[0, ...] if x.ndim == 3 else x)
        ours = [a for a in (t, sample_weight) if a is not None and self.backend.owns(a)]
        traced = not all(map(self.backend.is_concrete, ours))
        if self.backend.is_concrete(x) and not traced:
            with self.backend.reading():
                checks.check_finite(x, self.backend, self.dtype, who)
        if traced:
            if class_weight is not None:
                raise ValueError(f"{who}: class_weight needs the values of t, which is traced; use sample_weight")
            t = checks.check_traced_targets(t, loss, n, n_outputs, dtype, who)
            return self._input(x, who), t, sample_weight, None
        host = checks.check_targets(t, loss, n, n_outputs, self.dtype, who)
        weight = checks.check_sample_weight(sample_weight, n, who)
        classes = checks.class_weights(class_weight, host, loss, n_outputs, who)
        weight, share = checks.fold_class_weights(classes, host, loss, weight, who)
        weight = None if weight is None else self.backend.asarray(weight, dtype)
        share = None if share is None else self.backend.asarray(share, dtype)
        return self._input(x, who), self.backend.asarray(host), weight, share

    def _directions(
        self, x: Array, dx: Any, d_params: Any, who: str, called: str = "d_params"
    ) -> tuple[Array | None, Array | None]:
        """Return directions in the parameters' dtype, checked."""
        if dx is None and d_params is None:
            raise ValueError(_NO_DIRECTION.format(who))
        found = []
        for name, given, like in (("dx", dx, x), (called, d_params, self._params)):
            if given is not None:
                checks.check_place(given, checks.check_array(given, who, name), self.backend, who, name)
                if tuple(given.shape) != tuple(like.shape):
                    raise ValueError(f"{who}: {name} has shape {tuple(given.shape)}, expected {tuple(like.shape)}")
                dtype = self._params.dtype
                given = given if given.dtype == dtype else self.backend.xp.astype(given, dtype)
            found.append(given)
        return found[0], found[1]


_NO_DIRECTION = "{}: give a direction, dx of the shape of x or d_params of the shape of params"
