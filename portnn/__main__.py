"""``python -m portnn``: what is usable here, and whether array libraries agree on a model."""

from __future__ import annotations

import argparse
import platform
import sys

import portnn
from portnn import datasets, testing
from portnn.backends import available, get_backend
from portnn.checks import check_count
from portnn.losses import LOSSES
from portnn.optimizers import OPTIMIZERS


def info(_: argparse.Namespace) -> int:
    """Print one line per array library: version, devices and dtypes, or why it cannot be used."""
    print(f"portnn {portnn.__version__}, Python {platform.python_version()} on {platform.platform()}")
    for backend in available().values():
        if backend.usable:
            print(f"  {backend.name:17} {backend.version:14} {', '.join(backend.devices)}; {', '.join(backend.dtypes)}")
            if backend.why_not:
                print(f"  {'':17} {backend.why_not}")
        else:
            print(f"  {backend.name:17} not usable: {backend.why_not}")
    return 0


def compare(options: argparse.Namespace) -> int:
    """Print the errors of each backend, layer by layer, and where they part in training; 1 if they do not agree."""
    model = portnn.MLP.load(options.model, dtype=options.dtype)
    if options.data.endswith(".safetensors"):
        x, targets = datasets.read_safetensors(options.data)
    else:
        column = int(options.target) if options.target.lstrip("-").isdigit() else options.target
        x, targets = datasets.read_csv(options.data, target=column, dtype=model.dtype)  # type: ignore[assignment]
    samples = check_count("compare_backends", "samples", options.samples)
    x, t = x[:samples], targets[:samples]
    if x.dtype.kind in "iu":  # images are stored as bytes, networks see [0, 1]
        x = x.astype(model.dtype) / 255.0
    labels = t.ndim == 1 and t.dtype.kind in "iu" and model.sizes[-1] > 1
    loss = options.loss or ("cross_entropy" if labels else "mse")
    optimizer = OPTIMIZERS[options.optimizer](options.learning_rate)
    named = (name.strip().partition(":") for name in options.backends.split(","))
    found = testing.compare_backends(
        *(model, x, t, [get_backend(name, device or None) for name, _, device in named]),
        loss=loss,
        steps=options.steps,
        optimizer=optimizer,
        batch_size=options.batch_size,
        seed=options.seed,
    )
    print(f"{model}: {len(x)} samples, {loss}")
    print(found)
    print("They agree." if found.agree else "They do NOT agree.")
    return 0 if found.agree else 1


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m portnn", description=portnn.__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="array libraries, devices and dtypes that work here").set_defaults(run=info)
    command = commands.add_parser("compare", help="do array libraries compute the same numbers with a model?")
    command.add_argument("model", metavar="MODEL", help="a file that MLP.save wrote")
    command.add_argument("--backends", required=True, metavar="A,B", help="such as numpy,cupy,torch:cuda")
    command.add_argument("--data", required=True, metavar="FILE", help="a table (CSV, plain or gzip) or safetensors")
    command.add_argument("--target", default="0", metavar="COLUMN", help="target column of a table: position or name")
    command.add_argument("--loss", choices=LOSSES, help="by default cross_entropy for labels, else mse")
    command.add_argument("--samples", type=int, default=256, metavar="N", help="use the first N samples (256)")
    command.add_argument("--steps", type=int, default=20, metavar="K", help="training steps to follow (20; 0: none)")
    command.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="of these steps (sgd)")
    command.add_argument("--learning-rate", type=float, default=0.1, metavar="R", help="of these steps (0.1)")
    command.add_argument("--batch-size", type=int, metavar="N", help="of these steps (all samples)")
    command.add_argument("--seed", type=int, default=0, help="of the order of the samples (0)")
    command.add_argument("--dtype", choices=("float32", "float64"), help="that of the model unless given")
    command.set_defaults(run=compare)
    options = parser.parse_args(arguments)
    try:
        code: int = options.run(options)
    except (ValueError, TypeError, OSError, portnn.BackendError) as error:
        print(f"portnn {options.command}: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
