"""``python -m portnn info``: what is installed and usable here."""

from __future__ import annotations

import argparse
import platform
import sys

import portnn
from portnn.backends import available


def info() -> None:
    """Print one line per array library: version, devices and dtypes, or why it cannot be used."""
    print(f"portnn {portnn.__version__}, Python {platform.python_version()} on {platform.platform()}")
    for backend in available().values():
        if backend.usable:
            print(f"  {backend.name:17} {backend.version:14} {', '.join(backend.devices)}; {', '.join(backend.dtypes)}")
            if backend.why_not:
                print(f"  {'':17} {backend.why_not}")
        else:
            print(f"  {backend.name:17} not usable: {backend.why_not}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m portnn", description=portnn.__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="array libraries, devices and dtypes that work here")
    parser.parse_args(arguments)
    info()
    return 0


if __name__ == "__main__":
    sys.exit(main())
