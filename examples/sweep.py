"""Try many learning rates at once: one network per rate, all trained in one pass, from the same start.

    python examples/sweep.py
    python examples/sweep.py --backend torch --optimizer sgd --rates 1e-3 10 --plot sweep.png
    python examples/sweep.py --dataset digits --members 16 --epochs 20

The rates are compared on a sixth of the training data, held out; the best network alone sees the test data. A rate
that diverges is struck out, and the others start again without it: their numbers are those of a run where it never was.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mnist import BACKENDS, load

import portnn
from portnn.optimizers import OPTIMIZERS


def main() -> int:
    """Ask, load, sweep, and say which rate was the best."""
    args = parse()
    low, high = args.rates
    if not 0.0 < low <= high < np.inf:
        raise ValueError(f"--rates: LOW and HIGH must be positive and in this order, got {low:g} and {high:g}")
    if args.members < 1:
        raise ValueError(f"--members must be at least 1, got {args.members}")
    if args.plot:
        Path(args.plot).parent.mkdir(parents=True, exist_ok=True)
    name, (x, t, x_test, t_test) = load(args, print)
    rates = [float(rate) for rate in np.geomspace(low, high, args.members)]
    print(f"{len(rates)} learning rates of {args.optimizer} on {name}, {args.epochs} epochs, {args.backend}")

    model, history, kept = sweep(args, rates, x, t)
    last = {key: values[-1] for key, values in history.items()}
    best = max(range(len(kept)), key=lambda i: (last["val_accuracy"][i], -last["val_loss"][i]))

    print(f"\n{'rate':>10}   training loss   validation loss   validation accuracy")
    for rate in rates:
        if rate not in kept:
            print(f"{rate:10.3g}   diverged")
            continue
        i = kept.index(rate)
        loss, val_loss, accuracy = (last[key][i] for key in ("loss", "val_loss", "val_accuracy"))
        mark = "   <- best" if i == best else ""
        print(f"{rate:10.3g}   {loss:13.4f}   {val_loss:15.4f}   {100 * accuracy:18.2f}%{mark}")

    tested = portnn.evaluate(model[best], x_test, t_test)["accuracy"]
    seconds = sum(history["epoch_seconds"])
    print(f"\nbest rate {kept[best]:.3g}: test accuracy {100 * tested:.2f}%; {seconds:.1f} s for all of them")
    if args.plot:
        draw(args.plot, kept, last, best)
        print(f"picture written to {args.plot}")
    return 0


def sweep(
    args: argparse.Namespace, rates: Sequence[float], x: np.ndarray, t: np.ndarray
) -> tuple[portnn.MLP, portnn.History, list[float]]:
    """Return the networks, their history and their rates: all those that did not diverge."""
    kept = list(rates)
    while kept:
        model = portnn.MLP(
            [x.shape[1], *args.hidden, int(t.max()) + 1],
            backend=args.backend,
            device=args.device,
            members=len(kept),
            seed=[args.seed] * len(kept),  # one start for all: what differs is the rate alone
        )
        try:
            history = portnn.fit(
                model,
                x,
                t,
                optimizer=OPTIMIZERS[args.optimizer](kept),
                epochs=args.epochs,
                batch_size=min(args.batch_size, len(t)),
                validation_split=1 / 6,
                seed=args.seed,
            )
        except portnn.NonFiniteError as error:
            if not error.members:
                raise
            print(f"{error.args[0].partition(';')[0]}; the others start again", flush=True)
            kept = [rate for i, rate in enumerate(kept) if i not in error.members]
        else:
            return model, history, kept
    raise SystemExit(f"--rates: all {len(rates)} diverged, from {min(rates):g} on; try lower ones")


def draw(path: str, rates: Sequence[float], last: dict[str, list[float]], best: int) -> None:
    """Draw validation loss and accuracy over the rates, the best one marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, key, title in zip(
        figure.subplots(1, 2), ("val_loss", "val_accuracy"), ("validation loss", "validation accuracy"), strict=True
    ):
        axes.plot(rates, last[key], "o-")
        axes.plot(rates[best], last[key][best], "o", ms=11, mfc="none", mec="black")
        axes.set(xscale="log", xlabel="learning rate", title=title)
    figure.axes[0].set_yscale("log")
    figure.savefig(path)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", default="numpy", choices=BACKENDS)
    parser.add_argument("--device", help="cpu, cuda:0, ...; default: the library's own")
    parser.add_argument("--dataset", default="auto", help="auto, mnist, digits, or what else examples/mnist.py takes")
    parser.add_argument("--data-dir", help="the folder that holds mnist/; default: PORTNN_DATA, then data/")
    parser.add_argument("--members", type=int, default=32, metavar="M", help="how many rates")
    parser.add_argument("--rates", type=float, nargs=2, default=(1e-5, 1.0), metavar=("LOW", "HIGH"))
    parser.add_argument("--optimizer", default="adam", choices=OPTIMIZERS)
    parser.add_argument("--hidden", type=int, nargs="*", default=[32], metavar="N", help="widths of the hidden layers")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plot", metavar="FILE", help="write a picture of the sweep")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (portnn.BackendError, portnn.NonFiniteError, ImportError, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
