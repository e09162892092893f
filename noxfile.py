"""One door for every check: ``nox`` runs all of it, ``nox -s tests`` the tests; what follows ``--`` is passed on."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "types", "docs", "package", "tests"]
nox.options.default_venv_backend = "virtualenv"  # with pip
nox.options.reuse_existing_virtualenvs = True

HERE = Path(__file__).parent.resolve()
GROUPS = nox.project.load_toml(HERE / "pyproject.toml")


def asked_for(group: str) -> Iterator[str]:
    """Return the requirements of a dependency group as they are written, with those of groups that it includes."""
    for entry in GROUPS["dependency-groups"][group]:
        yield from asked_for(entry["include-group"]) if isinstance(entry, dict) else [entry]


def lock_of(group: str) -> Path:
    """Return the file that pins a dependency group: exact versions, with the hashes of their files."""
    return HERE / "requirements" / f"{group}.txt"


def install(session: nox.Session, group: str) -> None:
    """Install a dependency group as it is locked: a file with another hash than that of the lock is refused.

    torch is held to its version alone. Which of its files is the right one depends on the machine, and for Linux the
    CPU builds are not on PyPI: with PyPI's hashes in the lock pip would take two gigabytes of CUDA where it finds a CPU
    build, and without them no other machine could run the tests.
    """
    session.install("--require-hashes", "-r", str(lock_of(group)))
    torch = [requirement for requirement in asked_for(group) if requirement.startswith("torch==")]
    if torch:
        session.install(*torch)


def built(session: nox.Session) -> Path:
    """Build the wheel, with what is locked in the group ``build``, and return it."""
    out = Path(session.create_tmp()) / "dist"
    shutil.rmtree(out, ignore_errors=True)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(out)]
    session.run("python", "-m", "pip", "wheel", *options, str(HERE))
    (wheel,) = out.glob("portnn-*.whl")
    return wheel


def install_wheel(session: nox.Session) -> None:
    """Build the wheel and install that: what is tested is what users get."""
    session.install("--force-reinstall", "--no-deps", str(built(session)))


def compiled_once(session: nox.Session) -> dict[str, str]:
    """Return what makes JAX keep the programs that it compiles, for each worker and the processes that it starts.

    The folder is that of this run alone, unless the environment names one, and ``tests/libraries.py`` gives each worker
    one in it. Tests of what a process computes all by itself, and of processes that run side by side, switch it off.
    """
    folder = Path(session.create_tmp()).resolve() / "compiled"
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder)),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def in_memory() -> dict[str, str]:
    """Return what makes pytest's temporary folders lie in memory: thousands of saves wait for the disk otherwise."""
    there = Path("/dev/shm")
    roomy = there.is_dir() and os.access(there, os.W_OK) and shutil.disk_usage(there).free > 4 * 2**30
    return {"PYTEST_DEBUG_TEMPROOT": str(there)} if roomy else {}


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests and the doctests against the installed wheel, from another folder, on every library there is."""
    install(session, "test")
    install_wheel(session)
    session.chdir(session.create_tmp())
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    threads |= compiled_once(session) | in_memory()
    pytest = ["python", "-m", "pytest", "-c", str(HERE / "pyproject.toml"), "--rootdir", str(HERE)]
    pytest += ["-p", "no:cacheprovider", "-o", "tmp_path_retention_policy=none"]
    if session.posargs:  # paths are those of the checkout: the session runs elsewhere
        words = [str(HERE / word) if word.startswith("tests/") else word for word in session.posargs]
        everything = [] if words != session.posargs else [str(HERE / "tests")]
        session.run(*pytest, *everything, *words, env=threads)
        return
    session.run(*pytest, "--doctest-modules", "--pyargs", "portnn", env=threads)
    # each worker keeps to files of its own, with what they set up and compile, until the other has none left
    session.run(*pytest, "-n", "auto", "--dist", "worksteal", str(HERE / "tests"), env=threads)


@nox.session
def browser(session: nox.Session) -> None:
    """Draw digits on the page of examples/draw.py in Chromium (apt-get install chromium), with MNIST at hand."""
    install(session, "browser")
    install_wheel(session)
    session.chdir(session.create_tmp())
    pytest = ["python", "-m", "pytest", "-c", str(HERE / "pyproject.toml"), "--rootdir", str(HERE)]
    pytest += ["-p", "no:cacheprovider", str(HERE / "tests" / "test_draw.py")]
    session.run(*pytest, *session.posargs, env={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"})


@nox.session
def agree(session: nox.Session) -> None:
    """Print how far each array library is from references of higher precision; ``-- --backend cupy`` for one."""
    install(session, "test")
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
    install(session, "test")
    session.run("python", str(HERE / "tests" / "mutants"), *session.posargs)


@nox.session
def mutation(session: nox.Session) -> None:
    """Change the mathematics in some 1,500 places and count how often a test notices; see docs/mutation.md."""
    install(session, "mutation")
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    if not session.posargs:  # such as "portnn.losses*" or the names of mutants, to run these again
        shutil.rmtree(HERE / "mutants", ignore_errors=True)
    session.run("python", "-m", "mutmut", "run", "--max-children", "1", *session.posargs, env=threads)
    session.run("python", str(HERE / "benchmarks" / "mutation.py"))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and layout."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the annotations of the package."""
    install(session, "types")
    session.run("mypy")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation in site/, warnings as errors; ``-- serve`` shows it while it is written."""
    install(session, "docs")
    session.run("python", "-m", "mkdocs", *(session.posargs or ["build", "--strict"]), env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def package(session: nox.Session) -> None:
    """Build the wheel, install it alone with its two dependencies, and train from it."""
    install(session, "build")
    wheel = built(session)
    session.run("python", "-m", "pip", "uninstall", "--quiet", "--yes", "-r", str(lock_of("build")))
    install(session, "package")
    session.install("--force-reinstall", "--no-deps", str(wheel))
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
def audit(session: nox.Session) -> None:
    """Ask PyPI's advisories about every version that is locked; needs internet access, fails without it."""
    install(session, "audit")
    session.run("python", str(HERE / "requirements" / "audit.py"), *session.posargs)


