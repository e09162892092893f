"""Every entry of the agreement table is within its bar, and an error of one part in a thousand breaks every bar."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import agreement
import numpy as np
import pytest
import references
import tolerances
from agreement import ROWS, Column
from libraries import LIBRARIES
from mpmath import mp, mpf
from tolerances import assert_within

import portnn
from portnn import primitives

NUMPY = Column(LIBRARIES["numpy"])
NAMES = [row.name for row in ROWS]
every_row = pytest.mark.parametrize("row", ROWS, ids=NAMES)


def pytest_generate_tests(metafunc):
    if "column" in metafunc.fixturenames:
        there = agreement.columns(metafunc.config.getoption("backend"))
        metafunc.parametrize("column", there, ids=lambda c: c.name)


@every_row
def test_within_the_bar(column, row):
    for dtype, bar in row.bar.items():
        assert row.measure(column, dtype) <= bar, f"{row.name}, {dtype}, in {row.unit}"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_two_gradients_agree(request, dtype):
    there = agreement.columns(request.config.getoption("backend"))
    size, *pair = agreement.largest_difference(there)[dtype]
    assert size <= tolerances.BARS["gradient"], pair


def test_another_process_gives_the_same_bits(column):
    """With the same number of threads, which the environment hands on."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]); import agreement\n"
        "(column,) = [c for c in agreement.columns() if c.name == sys.argv[2]]\n"
        "print(agreement.fingerprint(column, 'float32'))"
    )
    command = [sys.executable, "-c", script, str(Path(agreement.__file__).parent), column.name]
    alone = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}  # it compiles for itself
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == agreement.fingerprint(column, "float32")


class Off(Column):
    """NumPy, but every result is too large by one part in a thousand."""

    def __call__(self, f, *arrays):
        found = super().__call__(f, *arrays)
        more = tuple((np.float64(1.001) * a).astype(a.dtype) for a in (found if isinstance(found, tuple) else (found,)))
        return more if isinstance(found, tuple) else more[0]


@every_row
def test_one_part_in_a_thousand_breaks_the_bar(row, monkeypatch):
    runs, fit, evaluate = itertools.count(), portnn.fit, portnn.evaluate

    def wrong_fit(model, *args, **options):
        fit(model, *args, **options)
        model.params = model.params * (1.0 + 1e-3 * (1 + next(runs)))

    monkeypatch.setattr(portnn, "fit", wrong_fit)
    monkeypatch.setattr(portnn, "evaluate", lambda *a: {"accuracy": evaluate(*a)["accuracy"] - 0.005})
    for dtype, bar in row.bar.items():
        assert row.measure(Off(NUMPY.library), dtype) > bar, f"{row.name}, {dtype}, in {row.unit}"


def test_the_reference_of_networks_is_that_of_forty_digits():
    """NumPy's longdouble is one of the references: a small network in mpmath vouches for it."""
    sizes, x, labels = [3, 2, 2], np.asarray([[0.5, -1.0, 0.25], [1.5, 0.75, -0.5]]), [1, 0]
    params = agreement.drawn(1, (14,), "float64")

    def loss(values):
        hidden = [
            [mp.tanh(mp.fsum(row[i] * values[2 * i + j] for i in range(3)) + values[6 + j]) for j in range(2)]
            for row in x.tolist()
        ]
        outputs = [
            [mp.fsum(h[i] * values[8 + 2 * i + j] for i in range(2)) + values[12 + j] for j in range(2)] for h in hidden
        ]
        each = (mp.log(mp.exp(y[0]) + mp.exp(y[1])) - y[t] for y, t in zip(outputs, labels, strict=True))
        return mp.fsum(each) / 2

    values = [mpf(float(p)) for p in params]
    exact = []
    for i in range(14):
        h = mpf("1e-15")
        up, down = ([v + s * h * (j == i) for j, v in enumerate(values)] for s in (1, -1))
        exact.append((loss(up) - loss(down)) / (2 * h))
    value, gradient = references.network_gradient(sizes, agreement.wide(params), x, np.asarray(labels), "tanh")
    assert_within(value, references.longdouble([loss(values)])[0], tolerances.few_steps(1.0, np.longdouble))
    assert_within(gradient, references.longdouble(exact), tolerances.few_steps(1.0, np.longdouble))


def test_what_is_missing_or_not_a_number_is_out_of_any_bar():
    exact = np.ones(2)
    assert agreement.worst(np.asarray([1.0, np.nan]), exact, 1.0) == np.inf
    assert agreement.worst(np.ones(3), exact, 1.0) == np.inf


@pytest.mark.parametrize("name", ["cupy", "torch-cuda", "jax-cuda"])
def test_tf32_breaks_the_bar_of_float32(name):
    """The other half of "no TF32 unless asked for": where it is asked for, the table would show it."""
    library = LIBRARIES[name]
    if library.why_not:
        pytest.skip(library.why_not)
    x, weight, *_ = agreement.affine("float32")
    with library.backend.scope("tf32"):
        y = library.to_numpy(primitives.linear(library.make(x), library.make(weight))[0])
    with pytest.raises(AssertionError, match="out of bounds"):
        assert_within(y, agreement.wide(x) @ agreement.wide(weight), tolerances.product(x, weight, "float32"))


def test_the_bars_are_those_of_the_tolerances():
    x, weight, *_ = agreement.affine("float32")
    assert_within(4.0 * agreement.product_unit(x, weight), tolerances.product(x, weight, "float32"), 0.0)
    assert {row.bar["float32"] for row in ROWS if row.unit == "ulp"} == {tolerances.ULPS}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--backend", "numpy", "--rows", "mse"], 0, "all within the bars"),
        (["--backend", "nonsense"], 2, "none of nonsense can be used here"),
    ],
)
def test_the_command(arguments, code, said, monkeypatch, capsys, tmp_path):
    page = tmp_path / "table.md"
    monkeypatch.setattr("sys.argv", ["agreement.py", *arguments, "--markdown", str(page)])
    if code:
        with pytest.raises(SystemExit, match=str(code)):
            agreement.main()
        assert said in capsys.readouterr().err
        return
    assert agreement.main() == code
    out = capsys.readouterr().out
    assert said in out
    assert "mse, value and derivative" in out
    assert page.read_text().startswith("|  | unit | bar | numpy |")


def test_the_command_says_what_breaks(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["agreement.py", "--backend", "numpy", "--rows", "mse"])
    monkeypatch.setattr(agreement, "columns", lambda names: [Off(NUMPY.library)])
    assert agreement.main() == 1
    out = capsys.readouterr().out
    assert "BREAK THE BAR" in out
    assert "!!" in out
