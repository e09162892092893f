"""MNIST: found on the disk or downloaded once, and always checked against its published SHA-256."""

import hashlib
import importlib.util
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from portnn.datasets.gzipped import inflated, open_data
from portnn.datasets.idx import idx_chunks, parse_idx
from portnn.errors import FormatError
from portnn.files import StrPath, atomic_write, naming, shown

# Of the decompressed bytes: mirrors compress the same files differently.
SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
MAX_DOWNLOAD = 16 << 20  # the largest of the four has 9.9 MB
_CURE = "set data_dir= or PORTNN_DATA to a folder with {train,t10k}-{images-idx3,labels-idx1}-ubyte.gz"


def load_mnist(
    data_dir: StrPath | None = None, *, download: bool = True, raw: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Load MNIST: ``(x_train, t_train, x_test, t_test)``, downloading the files once if they are not there.

    The four files (``train-images-idx3-ubyte`` and so on, plain or ``.gz``, also spelt ``train-images.idx3-ubyte``)
    are looked for in ``DIR/mnist/`` and ``DIR``, where DIR is ``data_dir``, else the environment variable
    PORTNN_DATA, else ``data/`` of the source checkout, else the user's cache. Missing ones are fetched over https
    (with pooch, of the extra ``examples``) into ``DIR/mnist/``. Found or fetched, the decompressed bytes must have
    the right SHA-256.

    Parameters
    ----------
    data_dir
        The folder DIR.
    download
        Whether missing files may be fetched.
    raw
        Return the pixels and labels as stored, uint8, images of shape (n, 28, 28).

    Returns
    -------
    x of shape (60000, 784) and (10000, 784), float32 in [0, 1] (pixel / 255); t of shape (60000,) and
    (10000,), int64 in 0..9.

    Raises
    ------
    FileNotFoundError
        Files are missing and may not or cannot be downloaded.
    ConnectionError
        No mirror could be reached. (Both are OSError.)
    FormatError
        A file with other contents; the message has the SHA-256 found and expected.

    Source: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document recognition,
    Proceedings of the IEEE 86 (1998).
    """
    folder = Path(data_dir if data_dir is not None else os.environ.get("PORTNN_DATA") or _default_folder())
    files = {name: _find(folder, name) for name in SHA256}
    missing = [name for name, path in files.items() if path is None]
    if missing and not download:
        raise FileNotFoundError(f"load_mnist: no {', '.join(missing)} in {shown(str(folder))}; {_CURE}")
    if missing:
        downloader = _downloader(folder)
        for name in missing:
            files[name] = _fetch(name, folder / "mnist", downloader)
    arrays = [_load(path, name) for name, path in files.items() if path is not None]
    if raw:
        return arrays[0], arrays[1], arrays[2], arrays[3]
    x_train, t_train, x_test, t_test = (_scaled(a) if a.ndim == 3 else a.astype(np.int64) for a in arrays)
    return x_train, t_train, x_test, t_test


def _default_folder() -> Path:
    checkout = Path(__file__).resolve().parents[2]
    project = checkout / "pyproject.toml"
    if project.is_file() and '\nname = "portnn"\n' in project.read_text(encoding="utf-8"):
        return checkout / "data"
    try:
        import pooch
    except ImportError:
        return Path.home() / ".cache" / "portnn"
    return Path(pooch.os_cache("portnn"))


def _find(folder: Path, name: str) -> Path | None:
    for place in (folder / "mnist", folder):
        for spelling in (name, name.replace("-idx", ".idx")):
            for path in (place / f"{spelling}.gz", place / spelling):
                if path.is_file():
                    return path
    return None


def _load(path: Path, name: str) -> np.ndarray:
    with open_data("load_mnist", path) as (stream, most):
        return _verified(parse_idx(stream, most), name)


def _verified(array: np.ndarray, name: str) -> np.ndarray:
    """Check the SHA-256 of the bytes the array was read from: an IDX file is determined by its array."""
    digest = hashlib.sha256()
    for chunk in idx_chunks(array):
        digest.update(chunk)
    if digest.hexdigest() != SHA256[name]:
        raise FormatError(
            f"not the {name} of MNIST, its sha256 is {digest.hexdigest()}, expected {SHA256[name]}; "
            "delete the file to have it downloaded again"
        )
    return array


def _scaled(images: np.ndarray) -> np.ndarray:
    return np.divide(images.reshape(len(images), -1), np.float32(255), dtype=np.float32)


# Called as pooch calls its own: with the address, a file to write to, and the Pooch, of which there is none.
Downloader = Callable[[str, BinaryIO, None], object]


class _Capped(io.BytesIO):
    """A download in memory: nothing reaches the disk before it has been verified, and no server can fill it."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > MAX_DOWNLOAD:
            raise FormatError(f"the server sends more than {MAX_DOWNLOAD} bytes")
        return super().write(data)


def _downloader(folder: Path) -> Downloader:
    try:
        import pooch
    except ImportError:
        raise FileNotFoundError(
            f"load_mnist: no MNIST in {shown(str(folder))}, and downloading it needs pooch: "
            f"pip install pooch; or {_CURE}"
        ) from None
    bar = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
    # the mirrors send the files themselves; who is sent elsewhere might be sent to a page without https
    return pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=(5, 30), allow_redirects=False)


def _fetch(name: str, folder: Path, downloader: Downloader) -> Path:
    """Download one file from the first mirror that has the right one."""
    wrong: FormatError | None = None
    failures = []
    for mirror in MIRRORS:
        download = _Capped()
        try:
            with naming("load_mnist", mirror + name + ".gz"):
                downloader(mirror + name + ".gz", download, None)
                download.seek(0)
                _verified(parse_idx(*inflated(download, len(download.getbuffer()))), name)
        except FormatError as error:
            wrong = error
        except OSError as error:  # of which all errors of requests are
            failures.append(f"{type(error).__name__}: {shown(str(error), 40)}")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            atomic_write(folder / f"{name}.gz", [download.getbuffer()])
            return folder / f"{name}.gz"
    if wrong is not None:
        raise wrong
    raise ConnectionError(f"load_mnist: no mirror has delivered {name} ({'; '.join(failures)}); {_CURE}")
