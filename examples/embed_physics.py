"""A differential equation solved by a network: python examples/embed_physics.py [--backend cupy].

A damped oscillator: position q and velocity p with q' = p and p' = -q - p / 5, from q = 1, p = 0. The solution is
looked for as u(t) = u(0) + t N(t) with a network N of two outputs, which starts right whatever the parameters are. What
is minimized is the mean square of u' - A u on 200 points, so the loss contains the derivative of the network:
``tangents`` gives both N and N', and one pullback for both. No array library is named below.
"""

from __future__ import annotations

import argparse
import math
import os
import sys

import portnn
from portnn.backends import get_backend

END, DAMPING = 6.0, 0.2


def loss_and_grad(model, params, t):
    """Return the mean square of the residuals of both equations, and its gradient."""
    xp, n = model.backend.xp, t.shape[0]
    (y, dy), pullback = model.tangents(params, t, dx=xp.ones_like(t))
    q, p = 1.0 + t * y[:, :1], t * y[:, 1:]
    du = y + t * dy  # (u(0) + t N)'
    r1, r2 = du[:, :1] - p, du[:, 1:] + q + DAMPING * p
    loss = (xp.sum(r1 * r1) + xp.sum(r2 * r2)) / n
    # the residuals by y: r1 has y1 - t y2, r2 has y2 + t y1 + DAMPING t y2; by y': t each
    dr1, dr2 = 2.0 * r1 / n, 2.0 * r2 / n
    by_y = xp.concat([dr1 + t * dr2, dr2 - t * dr1 + DAMPING * t * dr2], axis=1)
    grad, _ = pullback(by_y, xp.concat([t * dr1, t * dr2], axis=1))
    return loss, grad


def exact(t: float) -> float:
    """Return the position at a time."""
    w = math.sqrt(1.0 - DAMPING**2 / 4.0)
    return math.exp(-0.5 * DAMPING * t) * (math.cos(w * t) + 0.5 * DAMPING / w * math.sin(w * t))


def solve(backend, steps: int = 6000):
    """Return the last loss and the largest error of q on the points."""
    scaling = portnn.Rescale(2.0 / END, -1.0)  # times in [0, END] to [-1, 1]
    model = portnn.MLP(
        [1, 32, 32, 2], activation="tanh", init="glorot_normal", dtype="float64", backend=backend, inputs=scaling
    )
    xp, params = model.backend.xp, model.params
    t = xp.reshape(xp.linspace(0.0, END, 200, dtype=params.dtype, device=model.backend.device), (-1, 1))
    adam = portnn.Adam(portnn.schedules.cosine(0.01, steps))
    state, loss = adam.init(params), None
    for k in range(steps):
        loss, grad = loss_and_grad(model, params, t)
        params, state = adam.update(params, grad, state, adam.row(k))
    q = model.backend.to_numpy(1.0 + t * model.apply(params, t)[:, :1])[:, 0]
    times = model.backend.to_numpy(t)[:, 0].tolist()
    return float(loss), max(abs(exact(a) - b) for a, b in zip(times, q.tolist(), strict=True))


def main() -> None:
    """Solve and print how far it is from the solution."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", default="numpy", help="numpy, cupy, torch or jax")
    parser.add_argument("--steps", type=int, default=6000)
    args = parser.parse_args()
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # must be there before JAX is imported
    loss, error = solve(get_backend(args.backend), args.steps)
    print(f"on {args.backend}: mean square of the residuals {loss:.1e}, largest error of q(t) {error:.1e}")


if __name__ == "__main__":
    try:
        main()
    except (portnn.BackendError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
