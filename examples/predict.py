"""Read a digit from a picture or from a row of numbers: python examples/predict.py MODEL IMAGE.

MODEL is a file that ``examples/mnist.py --save`` wrote. IMAGE is a PNG (dark ink on light paper is inverted, other
sizes are scaled) or a CSV of one row of pixels, with or without the label in front.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from mnist import to_unit

import portnn


def main() -> int:
    """Show the picture, the digit and the probabilities."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("image")
    args = parser.parse_args()
    model = portnn.MLP.load(args.model)
    pixels, label = read(Path(args.image), model.sizes[0])
    logits = portnn.predict(model, pixels[None, :])[0].astype("float64")
    probabilities = np.exp(logits - logits.max())
    probabilities /= probabilities.sum()

    sys.stdout.reconfigure(errors="replace")  # a terminal that knows no blocks shows question marks
    side = round(len(pixels) ** 0.5)
    if side * side == len(pixels):
        for row in pixels.reshape(side, side):
            print("".join("██" if p > 0.5 else "▒▒" if p > 0.15 else "  " for p in row).rstrip())
    if label is not None:
        print(f"True label: {label}")
    print(f"Predicted digit: {probabilities.argmax()}")
    for digit, p in enumerate(probabilities):
        print(f"  {digit}  {100 * p:6.2f}%  {'#' * round(40 * p)}")
    return 0


def read(path: Path, n_features: int) -> tuple[np.ndarray, int | None]:
    """Return the pixels in [0, 1], ink bright, and the label if the file has one."""
    if path.suffix.lower() in (".csv", ".txt"):
        x, _ = portnn.datasets.read_csv(path, target=None)
        row = x[0]
        label = int(row[0]) if len(row) == n_features + 1 else None
        row = row if label is None else row[1:]
        if len(row) != n_features:
            raise SystemExit(f"{path} has {len(x[0])} numbers in a row, the model wants {n_features} pixels")
        return to_unit(row), label
    try:
        from PIL import Image
    except ImportError:
        sys.exit("a picture needs pillow: pip install pillow")
    side = round(n_features**0.5)
    if side * side != n_features:
        raise SystemExit(f"the model wants {n_features} features, which is no square picture; give a CSV row")
    with Image.open(path) as picture:
        ink = picture.convert("RGBA")
    paper = Image.new("RGBA", ink.size, "white")  # shows through where the picture is transparent
    gray = Image.alpha_composite(paper, ink).convert("L").resize((side, side), Image.Resampling.BOX)
    gray = np.asarray(gray, dtype="float32") / np.float32(255.0)
    border = np.concatenate([gray[0], gray[-1], gray[:, 0], gray[:, -1]])
    return (1.0 - gray if border.mean() > 0.5 else gray).reshape(-1), None


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
