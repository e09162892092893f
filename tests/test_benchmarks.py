"""The harness of ``benchmarks/speed.py``: that all compute the same, and that what it says follows from the times."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import portnn

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
pytestmark = pytest.mark.skipif(not (BENCHMARKS / "speed.py").exists(), reason="needs benchmarks/ of the checkout")

TRAINERS = ("portnn-numpy", "portnn-torch", "portnn-jax", "torch-eager", "jax", "scikit-learn")
NEEDS = {
    "portnn-torch": "torch",
    "torch-eager": "torch",
    "portnn-jax": "jax",
    "jax": "optax",
    "scikit-learn": "sklearn",
}
TINY = ("--case", "12-7-10", "--batch", "16", "--optimizer", "sgd", "--samples", "70", "--rounds", "2")


@pytest.fixture(scope="module")
def speed():
    """The modules of the benchmark, as a script of that folder imports them."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        names = ("speed", "speed_cases", "speed_peers", "speed_report")
        modules = {name: importlib.import_module(name) for name in names}
        yield SimpleNamespace(**{name.removeprefix("speed_"): module for name, module in modules.items()})
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def case(speed):
    return lambda **kw: speed.cases.Case(**{"sizes": (12, 7, 3), "batch": 16, "optimizer": "sgd", "samples": 50, **kw})


@pytest.fixture
def data(speed):
    """50 samples: the last of the batches of 16 has two."""
    noise = np.random.default_rng(0)
    return speed.cases.Data(noise.random((50, 12), dtype=np.float32), noise.integers(0, 3, 50))


def run_speed(folder, *words, **variables):
    command = [sys.executable, BENCHMARKS / "speed.py", *words, "--out", folder]
    environment = {**os.environ, "PYTHONUTF8": "1", **variables}
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, env=environment, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- the competitors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_competitors_compute_the_same(speed, case, data, optimizer):
    losses = {}
    for name in TRAINERS:
        if name in NEEDS and importlib.util.find_spec(NEEDS[name]) is None:
            continue
        turns = speed.cases.Turns(2)
        speed.peers.COMPETITORS["cpu"][name].compete(case(optimizer=optimizer), data, turns)
        losses[name] = turns.losses
        assert len(turns.seconds) == 2
        assert min(turns.seconds) > 0.0
    assert len(losses) > 1 or importlib.util.find_spec("torch") is None
    for epoch in range(2):
        here = {name: two[epoch] for name, two in losses.items()}
        # far closer than what the benchmark itself asks for: these are 4 steps, not 1875
        assert speed.speed.odd_ones(here, speed.speed.LARGEST_DIFFERENCE[optimizer] / 100) == [], here
        assert len(set(losses["portnn-numpy"])) == 2


def test_members_compute_what_single_fits_compute(speed, case, data):
    both = speed.peers.MEMBERS["cpu"]
    losses = {}
    for name in ("portnn-numpy", "portnn-numpy-singles"):
        turns = speed.cases.Turns(1)
        both[name].compete(case(members=3), data, turns)
        losses[name] = turns.losses[0]
    assert speed.speed.odd_ones(losses, 1e-5) == []


def test_the_floor_multiplies_the_matrices_of_a_step_and_nothing_else(speed, case, data, monkeypatch):
    shapes, matmul = [], np.matmul

    def recorded(a, b, out):
        shapes.append((a.shape, b.shape))
        return matmul(a, b, out=out)

    monkeypatch.setattr(np, "matmul", recorded)
    run_epoch = speed.peers.matmul(case(samples=18), data)
    run_epoch(None)
    expected = []
    for n in (16, 2):
        expected += [((n, 12), (12, 7)), ((n, 7), (7, 3))]  # y = x W
        expected += [((7, n), (n, 3)), ((n, 3), (3, 7)), ((12, n), (n, 7))]  # dW, dx, dW
    assert shapes == expected
    assert speed.peers.COMPETITORS["cpu"]["matmul"].exempt


