"""A network fitted by SciPy, on the flat vector of its parameters: python examples/embed_scipy.py [--backend torch].

The same noisy samples of a curve are fitted by minimize, with L-BFGS-B, and by least_squares, which takes the
Jacobian of all residuals. SciPy sees float64 vectors, whatever library computes.
"""

from __future__ import annotations

import argparse
import os
import sys

import numpy as np

import portnn

NOISE = 0.05


def main() -> None:
    """Fit twice, and print what is left of the residuals."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", default="numpy")
    args = parser.parse_args()
    try:
        from scipy.optimize import least_squares, minimize
    except ImportError as error:
        sys.exit(f"{error}: pip install scipy")
    os.environ.setdefault("JAX_ENABLE_X64", "1")  # must be there before JAX is imported

    rng = np.random.default_rng(0)
    x = np.linspace(-1.0, 1.0, 200)[:, None]
    t = np.sin(5.0 * x) * np.exp(-x * x) + NOISE * rng.normal(size=x.shape)
    model = portnn.MLP([1, 12, 1], activation="tanh", init="glorot_normal", dtype="float64", backend=args.backend)
    start = model.backend.to_numpy(model.params)

    f = portnn.scipy_objective(model, x, t, "mse")
    found = minimize(f, start, jac=True, method="L-BFGS-B", options={"maxiter": 2000})
    print(f"on {args.backend}: L-BFGS-B, {found.nfev} calls: root mean square {found.fun**0.5:.4f} (noise {NOISE})")

    residuals, jacobian = portnn.scipy_residuals(model, x, t)
    found = least_squares(residuals, start, jac=jacobian, method="lm", max_nfev=200)
    print(f"least_squares, {found.nfev} calls: root mean square {np.sqrt(np.mean(found.fun**2)):.4f}")
    model.params = found.x
    print(f"the model itself: {portnn.evaluate(model, x, t, loss='mse')['loss'] ** 0.5:.4f}")


if __name__ == "__main__":
    try:
        main()
    except (portnn.BackendError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
