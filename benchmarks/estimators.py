"""portnn.estimators beside scikit-learn, default parameters, bundled data sets: python benchmarks/estimators.py.

Each set is cut into folds anew for each seed; in a pipeline behind StandardScaler both classes are fitted to the same
folds with the same random_state, in turns, in one process. Scores are accuracies, or R^2 of the diabetes set. The
standard error is that of the mean over folds and seeds; "held" says that portnn's mean is at most one of it lower.
Seconds are those of all fits, and the ratio is the median over fits.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import sklearn
import sklearn.neural_network as theirs
from sklearn import datasets
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import portnn
from portnn import estimators as ours

SETS = ("iris", "wine", "breast_cancer", "digits", "diabetes")
HEAD = "| set | scikit-learn | portnn | difference | standard error | held | seconds | portnn | ratio |"


def compared(name: str, folds: int, seeds: int) -> dict[str, Any]:
    """Fit both on every fold and return their scores and times."""
    x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    kind, cut = ("MLPRegressor", KFold) if name == "diabetes" else ("MLPClassifier", StratifiedKFold)
    scores: list[list[float]] = []
    seconds: list[list[float]] = []
    for seed in range(seeds):
        for fold, (train, test) in enumerate(cut(folds, shuffle=True, random_state=seed).split(x, y)):
            score, taken = [0.0, 0.0], [0.0, 0.0]
            for i in (0, 1) if fold % 2 else (1, 0):
                estimator = getattr((theirs, ours)[i], kind)(random_state=seed)
                pipeline = make_pipeline(StandardScaler(), estimator)
                began = time.perf_counter()
                pipeline.fit(x[train], y[train])
                taken[i] = time.perf_counter() - began
                score[i] = pipeline.score(x[test], y[test])
            scores.append(score)
            seconds.append(taken)
    of_all = np.asarray(scores)
    error = float(of_all[:, 0].std(ddof=1) / np.sqrt(len(scores)))
    means = of_all.mean(axis=0)
    return {
        "name": name,
        "means": means,
        "error": error,
        "held": bool(means[1] >= means[0] - error),
        "seconds": np.sum(seconds, axis=0),
        "ratio": statistics.median(mine / other for other, mine in seconds),
    }


def row(found: dict[str, Any]) -> str:
    """Return a row of the table."""
    (a, b), (s, t) = found["means"], found["seconds"]
    cells = [found["name"], f"{a:.4f}", f"{b:.4f}", f"{b - a:+.1e}", f"{found['error']:.4f}"]
    return (
        "| "
        + " | ".join([*cells, "yes" if found["held"] else "NO", f"{s:.2f}", f"{t:.2f}", f"{found['ratio']:.2f}"])
        + " |"
    )


def main() -> int:
    """Print the table; status 1 where a score is not held."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sets", default=",".join(SETS), help="some of them, separated by commas")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the table to this file too")
    args = parser.parse_args()
    warnings.simplefilter("ignore", ConvergenceWarning)  # 200 epochs, the default, do not suffice for all
    first = f"{args.folds} folds, {args.seeds} seeds; scikit-learn {sklearn.__version__}, numpy {np.__version__}, "
    lines = [first + f"portnn {portnn.__version__}", "", HEAD, "|" + "---|" * 9]
    print("\n".join(lines), flush=True)
    held = True
    for name in args.sets.split(","):
        found = compared(name, args.folds, args.seeds)
        held &= found["held"]
        lines.append(row(found))
        print(lines[-1], flush=True)
    if args.out:
        args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
