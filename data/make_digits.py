"""Write the embedded digits, data/digits/*.gz, from the copy that scikit-learn ships. Same input, same bytes.

Run ``python data/make_digits.py`` with scikit-learn installed. See data/README.md for source and license.
"""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from portnn.datasets import write_idx


def main() -> None:
    """Write the 1,797 images (8 x 8, ink 0..16) and labels as uint8 IDX files."""
    folder = Path(__file__).resolve().parent / "digits"
    folder.mkdir(exist_ok=True)
    digits = load_digits()
    for name, values in (("images-idx3", digits.images), ("labels-idx1", digits.target)):
        array = values.astype(np.uint8)
        if not np.array_equal(array, values):
            raise ValueError(f"make_digits: {name} holds values that are not whole numbers in 0..255")
        write_idx(folder / f"digits-{name}-ubyte.gz", array)


if __name__ == "__main__":
    main()
