"""The raw mutation score of each module, from what ``mutmut run`` left behind; exit status 1 where one is below 90 %.

Raw: killed and timed-out mutants over all of them. A mutant that no test reaches, or that changes nothing, counts as
a survivor. ``--survivors`` shows every one of them as a difference.
"""

from __future__ import annotations

import subprocess
import sys

BAR = 0.9
KILLED = ("killed", "timeout")


def mutmut(*arguments: str) -> str:
    """Return what a command of mutmut prints."""
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Print a line per module."""
    by_module: dict[str, dict[str, str]] = {}
    for line in mutmut("results", "--all", "true").splitlines():
        name, _, status = line.strip().rpartition(": ")
        if name:  # portnn.module.function__mutmut_number
            by_module.setdefault(name.rpartition(".")[0], {})[name] = status
    scores = []
    for module, mutants in sorted(by_module.items()):
        survivors = [name for name, status in mutants.items() if status not in KILLED]
        killed = len(mutants) - len(survivors)
        scores.append(killed / len(mutants))
        print(f"{module:20} {killed:4} / {len(mutants):4} killed, {scores[-1]:6.1%}")
        for name in survivors if "--survivors" in sys.argv else ():
            print(mutmut("show", name))
    return 0 if scores and min(scores) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
