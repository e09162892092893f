"""Data sets as safetensors: a tensor of images or features and a tensor of labels."""

import itertools
import re

import numpy as np

from portnn.errors import FormatError
from portnn.files import StrPath, listing, naming, shown
from portnn.storage import TensorInfo, read_safetensors_file, read_safetensors_header

_IMAGES = "image images x data input inputs feature features pixels"
_LABELS = "label labels y t target targets"
_SPLITS = "train training test val valid validation"
_ROLES = {word: role for role, words in enumerate((_IMAGES, _LABELS)) for word in words.split()}
_SPLIT = "(" + _SPLITS.replace(" ", "|") + ")"
_NAME = re.compile(rf"(?:{_SPLIT}[_./-]?)?({'|'.join(_ROLES)})(?:[_./-]?{_SPLIT})?", re.IGNORECASE)


def read_safetensors(
    path: StrPath, *, images: str | None = None, labels: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Read a data set from a safetensors file: ``(x, t)``.

    The two tensors are found by their names (images, x, data, inputs, features, pixels; labels, y, t, targets; also
    with a split, as in ``train_images`` or ``y_test``) when the file leaves no choice. A file that holds several
    splits needs one of the two named; the other is then the one of the same split.

    Parameters
    ----------
    path
        The file.
    images
        The name of the tensor that becomes x.
    labels
        The name of the tensor that becomes t.

    Returns
    -------
    x of shape (n, features), the axes of each image flattened: float32, float64 or uint8 as stored (float16
    becomes float32). t: int64 of shape (n,) from integers (n,) or (n, 1) and from rows that are exactly one-hot;
    floats as stored, other rows (n, outputs) of integers as float32, or as float64 where float32 cannot hold them.

    Raises
    ------
    FormatError
        A malformed file; no such tensors, or a choice of them (all names are listed); shapes that do
        not belong together; a dtype that is neither; integers that neither int64 nor a float can hold.
    OSError
        FileNotFoundError, IsADirectoryError, PermissionError, as :func:`open` gives them.

    Examples
    --------
    >>> import tempfile
    >>> from portnn.storage import write_safetensors_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/set.safetensors"
    ...     one_hot = np.array([[0, 0, 1], [1, 0, 0]])
    ...     write_safetensors_file(path, {"images": np.ones((2, 1, 2, 2)), "labels": one_hot})
    ...     x, t = read_safetensors(path)
    >>> x.shape, t
    ((2, 4), array([2, 0]))
    """
    infos, _ = read_safetensors_header(path)
    with naming("read_safetensors", path):
        chosen = _choose(infos, images, labels)
        _check(infos, *chosen)
    arrays, _ = read_safetensors_file(path, names=chosen)
    x, t = (arrays[name] for name in chosen)
    x = x.reshape(len(x), -1)
    with naming("read_safetensors", path):
        return x.astype(np.float32) if x.dtype == np.float16 else x, _targets(t, chosen[1])


def _choose(infos: dict[str, TensorInfo], images: str | None, labels: str | None) -> tuple[str, str]:
    """The names of both tensors."""
    for name in (images, labels):
        if name is not None and name not in infos:
            raise FormatError(f"there is no tensor {shown(name)}, the file holds {listing(infos)}")
    known = {name: _split_and_role(name) for name in infos}
    of_images = [name for name, (_, role) in known.items() if (name == images if images is not None else role == 0)]
    of_labels = [name for name, (_, role) in known.items() if (name == labels if labels is not None else role == 1)]
    pairs = [
        (x, t)
        for x, t in itertools.islice(itertools.product(of_images, of_labels), 1000)  # of millions in a hostile file
        if known[x][0] == known[t][0] or None in (known[x][0], known[t][0]) or None not in (images, labels)
    ]
    if len(pairs) != 1 or len(of_images) * len(of_labels) > 1000:
        raise FormatError(
            f"{'more than one pair' if pairs else 'no pair'} of tensors may be images and labels among "
            f"{listing(infos)}; choose with images=NAME, labels=NAME"
        )
    return pairs[0]


def _split_and_role(name: str) -> tuple[str | None, int | None]:
    """``("train", 0)`` for "train_images", ``("", 1)`` for "y", ``(None, None)`` for a name that tells nothing."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None, None
    before, word, after = match.groups()
    return (before or after or "").lower(), _ROLES[word.lower()]


def _check(infos: dict[str, TensorInfo], images: str, labels: str) -> None:
    x, t = infos[images], infos[labels]
    if len(x.shape) < 2 or 0 in x.shape or x.dtype not in (np.float16, np.float32, np.float64, np.uint8):
        raise FormatError(
            f"tensor {shown(images)} is {x.dtype} of shape {x.shape}, expected images (n, ...) of float or uint8"
        )
    if len(t.shape) not in (1, 2) or t.shape[0] != x.shape[0] or 0 in t.shape:
        raise FormatError(
            f"tensor {shown(labels)} has shape {t.shape}, expected ({x.shape[0]},) or ({x.shape[0]}, outputs) "
            f"for images of shape {x.shape}"
        )


def _targets(t: np.ndarray, name: str) -> np.ndarray:
    if t.ndim == 2 and t.shape[1] > 1 and _is_one_hot(t):
        return t.argmax(axis=1)
    if t.dtype.kind == "f":
        return t.astype(np.float32) if t.dtype == np.float16 else t
    if t.ndim == 2 and t.shape[1] != 1:
        return _as_floats(t, name)
    if t.size and t.max() > np.iinfo(np.int64).max:
        row = int(t.reshape(-1).argmax())  # one column at most
        raise FormatError(
            f"tensor {shown(name)} has the label {t.max()} in row {row}, expected integers that fit int64"
        )
    return t.reshape(-1).astype(np.int64)


def _as_floats(t: np.ndarray, name: str) -> np.ndarray:
    """Return integers as float32, or as float64 where that cannot hold all of them; FormatError where neither can."""
    beyond = (t > 2**53) | ((t < -(2**53)) if t.dtype.kind == "i" else False)
    if beyond.any():
        row, column = map(int, np.argwhere(beyond)[0])
        raise FormatError(
            f"tensor {shown(name)} has the target {t[row, column]} in row {row}, column {column}, beyond 2**53: a "
            "float cannot hold it; store it as float64, or what it stands for as classes"
        )
    floats, wide = t.astype(np.float32), t.astype(np.float64)
    return floats if (floats == wide).all() else wide


def _is_one_hot(t: np.ndarray) -> bool:
    ones = t == 1
    return bool(np.all(ones | (t == 0)) and np.all(np.count_nonzero(ones, axis=1) == 1))
