"""The house keeps its floors: what can be read off the syntax tree of the package, without running any of it.

Every rule is a function from a tree to complaints. It is shown bad snippets, which it must refuse, and good ones, which
it must leave alone, before it is let loose on the source.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from typing import NamedTuple

import pytest

import portnn

PACKAGE = Path(portnn.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted(Path(__file__).parent.glob("*.py"))

LIBRARIES = {"cupy", "cupyx", "torch", "jax", "jaxlib", "array_api_strict", "dask", "distributed", "optax"}
BACKENDS = {path.stem for path in FILES if path.parent.name == "backends"}  # rooms that are called as libraries are
EXPORTERS = {"ndonnx", "spox", "onnxruntime"}
MATHEMATICS = (
    *("primitives", "special", "activations", "losses", "random", "initializers", "schedules", "clipping"),
    *("optimizer", "layerwise", "optimizers", "normalization", "dropout"),
)
# what runs inside a step, whatever the library
STEP = ("primitives", "special", "activations", "losses", "normalization", "dropout")
LAYOUT = (*MATHEMATICS, "layout")

# From the ground up. A room may use the rooms named before it and nothing else.
ROOMS = (
    *("errors", "backends"),  # the ground: one file per library
    *("members", "random"),
    *("files", "json_text", "storage", "datasets"),  # files in and out
    *("primitives", "differences", "autograd", "special", "activations", "losses"),
    *("initializers", "schedules", "clipping", "optimizer", "layerwise", "optimizers"),
    *("curvature", "scaling", "normalization", "dropout"),
    *("layout", "checks", "guests", "model_file"),  # the network
    *("network", "trace", "tangents", "chunked", "objective"),
    *("derivatives", "mlp", "pure"),
    *("group", "ranks", "memory", "interrupts", "feed", "stream_feed"),  # what the loop needs
    *("progress", "plots", "history", "logs", "callbacks"),
    *("diagnosis", "evaluation", "step", "reduced", "fingerprint"),  # the loop
    *("checkpoint_record", "checkpoint_file", "checkpoints", "saver"),
    *("alike", "loop", "preparation", "training", "distributed"),
    *("hosts", "error_bars", "side_by_side", "agreement", "testing", "exchange", "onnx", "estimators"),  # outer rooms
    *("console", "schema", "tabular"),  # what the command line is made of
    *("__init__", "commands", "__main__"),
)


class Rule(NamedTuple):
    """A rule, the files it holds for, and what it must refuse and allow."""

    check: Callable[[ast.Module], Iterator[str]]
    files: Callable[[str], bool]
    bad: tuple[str, ...]
    good: tuple[str, ...] = ()


def room(path: Path) -> str:
    """The name of a module directly under portnn, or of the folder that holds it."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def within(*rooms: str) -> Callable[[str], bool]:
    return lambda name: name in rooms


def outside(*rooms: str) -> Callable[[str], bool]:
    return lambda name: name not in rooms


def docstrings(tree: ast.Module) -> set[int]:
    """Identities of the constants that are docstrings."""
    holders = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (node.body[0] for node in ast.walk(tree) if isinstance(node, holders) and node.body)
    return {id(first.value) for first in found if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)}


def imports(nodes: Iterator[ast.AST]) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported: ``from a import b`` gives ``a.b``."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, leaving out what stands under ``if TYPE_CHECKING:``."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)):
            yield from at_run_time(child)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Walk what is executed when a module is imported: no bodies of functions."""
    yield node
    for child in ast.iter_child_nodes(node):
        type_checking = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
        if not type_checking and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(child)


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    """Calls, with the last component of the name that is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, getattr(node.func, "attr", getattr(node.func, "id", ""))


