"""What comes in, and what goes out: locked requirements, no network in the tests, nothing done by an import."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import portnn

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
HASHES = r"((?: --hash=sha256:[0-9a-f]{64})+)"
PIN = re.compile(r"([a-z0-9][a-z0-9.-]*)(?:\[[a-z0-9,.-]+\])?==([^\s;]+)(?: ; [^\\]+)?" + HASHES)


# -- locks ------------------------------------------------------------------------------------------------------------


def asked_for(group):
    """Return the requirements of a dependency group, those that it includes in their places."""
    for entry in GROUPS[group]:
        if isinstance(entry, dict):
            yield from asked_for(entry["include-group"])
        else:
            yield entry


def read_lock(text):
    """Return what a lock was made for, and its pins: {name: [(version, number of hashes), ...]}."""
    head, pins = [], {}
    for line in text.replace(" \\\n    --hash", " --hash").splitlines():
        if line.startswith("#   "):
            head.append(line.removeprefix("#   "))
        elif line.strip() and not line.lstrip().startswith("#"):
            found = PIN.fullmatch(line.rstrip())
            if found is None:
                raise ValueError(f"no pin with hashes: {line}")
            pins.setdefault(found[1], []).append((found[2], found[3].count("--hash")))
    return head, pins


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_lock_is_that_of_pyproject(path):
    """``nox -s lock`` writes it anew."""
    head, pins = read_lock(path.read_text(encoding="utf-8"))
    assert head == sorted(set(asked_for(path.stem))), "pyproject.toml has changed: nox -s lock"
    for requirement in head:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower().replace("_", "-").replace(".", "-")
        if name == "torch":  # its file depends on the machine: noxfile.py installs it by its version
            assert re.fullmatch(r"torch==\d+\.\d+\.\d+", requirement), requirement
            continue
        assert name in pins, f"{requirement} has no pin"


def test_every_group_has_a_lock():
    assert {path.stem for path in LOCKS} == set(GROUPS)


@pytest.mark.parametrize(
    "line",
    [
        "numpy>=2.0",
        "numpy==2.0",
        "numpy==2.0 --hash=md5:00",
        "numpy==2.0 --hash=sha256:00",
        "-e .",
        "https://example.org/numpy.whl",
        "--index-url https://example.org",
    ],
)
def test_a_line_that_pins_nothing_is_found(line):
    with pytest.raises(ValueError, match="no pin"):
        read_lock(line)
    good = f"numpy==2.0 \\\n    --hash=sha256:{'0' * 64} \\\n    --hash=sha256:{'1' * 64}\n    # via x"
    assert read_lock(good) == ([], {"numpy": [("2.0", 2)]})


def test_actions_are_pinned_by_hash():
    """Where there are workflows: ``uses: owner/action@`` and 40 hexadecimal digits."""
    for path in (ROOT / ".github").rglob("*.y*ml"):
        for used in re.findall(r"^\s*-?\s*uses:\s*(\S+)", path.read_text(encoding="utf-8"), re.MULTILINE):
            assert used.startswith("./") or re.fullmatch(r"[^@]+@[0-9a-f]{40}", used), f"{path.name}: {used}"


# -- advisories --------------------------------------------------------------------------------------------------------

PIP_AUDIT = """
import json, os, sys
answer = json.loads(os.environ["ANSWER"])
if answer is None:
    print("Traceback", "requests.exceptions.ConnectionError: no route", sep="\\n", file=sys.stderr)
    sys.exit(1)
with open(sys.argv[sys.argv.index("--output") + 1], "w") as file:
    json.dump({"dependencies": answer}, file)
sys.exit(any(package.get("vulns") for package in answer))
"""
GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "2.0", "vulns": [{"id": "PYSEC-1"}, {"id": "GHSA-2"}]}
LOST = {"name": "lost", "skip_reason": "Dependency not found on PyPI and could not be audited: lost (3.0)"}


@pytest.mark.parametrize(
    ("answer", "code", "said"),
    [
        ([GOOD], 0, "audit: 1 versions, no advisory"),
        ([GOOD, BAD], 1, "audit: bad 2.0 has PYSEC-1, GHSA-2"),
        (
            [LOST],
            1,
            "audit: 1 of 1 packages could not be checked, PyPI's advisories do not answer from here for lost; ",
        ),
        ([GOOD, LOST], 1, "audit: 1 of 2 packages could not be checked"),
        ([], 1, "audit: 0 of 0 packages could not be checked"),
        (None, 1, "audit: audit.txt could not be checked, pip-audit ended with 'requests.exceptions.ConnectionError: "),
    ],
    ids=["good", "advisory", "no answer", "part of an answer", "nothing", "no report"],
)
def test_an_audit_that_could_not_ask_does_not_pass(tmp_path, answer, code, said):
    """With a pip-audit that answers so to each lock: one sentence, and how to ask."""
    (tmp_path / "pip_audit.py").write_text(PIP_AUDIT)
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "ANSWER": json.dumps(answer)}
    command = [sys.executable, str(ROOT / "requirements" / "audit.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    text = done.stdout + done.stderr
    assert (done.returncode, text.count("\n")) == (code, 1), text
    assert text.startswith(said)
    assert ("run `nox -s audit` on a machine with internet access" in text) == ("could not" in text)


# -- no network -------------------------------------------------------------------------------------------------------

OUTSIDE = """
import socket, urllib.request

