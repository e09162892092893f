"""The options of every command."""

from __future__ import annotations

import argparse
from typing import NoReturn

from portnn.commands.models import compare, info
from portnn.commands.tables import predict, train
from portnn.files import shown
from portnn.losses import LOSSES
from portnn.optimizers import OPTIMIZERS


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and leave with 2."""
        self.exit(2, f"{self.prog.removeprefix('python -m ')}: {message}; {self.prog} --help lists the options\n")


def parser() -> Parser:
    """Return the commands and their options."""
    what = "Multilayer perceptrons over the Python Array API: train on a table, predict, look into models."
    parser = Parser(prog="python -m portnn", description=what)
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("train", help="train a network on a table, plain or gzip CSV")
    _table_options(command)
    command.add_argument("--target", required=True, metavar="COLUMN", help="what is to be predicted")
    command.add_argument("--task", choices=("auto", "classification", "regression"), default="auto", help=_TASK)
    command.add_argument("--save", metavar="FILE", help="write the model as safetensors")
    command.add_argument("--hidden", type=_widths, default=(64, 64), metavar="N,N", help="hidden layers (64,64; none)")
    command.add_argument("--activation", default="relu", help="of the hidden layers (relu)")
    command.add_argument("--epochs", type=int, metavar="N", help="at most (200); below 200 rows: just so many")
    command.add_argument("--patience", type=int, metavar="N", help="epochs without a better loss (20)")
    command.add_argument("--batch-size", type=int, default=32, metavar="N", help="rows per step (32)")
    command.add_argument("--learning-rate", type=float, default=3e-3, metavar="R", help="of Adam (0.003)")
    command.add_argument("--test-fraction", type=float, default=0.2, metavar="F", help="of the rows held out (0.2)")
    command.add_argument("--seed", type=int, default=0, help="of the split, the start and the order (0)")
    command.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    command.add_argument("--drop", type=_names, default=(), metavar="A,B", help="columns to leave out")
    command.add_argument(
        "--categorical", type=_names, default=(), metavar="A,B", help="columns whose numbers are names"
    )
    command.add_argument("--missing", choices=("refuse", "drop"), default="refuse", help="rows with missing values")
    command.add_argument("--log", metavar="FILE", help="write a line per epoch as CSV")
    command.add_argument("--plot", metavar="DIR", help="write pictures (needs matplotlib)")
    command.set_defaults(run=train)

    command = commands.add_parser("predict", help="let a model that train has saved answer for each row of a table")
    command.add_argument("--model", required=True, metavar="FILE", help="what train --save wrote")
    _table_options(command)
    command.add_argument("--output", metavar="FILE", help="where to write the CSV (the standard output)")
    command.set_defaults(run=predict)

    command = commands.add_parser(
        "info", help="what works here: libraries, devices, dtypes; or what is in a model file"
    )
    command.add_argument("model", nargs="?", metavar="MODEL", help="a file that MLP.save or train --save wrote")
    command.set_defaults(run=info)

    command = commands.add_parser("compare", help="do array libraries compute the same numbers with a model?")
    command.add_argument("model", metavar="MODEL", help="a file that MLP.save wrote")
    command.add_argument("--backends", required=True, metavar="A,B", help="such as numpy,cupy,torch:cuda")
    _reading_options(command, "a table (CSV, plain or gzip) or safetensors")
    command.add_argument("--target", metavar="COLUMN", help=_TARGET)
    command.add_argument("--loss", choices=LOSSES, help="by default cross_entropy for labels, else mse")
    command.add_argument("--samples", type=int, default=256, metavar="N", help="use the first N samples (256)")
    command.add_argument("--steps", type=int, default=20, metavar="K", help="training steps to follow (20; 0: none)")
    command.add_argument("--optimizer", choices=OPTIMIZERS, default="sgd", help="of these steps (sgd)")
    command.add_argument("--learning-rate", type=float, default=0.1, metavar="R", help="of these steps (0.1)")
    command.add_argument("--batch-size", type=int, metavar="N", help="of these steps (all samples)")
    command.add_argument("--seed", type=int, default=0, help="of the order of the samples (0)")
    command.add_argument("--dtype", choices=("float32", "float64"), help="that of the model unless given")
    command.set_defaults(run=compare)
    return parser


_TARGET = "target column of a table: position or name (0; that of the training if the model knows it)"
_TASK = "auto: classes if the target holds texts, or whole numbers with few different ones"


def _table_options(command: argparse.ArgumentParser) -> None:
    _reading_options(command, "a table with the names of its columns in line 1")
    command.add_argument("--backend", default="numpy", help="numpy, torch, jax, cupy (numpy)")
    command.add_argument("--device", help="cpu, cuda:0, ... (the library's own)")


def _reading_options(command: argparse.ArgumentParser, what: str) -> None:
    command.add_argument("--data", required=True, metavar="FILE", help=what)
    command.add_argument("--delimiter", default="auto", metavar="C", help="one of , ; tab | (what line 1 has most of)")
    command.add_argument("--no-header", dest="header", action="store_false", help="columns are called 1, 2, ...")


def _widths(text: str) -> tuple[int, ...]:
    widths = (
        () if text in ("", "none") else tuple(int(part) if part.strip().isdigit() else 0 for part in text.split(","))
    )
    if not all(widths):
        raise argparse.ArgumentTypeError(f"{shown(text)} is not a list of widths such as 64,64, or none")
    return widths


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
