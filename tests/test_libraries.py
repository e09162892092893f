"""Which array libraries this run has tested; one that is missing is skipped here, once, with its reason."""

import numpy as np
import pytest


def test_is_tested(selected_library):
    if selected_library.why_not:
        pytest.skip(selected_library.why_not)
    assert selected_library.backend.version


def test_arrays_go_there_and_back(library):
    a = np.asarray([1.5, -2.0, 0.0])
    for dtype in ("float32", "float64"):
        x = library.make(a, dtype)
        assert library.dtype_name(x) == dtype
        np.testing.assert_array_equal(library.to_numpy(x), a.astype(dtype), strict=True)


def test_what_is_made_shares_no_memory(library):
    a = np.asarray([1.0, 2.0])
    x = library.make(a)
    a[0] = 9.0
    assert library.to_numpy(x)[0] == 1.0


def test_a_read_only_array_refuses_to_be_written(library):
    if not library.readonly:
        return
    x = library.make([1.0])
    with pytest.raises(ValueError, match="read-only"):
        x += 1.0
    y = library.make([1.0], given_up=True)
    y += 1.0
    assert y[0] == 2.0


def test_an_array_of_another_library_is_noticed(library):
    with pytest.raises(TypeError):
        library.to_numpy([1.0])


def test_strictest_has_no_boolean_indexing_and_no_extensions(library):
    if not library.flags:
        return
    x = library.make([1.0, -1.0])
    with pytest.raises(RuntimeError, match="boolean"):
        x[x > 0.0]
    with pytest.raises(AttributeError):
        library.xp.linalg.qr(library.make(np.eye(2)))
