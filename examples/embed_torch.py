"""A network inside torch's own tools: autograd, torch.optim and torch.func: python examples/embed_torch.py.

A network learns f(x) = sin(x) from its values; two derivatives of it, taken by torch.func, then give f'' = -sin(x).
"""

from __future__ import annotations

import argparse
import sys

import portnn


def main() -> None:
    """Fit f, and print how far the network and its curvature are from the truth."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    try:
        import torch
    except ImportError as error:
        sys.exit(f"{error}: pip install torch")

    try:
        model = portnn.MLP([1, 32, 32, 1], activation="tanh", init="glorot_normal", backend="torch", device=args.device)
    except portnn.BackendError as error:
        sys.exit(f"BackendError: {error}")
    x = torch.linspace(-3.0, 3.0, 200, device=args.device)[:, None]
    params = model.params.clone().requires_grad_()
    optimizer = torch.optim.Adam([params], lr=0.01)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.steps)
    for _ in range(args.steps):
        optimizer.zero_grad()
        loss = ((model.apply(params, x) - torch.sin(x)) ** 2).mean()
        loss.backward()
        optimizer.step()
        rate.step()
    model.params = params.detach()

    def f(s):
        return model.apply(model.params, s.reshape(1, 1))[0, 0]

    curvature = torch.func.vmap(torch.func.grad(torch.func.grad(f)))(x[:, 0])
    off = [float(a.abs().max()) for a in (model(x) - torch.sin(x), curvature + torch.sin(x[:, 0]))]
    print(f"on {model.backend.device_name}: mean square {float(loss.detach()):.2e}")
    print(f"largest error of f {off[0]:.4f}, of f'' {off[1]:.4f}")


if __name__ == "__main__":
    main()