def test_the_least_gathers_in_the_order_of_the_epoch(speed, case, data, monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    gathered, select = [], torch.index_select

    def recorded(a, axis, rows, out):
        gathered.append((rows.tolist(), out))
        return select(a, axis, rows, out=out)

    monkeypatch.setattr(torch, "index_select", recorded)
    run_epoch = speed.peers._least(case(samples=18), data)
    order = np.arange(18)[::-1].copy()
    run_epoch(order)
    assert [rows for rows, _ in gathered] == [order[:16].tolist(), order[16:].tolist()]
    assert np.array_equal(gathered[1][1].numpy(), data.x[order[16:]])


def test_portnn_takes_its_turns_inside_one_fit(speed, case, data, monkeypatch):
    fits, fit = [], portnn.fit

    def counted(*args, **options):
        fits.append(options["epochs"])
        return fit(*args, **options)

    monkeypatch.setattr(portnn, "fit", counted)
    turns = speed.cases.Turns(3)
    speed.peers.COMPETITORS["cpu"]["portnn-numpy"].compete(case(), data, turns)
    assert fits == [3]
    assert len(turns.losses) == 3


# -- who computes something else --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("losses", "odd"),
    [
        ({"a": 1.0, "b": 1.0001, "c": 1.2}, ["c"]),
        ({"a": 1.0, "b": 1.0001}, []),
        ({"a": 1.0, "b": 1.1}, ["a", "b"]),
        ({"a": 1.0}, []),
        ({"a": 1.0, "b": 1.0, "c": float("nan")}, ["c"]),
        ({"a": float("nan")}, ["a"]),
    ],
)
def test_odd_ones(speed, losses, odd):
    assert speed.speed.odd_ones(losses, 1e-3) == odd


def test_who_computes_something_else_is_refused(speed, case):
    first = {"portnn-numpy": 0.5, "torch-eager": 0.5002, "jax": 0.51, "scikit-learn": None, "matmul": None}
    first |= {"portnn-jax": 0.5001, "portnn-torch": 0.5}
    runs = {name: {"losses": [loss], "why_not": ""} for name, loss in first.items()}
    speed.speed.refuse(case(), runs)
    refused = {name for name, run in runs.items() if run["why_not"]}
    assert refused == {"jax", "scikit-learn"}  # the floor has no loss, and is allowed to
    assert "refused: it computes something else; losses after one epoch: portnn-numpy 0.5, " in runs["jax"]["why_not"]


# -- ratios and bars --------------------------------------------------------------------------------------------------


@pytest.fixture
def results(speed):
    """Make up results: ``results({case: {competitor: seconds or why not}})``."""

    def results(cases, **more):
        runs = []
        for case, found in cases.items():
            about = {**vars(case), "sizes": list(case.sizes), "name": str(case)}
            about |= {"network": case.network, "steps": case.steps}
            for name, seconds in found.items():
                known = isinstance(seconds, list)
                run = {"case": about, "competitor": name, "seconds": seconds if known else []}
                run |= {"why_not": "" if known else seconds, "losses": [], "prepare_seconds": 1.0, "peak_mib": 100.0}
                runs.append({**run, "first_epoch_seconds": 2.0})
        about = {"processor": "abacus", "cores": 2, "python": "3"}
        threads = {"each": 2, "bound_to_cores": True}
        known = {"date": "2000-01-01T00:00:00", "machine": about, "threads": threads, "versions": {"numpy": "9.9"}}
        known |= {"what": "speed", "device": "cpu", "data": {"784 inputs": "made up"}, "rounds": 3, "runs": runs}
        return {**known, **more}

    return results


def verdict_of(speed, results, theirs):
    (verdict,) = [v for v in speed.report.verdicts(results) if v.theirs == theirs and v.ours != "portnn-torch"]
    return verdict


def test_short_epochs_are_repeated_more_often(speed):
    cases = {"784-128-10": 15, "784-512-512-10": 7, "784-4096-4096-10": 7, "784-64-10": 15}
    for network, rounds in cases.items():
        case = speed.cases.Case(
            tuple(map(int, network.split("-"))), 128, "sgd", 60_000 if network != "784-64-10" else 10_000
        )
        assert speed.speed.usual_rounds(case) == rounds


def test_ratio_of_medians_with_quartiles_of_the_rounds(speed):
    found = speed.report.ratio([1.0, 2.0, 3.0, 4.0, 9.0], [2.0, 2.0, 4.0, 4.0, 4.0])
    assert found == (3.0 / 4.0, 0.75, 1.0)
    assert str(found) == "0.75 (0.75-1.00)"


