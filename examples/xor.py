"""XOR with a 2-4-1 network of tanh units, as tiny-ml trains it: python examples/xor.py [--backend torch] [--seed 3]."""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np

import portnn


def train(seed: int, backend: str = "numpy", epochs: int = 3000, every: int = 0) -> np.ndarray:
    """Train on the four rows and return the four predictions; print the loss every so many epochs."""
    x = np.asarray([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    t = np.asarray([[0.0], [1.0], [1.0], [0.0]])

    def show(_: portnn.MLP, history: portnn.History) -> None:
        epoch = len(history["loss"])
        if every and (epoch % every == 0 or epoch == 1):
            print(f"Epoch {epoch:5d} | Total Loss: {4 * history['loss'][-1]:.6f}")

    model = portnn.MLP([2, 4, 1], activation=["tanh", "tanh"], init="glorot_uniform", backend=backend, seed=seed)
    adam = portnn.Adam(0.02)
    portnn.fit(model, x, t, loss="mse", optimizer=adam, epochs=epochs, batch_size=4, callbacks=[show], progress=False)
    return portnn.predict(model, x)[:, 0]


def main() -> None:
    """Train and show the four predictions."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3000)
    args = parser.parse_args()
    began = time.perf_counter()
    y = train(args.seed, args.backend, args.epochs, every=500)
    print(f"\nFinal Predictions ({time.perf_counter() - began:.1f} s):")
    for (a, b), target, prediction in zip([(0, 0), (0, 1), (1, 0), (1, 1)], [0, 1, 1, 0], y, strict=True):
        print(f"Input: [{a:.1f}, {b:.1f}] | Target: {target:.1f} | Prediction: {prediction:.4f}")


if __name__ == "__main__":
    try:
        main()
    except (portnn.BackendError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
