"""One door for every check: ``nox`` runs all of it, ``nox -s tests`` the tests; what follows ``--`` is passed on."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "types", "docs", "package", "tests"]
nox.options.default_venv_backend = "virtualenv"  # with pip
nox.options.reuse_existing_virtualenvs = True

HERE = Path(__file__).parent.resolve()
GROUPS = nox.project.load_toml(HERE / "pyproject.toml")


def install_wheel(session: nox.Session) -> None:
    """Build the wheel and install that: what is tested is what users get."""
    out = Path(session.create_tmp()) / "dist"
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(HERE))
    (wheel,) = out.glob("portnn-*.whl")
    session.install("--force-reinstall", "--no-deps", str(wheel))


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests and the doctests against the installed wheel, from another folder, on every library there is."""
    session.install(*nox.project.dependency_groups(GROUPS, "test"))
    install_wheel(session)
    session.chdir(session.create_tmp())
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    pytest = ["python", "-m", "pytest", "-c", str(HERE / "pyproject.toml"), "--rootdir", str(HERE)]
    pytest += ["-p", "no:cacheprovider"]
    if session.posargs:
        session.run(*pytest, str(HERE / "tests"), *session.posargs, env=threads)
        return
    session.run(*pytest, "--doctest-modules", "--pyargs", "portnn", env=threads)
    session.run(*pytest, "-n", "auto", str(HERE / "tests"), env=threads)


@nox.session
def browser(session: nox.Session) -> None:
    """Draw digits on the page of examples/draw.py in Chromium (apt-get install chromium), with MNIST at hand."""
    session.install(*nox.project.dependency_groups(GROUPS, "browser"))
    install_wheel(session)
    session.chdir(session.create_tmp())
    pytest = ["python", "-m", "pytest", "-c", str(HERE / "pyproject.toml"), "--rootdir", str(HERE)]
    pytest += ["-p", "no:cacheprovider", str(HERE / "tests" / "test_draw.py")]
    session.run(*pytest, *session.posargs, env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})


@nox.session
def agree(session: nox.Session) -> None:
    """Print how far each array library is from references of higher precision; ``-- --backend cupy`` for one."""
    session.install(*nox.project.dependency_groups(GROUPS, "test"))
    install_wheel(session)
    session.run("python", str(HERE / "tests" / "agreement.py"), *session.posargs, env={"MPLBACKEND": "agg"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Hand 100,000 damaged files to the readers, and hold their answers to what others read; ``-- --mutants N``."""
    session.install("numpy>=2.0", "array-api-compat>=1.12", "safetensors>=0.5")  # which reads what we read
    install_wheel(session)
    session.run("python", str(HERE / "tests" / "fuzz.py"), *session.posargs)


@nox.session
def mutants(session: nox.Session) -> None:
    """Make known mistakes in a copy of the package, one at a time: each must turn a test red; see tests/mutants."""
    session.install(*nox.project.dependency_groups(GROUPS, "test"))
    session.run("python", str(HERE / "tests" / "mutants"), *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Change the mathematics in some 1,500 places and count how often a test notices; see docs/mutation.md."""
    session.install(*nox.project.dependency_groups(GROUPS, "mutation"))
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    if not session.posargs:  # such as "portnn.losses*" or the names of mutants, to run these again
        shutil.rmtree(HERE / "mutants", ignore_errors=True)
    session.run("python", "-m", "mutmut", "run", "--max-children", "1", *session.posargs, env=threads)
    session.run("python", str(HERE / "benchmarks" / "mutation.py"))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and layout."""
    session.install(*nox.project.dependency_groups(GROUPS, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the annotations of the package."""
    session.install(*nox.project.dependency_groups(GROUPS, "types"), "numpy>=2.0", "array-api-compat")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation in site/, warnings as errors; ``-- serve`` shows it while it is written."""
    session.install(*nox.project.dependency_groups(GROUPS, "docs"))
    session.run("python", "-m", "mkdocs", *(session.posargs or ["build", "--strict"]), env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def package(session: nox.Session) -> None:
    """Build the wheel, install it alone with its two dependencies, and train from it."""
    session.install("numpy", "array-api-compat")
    install_wheel(session)
    session.chdir(session.create_tmp())
    session.run("python", "-m", "portnn", "info")
    table = "size,kind\n" + "1.5,small\n7.5,large\n" * 20
    Path("sizes.csv").write_text(table, encoding="utf-8")
    session.run("python", "-m", "portnn", "train", "--data", "sizes.csv", "--target", "kind", "--save", "sizes.st")
    session.run("python", "-m", "portnn", "predict", "--model", "sizes.st", "--data", "sizes.csv", silent=True)
    session.run(
        "python",
        "-W",
        "error",
        "-c",
        "import portnn; x, t, xv, tv = portnn.datasets.load_digits(); model = portnn.MLP([64, 32, 10]);"
        "portnn.fit(model, x, t, optimizer=portnn.Adam(0.01), epochs=20);"
        "accuracy = portnn.evaluate(model, xv, tv)['accuracy']; print(accuracy); assert accuracy > 0.9",
    )


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the presets on MNIST beside the programs they come from; see benchmarks/README.md."""
    session.install("-e", f"{HERE}[examples]")
    session.run("python", str(HERE / "benchmarks" / "presets.py"), *session.posargs)
