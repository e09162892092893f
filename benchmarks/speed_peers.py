"""The competitors of benchmarks/speed.py: each trains the same network on the same samples in the same order.

All compute in float32 without TF32, from the parameters of ``portnn.MLP(sizes, seed=0)``. The order of an epoch is
``portnn.random.order``: portnn draws it on the clock, the others get it for nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from speed_cases import SEED, Case, Compete, Competitor, Data, RunEpoch, Turns, by_epoch, start

import portnn

MEMBER_EPOCHS = 10  # epochs of one fit where whole fits are compared


# -- portnn -----------------------------------------------------------------------------------------------------------


def _optimizer(case: Case) -> Any:
    return portnn.Adam(case.rate) if case.optimizer == "adam" else portnn.SGD(case.rate)


def _model(case: Case, backend: str, **options: Any) -> portnn.MLP:
    device = {"numpy": None, "cupy": None}.get(backend, case.device)
    return portnn.MLP(case.sizes, dtype="float32", backend=backend, device=device, **{"seed": SEED, **options})


def _wait(model: portnn.MLP) -> None:
    model.backend.synchronize()
    getattr(model.params, "block_until_ready", lambda: None)()  # JAX


def portnn_fit(backend: str) -> Compete:
    """Train by one call of ``portnn.fit``, as its users do; from callback to callback is one epoch, all included."""

    def compete(case: Case, data: Data, turns: Turns) -> None:
        model, done = _model(case, backend), 0

        def between(model: portnn.MLP, history: portnn.History) -> None:
            nonlocal done
            _wait(model)
            turns.end(history["loss"][-1])
            done += 1
            if done < turns.epochs:
                turns.begin()

        options = {"optimizer": _optimizer(case), "epochs": turns.epochs, "batch_size": case.batch, "seed": SEED}
        turns.begin()
        portnn.fit(model, data.x, data.t, **options, callbacks=between, progress=False)

    return compete


def _whole_fits(case: Case, data: Data, models: list[portnn.MLP]) -> float:
    """Train some models from beginning to end; return the mean of their last losses."""
    losses = []
    for model in models:
        options = {"optimizer": _optimizer(case), "epochs": MEMBER_EPOCHS, "batch_size": case.batch, "seed": SEED}
        losses.append(np.mean(portnn.fit(model, data.x, data.t, **options, progress=False)["loss"][-1]))
        _wait(model)
    return float(np.mean(losses))


def portnn_members(backend: str) -> Compete:
    """Time one whole fit of a model with members, from its making to its end."""

    def prepare(case: Case, data: Data) -> RunEpoch:
        return lambda _: _whole_fits(case, data, [_model(case, backend, members=case.members)])

    return by_epoch(prepare)


def portnn_singles(backend: str) -> Compete:
    """Time as many whole fits of single models, one after the other, with the members' seeds."""

    def prepare(case: Case, data: Data) -> RunEpoch:
        seeds = range(SEED, SEED + (case.members or 1))
        return lambda _: _whole_fits(case, data, [_model(case, backend, seed=seed) for seed in seeds])

    return by_epoch(prepare)


# -- PyTorch ----------------------------------------------------------------------------------------------------------


def _torch(case: Case, data: Data) -> tuple[Any, ...]:
    """Return a Sequential that begins with our numbers, its optimizer, and the samples on the device."""
    import torch

    for products in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
        products.fp32_precision = "ieee"
    layers: list[Any] = []
    for weight, bias in start(case):
        linear = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T))
            linear.bias.copy_(torch.from_numpy(bias))
        layers += [linear, torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1]).to(case.device)
    return torch, net, torch.from_numpy(data.x).to(case.device), torch.from_numpy(data.t).to(case.device)


def _torch_optimizer(torch: Any, net: Any, case: Case, **options: Any) -> Any:
    if case.optimizer == "adam":
        return torch.optim.Adam(net.parameters(), lr=case.rate, **options)
    return torch.optim.SGD(net.parameters(), lr=case.rate)


def _torch_epoch(torch: Any, case: Case, x: Any, t: Any, step: Callable[[Any, Any], Any]) -> RunEpoch:
    """Return the loop over the batches of an order; the loss is read once, at the end."""

    def run_epoch(order: np.ndarray) -> float:
        total = torch.zeros((), device=case.device)
        for rows in torch.from_numpy(order).to(case.device).split(case.batch):
            total += step(x[rows], t[rows]) * len(rows)
        return total.item() / case.samples

    return run_epoch


def torch_eager(case: Case, data: Data) -> RunEpoch:
    """As the tutorials write it: Sequential, cross_entropy, backward, step."""
    torch, net, x, t = _torch(case, data)
    optimizer = _torch_optimizer(torch, net, case)

    def step(x: Any, t: Any) -> Any:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(net(x), t)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return _torch_epoch(torch, case, x, t, step)