def by(opened, deed):
    with opened:
        deed(opened)

attempts = [
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=5),
    lambda: socket.create_connection(("example.org", 80), timeout=5),
    lambda: socket.gethostbyname("example.org"),
    lambda: by(socket.socket(socket.AF_INET6), lambda s: s.connect(("2001:db8::1", 80))),
    lambda: by(socket.socket(type=socket.SOCK_DGRAM), lambda s: s.sendto(b"?", ("192.0.2.1", 53))),
    lambda: urllib.request.build_opener(urllib.request.ProxyHandler({})).open("http://192.0.2.1/", timeout=5),
]
refused = 0
for attempt in attempts:
    try:
        attempt()
    except RuntimeError as error:
        assert type(error).__name__ == "NetworkUsedError" and "another machine" in str(error), error
        refused += 1
with socket.create_server(("127.0.0.1", 0)) as server:
    socket.create_connection(server.getsockname(), timeout=5).close()
    socket.create_connection(("localhost", server.getsockname()[1]), timeout=5).close()
"""


def test_no_test_reaches_another_machine():
    """192.0.2.0/24 and 2001:db8::/32 belong to documentation: nobody would answer."""
    seen = {}
    exec(OUTSIDE, seen)
    assert seen["refused"] == len(seen["attempts"])


def test_nor_does_a_program_that_a_test_starts():
    command = [sys.executable, "-c", OUTSIDE + "print(refused, len(attempts))"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 1


# -- imports ----------------------------------------------------------------------------------------------------------

IMPORTED = """
import json, os, sys

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
FILES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod"}
OTHERS = {"os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen", "webbrowser.open"}
seen, watching = [], [True]

def note(event, arguments):
    if not watching[0]:
        return
    if event == "open":
        path, mode, flags = arguments
        if (flags or 0) & WRITES and str(path) != os.devnull:
            seen.append(f"open {path} {mode} {flags}")
    elif event.startswith("socket.") and event != "socket.gethostname" or event in FILES | OTHERS:
        seen.append(f"{event} {arguments}")

sys.addaudithook(note)
import importlib, pkgutil
import portnn

names = ["portnn", *(m.name for m in pkgutil.walk_packages(portnn.__path__, "portnn.") if "__main__" not in m.name)]
absent = []
for name in names:
    try:
        importlib.import_module(name)
    except ImportError as error:
        absent.append(f"{name}: {error}")
watching[0] = False
print(json.dumps({"seen": seen, "names": names, "absent": absent}))
"""


def imported(script, folder):
    """Import everything in a process that writes no bytecode, and return what was noted."""
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    kept = os.pathsep.join([str(Path(portnn.__file__).parents[1]), *(p for p in path if "offline" not in p)])
    done = subprocess.run(
        [sys.executable, "-B", "-c", script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": kept, "HOME": str(folder), "XDG_CACHE_HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_opens_no_socket_and_writes_no_file(tmp_path):
    """Every module of the package, and with it what it imports."""
    found = imported(IMPORTED, tmp_path)
    assert found["seen"] == []
    assert list(tmp_path.iterdir()) == []
    assert {"portnn", "portnn.estimators", "portnn.plots", "portnn.onnx", "portnn.backends.jax"} <= set(found["names"])
    assert [line for line in found["absent"] if "sklearn" not in line and "cupy" not in line] == []


@pytest.mark.parametrize(
    "deed",
    [
        "open('x', 'w').close()",
        "import os; os.close(os.open('x', os.O_CREAT))",
        "import os; os.mkdir('x')",
        "import socket; s = socket.socket(); s.connect(('127.0.0.1', 9))",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', ''])",
    ],
)
def test_what_an_import_must_not_do_is_noted(deed, tmp_path):
    script = IMPORTED.replace("import portnn\n", f"try:\n    {deed}\nexcept OSError:\n    pass\nimport portnn\n", 1)
    assert imported(script, tmp_path)["seen"]
