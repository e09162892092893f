"""The commands of ``python -m portnn``: each takes its options and returns the exit code."""