def torch_compile(case: Case, data: Data) -> RunEpoch:
    """Compile the whole step as one graph: forward, backward and update.

    The gradient comes from torch.func: around ``backward()`` torch.compile breaks the graph, and that was slower than
    this in every trial. The update is torch.optim's own.
    """
    torch, net, x, t = _torch(case, data)
    optimizer, params = _torch_optimizer(torch, net, case), dict(net.named_parameters())

    def loss_of(params: dict[str, Any], x: Any, t: Any) -> Any:
        return torch.nn.functional.cross_entropy(torch.func.functional_call(net, params, (x,)), t)

    def step(x: Any, t: Any) -> Any:
        with torch.no_grad():
            grads, loss = torch.func.grad_and_value(loss_of)({k: p.detach() for k, p in params.items()}, x, t)
        for name, p in params.items():
            p.grad = grads[name]
        optimizer.step()
        return loss

    mode = "default" if case.device == "cpu" else "reduce-overhead"
    return _torch_epoch(torch, case, x, t, torch.compile(step, mode=mode, dynamic=False))


def torch_graph(case: Case, data: Data) -> RunEpoch:
    """Capture the whole step as a CUDA graph, as "Whole-network capture" in PyTorch's notes on CUDA has it."""
    torch, net, x, t = _torch(case, data)
    begin = [p.detach().clone() for p in net.parameters()]
    optimizer = _torch_optimizer(torch, net, case, capturable=True)
    total = torch.zeros((), device=case.device)

    def captured(size: int) -> tuple[Any, Any, Any]:
        batch, labels = x[:size].clone(), t[:size].clone()

        def step() -> None:
            loss = torch.nn.functional.cross_entropy(net(batch), labels)
            loss.backward()
            optimizer.step()
            total.add_(loss.detach() * size)

        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                optimizer.zero_grad(set_to_none=True)
                step()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            step()
        return graph, batch, labels

    graphs = {size: captured(size) for size in {rows.stop - rows.start for rows in case.batches()}}
    with torch.no_grad():  # the captures have trained: back to the start
        for p, first in zip(net.parameters(), begin, strict=True):
            p.copy_(first)
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()

    def run_epoch(order: np.ndarray) -> float:
        total.zero_()
        for rows in torch.from_numpy(order).to(case.device).split(case.batch):
            graph, batch, labels = graphs[len(rows)]
            torch.index_select(x, 0, rows, out=batch)
            torch.index_select(t, 0, rows, out=labels)
            graph.replay()
        return total.item() / case.samples

    return run_epoch


# -- JAX --------------------------------------------------------------------------------------------------------------


def jax_scan(case: Case, data: Data) -> RunEpoch:
    """One compiled function per epoch: lax.scan over the batches, value_and_grad, optax; the carry is donated."""
    import jax
    import optax

    device = jax.devices(case.device)[0]
    x, t = jax.device_put(data.x, device), jax.device_put(data.t.astype(np.int32), device)
    params = jax.device_put(start(case), device)
    optimizer = optax.adam(case.rate) if case.optimizer == "adam" else optax.sgd(case.rate)
    state = jax.device_put(optimizer.init(params), device)  # committed, or the second epoch would compile anew
    full = case.samples // case.batch * case.batch

    def loss_of(params: Any, x: Any, t: Any) -> Any:
        for weight, bias in params[:-1]:
            x = jax.nn.relu(x @ weight + bias)
        weight, bias = params[-1]
        return optax.softmax_cross_entropy_with_integer_labels(x @ weight + bias, t).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def epoch(params: Any, state: Any, x: Any, t: Any, order: Any) -> Any:
        def step(carry: Any, rows: Any) -> Any:
            params, state = carry
            loss, grad = jax.value_and_grad(loss_of)(params, x[rows], t[rows])
            updates, state = optimizer.update(grad, state, params)
            return (optax.apply_updates(params, updates), state), loss * len(rows)

        carry, losses = jax.lax.scan(step, (params, state), order[:full].reshape(-1, case.batch))
        total = losses.sum()
        if full < case.samples:
            carry, last = step(carry, order[full:])
            total += last
        return *carry, total / case.samples

    def run_epoch(order: np.ndarray) -> float:
        nonlocal params, state
        with jax.default_matmul_precision("highest"):
            params, state, loss = epoch(params, state, x, t, jax.device_put(order.astype(np.int32), device))
        jax.block_until_ready((params, state))
        return float(loss)

    return run_epoch


# -- scikit-learn -----------------------------------------------------------------------------------------------------


def scikit_learn(case: Case, data: Data) -> RunEpoch:
    """Train an MLPClassifier, one ``partial_fit`` per epoch, from our start and in our order.

    The order goes in through its ``random_state``; its check for NaN is switched off. Its Adam adds eps before the bias
    correction, and it computes the penalty although alpha is 0.
    """
    import sklearn
    from sklearn.neural_network import MLPClassifier

    class Order(np.random.RandomState):
        order: Any = None

        def shuffle(self, indices: np.ndarray) -> None:
            indices[...] = self.order

    source = Order(0)
    options = {"momentum": 0.0, "nesterovs_momentum": False, "alpha": 0.0, "tol": 0.0, "n_iter_no_change": 10**9}
    net = MLPClassifier(
        case.sizes[1:-1],
        solver=case.optimizer,
        learning_rate_init=case.rate,
        batch_size=case.batch,
        random_state=source,
        **options,
    )
    source.order = np.arange(case.batch)
    net.partial_fit(data.x[: case.batch], data.t[: case.batch], classes=np.arange(case.sizes[-1]))  # makes the arrays
    for coef, intercept, (weight, bias) in zip(net.coefs_, net.intercepts_, start(case), strict=True):
        coef[...], intercept[...] = weight, bias
    del net._optimizer  # and what it has summed up; a new one is made

    def run_epoch(order: np.ndarray) -> float:
        source.order = order
        with sklearn.config_context(assume_finite=True):
            net.partial_fit(data.x, data.t)
        return float(net.loss_)

    return run_epoch


