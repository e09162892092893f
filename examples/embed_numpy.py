"""A network inside a formula of your own, fitted by least squares: python examples/embed_numpy.py [--backend torch].

Two detectors watch the same unknown signal f. The first records y1 = f(x), the second y2 = gain f(x) + offset, both
with noise. f is a network; gain and offset are two numbers in front of its parameters, and everything is fitted at
once. The formula names no array library: it runs on whatever its arrays are.
"""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np

import portnn
from portnn.backends import get_backend

GAIN, OFFSET = 1.7, -0.4


def residuals(xp, model, theta, x, y1, y2):
    """Return the residuals of both detectors, and the pullback to theta = (gain, offset, parameters of the network)."""
    gain, offset = theta[0], theta[1]
    f, pull_network = model.forward(theta[2:], x)
    r1, r2 = f - y1, gain * f + offset - y2

    def pullback(d1, d2):
        d_params, _ = pull_network(d1 + gain * d2)
        return xp.concat([xp.stack([xp.sum(d2 * f), xp.sum(d2)]), d_params])

    return r1, r2, pullback


def fit(x, y1, y2, steps: int = 1500):
    """Minimize the mean square of all residuals; ``x, y1, y2`` are (n, 1) arrays of any library."""
    model = portnn.MLP([1, 24, 24, 1], activation="tanh", init="glorot_normal", dtype="float64", backend=x)
    xp, n = model.backend.xp, x.shape[0]
    theta = xp.concat([xp.asarray([1.0, 0.0], dtype=x.dtype, device=model.backend.device), model.params])
    adam = portnn.Adam(portnn.schedules.cosine(0.01, steps))
    state = adam.init(theta)
    for k in range(steps):
        r1, r2, pullback = residuals(xp, model, theta, x, y1, y2)
        gradient = pullback(r1 * (1.0 / n), r2 * (1.0 / n))
        theta, state = adam.update(theta, gradient, state, adam.row(k))
    rms = float(xp.mean(r1 * r1 + r2 * r2) * 0.5) ** 0.5
    return float(theta[0]), float(theta[1]), rms


def observations(n: int = 400, noise: float = 0.02):
    """Return x, y1, y2 as NumPy arrays."""
    rng = np.random.default_rng(0)
    x = np.linspace(-1.0, 1.0, n)[:, None]
    f = np.sin(5.0 * x) * np.exp(-x * x) + 0.3 * x
    return x, f + noise * rng.normal(size=x.shape), GAIN * f + OFFSET + noise * rng.normal(size=x.shape)


def main() -> None:
    """Fit and print what was found beside the truth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", default="numpy")
    parser.add_argument("--steps", type=int, default=1500)
    args = parser.parse_args()
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # must be there before JAX is imported
    backend = get_backend(args.backend)
    gain, offset, rms = fit(*(backend.asarray(a) for a in observations()), args.steps)
    print(f"on {args.backend}: gain {gain:.4f} (true {GAIN}), offset {offset:.4f} (true {OFFSET})")
    print(f"root mean square of the residuals {rms:.4f} (noise 0.02)")


if __name__ == "__main__":
    try:
        main()
    except (portnn.BackendError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
