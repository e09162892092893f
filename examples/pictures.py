"""Draw every picture of portnn.plots, from networks that are trained here: python examples/pictures.py --out pictures.

The digits come with the source, the two spirals are made here; it takes a few seconds and needs no network.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import portnn
from portnn import plots
from portnn.callbacks import EarlyStopping
from portnn.evaluation import predicted


def main() -> int:
    """Train, draw, and say where the pictures are."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", default="pictures", metavar="DIR", help="folder of the PNG files, made if need be")
    parser.add_argument("--backend", default="numpy")
    args = parser.parse_args()

    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in {**digits(args.backend), **ensemble(args.backend), **spirals(args.backend)}.items():
        figure.savefig(folder / f"{name}.png", dpi=120)
        print(folder / f"{name}.png")
    return 0


def digits(backend: str) -> dict[str, Figure]:
    """A classifier of digits: what it learned, what it confuses, how sure it is."""
    x, t, x_test, t_test = portnn.datasets.load_digits()
    model = portnn.MLP([64, 64, 10], backend=backend, seed=1)
    stop = EarlyStopping("val_loss", patience=8)
    adam = portnn.Adam(3e-3)
    history = portnn.fit(
        model, x, t, optimizer=adam, epochs=200, validation_split=0.2, callbacks=[stop], progress=False
    )
    logits = portnn.predict(model, x_test)
    probabilities = predicted("classes", 10, "pictures")(logits)
    labels = logits.argmax(axis=1)
    print(plots.class_report(t_test, labels))
    return {
        "learning_curves": curves(history),
        "confusion_matrix": plots.confusion_matrix(t_test, labels),
        "calibration": plots.calibration(t_test, probabilities),
        "misclassified": plots.misclassified(x_test, t_test, labels, probabilities, max_images=15),
        "first_layer_weights": plots.weight_images(model.backend.to_numpy(model.weights[0])),
    }


def ensemble(backend: str) -> dict[str, Figure]:
    """Eight networks that differ in their seeds alone, trained at once."""
    x, t, _, _ = portnn.datasets.load_digits()
    team = portnn.MLP([64, 16, 10], members=8, backend=backend)
    adam = portnn.Adam(3e-3)
    history = portnn.fit(team, x, t, optimizer=adam, epochs=25, validation_split=0.2, progress=False)
    return {"learning_curves_members": curves(history)}


def curves(history: portnn.training.History) -> Figure:
    """Learning curves without the seconds that they took here: the same picture each time."""
    return plots.learning_curves({name: values for name, values in history.items() if name != "epoch_seconds"})


def spirals(backend: str) -> dict[str, Figure]:
    """Three arms that wind around each other, which no straight line separates, and samples that were held out."""
    rng = np.random.default_rng(0)
    t = rng.integers(0, 3, 900)
    radius = rng.uniform(0.15, 1.0, t.size)
    angle = 4.0 * radius + t * (2.0 * np.pi / 3.0) + rng.normal(0.0, 0.25, t.size)
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1)
    model = portnn.MLP([2, 48, 48, 3], activation="tanh", init="glorot_normal", backend=backend)
    portnn.fit(model, x[:600], t[:600], optimizer=portnn.Adam(5e-3), epochs=60, batch_size=64, progress=False)
    names = ("first arm", "second arm", "third arm")

    def predict(points: np.ndarray) -> np.ndarray:
        return portnn.predict(model, points)

    return {"decision_boundary": plots.decision_boundary(predict, x[600:], t[600:], names, ("x", "y"))}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (portnn.BackendError, ImportError, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