# -- the floor --------------------------------------------------------------------------------------------------------


def matmul(case: Case, data: Data, library: str = "numpy", *, gathers: bool = False) -> RunEpoch:
    """Multiply the matrices of an epoch, forward and backward, into arrays that are there already; nothing else.

    Per batch and layer: y = x W, dW = x^T dy and, but for the first layer, dx = dy W^T. Not a floor at batch 1, where
    NumPy computes dW without BLAS. Whoever ``gathers``, which only torch does here, takes the samples of each batch
    from where the order of the epoch has them, into one array: without that nobody trains.
    """
    if library == "numpy":
        move, matmul, transposed, wait = np.asarray, np.matmul, np.transpose, lambda: None
    else:
        import torch

        torch.backends.cuda.matmul.fp32_precision = torch.backends.mkldnn.matmul.fp32_precision = "ieee"
        move, transposed, matmul = (lambda a: torch.as_tensor(a, device=case.device)), torch.t, torch.matmul
        wait = torch.cuda.synchronize if case.device == "cuda" else lambda: None
    noise, x = np.random.default_rng(0), move(data.x)
    weights = [move(weight) for weight, _ in start(case)]

    def arrays(size: int) -> list[Any]:
        return [move(noise.standard_normal((size, n), dtype=np.float32)) for n in case.sizes]

    sizes = {rows.stop - rows.start for rows in case.batches()}
    values, slopes = {size: arrays(size) for size in sizes}, {size: arrays(size) for size in sizes}
    dweights = [move(np.empty(weight.shape, dtype=np.float32)) for weight in weights]

    def run_epoch(order: np.ndarray) -> float:
        order = move(order) if gathers else order
        for rows in case.batches():
            y, dy = values[rows.stop - rows.start], slopes[rows.stop - rows.start]
            if gathers:
                torch.index_select(x, 0, order[rows], out=y[0])
            inputs = y if gathers else [x[rows], *y[1:]]
            for i, weight in enumerate(weights):
                matmul(inputs[i], weight, out=y[i + 1])
            for i in reversed(range(len(weights))):
                matmul(transposed(inputs[i]), dy[i + 1], out=dweights[i])
                if i:
                    matmul(dy[i + 1], transposed(weights[i]), out=dy[i])
        wait()
        return float("nan")

    return run_epoch


_TRAINERS = {
    "torch-eager": Competitor(by_epoch(torch_eager), ("torch",)),
    "torch-compile": Competitor(by_epoch(torch_compile), ("torch",)),
    "jax": Competitor(by_epoch(jax_scan), ("jax", "jaxlib", "optax")),
}
_ON_NUMPY = Competitor(portnn_fit("numpy"), ())
_ON_BOTH = {
    "portnn-torch": Competitor(portnn_fit("torch"), ("torch",)),
    "portnn-jax": Competitor(portnn_fit("jax"), ("jax", "jaxlib")),
}
_least = functools.partial(matmul, library="torch", gathers=True)
_BY_TORCH = Competitor(by_epoch(functools.partial(matmul, library="torch")), ("torch",), "it trains nothing")
COMPETITORS = {
    "cpu": {
        "portnn-numpy": _ON_NUMPY,
        **_ON_BOTH,
        **_TRAINERS,
        "scikit-learn": Competitor(by_epoch(scikit_learn), ("scikit-learn", "scipy")),
        "matmul": Competitor(by_epoch(matmul), (), "it trains nothing"),
        "torch-matmul": _BY_TORCH,
        "torch-least": Competitor(by_epoch(_least), ("torch",), "it trains nothing"),
    },
    "cuda": {
        "portnn-cupy": Competitor(portnn_fit("cupy"), ("cupy",)),
        **_ON_BOTH,
        **_TRAINERS,
        "torch-graph": Competitor(by_epoch(torch_graph), ("torch",)),
        "matmul": _BY_TORCH,
    },
}
MEMBERS = {
    device: {
        name: Competitor(make(backend), () if backend == "numpy" else (backend,))
        for backend in backends
        for name, make in ((f"portnn-{backend}", portnn_members), (f"portnn-{backend}-singles", portnn_singles))
    }
    for device, backends in (("cpu", ("numpy", "torch")), ("cuda", ("cupy", "torch")))
}


def competitors(case: Case) -> dict[str, Competitor]:
    """Return who takes part in a case, by name."""
    return (COMPETITORS if case.members is None else MEMBERS)[case.device]
