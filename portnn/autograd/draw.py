"""Pictures of the graph that a function leaves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from portnn.autograd.array import Array
from portnn.autograd.graph import backward
from portnn.autograd.transform import Recording, is_array, scalar


def dot(f: Callable[..., Any], *args: Any, names: Sequence[str] | None = None) -> str:
    """Return the graph of f(*args) in the DOT language: values, operations, and gradients where f returns a scalar.

    Of arrays with axes the shape stands in the place of the numbers. Constants are left out, since nothing flows
    through them.

    Parameters
    ----------
    f, args
        As for :func:`portnn.autograd.vjp`.
    names
        What the leaves are called, one name for each array among the arguments; x0, x1, ... by default.

    Examples
    --------
    >>> import numpy as np
    >>> print(dot(lambda a, b: a * b, np.asarray(2.0), np.asarray(3.0), names=["a", "b"]))
    digraph {
      rankdir=LR
      node [fontname="Helvetica"]
      n0 [shape=record, label="{a | value 2 | gradient 3}"]
      n1 [shape=record, label="{b | value 3 | gradient 2}"]
      n2 [shape=record, label="{multiply | value 6 | gradient 1}"]
      n0 -> n2
      n1 -> n2
    }

    """
    run = Recording("dot", f, args, None, draw=True)
    leaves = [node for own in run.leaves for node, _ in own]
    if names is not None and len(names) != len(leaves):
        raise ValueError(f"dot: {len(names)} names for {len(leaves)} arrays; give one for each")
    labels = {id(node): name for node, name in zip(leaves, names or (), strict=bool(names))}
    roots = [y for y in run.outputs if type(y) is Array and y.space is run.space and y.node is not None]
    wanted, waiting = set(), [y.node for y in roots]
    while waiting:
        node = waiting.pop()
        if node is not None and node.number not in wanted:
            wanted.add(node.number)
            waiting += [parent for parent, _ in node.edges]
    gradients: dict[int, Any] = {}
    if len(roots) == 1 and not tuple(roots[0].shape):
        gradients = backward(scalar(run)[1], everywhere=True)
    lines: list[str] = []
    ids: dict[int, str] = {}
    for node, value in run.seen:
        if node.number not in wanted:
            continue
        ids[node.number] = f"n{len(ids)}"
        parts = [labels.get(id(node), node.name), f"value {_shown(value)}"]
        if node.number in gradients:
            parts.append(f"gradient {_shown(gradients[node.number])}")
        text = " | ".join(_escaped(p) for p in parts)
        lines.append(f'  {ids[node.number]} [shape=record, label="{{{text}}}"]')
        lines += [f"  {ids[parent.number]} -> {ids[node.number]}" for parent, _ in node.edges]
    nodes = [line for line in lines if "->" not in line]
    edges = [line for line in lines if "->" in line]
    return "\n".join(["digraph {", "  rankdir=LR", '  node [fontname="Helvetica"]', *nodes, *edges, "}"])


def graph(f: Callable[..., Any], *args: Any, names: Sequence[str] | None = None) -> Any:
    """Return :func:`dot` as a ``graphviz.Source``, which notebooks show; ImportError without the package graphviz."""
    try:
        from graphviz import Source
    except ImportError as error:
        message = "graph: the package graphviz is missing: pip install graphviz, or print portnn.autograd.dot(...)"
        raise ImportError(message) from error
    return Source(dot(f, *args, names=names))


def _shown(a: Any) -> str:
    if not is_array(a) or tuple(a.shape):
        return f"of shape {tuple(a.shape)}"
    return f"{float(a):.4g}"


def _escaped(text: str) -> str:
    return "".join("\\" + c if c in '\\{}|<>"' else c for c in text)