def test_bars(speed, case, results):
    mnist = case(sizes=(784, 128, 10), batch=128, samples=60_000)
    times = {"portnn-numpy": [1.0, 1.0, 1.2], "torch-eager": [2.0, 1.6, 2.0], "jax": [0.5, 0.4, 0.5]}
    made_up = results({mnist: {**times, "scikit-learn": "ImportError: no such thing", "matmul": [0.5, 0.5, 0.9]}})
    held, missed = verdict_of(speed, made_up, "torch-eager"), verdict_of(speed, made_up, "matmul")
    assert (held.held, held.ratio.value, held.limit) == (True, 0.5, 0.65)
    assert (missed.held, missed.ratio.value, missed.limit) == (False, 2.0, 1.8)
    absent = verdict_of(speed, made_up, "scikit-learn")
    assert (absent.held, absent.ratio, absent.why_not) == (False, None, "scikit-learn: ImportError: no such thing")
    limits = {v.theirs: v.limit for v in speed.report.verdicts(made_up) if v.ours == "portnn-numpy"}
    assert limits == {"torch-eager": 0.65, "scikit-learn": 0.6, "jax": 1.5, "matmul": 1.8}
    table = speed.report.bars_table(speed.report.verdicts(made_up))
    assert "| 784-128-10, batch 128, sgd | portnn-numpy | torch-eager | 0.50 (0.55-0.61) | <= 0.65 | held |" in table
    assert "| matmul | 2.00 (1.67-2.00) | <= 1.8 | **missed** |" in table
    assert "| scikit-learn: ImportError: no such thing | <= 0.6 | not measured |" in table
    assert "1 of 3 bars held; 3 not measured." in table


def test_a_missed_bar_says_what_the_least_takes(speed, case, results):
    wide = case(sizes=(784, 512, 512, 10), batch=1024, samples=60_000)
    times = {"portnn-torch": [1.0, 1.0, 1.0], "torch-eager": [1.0, 1.0, 1.0], "torch-least": [0.9, 0.9, 0.9]}
    table = speed.report.bars_table(speed.report.verdicts(results({wide: times})))
    assert "| <= 0.8 | **missed**; samples and products alone: 0.90 (0.90-0.90) |" in table
    table = speed.report.bars_table(speed.report.verdicts(results({wide: {**times, "portnn-torch": [0.7] * 3}})))
    assert "| 0.70 (0.70-0.70) | <= 0.8 | held |" in table


@pytest.mark.parametrize(
    ("optimizer", "batch", "limit"), [("sgd", 32, 1.5), ("sgd", 128, 1.5), ("adam", 32, 2.2), ("adam", 128, 1.6)]
)
def test_bars_beside_jax(speed, case, results, optimizer, batch, limit):
    here = case(sizes=(784, 128, 10), batch=batch, optimizer=optimizer)
    verdicts = speed.report.verdicts(results({here: {"portnn-numpy": [1.0], "jax": [1.0], "portnn-jax": [1.0]}}))
    assert [v.limit for v in verdicts if v.theirs == "jax"] == [limit, 1.1]


def test_bar_beside_the_program_takes_the_better_library_per_step(speed, case, results):
    alone = case(sizes=(784, 64, 10), batch=1, samples=1000)
    both = {"portnn-numpy": [0.06, 0.05, 0.04], "portnn-jax": [0.02, 0.0195, 0.01]}
    verdict = verdict_of(speed, results({alone: both}), "39 us per step")
    assert (verdict.ours, verdict.held) == ("portnn-jax", True)
    assert f"{verdict.ratio.value:.6f}" == "0.500000"  # 19.5 of 39 microseconds
    slow = verdict_of(speed, results({alone: {**both, "portnn-jax": "no JAX"}}), "39 us per step")
    assert (slow.ours, slow.held) == ("portnn-numpy", False)


def test_bar_of_members(speed, case, results):
    times = {"portnn-numpy": [0.2], "portnn-numpy-singles": [1.0]}
    cases = {case(sizes=(64, 32, 10), batch=32, members=m): times for m in (8, 64)}
    (verdict,) = speed.report.verdicts(results(cases))
    assert (verdict.case, verdict.ratio.value, verdict.held) == ("64-32-10, batch 32, sgd, 64 members", 0.2, True)


def test_every_bar_is_measured_by_check(speed):
    cases = [case for words in (["--check"], []) for case in speed.speed.cases(speed.speed.parse(words))]
    abouts = [{**vars(case), "network": case.network} for case in cases]
    for bar in speed.report.BARS:
        assert any(bar.fits(about) for about in abouts), bar
    known = {name for case in cases for name in speed.peers.competitors(case)}
    assert {bar.theirs for bar in speed.report.BARS} - known == {speed.report.RUST}


