"""Kill trainings, many times: ``python benchmarks/kills.py --kills 200 --resumes 50``.

``--kills`` are SIGKILLs at random moments of a training that saves all the time: every save that it had told of must be
there, or a newer one, and the newest file must be whole. ``--resumes`` are trainings that are killed at random steps
and finished by a new process, on NumPy, PyTorch and JAX, with momentum, Adam and AdamW, dropout, batch norm and each
schedule in turn: parameters, optimizer state and history must be those of a training that nobody disturbed, to the bit.
The script that does it is ``tests/kill.py``, whose smaller numbers are part of the tests. The status is 1 if anything
was lost or differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

KILL = Path(__file__).parents[1] / "tests" / "kill.py"


def main() -> int:
    """Run both, one after the other."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, metavar="N", help="while it saves (200)")
    parser.add_argument("--resumes", type=int, default=50, metavar="N", help="at random steps, and resumed (50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--backend", action="append", help="of the resumed ones: numpy, torch, jax (all of them)")
    options = parser.parse_args()
    backends = [word for name in options.backend or () for word in ("--backend", name)]
    environment = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **os.environ}
    code = 0
    for what, number, more in (("saves", options.kills, []), ("resumes", options.resumes, backends)):
        if number:
            began = time.perf_counter()
            command = [sys.executable, KILL, what, str(number), "--seed", str(options.seed), *more]
            code |= subprocess.run(command, env=environment).returncode != 0
            print(f"{what}: {time.perf_counter() - began:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
