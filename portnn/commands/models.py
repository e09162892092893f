"""The commands that look into models: ``info``, also of the libraries here, and ``compare``."""

from __future__ import annotations

import argparse
import math
import os
import platform
from typing import Any

import portnn
from portnn import checkpoint_file, datasets, tabular, testing
from portnn.activations import describe_activation
from portnn.backends import available, get_backend
from portnn.checks import check_count
from portnn.console import some, summary, table
from portnn.errors import shown
from portnn.layout import options as options_of
from portnn.optimizers import OPTIMIZERS


def info(options: argparse.Namespace) -> int:
    """Print one line per array library, or what is in a model file."""
    if options.model is not None:
        return describe(options.model)
    print(f"portnn {portnn.__version__}, Python {platform.python_version()} on {platform.platform()}")
    for backend in available().values():
        if backend.usable:
            print(f"  {backend.name:17} {backend.version:14} {', '.join(backend.devices)}; {', '.join(backend.dtypes)}")
            if backend.why_not:
                print(f"  {'':17} {backend.why_not}")
        else:
            print(f"  {backend.name:17} not usable: {backend.why_not}")
    return 0


def describe(path: str) -> int:
    """Print what is in a model file."""
    model, schema = portnn.MLP.load(path), tabular.schema_of(path)
    members = "" if model.members is None else f", {model.members} members"
    lines = [
        ("file", f"{path}, {os.path.getsize(path):,} bytes"),
        ("network", f"{' - '.join(map(str, model.sizes))}{members}, {model.n_params:,} parameters, {model.dtype}"),
        ("seed", _short(model.seed)),
    ]
    for name, scaling in (("inputs", model.layers[0].before), ("outputs", model.layers[-1].after)):
        if scaling is not None:
            lines.append((name, f"{type(scaling).__name__}, in the file"))
    lines += [
        (name, _short(value)) for name, value in (checkpoint_file.summary(path) | options_of(model.layers)).items()
    ]
    if schema is not None:
        what = "a number" if schema.classes is None else f"{len(schema.classes)} classes: {some(schema.classes)}"
        lines.append(("target", f"{schema.target}, {what}"))
        numbers = [column.name for column in schema.columns if column.categories is None]
        lines += [("numbers", f"{len(numbers)}: {some(numbers)}")] * bool(numbers)
        lines += [("text", f"{c.name}: {some(c.categories)}") for c in schema.columns if c.categories is not None]
    summary(lines)
    print()
    rows = [
        [str(i), str(layer.fan_in), str(layer.fan_out), describe_activation(layer.activation)]
        + [str(sum(math.prod(shape) for _, shape in layer.parts.values())), ", ".join(list(layer.parts)[1:])]
        for i, layer in enumerate(model.layers)
    ]
    table(["layer", "inputs", "outputs", "activation", "parameters", "beside the weight"], rows)
    return 0


def _short(value: Any) -> str:
    """Return a text or numbers, of long lists the first: those of members may be thousands."""
    text = str(value)
    return text if len(text) <= 200 else shown(value)


def compare(options: argparse.Namespace) -> int:
    """Print the errors of each backend, layer by layer, and where they part in training; 1 if they do not agree."""
    model = portnn.MLP.load(options.model, dtype=options.dtype)
    reading = {"delimiter": options.delimiter, "header": options.header}
    if options.data.endswith(".safetensors"):
        x, targets = datasets.read_safetensors(options.data)
    elif tabular.schema_of(options.model) is not None:  # it knows its columns, as predict does
        x, targets = tabular.labelled(options.model, options.data, model, target=options.target, **reading)
    else:
        target = options.target or "0"
        column = int(target) if target.lstrip("-").isdigit() else target
        reading = {"delimiter": reading["delimiter"].replace("auto", ","), "header": reading["header"] and "auto"}
        x, targets = datasets.read_csv(options.data, target=column, dtype=model.dtype, **reading)  # type: ignore
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