# -- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["speed", "growth"])
def test_writes_raw_times_tables_and_a_picture(speed, case, results, tmp_path, what):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    times = {name: [1.0 + k, 1.5, 1.25] for k, name in enumerate(speed.peers.COMPETITORS["cpu"])}
    several = {case(sizes=(784, 128, 10), batch=b, optimizer=o): times for b in (32, 128) for o in ("sgd", "adam")}
    several[case(sizes=(64, 32, 10), members=8)] = {"portnn-numpy": [1.0, 1.0, 1.0], "portnn-numpy-singles": "absent"}
    made_up = results(several, what=what)
    paths = speed.report.write(made_up, tmp_path / "new")
    assert [path.name for path in paths] == [f"{what}-cpu.{kind}" for kind in ("json", "md", "png")]
    assert json.loads(paths[0].read_text(encoding="utf-8")) == json.loads(json.dumps(made_up))
    assert "Not measured: portnn-numpy-singles: absent." in paths[1].read_text(encoding="utf-8")
    assert paths[2].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_every_competitor_has_a_name_and_a_look(speed):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    looks = importlib.import_module("speed_plots")._LOOK
    everybody = {n for table in (speed.peers.COMPETITORS, speed.peers.MEMBERS) for each in table.values() for n in each}
    assert everybody == set(looks) == set(speed.report.NAMES)


def test_measures_in_processes_of_their_own(speed, tmp_path):
    out = run_speed(tmp_path, *TINY, "--only", "numpy,matmul", "--check")
    raw = json.loads((tmp_path / "speed-cpu.json").read_text(encoding="utf-8"))
    assert {"date", "machine", "device", "threads", "versions", "data", "rounds"} <= set(raw)
    assert raw["data"] == {"12 inputs": "synthetic samples in [0, 1], of which 19 % are not 0, as in MNIST"}
    runs = {run["competitor"]: run for run in raw["runs"]}
    assert set(runs) == {"portnn-numpy", "matmul"}
    for run in runs.values():
        assert (len(run["seconds"]), len(run["losses"]), run["why_not"]) == (2, 3, "")  # the first epoch is apart
        assert min(*run["seconds"], run["first_epoch_seconds"]) > 0.0
    model = portnn.MLP([12, 7, 10], seed=0)  # what was trained is what portnn trains by itself
    noise = np.random.default_rng(0)
    x = noise.random((60_000, 12), dtype=np.float32) * (noise.random((60_000, 12), dtype=np.float32) < 0.19)
    t = (x @ noise.standard_normal((12, 10), dtype=np.float32)).argmax(axis=1)
    sgd = {"optimizer": portnn.SGD(0.1), "batch_size": 16, "epochs": 3}
    history = portnn.fit(model, x[:70], t[:70], **sgd, progress=False)
    assert speed.speed.odd_ones(dict(enumerate([*history["loss"][:1], runs["portnn-numpy"]["losses"][0]])), 1e-5) == []
    assert "12-7-10, batch 16, sgd (70 samples): portnn-numpy" in out
    assert "| case | portnn-numpy / matmul |" in out
    assert "0 of 0 bars held" in out


