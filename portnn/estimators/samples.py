"""What comes in and goes out: arrays of any library, lists, data frames and sparse matrices."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from numbers import Real
from typing import Any

import numpy
from array_api_compat import is_array_api_obj
from scipy import sparse
from sklearn import get_config
from sklearn.utils.validation import check_array, validate_data

from portnn.backends import HOST, Array, Backend, get_backend
from portnn.checks import check_finite, check_sample_weight
from portnn.evaluation import predict
from portnn.mlp import MLP

MOST = 480  # characters of a message
ROWS = 8192  # of a sparse matrix that are made dense at once for a prediction


def space_of(x: Any, argument: str = "X", who: str = "fit") -> Backend:
    """Return the library and device that results are to be of: those of ``x`` where scikit-learn follows arrays.

    That is under ``sklearn.config_context(array_api_dispatch=True)``; else, and for lists and data frames, NumPy's.
    """
    if isinstance(x, numpy.ma.MaskedArray):
        HOST.refuse(x, who, argument)
    if not get_config()["array_api_dispatch"] or isinstance(x, numpy.ndarray) or not is_array_api_obj(x):
        return HOST
    return get_backend(x)


def to_host(x: Any, argument: str = "y") -> Any:
    """Return arrays of other libraries as NumPy's where scikit-learn follows arrays; all else as it is."""
    space = space_of(x, argument)
    space.refuse(x, "fit", argument)
    return x if space is HOST else space.to_numpy(x)


def to_numpy(a: Array) -> numpy.ndarray:
    """Return an array of any library in host memory."""
    return a if isinstance(a, numpy.ndarray) else get_backend(a).to_numpy(a)


def checked(estimator: Any, x: Any, y: Any = "none", *, reset: bool, numeric: bool = False) -> tuple[Any, Any, Backend]:
    """Return samples, targets and the space of the samples, after scikit-learn's checks.

    Samples are float32 or float64 arrays, or sparse matrices; targets, if any, are NumPy's.
    """
    who = type(estimator).__name__
    space = space_of(x, who=who)
    x = _looked_at(x, space, who)
    names = [name for name in ("float64", "float32") if name in space.dtypes()]
    dtypes = [space.float_dtype(name) if space is not HOST else numpy.dtype(name) for name in names]
    options = {"accept_sparse": ["csr", "csc"], "dtype": dtypes, "reset": reset}
    with briefly(who):
        if isinstance(y, str) and y == "none":
            return validate_data(estimator, x, **options), None, space
        y = to_host(y) if numeric else apart(to_host(y))
        _refuse_complex(y, "y", who)
        with_targets = {"multi_output": True, "y_numeric": numeric}
        x, y = validate_data(estimator, x, y, **options, **with_targets)
    return x, y.toarray() if hasattr(y, "toarray") else y, space


def _looked_at(x: Any, space: Backend, who: str) -> Any:
    """Refuse in few words what scikit-learn would print whole, or round without a word; half precision becomes single.

    Lists and, where scikit-learn does not follow them, arrays of other libraries come back as NumPy's.
    """
    if isinstance(x, list | tuple):
        x = numpy.asarray(x)
    if hasattr(x, "columns") or hasattr(x, "iloc"):
        halves = hasattr(x, "dtypes") and hasattr(x, "columns") and {str(d) for d in x.dtypes} == {"float16"}
        return x.astype("float32") if halves else x
    if hasattr(x, "tocsr") or not (hasattr(x, "shape") and hasattr(x, "dtype")):
        return x
    _refuse_complex(x, "X", who)
    if len(x.shape) < 2:
        raise ValueError(
            f"{who}: Expected 2D array, got {len(x.shape)}D array instead (X has shape {tuple(x.shape)}). Reshape your "
            "data: X.reshape(-1, 1) for one feature, X.reshape(1, -1) for one sample"
        )
    if is_array_api_obj(x):
        get_backend(x).refuse(x, who, "X")
    for n, what in zip(x.shape, ("sample(s)", "feature(s)"), strict=False):  # torch has a shape of its own
        if n == 0:
            shape = tuple(x.shape)
            raise ValueError(f"Found array with 0 {what} (shape={shape}) while a minimum of 1 is required by {who}.")
    if "float16" in str(x.dtype):
        theirs = get_backend(x)
        x = theirs.xp.astype(x, theirs.xp.float32)
    if space is HOST and not isinstance(x, numpy.ndarray) and is_array_api_obj(x):
        x = numpy.asarray(x)
    if len(x.shape) == 2 and str(x.dtype).rpartition(".")[2] in ("int64", "uint64"):
        check_finite(x, space, "float64" if "float64" in space.dtypes() else "float32", who)
    return x


