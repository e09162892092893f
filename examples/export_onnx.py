"""Train a 784-256-64-10 gelu network on handwritten digits, write it as ONNX, and compare onnxruntime with portnn.

    python examples/export_onnx.py
    python examples/export_onnx.py --dataset digits --epochs 5 --out digits.onnx

Needs ``pip install ndonnx onnx onnxruntime``. The file takes pixels from 0 to 255 and gives ten raw outputs;
the largest is that of the digit.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from mnist import load

import portnn


def main() -> int:
    """Train, export, check, compare; 1 if a prediction differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dataset", default="auto", help="auto, mnist, digits, or what else mnist.py takes")
    parser.add_argument("--data-dir", help="the folder that holds mnist/; default: PORTNN_DATA, then data/")
    parser.add_argument("--backend", default="numpy", help="the library to train on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="digits.onnx", metavar="FILE")
    args = parser.parse_args()
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise SystemExit(f"{error}: pip install ndonnx onnx onnxruntime") from None

    name, (x, t, x_test, t_test) = load(args, print)
    x, x_test = 255.0 * x, 255.0 * x_test  # raw pixels: the scaling goes into the network, and into the file with it
    scaling = portnn.Standardize(float(x.mean(dtype="float64")), float(x.std(dtype="float64")))
    sizes = [x.shape[1], 256, 64, 10]
    model = portnn.MLP(sizes, activation="gelu", inputs=scaling, backend=args.backend, seed=args.seed)
    portnn.fit(model, x, t, optimizer=portnn.Adam(1e-3), epochs=args.epochs, batch_size=128, seed=args.seed)
    print(f"{model}")
    print(f"{name}: test accuracy {100 * portnn.evaluate(model, x_test, t_test)['accuracy']:.2f}%")

    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    graph = portnn.onnx.to_onnx(model, args.out)
    onnx.checker.check_model(args.out, full_check=True)
    opset = ", ".join(f"{entry.domain or 'ai.onnx'} {entry.version}" for entry in graph.opset_import)
    print(
        f"{args.out}: {Path(args.out).stat().st_size} bytes, {len(graph.graph.node)} nodes, operator set {opset}; valid"
    )

    session = onnxruntime.InferenceSession(args.out, providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"x": x_test})
    ours = portnn.predict(model, x_test)
    equal = int((theirs.argmax(axis=1) == ours.argmax(axis=1)).sum())
    worst = float(np.abs(theirs - ours).max())
    unit = float(np.finfo(ours.dtype).eps) * float(np.abs(ours).max())
    print(f"onnxruntime {onnxruntime.__version__}: {equal} of {len(ours)} predictions are equal")
    print(f"worst difference of an output {worst:.3g}, that is {worst / unit:.2f} eps of the largest output")
    return 0 if equal == len(ours) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (portnn.BackendError, ImportError, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
