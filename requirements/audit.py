"""Ask PyPI's advisories about every version that is locked here: ``nox -s audit``, on a machine with internet access.

It passes only when each version has been looked up and none has an advisory. Arguments go to pip-audit.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CURE = "run `nox -s audit` on a machine with internet access"


def looked_up(lock: Path, options: list[str]) -> list[dict[str, Any]]:
    """Return what pip-audit found out about each package of a lock; none where it found no way to."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner", "off"]
        command += ["--format", "json", "--output", str(report), "--requirement", str(lock), *options]
        done = subprocess.run(command, capture_output=True, text=True)
        if not report.exists():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise SystemExit(f"audit: {lock.name} could not be checked, pip-audit ended with {last!r}; {CURE}")
        found: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["dependencies"]
        return found


def audit(locks: list[Path], options: list[str]) -> str:
    """Return that there is nothing to say; SystemExit with one sentence where there is, or where one cannot know."""
    versions: dict[str, bool] = {}  # and whether they were looked up
    bad: dict[str, str] = {}
    for lock in locks:
        for package in looked_up(lock, options):
            name = " ".join(filter(None, (package["name"], package.get("version"))))
            versions[name] = "skip_reason" not in package
            if package.get("vulns"):
                bad[name] = ", ".join(advisory["id"] for advisory in package["vulns"])
    if bad:
        raise SystemExit("audit: " + "; ".join(f"{name} has {advisories}" for name, advisories in sorted(bad.items())))
    unknown = sorted(name for name, known in versions.items() if not known)
    if unknown or not versions:
        some = ", ".join(unknown[:5]) + (", ..." if len(unknown) > 5 else "")
        raise SystemExit(
            f"audit: {len(unknown)} of {len(versions)} packages could not be checked, PyPI's advisories do not answer "
            f"from here for {some}; {CURE}"
        )
    return f"audit: {len(versions)} versions, no advisory"


if __name__ == "__main__":
    print(audit(sorted(Path(__file__).parent.glob("*.txt")), sys.argv[1:]))