def _refuse_complex(a: Any, argument: str, who: str) -> None:
    if "complex" in str(getattr(a, "dtype", "")):
        raise ValueError(f"{who}: Complex data not supported: {argument} has dtype {a.dtype}")


def apart(y: Any) -> Any:
    """Return a list of labels of which some are strings as objects: NumPy would make strings of the others, too."""
    if not isinstance(y, list | tuple) or len({isinstance(label, str) for label in y}) < 2:
        return y
    return numpy.asarray(y, dtype=object)


@contextlib.contextmanager
def briefly(who: str) -> Iterator[None]:
    """Keep of a long complaint of scikit-learn its first line, which says what is wrong."""
    try:
        yield
    except ValueError as error:
        said = str(error)
        if len(said) <= MOST:
            raise
        first = said.partition("\n")[0][:MOST]
        cure = f" {who} wants numbers: drop such samples, or fill them in with sklearn.impute.SimpleImputer"
        raise type(error)(first + cure if "NaN" in first and len(first) < 100 else first) from None


def weights(sample_weight: Any, n: int, who: str) -> numpy.ndarray | None:
    """Return sample weights as a float64 host array; a number is that of every sample."""
    if sample_weight is None:
        return None
    sample_weight = to_host(sample_weight, "sample_weight")
    if isinstance(sample_weight, Real):
        sample_weight = numpy.full(n, sample_weight, dtype="float64")
    _refuse_complex(sample_weight, "sample_weight", who)
    with briefly(who):
        array = check_array(sample_weight, ensure_2d=False, dtype="float64", input_name="sample_weight")
    return check_sample_weight(array, n, who)


def held_apart(who: str, given: tuple[Any, Any], pair: Any) -> Any:
    """Return the pair (X, y) to hold out, given to fit as X_val and y_val or as a parameter, or None."""
    if given[0] is None and given[1] is None:
        if pair is not None and len(pair) != 2:
            raise ValueError(f"{who}: validation_data must be a pair (X, y), got {len(pair)} entries")
        return pair
    if given[0] is None or given[1] is None:
        raise ValueError(f"{who}: X_val and y_val belong together, {'yX'[given[1] is None]}_val was given alone")
    if pair is not None:
        raise ValueError(f"{who}: give X_val and y_val, or validation_data, not both")
    return given


def csr(a: numpy.ndarray) -> Any:
    """Return a matrix in the sparse form that scikit-learn is set to."""
    kinds = {"sparray": sparse.csr_array, "spmatrix": sparse.csr_matrix}
    return kinds[get_config()["sparse_interface"]](a)


def dense(x: Any) -> Array:
    """Return a sparse matrix as a whole; an array as it is."""
    return x.toarray() if hasattr(x, "toarray") else x


def rows_of(x: Array, space: Backend, rows: numpy.ndarray) -> Array:
    """Return some of the samples."""
    return space.take(x, space.asarray(rows)) if hasattr(x, "ndim") and not hasattr(x, "tocsr") else x[rows]


def outputs(model: MLP, x: Any) -> Array:
    """Return the raw outputs in the library of ``x``; of a sparse matrix some thousand rows are dense at a time."""
    if not hasattr(x, "tocsr"):
        return predict(model, x)
    x = x.tocsr()
    blocks = [predict(model, x[i : i + ROWS].toarray()) for i in range(0, x.shape[0], ROWS)]
    return numpy.concatenate(blocks)


def same_space(estimator: Any, x: Any, method: str) -> None:
    """Raise ValueError where scikit-learn follows arrays, and ``x`` is elsewhere than the arrays of ``fit`` were."""
    if not get_config()["array_api_dispatch"]:
        return
    here, there = space_of(x), space_of(estimator.coefs_[0])
    if (here.name, here.device_name) != (there.name, there.device_name):
        raise ValueError(
            f"Inputs passed to {type(estimator).__name__}.{method}() must use the same namespace and the same device "
            f"as those passed to fit(): they are {here.library} on {here.device_name}, fit was given {there.library} "
            f"on {there.device_name}; move them, fit again, or move the estimator by move_estimator_to of "
            "sklearn.utils._array_api"
        )


def through_host(f: Callable[[numpy.ndarray], numpy.ndarray], y: Array, space: Backend) -> Any:
    """Return what ``f`` makes of an array on the host, back in its library where that has such a dtype."""
    out = f(y if space is HOST else space.to_numpy(y))
    return out if space is HOST or out.dtype.kind not in "biuf" else space.asarray(out)