def is_namespace(node: ast.AST) -> bool:
    """Whether an expression is an array namespace: ``xp``, ``backend.xp`` or ``namespace(x)``."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id == "namespace"
    return getattr(node, "id", getattr(node, "attr", "")) == "xp"


# -- the rules --------------------------------------------------------------------------------------------------------


def names_a_library(tree: ast.Module, libraries: Set[str] = LIBRARIES) -> Iterator[str]:
    skipped, rooms = docstrings(tree), {path.stem for path in FILES}
    for line, name in imports(ast.walk(tree)):
        if set(name.split(".")) & libraries and not name.startswith("portnn."):
            yield f"{line}: imports {name}"
    for node in ast.walk(tree):
        name = getattr(node, "id", getattr(node, "arg", None)) if isinstance(node, ast.Name | ast.arg) else None
        if isinstance(node, ast.Attribute):
            name = node.attr
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            name = node.value.strip(".:")
        if name in libraries - (rooms - BACKENDS):
            yield f"{node.lineno}: says {name}"


def names_the_exporter(tree: ast.Module) -> Iterator[str]:
    yield from names_a_library(tree, EXPORTERS)


def imports_numpy(tree: ast.Module) -> Iterator[str]:
    for line, name in imports(ast.walk(tree)):
        if name.split(".")[0] in ("numpy", "scipy", "array_api_compat"):
            yield f"{line}: imports {name}; formulas see only xp, hyperparameters only math"


def imports_more_than_promised(tree: ast.Module) -> Iterator[str]:
    allowed = {*sys.stdlib_module_names, "portnn", "numpy", "array_api_compat"}
    for line, name in imports(at_import(tree)):
        if name.split(".")[0] not in allowed:
            yield f"{line}: imports {name} when portnn is imported; import it where it is used"


def can_execute_data(tree: ast.Module) -> Iterator[str]:
    modules = {
        "pickle",
        "_pickle",
        "cPickle",
        "dill",
        "cloudpickle",
        "joblib",
        "marshal",
        "shelve",
        "yaml",
        "runpy",
        "code",
    }
    runners = {"eval", "exec", "compile", "__import__"}
    loaders = {"load", "loads", "read_pickle", "unsafe_load", "full_load", "load_all"}
    known = {"np", "numpy", "torch", *modules}  # and whatever these are called here
    for node in ast.walk(tree):
        for alias in node.names if isinstance(node, ast.Import) else ():
            known |= {alias.asname} if alias.name.partition(".")[0] in known and alias.asname else set()
    for line, name in imports(ast.walk(tree)):
        parts = name.split(".")
        if set(parts) & modules or (parts[0] in known and parts[-1] in loaders):
            yield f"{line}: imports {name}"
        if parts[0] == "builtins" and parts[-1] in runners:
            yield f"{line}: imports {name}"
    for node in ast.walk(tree):
        said = getattr(node, "id", getattr(node, "value", None)) if isinstance(node, ast.Name | ast.Constant) else None
        if isinstance(said, str) and said in runners - {"compile"}:  # which is an option of fit
            yield f"{node.lineno}: says {ast.unparse(node)}"
        if (
            isinstance(node, ast.Attribute)
            and node.attr in runners
            and ast.unparse(node.value) in ("builtins", "__builtins__")
        ):
            yield f"{node.lineno}: says {ast.unparse(node)}"
    for call, name in calls(tree):
        if isinstance(call.func, ast.Name) and name == "compile":
            yield f"{call.lineno}: calls {name}()"
        owner = ast.unparse(call.func.value).partition(".")[0] if isinstance(call.func, ast.Attribute) else ""
        if name in loaders - {"load", "loads"} or (name in loaders and owner in known):
            yield f"{call.lineno}: calls {owner}.{name}()"
        if ast.unparse(call.func) in ("os.system", "os.popen") or any(k.arg == "shell" for k in call.keywords):
            yield f"{call.lineno}: hands text to a shell"
        if name == "genfromtxt":
            yield f"{call.lineno}: genfromtxt turns text into NaN without a word"
        if any(k.arg == "allow_pickle" and getattr(k.value, "value", None) is not False for k in call.keywords):
            yield f"{call.lineno}: passes allow_pickle"


def leaves_the_standard(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            if node.attr in ("T", "mT", "size", "clip", "numpy", "item", "tolist", "cpu", "copy"):
                yield f"{node.lineno}: .{node.attr} is not the same on all libraries, or reads a value back"
            if node.attr in ("astype", "reshape", "sum", "mean", "max", "min") and not is_namespace(node.value):
                yield f"{node.lineno}: .{node.attr} as a method; write xp.{node.attr}"
    for call, name in calls(tree):
        if any(k.arg == "out" for k in call.keywords):
            yield f"{call.lineno}: {name}(out=...) is not in the standard"


def reads_a_value(tree: ast.Module) -> Iterator[str]:
    of_text = {id(c) for f in ast.walk(tree) if getattr(f, "name", "") == "_parse_activation" for c in ast.walk(f)}
    for call, name in calls(tree):
        if isinstance(call.func, ast.Name) and name in ("float", "bool", "int", "complex") and id(call) not in of_text:
            yield f"{call.lineno}: {name}() waits for the device, and fails under a trace"
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript) and any(isinstance(c, ast.Compare) for c in ast.walk(node.slice)):
            yield f"{node.lineno}: boolean-mask indexing has a shape that depends on the data"
        if isinstance(node, ast.If | ast.While | ast.IfExp) and any(
            isinstance(c, ast.Attribute) and is_namespace(c.value) and c.attr in ("any", "all", "max", "min", "sum")
            for c in ast.walk(node.test)
        ):
            yield f"{node.lineno}: a branch on array values"


def hides_a_nan(tree: ast.Module) -> Iterator[str]:
    for call, name in calls(tree):
        zeros = [a for a in call.args[1:] if isinstance(a, ast.Constant) and a.value == 0]
        if name == "where" and zeros:
            yield f"{call.lineno}: where(..., 0) turns NaN into 0; write maximum(z, zero)"
        if name in ("nan_to_num", "nanmax", "nansum"):
            yield f"{call.lineno}: {name} hides NaN"


def creates_by_default(tree: ast.Module) -> Iterator[str]:
    makers = {"zeros", "ones", "full", "empty", "arange", "linspace", "eye", "asarray"}
    for call, name in calls(tree):
        of_host = ast.unparse(call.func).startswith("HOST.")  # which has one device
        if name in makers and isinstance(call.func, ast.Attribute) and is_namespace(call.func.value) and not of_host:
            missing = {"dtype", "device"} - {k.arg for k in call.keywords}
            if missing:
                yield f"{call.lineno}: xp.{name} without {' and '.join(sorted(missing))}"


def sums_rows_naively(tree: ast.Module) -> Iterator[str]:
    for call, name in calls(tree):
        axes = [ast.unparse(k.value) for k in call.keywords if k.arg == "axis"]
        if name in ("sum", "mean") and axes and axes[0] in ("0", "-2"):
            yield f"{call.lineno}: {name}(axis={axes[0]}) over the batch loses digits; use sum_rows"


def looks_up_or_down(tree: ast.Module) -> Iterator[str]:
    """Every import of portnn as ``line: imports ROOM``, for the floors to judge."""
    for line, name in imports(at_run_time(tree)):
        parts = name.split(".")
        if parts[0] == "portnn":
            yield f"{line}: imports {parts[1] if parts[1:] else '__init__'}"
        elif not parts[0]:
            yield f"{line}: imports {name} relatively; write the whole name"


def tolerates_by_hand(tree: ast.Module) -> Iterator[str]:
    names = {"rtol", "atol", "rel", "abs", "rel_tol", "abs_tol", "decimal"}
    for call, name in calls(tree):
        for keyword in call.keywords:
            numbers = [c for c in ast.walk(keyword.value) if isinstance(c, ast.Constant) and isinstance(c.value, float)]
            if keyword.arg in names and numbers:
                yield f"{call.lineno}: {name}({keyword.arg}={numbers[0].value}); tolerances live in tolerances.py"
        if name == "raises" and call.args and getattr(call.args[0], "id", "") in ("Exception", "BaseException"):
            yield f"{call.lineno}: raises({call.args[0].id}) is passed by any mistake"


RULES = {
    "no library is named above the ground floor": Rule(
        names_a_library,
        outside("backends"),
        (
            *("import torch", "from jax import numpy", "import array_api_compat.cupy as xp", "def f(torch): ..."),
            *("x = cupy.asarray(1)", "y = compat.torch.sum(x)", "if backend.name == 'jax': pass", "s.strip('torch.')"),
        ),
        ("'''As torch and jax have it.'''", "raise ValueError('pass a torch tensor')", "import numpy"),
    ),
    "only the export knows what it is made with": Rule(
        names_the_exporter,
        outside("onnx"),
        ("import ndonnx", "from spox import Var", "if xp.__name__ == 'ndonnx': pass", "def f(onnxruntime): ..."),
        ("from portnn import onnx", "'''As onnxruntime has it.'''"),
    ),
    "the mathematics does not import numpy": Rule(
        imports_numpy,
        within(*LAYOUT),
        ("import numpy as np", "from numpy import sqrt", "import array_api_compat.numpy"),
        ("import math", "from portnn.backends import namespace"),
    ),
    "importing portnn imports numpy and array_api_compat only": Rule(
        imports_more_than_promised,
        outside("estimators"),
        ("import tqdm", "try:\n    import pooch\nexcept ImportError: pass", "class A:\n    import scipy"),
        ("import numpy", "def f():\n    import tqdm", "if TYPE_CHECKING:\n    from matplotlib import figure"),
    ),
    "no file is ever executed": Rule(
        can_execute_data,
        outside(),
        (
            *(
                "import pickle",
                "from joblib import load",
                "import marshal",
                "eval(text)",
                "exec(text)",
                "torch.load(f)",
            ),
            *("compile(text, 'f', 'exec')", "np.load(f)", "numpy.load(f)", "np.loadtxt(f, allow_pickle=True)"),
            *("np.genfromtxt(f)", "from numpy import load", "import numpy as n\nn.load(f)", "torch.jit.load(f)"),
            *("yaml.unsafe_load(f)", "import yaml", "pandas.read_pickle(f)", "import builtins\nbuiltins.eval(text)"),
            *("run = eval", "getattr(builtins, 'exec')(text)", "from builtins import exec as run", "__import__(name)"),
            *("from pickle import Unpickler", "import os\nos.system(text)", "subprocess.run(text, shell=True)"),
        ),
        ("re.compile('a')", "json.loads(text)", "MLP.load(path)", "np.fromfile(f, allow_pickle=False)", "net.eval()"),
    ),
    "only what the standard has": Rule(
        leaves_the_standard,
        within(*STEP, "clipping", "optimizers"),
        (
            *("x.T @ y", "x.astype('f4')", "x.clip(0, 1)", "xp.clip(x, 0, 1)", "n = x.size", "x.item()", "x.sum()"),
            *("x.reshape(-1)", "xp.exp(x, out=y)", "x.tolist()", "x.copy()"),
        ),
        ("xp.astype(x, y.dtype)", "namespace(x).sum(x)", "x.shape", "xp.matrix_transpose(x)", "backend.xp.sum(x)"),
    ),
    "no value is read in a step": Rule(
        reads_a_value,
        within(*STEP),
        (
            *("float(x)", "bool(xp.all(x))", "int(x[0])", "x[x > 0]", "x[..., y == 1]", "if xp.any(x): pass"),
            "while xp.max(x) > 1: pass",
        ),
        ("x[..., None]", "x[2:, :]", "xp.where(x > 0.0, y, z)", "if weight is None: pass"),
    ),
    "a NaN is not hidden": Rule(
        hides_a_nan,
        within(*STEP, "clipping", "optimizers"),
        ("xp.where(z > 0, z, 0)", "xp.where(z > 0, z, 0.0)", "xp.where(z > 0.0, 0, z)", "xp.nan_to_num(z)"),
        ("xp.where(z > 0.0, z, y)", "xp.maximum(z, zero)"),
    ),
    "every array is made with dtype and device": Rule(
        creates_by_default,
        within(*STEP, "optimizers", "objective", "mlp"),
        ("xp.zeros(3)", "xp.ones((), dtype=d)", "xp.arange(3, device=d)", "namespace(x).full((), 1.0)"),
        ("xp.zeros((), dtype=d, device=e)", "xp.zeros_like(x)", "xp.full_like(x, 4.0)", "HOST.xp.zeros(3)"),
    ),
    "rows are summed blockwise": Rule(
        sums_rows_naively,
        within(*STEP, "objective", "mlp"),
        ("xp.sum(dy, axis=-2)", "xp.mean(dy, axis=0)"),
        ("xp.sum(dy, axis=-1)", "sum_rows(dy)"),
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_rule_can_fail(name: str) -> None:
    rule = RULES[name]
    for snippet in rule.bad:
        assert list(rule.check(ast.parse(snippet))), f"the rule {name!r} lets this pass:\n{snippet}"
    for snippet in rule.good:
        complaints = list(rule.check(ast.parse(snippet)))
        assert not complaints, f"the rule {name!r} refuses this:\n{snippet}\n{complaints}"


@pytest.mark.parametrize("name", RULES)
def test_rule_holds(name: str) -> None:
    rule = RULES[name]
    held = [path for path in FILES if rule.files(room(path))]
    complaints = [f"portnn/{p.relative_to(PACKAGE)}:{c}" for p in held for c in rule.check(ast.parse(p.read_text()))]
    assert held, f"no file left for the rule {name!r}"
    assert not complaints, f"{name}:\n" + "\n".join(complaints)


def upward(name: str, tree: ast.Module) -> Iterator[str]:
    """Imports of a room by a room that stands no higher."""
    if name not in ROOMS:
        yield f"{name} has no floor yet: give it a place in ROOMS"
        return
    below = {*ROOMS[: ROOMS.index(name)], name}
    for complaint in looks_up_or_down(tree):
        if complaint.rpartition(" ")[2] not in below:
            yield f"{complaint}, which is not below {name}"


def test_floors_can_fail() -> None:
    for name, snippet in (
        ("primitives", "from portnn import mlp"),
        ("primitives", "from portnn.activations import relu"),
        ("mlp", "def f():\n    import portnn.training"),
        ("backends", "from . import primitives"),
        ("attic", "import math"),
    ):
        assert list(upward(name, ast.parse(snippet))), f"{name} may not say: {snippet}"
    for name, snippet in (
        ("mlp", "from portnn.primitives import linear"),
        ("backends", "from portnn.backends.base import Backend"),
        ("primitives", "if TYPE_CHECKING:\n    from portnn.mlp import MLP"),
    ):
        assert not list(upward(name, ast.parse(snippet))), f"{name} may say: {snippet}"


def test_imports_point_downwards() -> None:
    complaints = [f"{p.relative_to(PACKAGE)}:{c}" for p in FILES for c in upward(room(p), ast.parse(p.read_text()))]
    assert not complaints, "\n".join(complaints)


def test_no_file_is_longer_than_400_lines() -> None:
    long = {str(p.relative_to(PACKAGE)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400}
    assert not long, f"usually two rooms: {long}"


def test_tolerances_live_in_one_file() -> None:
    for snippet in ("isclose(a, b, rtol=1e-6)", "assert_allclose(a, b, atol=4 * 1e-8)", "approx(1, abs=0.1)"):
        assert list(tolerates_by_hand(ast.parse(snippet))), snippet
    assert list(tolerates_by_hand(ast.parse("with pytest.raises(Exception): pass")))
    assert not list(tolerates_by_hand(ast.parse("isclose(a, b, rtol=tolerances.STEP)\npytest.raises(ValueError)")))
    files = [path for path in TESTS if path.name != "tolerances.py"]
    complaints = [f"{p.name}:{c}" for p in files for c in tolerates_by_hand(ast.parse(p.read_text()))]
    assert not complaints, "\n".join(complaints)


# -- docstrings -------------------------------------------------------------------------------------------------------

WITHOUT_EXAMPLE = {
    "Optimizer": "what all optimizers share: there is nothing to run",
    "Purpose": "the names of the streams of random numbers",
}


@pytest.mark.parametrize("name", [name for name in portnn.__all__ if name != "__version__"])
def test_public_name_has_a_docstring(name: str) -> None:
    thing = getattr(portnn, name)
    assert (thing.__doc__ or "").strip(), f"portnn.{name} has no docstring"
    assert not (inspect.isclass(thing) and thing.__doc__.startswith(f"{name}(")), f"portnn.{name}: dataclass's own"


@pytest.mark.parametrize("name", [name for name in MATHEMATICS if name != "special"])
def test_public_function_has_an_example(name: str) -> None:
    module = getattr(__import__(f"portnn.{name}"), name)
    own = {n: f for n, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__ and n[0] != "_"}
    public = {n: f for n, f in own.items() if inspect.isfunction(f) or inspect.isclass(f)}
    without = sorted(
        n for n, f in public.items() if ">>>" not in (inspect.getdoc(f) or "") and n not in WITHOUT_EXAMPLE
    )
    assert public
    assert not without, f"portnn.{name}: no example in the docstrings of {', '.join(without)}"
