"""A network inside JAX's own tools: jit, grad and vmap over model.apply, with optax: python examples/embed_jax.py.

A network learns f(x) = sin(x) from its values; two derivatives of it, taken by JAX, then give f'' = -sin(x).
"""

from __future__ import annotations

import argparse
import sys

import portnn


def main() -> None:
    """Fit f, and print how far the network and its curvature are from the truth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    args = parser.parse_args()
    try:
        import jax
        import jax.numpy as jnp
        import optax
    except ImportError as error:
        sys.exit(f"{error}: pip install jax optax")

    model = portnn.MLP([1, 32, 32, 1], activation="tanh", init="glorot_normal", backend="jax")
    x = jnp.linspace(-3.0, 3.0, 200)[:, None]
    optimizer = optax.adam(optax.cosine_decay_schedule(0.01, args.steps))

    def loss(params):
        return jnp.mean((model.apply(params, x) - jnp.sin(x)) ** 2)

    @jax.jit
    def step(params, state):
        gradient = jax.grad(loss)(params)
        updates, state = optimizer.update(gradient, state)
        return optax.apply_updates(params, updates), state

    params, state = model.params, optimizer.init(model.params)
    for _ in range(args.steps):
        params, state = step(params, state)
    model.params = params

    def f(s):
        return model.apply(params, s[None, None])[0, 0]

    curvature = jax.vmap(jax.grad(jax.grad(f)))(x[:, 0])
    off = [float(jnp.max(jnp.abs(a))) for a in (model(x) - jnp.sin(x), curvature + jnp.sin(x[:, 0]))]
    print(f"on {model.backend.device_name}: mean square {float(loss(params)):.2e}")
    print(f"largest error of f {off[0]:.4f}, of f'' {off[1]:.4f}")


if __name__ == "__main__":
    main()
