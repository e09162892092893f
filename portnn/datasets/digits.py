"""The embedded data set: 1,797 real handwritten digits of 8 x 8 pixels, for work without a network."""

from pathlib import Path

import numpy as np

from portnn.datasets.idx import read_idx_pair

_HERE = Path(__file__).resolve().parent
N_TRAIN = 1437


def load_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Load the 8 x 8 digits: ``(x_train, t_train, x_test, t_test)``.

    The split is fixed: the first 1,437 samples (80 %) train, the last 360 test, in the order of scikit-learn's
    ``load_digits``.

    Returns
    -------
    x of shape (1437, 64) and (360, 64), float32 in [0, 1] (the stored ink 0..16 divided by 16, which is
    exact), each row an image row by row; t of shape (1437,) and (360,), int64 in 0..9.

    Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository,
    https://doi.org/10.24432/C50P49 (CC BY 4.0), the test part, as distributed by scikit-learn.

    Examples
    --------
    >>> x_train, t_train, x_test, t_test = load_digits()
    >>> x_train.shape, x_test.shape, t_train[:10].tolist()
    ((1437, 64), (360, 64), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    """
    images, labels = read_idx_pair(_find("digits-images-idx3-ubyte.gz"), _find("digits-labels-idx1-ubyte.gz"))
    x = images.reshape(len(images), -1).astype(np.float32) / np.float32(16)
    t = labels.astype(np.int64)
    return x[:N_TRAIN], t[:N_TRAIN], x[N_TRAIN:], t[N_TRAIN:]


def _find(name: str) -> Path:
    """The file where the wheel puts it, or where the checkout has it."""
    installed = _HERE / "_digits" / name
    return installed if installed.exists() else _HERE.parents[1] / "data" / "digits" / name
