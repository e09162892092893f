"""Data sets and readers: NumPy arrays in, NumPy arrays out; every file is checked before it is believed."""

from portnn.datasets.columns import read_columns
from portnn.datasets.csv_table import read_csv
from portnn.datasets.digits import load_digits
from portnn.datasets.idx import read_idx, read_idx_pair, write_idx
from portnn.datasets.mnist import load_mnist
from portnn.datasets.streams import Stream
from portnn.datasets.tensors import read_safetensors

__all__ = [
    "Stream",
    "load_digits",
    "load_mnist",
    "read_columns",
    "read_csv",
    "read_idx",
    "read_idx_pair",
    "read_safetensors",
    "write_idx",
]