def test_absent_library_is_said(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('no torch on this machine')\n", encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    out = run_speed(tmp_path, *TINY, "--only", "numpy,torch-eager", PYTHONPATH=path)
    assert "torch-eager no" in out
    assert "Not measured: torch-eager: ImportError: no torch on this machine." in out
    assert "12-7-10, batch 16, sgd | 70 | portnn-numpy | " in out


# -- the command line -------------------------------------------------------------------------------------------------


def test_a_selection_does_not_overwrite_the_results_of_record(speed):
    assert speed.speed.parse([]).out == BENCHMARKS.resolve() / "results"
    for words in (["--only", "jax"], ["--batch", "32"], ["--samples", "6000"], ["--check"]):
        assert speed.speed.parse(words).out == BENCHMARKS.resolve().parent / "out" / "speed"


def test_wrong_names_are_said(speed):
    with pytest.raises(SystemExit, match=r"--only: no portnn-tensorflow here; there are jax, matmul, portnn-jax"):
        speed.speed.measure_all(speed.speed.parse(["--case", "12-7-10", "--only", "tensorflow"]))
    with pytest.raises(SystemExit, match="--case 12-7-3: the samples have 10 classes"):
        speed.speed.cases(speed.speed.parse(["--case", "12-7-3"]))


def test_strict_fails_on_a_missed_bar_alone(speed, case, results, tmp_path, capsys):
    mnist = case(sizes=(784, 128, 10), batch=128)
    for ours, status in ((0.5, 0), (0.7, 1)):
        path = tmp_path / "results.json"
        everybody = {name: [1.0] for name in speed.peers.COMPETITORS["cpu"]}
        made_up = results({mnist: everybody | {"portnn-numpy": [ours], "portnn-torch": [ours]}})
        path.write_text(json.dumps(made_up), encoding="utf-8")
        assert speed.speed.main(["--read", str(path), "--check"]) == 0
        assert speed.speed.main(["--read", str(path), "--check", "--strict"]) == status
    assert "**missed**" in capsys.readouterr().out


def test_figures_of_several_runs_are_put_together(speed, tmp_path):
    """One machine and one number of threads; everything else would compare what was not measured side by side."""

    def run(batch, seconds):  # a longer run has more samples, and is of the same case
        about = {"name": f"784-128-10, batch {batch}, sgd", "samples": int(1000 * seconds)}
        return {"case": about, "competitor": "jax", "seconds": [seconds]}

    one = {"what": "speed", "machine": {"cores": 2}, "device": "cpu", "threads": {"each": 2}, "rounds": 7}
    slower = {**run(1, 9.0), "competitor": "torch-eager"}  # took no turns in the second run
    one |= {"versions": {"numpy": "2"}, "data": {"784 inputs": "MNIST"}, "runs": [run(1, 3.0), slower, run(3, 1.0)]}
    other = {
        **one,
        "rounds": 3,
        "versions": {"torch": "2"},
        "data": {"64 inputs": "digits"},
        "runs": [run(2, 4.0), run(1, 5.0)],
    }
    paths = [tmp_path / f"{k}.json" for k in range(2)]
    for path, results in zip(paths, (one, other), strict=True):
        path.write_text(json.dumps(results))
    found = speed.speed.together(paths)
    assert found["runs"] == [run(1, 5.0), run(3, 1.0), run(2, 4.0)]  # of what was measured twice, the last
    assert (found["rounds"], sorted(found["versions"])) == (3, ["numpy", "torch"])
    assert found["data"] == {"784 inputs": "MNIST", "64 inputs": "digits"}
    paths[1].write_text(json.dumps({**other, "threads": {"each": 1}}))
    with pytest.raises(SystemExit, match="not the same machine, device or threads"):
        speed.speed.together(paths)


def test_the_estimators_are_compared(tmp_path):
    pytest.importorskip("sklearn")
    command = [sys.executable, BENCHMARKS / "estimators.py", "--sets", "iris,diabetes", "--folds", "2", "--seeds", "1"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "table.md"], capture_output=True, encoding="utf-8", timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "table.md").read_text(encoding="utf-8") == done.stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in done.stdout.splitlines()[4:]]
    assert [(row[0], row[1], row[5]) for row in rows] == [("iris", rows[0][2], "yes"), ("diabetes", rows[1][2], "yes")]


# -- the page of scaling ----------------------------------------------------------------------------------------------


def rows_of(text):
    """Return the rows of tables that begin with a number or with a network."""
    return [line for line in text.splitlines() if line.startswith("| ") and line[2].isdigit()]


def test_the_page_of_scaling_has_what_was_measured_and_what_is_predicted():
    page = (BENCHMARKS.parent / "docs" / "scaling.md").read_text("utf-8")
    measured = rows_of((BENCHMARKS / "results" / "scaling-cpu.md").read_text("utf-8"))
    command = [sys.executable, str(BENCHMARKS / "scaling.py"), "--predict"]
    predicted = rows_of(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)
    assert rows_of(page) == [*measured, *predicted]
    assert len(measured) >= 2
    assert len(predicted) == 10


def test_the_page_of_performance_has_what_was_measured(speed):
    page = (BENCHMARKS.parent / "docs" / "performance.md").read_text("utf-8")
    results = json.loads((BENCHMARKS / "results" / "speed-cpu.json").read_text("utf-8"))
    judged = speed.report.verdicts(results)
    assert len(judged) >= 43
    assert speed.report.bars_table(judged) in page
    brief = speed.report.brief(results).strip()
    assert brief in page
    readme = (BENCHMARKS.parent / "README.md").read_text("utf-8")
    shown, known = table(readme[readme.index("| time per step |") :].partition("\n\n")[0]), table(brief)
    assert len(shown) >= 9
    for case, times in shown.items():
        assert times.items() <= known[case].items()


def table(text):
    """Return the rows of a table by their first cells, each as a dict by the head."""
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines())
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}
