"""XOR node by node, as tiny-ml does it: python examples/xor_scalar.py [--activation sigmoid] [--draw neuron.dot].

Every number of the network is a node of its own: neurons and layers are made of add, sub, mul, div, pow, relu, tanh and
sigmoid of scalars, and portnn.autograd differentiates what they compute. examples/xor.py does it with matrices.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from portnn.autograd import dot, graph, value_and_grad
from portnn.backends import namespace

ROWS = (((0.0, 0.0), 0.0), ((0.0, 1.0), 1.0), ((1.0, 0.0), 1.0), ((1.0, 1.0), 0.0))
Scalar = Any  # a 0-d array


def add(a: Scalar, b: Scalar) -> Scalar:
    """Return a + b."""
    return a + b


def sub(a: Scalar, b: Scalar) -> Scalar:
    """Return a - b."""
    return a - b


def mul(a: Scalar, b: Scalar) -> Scalar:
    """Return a b."""
    return a * b


def div(a: Scalar, b: Scalar) -> Scalar:
    """Return a / b."""
    return a / b


def power(a: Scalar, exponent: float) -> Scalar:
    """Return a to the power of a number."""
    return a**exponent


def relu(a: Scalar) -> Scalar:
    """Return max(a, 0)."""
    return namespace(a).maximum(a, 0.0)


def tanh(a: Scalar) -> Scalar:
    """Return the hyperbolic tangent."""
    return namespace(a).tanh(a)


def sigmoid(a: Scalar) -> Scalar:
    """Return 1 / (1 + exp(-a))."""
    return div(1.0, add(1.0, namespace(a).exp(-a)))


def identity(a: Scalar) -> Scalar:
    """Return a."""
    return a


ACTIVATIONS: dict[str, Callable[[Scalar], Scalar]] = {
    "relu": relu,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "identity": identity,
}


class Neuron:
    """One unit: activation(bias + sum of weight_i input_i); its parameters are its weights and its bias."""

    def __init__(self, n_inputs: int, activation: str) -> None:
        self.n_inputs, self.activation = n_inputs, ACTIVATIONS[activation]
        self.n_params = n_inputs + 1

    def initial(self, draw: random.Random) -> list[np.ndarray]:
        """Return weights and a bias of 0."""
        limit = (3.0 / self.n_inputs) ** 0.5
        return [np.asarray(draw.uniform(-limit, limit)) for _ in range(self.n_inputs)] + [np.asarray(0.0)]

    def __call__(self, params: Sequence[Scalar], inputs: Sequence[Scalar]) -> Scalar:
        """Return the output."""
        if len(inputs) != self.n_inputs:
            raise ValueError(f"Neuron: got {len(inputs)} inputs, expected {self.n_inputs}")
        *weights, total = params
        for weight, x in zip(weights, inputs, strict=True):
            total = add(total, mul(weight, x))
        return self.activation(total)


class Layer:
    """Neurons that share their inputs."""

    def __init__(self, n_inputs: int, n_neurons: int, activation: str) -> None:
        self.neurons = [Neuron(n_inputs, activation) for _ in range(n_neurons)]
        self.n_params = n_neurons * (n_inputs + 1)

    def initial(self, draw: random.Random) -> list[list[np.ndarray]]:
        """Return the parameters neuron by neuron."""
        return [neuron.initial(draw) for neuron in self.neurons]

    def __call__(self, params: Sequence[Sequence[Scalar]], inputs: Sequence[Scalar]) -> list[Scalar]:
        """Return one output for each neuron."""
        return [neuron(own, inputs) for neuron, own in zip(self.neurons, params, strict=True)]


class Network:
    """Layers, one after the other: ``Network(2, [4, 1])`` is 2-4-1, with 17 parameters."""

    def __init__(self, n_inputs: int, sizes: Sequence[int], activation: str = "tanh") -> None:
        fan_in = [n_inputs, *sizes[:-1]]
        self.layers = [Layer(m, n, activation) for m, n in zip(fan_in, sizes, strict=True)]
        self.n_params = sum(layer.n_params for layer in self.layers)

    def initial(self, seed: int) -> list[list[list[np.ndarray]]]:
        """Return the parameters layer by layer."""
        draw = random.Random(seed)
        return [layer.initial(draw) for layer in self.layers]

    def __call__(self, params: Any, inputs: Sequence[Scalar]) -> list[Scalar]:
        """Return the outputs of the last layer."""
        for layer, own in zip(self.layers, params, strict=True):
            inputs = layer(own, inputs)
        return list(inputs)


def total_loss(network: Network, params: Any) -> Scalar:
    """Return the sum over the rows of (prediction - target)^2."""
    total: Scalar = 0.0
    for inputs, target in ROWS:
        (prediction,) = network(params, inputs)
        total = add(total, power(sub(prediction, target), 2.0))
    return total


def descended(params: Any, gradient: Any, rate: float) -> Any:
    """Return the parameters after a step of gradient descent, whatever lists they stand in."""
    if isinstance(params, list):
        return [descended(p, g, rate) for p, g in zip(params, gradient, strict=True)]
    return params - rate * gradient


def train(network: Network, params: Any, epochs: int, rate: float, every: int = 0) -> tuple[Any, float]:
    """Return the trained parameters and the last loss; print the loss every so many epochs."""
    loss_and_gradient = value_and_grad(lambda params: total_loss(network, params))
    loss = float("nan")
    for epoch in range(epochs):
        value, gradient = loss_and_gradient(params)
        params, loss = descended(params, gradient, rate), float(value)
        if every and epoch % every == 0:
            print(f"Epoch {epoch:5d} | Total Loss: {loss:.6f}")
    return params, loss


def draw(file: Path, activation: str) -> None:
    """Write the graph of one neuron with two inputs, as DOT or, named .svg or .png, as a picture."""
    neuron = Neuron(2, activation)
    params = [np.asarray(0.5), np.asarray(-1.0), np.asarray(0.25)]
    inputs = [np.asarray(1.0), np.asarray(2.0)]
    names = ["weight 0", "weight 1", "bias", "input 0", "input 1"]
    if file.suffix in (".svg", ".png"):
        file.write_bytes(graph(neuron, params, inputs, names=names).pipe(format=file.suffix[1:]))
    else:
        file.write_text(dot(neuron, params, inputs, names=names) + "\n", encoding="utf-8")
    print(f"The graph of one neuron is in {file}")


def main() -> None:
    """Train and show the four predictions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--activation", choices=ACTIVATIONS, default="tanh")
    parser.add_argument("--hidden", type=int, default=4)
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draw", type=Path, metavar="FILE", help="write the graph of one neuron: .dot, .svg or .png")
    args = parser.parse_args()
    if args.draw is not None:
        draw(args.draw, args.activation)
        return
    began = time.perf_counter()
    network = Network(2, [args.hidden, 1], args.activation)
    print(f"{network.n_params} parameters")
    params, _ = train(network, network.initial(args.seed), args.epochs, args.learning_rate, every=100)
    print(f"\nFinal Predictions ({time.perf_counter() - began:.1f} s):")
    for inputs, target in ROWS:
        (prediction,) = network(params, [np.asarray(x) for x in inputs])
        a, b = inputs
        print(f"Input: [{a:.1f}, {b:.1f}] | Target: {target:.1f} | Prediction: {float(prediction):.4f}")


if __name__ == "__main__":
    try:
        main()
    except (ImportError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