@nox.session
def lock(session: nox.Session) -> None:
    """Pin the dependency groups of pyproject.toml in requirements/, with hashes; ``-- test docs`` for some of them.

    Pins that are there are kept where they still do; ``-- --upgrade`` takes the newest versions.
    """
    install(session, "lock") if lock_of("lock").exists() else session.install(*GROUPS["dependency-groups"]["lock"])
    options = [word for word in session.posargs if word.startswith("-")]
    groups = [word for word in session.posargs if not word.startswith("-")] or list(GROUPS["dependency-groups"])
    known = needed_by_torch(session)
    for group in groups:
        compile_group(session, group, known, options)


def needed_by_torch(session: nox.Session) -> Path:
    """Return a file that tells uv what the wheel of torch that pip finds here, one for CPUs, depends on.

    All of that is locked, torch itself is not: see :func:`install`.
    """
    (pinned,) = (requirement for requirement in asked_for("test") if requirement.startswith("torch=="))
    folder = Path(session.create_tmp()) / "torch"
    shutil.rmtree(folder, ignore_errors=True)
    session.run("python", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), pinned)
    (wheel,) = folder.glob("torch-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = HeaderParser().parsestr(archive.read(name).decode())
    wanted = [r for r in metadata.get_all("Requires-Dist", []) if "extra ==" not in r]
    if any(r.startswith(("nvidia", "cuda", "triton")) for r in wanted):
        session.error("pip finds torch for CUDA here; name https://download.pytorch.org/whl/cpu with PIP_INDEX_URL")
    known = [f"[[dependency-metadata]]\nname = 'torch'\nversion = '{pinned.partition('==')[2]}'"]
    known.append(f"requires-dist = {json.dumps(wanted)}")
    (folder / "uv.toml").write_text("\n".join(known), encoding="utf-8")
    return folder / "uv.toml"


def compile_group(session: nox.Session, group: str, known: Path, options: list[str]) -> None:
    """Write the lock of one group, with the requirements that it is for at its head: a test compares them."""
    path = lock_of(group)
    path.parent.mkdir(exist_ok=True)
    how = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--quiet"]
    how += ["--no-emit-package", "torch", "--output-file", str(path), *options]
    session.run("uv", "--config-file", str(known), "pip", "compile", "--group", group, *how)
    asked = sorted(set(asked_for(group)))
    text = "# Made by `nox -s lock`, for Python 3.11 and newer, of what pyproject.toml asks for:"
    text += "".join(f"\n#   {requirement}" for requirement in asked) + "\n"
    pins, _, _ = path.read_text(encoding="utf-8").partition("\n# The following packages were excluded")
    path.write_text(text + pins.rstrip() + "\n", encoding="utf-8")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the presets on MNIST beside the programs they come from; see benchmarks/README.md."""
    session.install("-e", f"{HERE}[examples]")
    session.run("python", str(HERE / "benchmarks" / "presets.py"), *session.posargs)
