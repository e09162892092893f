"""Train a classifier of handwritten digits on any array library.

    python examples/mnist.py
    python examples/mnist.py --backend cupy
    python examples/mnist.py --hidden 512 512 --dropout 0.2 --optimizer adam --schedule cosine --epochs 20
    python examples/mnist.py --backend torch --hidden 256 128 --epochs 15 --save digits.safetensors --plot pictures
    python examples/mnist.py --checkpoint run --resume     (again: goes on where the last one was killed)
    mpiexec -n 4 python -m mpi4py examples/mnist.py --distributed     (four processes, each with a part of every batch)

Only the two lines that build the network and fit it are the training; the rest asks, prints and writes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from presets import OPTIMIZERS, PRESETS, Preset

import portnn
from portnn.activations import ACTIVATIONS
from portnn.feed import split
from portnn.files import check_target

BACKENDS = ("numpy", "cupy", "torch", "jax", "array_api_strict")


def main() -> int:
    """Ask, load, train, and say how it went."""
    args = parse()
    comm = portnn.distributed.world() if args.distributed else None
    first = comm is None or comm.Get_rank() == 0  # which alone prints, and writes results
    if comm is not None:
        args.device = own_device(args, comm)
    say = (lambda *lines: print(*lines, flush=True)) if first and not args.quiet else (lambda *lines: None)
    if not first:
        args.save = args.report = args.plot = None
    preset = configure(args)
    if args.backend == "jax" and preset.precision == "float64":
        os.environ.setdefault("JAX_ENABLE_X64", "1")  # must be there before JAX is imported

    files = (Path(path or ".") for path in (args.save, args.report, args.checkpoint))
    for folder in (*(path.parent for path in files), Path(args.plot or ".")):
        folder.mkdir(parents=True, exist_ok=True)  # what cannot be written is said before the training, not after it
    for path in (args.save, args.report):
        if path:
            check_target(path)

    name, (x_train, t_train, x_test, t_test) = load(args, say)
    preset = dataclasses.replace(preset, batch_size=min(preset.batch_size, len(t_train)))
    n_classes = int(max(t_train.max(), t_test.max())) + 1
    model = portnn.MLP(
        [x_train.shape[1], *preset.hidden, n_classes],
        activation=preset.activation,
        init=preset.init,
        bias=preset.bias,
        dropout=preset.dropout,
        normalization=preset.normalization,
        residual=preset.residual,
        dtype=preset.precision,
        backend=args.backend,
        device=args.device,
        seed=args.seed,
        matmul_precision=args.matmul_precision,
    )
    versions = {"portnn": portnn.__version__, args.backend: model.backend.version, "numpy": np.__version__}
    versions["python"] = sys.version.split()[0]
    say(f"portnn {portnn.__version__} on {args.backend} {model.backend.version}, device {model.backend.device_name}")
    say(f"data      {name}: {len(t_train)} samples to train, {len(t_test)} to test, {x_train.shape[1]} features")
    parts = {"dropout": preset.dropout, "normalization": preset.normalization, "residual": preset.residual}
    extra = "".join(f", {name} {value}" for name, value in parts.items() if value)
    say(f"network   {' - '.join(map(str, model.sizes))}, {preset.activation}{extra}, {model.n_params} parameters")
    configuration = {k: v for k, v in dataclasses.asdict(preset).items() if k not in ("init", "notes")}
    configuration["learning_rate"] = preset.rate
    steps = preset.epochs * -(-len(t_train) // preset.batch_size)
    optimizer = preset.make_optimizer(steps)
    say(
        f"training  {preset.optimizer}, learning rate {optimizer.rate(0):g} ({preset.schedule}), batch "
        f"{preset.batch_size}, {preset.epochs} epoch{'s' * (preset.epochs > 1)}, seed {args.seed}, {preset.precision}"
    )
    if comm is not None:
        say(f"ranks     {comm.Get_size()}, which share every batch")
    say()

    train, test = (x_train, t_train), (x_test, t_test)
    before = {"train": score(say, "training data", model, train), "test": score(say, "test data", model, test)}
    say()
    began = time.perf_counter()
    history = portnn.fit(
        model,
        x_train,
        t_train,
        optimizer=optimizer,
        epochs=preset.epochs,
        batch_size=preset.batch_size,
        clip_value=preset.clip_value,
        validation_data=test,
        seed=args.seed,
        callbacks=[lambda _, history: say(epoch_line(history, preset.epochs))],
        checkpoint=args.checkpoint,
        resume=args.resume,
        progress=not args.quiet,
        comm=comm,
    )
    wall = time.perf_counter() - began
    if history.interrupted:
        say("interrupted: the model is the one of the last finished steps")
        if args.checkpoint:
            say(f"the same command with --resume goes on from {args.checkpoint}")
    say()
    after = {"train": score(say, "training data", model, train), "test": score(say, "test data", model, test)}

    logits = portnn.predict(model, x_test)
    predicted = logits.argmax(axis=-1)
    right = [int((predicted[t_test == c] == c).sum()) for c in range(n_classes)]
    total = [int((t_test == c).sum()) for c in range(n_classes)]
    say("\ndigit   right     of   accuracy")
    for c in range(n_classes):
        share = f"{100 * right[c] / total[c]:8.2f}%" if total[c] else "       -"
        say(f"{c:5d} {right[c]:7d} {total[c]:6d}  {share}")

    if args.save:
        model.save(args.save)
        say(f"model saved to {args.save}")
    if args.report:
        report = {
            "backend": args.backend,
            "device": model.backend.device_name,
            "versions": versions,
            "precision": preset.precision,
            "dataset": name,
            "seed": args.seed,
            "sizes": model.sizes,
            "n_params": model.n_params,
            "preset": args.preset,
            "configuration": configuration,
            "history": dict(history),
            "interrupted": history.interrupted,
            "train_accuracy_before": before["train"],
            "test_accuracy_before": before["test"],
            "train_accuracy": after["train"],
            "test_accuracy": after["test"],
            "digits": [{"digit": c, "right": right[c], "of": total[c]} for c in range(n_classes)],
            "epoch_seconds": history.get("epoch_seconds", []),
            "fit_seconds": wall,
        }
        Path(args.report).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        say(f"report written to {args.report}")
    if args.plot:
        from portnn import plots

        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        paths = plots.save_all(
            args.plot,
            history=history,
            t_true=t_test,
            t_pred=predicted,
            x=x_test,
            probabilities=shifted / shifted.sum(axis=-1, keepdims=True),
            weight=model.backend.to_numpy(model.weights[0]),
        )
        say("pictures:", *(str(path) for path in paths))
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backend", default="numpy", choices=BACKENDS)
    parser.add_argument("--device", help="cpu, cuda:0, ...; default: the library's own")
    parser.add_argument("--precision", choices=("float32", "float64"))
    parser.add_argument("--matmul-precision", default="float32", choices=("float32", "tf32"))
    parser.add_argument("--preset", default="default", choices=PRESETS, help="a configuration to start from")
    parser.add_argument("--hidden", type=int, nargs="*", metavar="N", help="widths of the hidden layers")
    parser.add_argument("--activation", help=", ".join(ACTIVATIONS) + "; leaky_relu(0.2) sets the slope")
    parser.add_argument("--optimizer", choices=OPTIMIZERS)
    parser.add_argument("--learning-rate", type=float, help="default: one that suits the optimizer")
    parser.add_argument("--schedule", choices=("constant", "cosine"))
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--clip-value", type=float)
    parser.add_argument("--dropout", type=float, help="share of the hidden units that is dropped in training")
    parser.add_argument("--normalization", choices=("layer", "batch"), help="of every hidden layer")
    parser.add_argument("--residual", action="store_true", default=None, help="add the input of layers as wide as it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dataset", default="auto", help="auto, mnist, digits, a folder of IDX files, or a .csv or .safetensors file"
    )
    parser.add_argument("--data-dir", help="the folder that holds mnist/; default: PORTNN_DATA, then data/")
    parser.add_argument("--save", metavar="FILE", help="write the model as safetensors")
    parser.add_argument("--plot", metavar="DIR", help="write pictures as PNG")
    parser.add_argument("--report", metavar="FILE.json", help="write everything that was measured")
    parser.add_argument("--checkpoint", metavar="DIR", help="save the training after every epoch and every minute")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint, if there is one")
    parser.add_argument("--distributed", action="store_true", help="share every batch among the ranks of mpiexec")
    parser.add_argument("--quiet", action="store_true")
    args = parser.parse_args()
    if args.resume and not args.checkpoint:
        parser.error("--resume wants to know where from: give --checkpoint DIR")
    return args


def own_device(args: argparse.Namespace, comm: Any) -> str | None:
    """Return the GPU of this rank where GPUs are asked for: the ranks of a machine take them in turns."""
    if args.device not in (None, "cuda") or (args.device is None and args.backend != "cupy"):
        return args.device
    gpus = [name for name in portnn.backends.get_backend(args.backend).devices() if name.startswith("cuda")]
    return gpus[portnn.distributed.local_rank(comm) % len(gpus)] if gpus else args.device


def configure(args: argparse.Namespace) -> Preset:
    """Return the preset with what the command line says put over it."""
    names = {field.name for field in dataclasses.fields(Preset)}
    given = {k: v for k, v in vars(args).items() if k in names and v is not None}
    preset = PRESETS[args.preset]
    if "optimizer" in given and given["optimizer"] != preset.optimizer:
        given.setdefault("learning_rate", None)  # the preset's rate was for another optimizer
    if "hidden" in given:
        given["hidden"] = tuple(given["hidden"])
        if not isinstance(preset.init, str) and isinstance(preset.init, tuple) and len(given["hidden"]) != 1:
            given["init"] = preset.init[0]
    return dataclasses.replace(preset, **given)


def load(args: argparse.Namespace, say: Any) -> tuple[str, tuple[np.ndarray, ...]]:
    """Return the name of the data set and (x_train, t_train, x_test, t_test)."""
    if args.dataset in ("auto", "mnist"):
        try:
            return "MNIST", portnn.datasets.load_mnist(args.data_dir)
        except OSError as error:
            if args.dataset == "mnist":
                raise SystemExit(f"no MNIST: {error}") from None
            say(f"no MNIST here ({type(error).__name__}), training on the embedded 8 x 8 digits instead")
            args.dataset = "digits"
    if args.dataset == "digits":
        return "digits", portnn.datasets.load_digits()
    if Path(args.dataset).is_dir():
        return Path(args.dataset).name, load_idx(Path(args.dataset))
    table = ".csv" in Path(args.dataset).suffixes
    read = portnn.datasets.read_csv if table else portnn.datasets.read_safetensors
    try:
        x, t = read(args.dataset)
    except (OSError, portnn.FormatError) as error:
        raise SystemExit(f"--dataset: {error}") from None
    if t.ndim != 1 or t.dtype.kind != "i" or not 0 <= t.min() <= t.max() < 1000:
        raise SystemExit(f"--dataset: the labels of {args.dataset} are not whole numbers from 0 to at most 999")
    x = to_unit(x)
    train, held = split(len(t), 0.2, args.seed, "--dataset")
    return Path(args.dataset).name, (x[train], t[train], x[held], t[held])


def load_idx(folder: Path) -> tuple[np.ndarray, ...]:
    """Return a data set of IDX files under MNIST's names, such as Fashion-MNIST."""
    arrays: list[np.ndarray] = []
    for kind in ("train", "t10k"):
        names = (f"{kind}-images*", f"{kind}-labels*")
        paths = [next(iter(sorted(folder.glob(name))), folder / name) for name in names]
        try:
            images, labels = portnn.datasets.read_idx_pair(*paths)
        except (OSError, portnn.FormatError) as error:
            raise SystemExit(f"--dataset: {error}") from None
        arrays += [to_unit(images.reshape(len(images), -1)), labels.astype("int64")]
    return tuple(arrays)


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as float32 in [0, 1], whether they are stored as fractions, 0..16 (the digits) or 0..255."""
    largest = float(np.abs(pixels).max())
    full = next((full for full in (1.0, 16.0, 255.0) if largest <= full), largest)
    return pixels.astype("float32") / np.float32(full)


def score(say: Any, what: str, model: portnn.MLP, data: tuple[np.ndarray, np.ndarray]) -> float:
    """Print and return the accuracy."""
    x, t = data
    accuracy = portnn.evaluate(model, x, t)["accuracy"]
    correct = round(accuracy * len(t))
    say(f"{what:14} Correct: {correct}  Incorrect: {len(t) - correct}  Accuracy: {100 * accuracy:.2f}%")
    return accuracy


def epoch_line(history: portnn.History, epochs: int) -> str:
    """Say how the last epoch went."""
    last = {name: values[-1] for name, values in history.items()}
    return (
        f"epoch {len(history['loss']):3d}/{epochs}  loss {last['loss']:.4f}  accuracy {100 * last['accuracy']:6.2f}%"
        f"  validation loss {last['val_loss']:.4f}  accuracy {100 * last['val_accuracy']:6.2f}%"
        f"  {last['epoch_seconds']:.2f} s"
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (portnn.BackendError, portnn.NonFiniteError, ImportError, OSError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
