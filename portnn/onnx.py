"""The network as an ONNX file, for runtimes that know neither Python nor portnn.

There is no second implementation: portnn's own forward pass runs once on arrays that have no values and note what is
done with them. ndonnx has such arrays, follows the standard, and is imported when it is needed.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from typing import Any

from portnn.errors import reason, shown
from portnn.evaluation import predicted
from portnn.files import StrPath, atomic_write
from portnn.mlp import MLP, check_model
from portnn.network import forward, zero_of

__all__ = ["to_onnx"]

_INPUT, _OUTPUT = "portnn.input", "portnn.output"  # until the rest has names
_VIEWS = ("Expand", "Reshape", "Slice", "Unsqueeze")
_LARGEST = 2**31 - 2**20  # bytes of parameters: a protocol buffer holds 2 GiB in all


def to_onnx(
    model: MLP,
    path: StrPath | None = None,
    *,
    kind: str = "values",
    input_name: str = "x",
    output_name: str = "y",
) -> Any:
    """Return the model as an ``onnx.ModelProto``, and write it to ``path`` if there is one.

    The graph takes ``(batch, n_features)`` and gives ``(batch, n_outputs)``, or ``(members, batch, n_outputs)`` for a
    model with members, for any batch, in the dtype of the model. It holds what ``model.apply`` does, operation by
    operation, scalings included, with the parameters as constants; a runtime differs from portnn by the order of its
    sums and the last bits of its exponentials and hyperbolic tangents.

    Parameters
    ----------
    model
        A network on any library; its parameters must be finite.
    path
        The file, written wholly or not at all; see :func:`portnn.files.atomic_write`.
    kind
        What the graph gives, as in :func:`portnn.ensemble_predict`: ``"values"``, the raw outputs; ``"classes"``, their
        softmax; ``"binary"``, the sigmoid of each.
    input_name, output_name
        The names under which a runtime takes x and gives y.

    Returns
    -------
    The ModelProto, checked by ``onnx.checker``. ndonnx chooses the version of the operator set (``opset_import``); the
    version of the file format is the lowest that it allows, which older runtimes read too.

    Raises
    ------
    ImportError
        ndonnx or onnx is missing: ``pip install ndonnx onnx``.
    ValueError
        Parameters that are not finite or take over 2 GiB, names that are empty or equal.
    TypeError
        An activation of your own does something that ndonnx cannot note. It must use its argument's operators and the
        functions of ``portnn.backends.namespace(z)``.

    Examples
    --------
    ::

        portnn.onnx.to_onnx(model, "digits.onnx")
        session = onnxruntime.InferenceSession("digits.onnx")
        (y,) = session.run(None, {"x": x})  # x: (batch, n_features), in the dtype of the model

    """
    check_model("to_onnx", model)
    for argument, name in (("input_name", input_name), ("output_name", output_name)):
        if not isinstance(name, str) or not name:
            raise ValueError(f"to_onnx: {argument} must be a text that is not empty, got {shown(name)}")
    if input_name == output_name:
        raise ValueError(f"to_onnx: input_name and output_name are both {shown(input_name)}; they must differ")
    of = predicted(kind, model.sizes[-1], "to_onnx")
    try:
        import ndonnx
        import onnx
    except ImportError as error:
        message = f"to_onnx: needs ndonnx and onnx ({reason(error)}): pip install ndonnx onnx"
        raise ImportError(message) from error
    model.check_finite("to_onnx")
    host = model.to(backend="numpy")
    if host.params.nbytes > _LARGEST:
        raise ValueError(f"to_onnx: the parameters take {host.params.nbytes} bytes, an ONNX file holds 2 GiB at most")
    x = ndonnx.argument(shape=("batch", host.sizes[0]), dtype=getattr(ndonnx, host.dtype))
    try:
        params = ndonnx.asarray(host.params)
        running = None if host.running is None else ndonnx.asarray(host.running)
        y = of(forward(host.layers, params, x, running=running, zero=zero_of(params))[0])
    except (NotImplementedError, TypeError, AttributeError, ValueError) as error:
        raise TypeError(
            f"to_onnx: ndonnx cannot note the forward pass ({type(error).__name__}: {reason(error)}); activations of "
            "your own must use operators and the functions of portnn.backends.namespace(z)"
        ) from error
    written = ndonnx.build({_INPUT: x}, {_OUTPUT: y})
    written.producer_name, written.producer_version = "portnn", sys.modules["portnn"].__version__
    written.doc_string, written.graph.name = repr(host), "MLP"
    written.ir_version = onnx.helper.find_min_ir_version_for(written.opset_import)
    written.graph.output[0].type.tensor_type.shape.dim[-2].dim_param = "batch"  # forgotten under the guards
    _tidy(written.graph, onnx)
    _name_ends(written.graph, {_INPUT: input_name, _OUTPUT: output_name})
    onnx.checker.check_model(written, full_check=True)
    if path is not None:
        atomic_write(path, [written.SerializeToString()])
    return written


def _tidy(graph: Any, onnx: Any) -> None:
    """Take out what says nothing about the network, in place.

    ndonnx puts each product under an ``If`` that asks whether there are elements to multiply, and the weights are views
    of one constant. Weights are not empty, and a product of no rows has no rows, so the product can stand alone; and
    the views can be the constants.
    """
    constants: dict[str, Any] = {}
    same: dict[str, str] = {}  # by another name
    outputs = {output.name for output in graph.output}
    nodes = []
    for node in map(_unguarded, graph.node):
        _rename(node, same)
        if node.op_type == "Identity" and node.output[0] not in outputs:
            same[node.output[0]] = node.input[0]
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = onnx.numpy_helper.to_array(node.attribute[0].t)
        elif node.op_type in _VIEWS and all(name in constants for name in node.input):
            view = onnx.reference.ReferenceEvaluator(node)
            (constants[node.output[0]],) = view.run(None, {name: constants[name] for name in node.input})
        else:
            nodes.append(node)
    if graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.DOUBLE:
        nodes = _kept_apart(nodes, {name for name, a in constants.items() if a.size == 1}, onnx)
    needed, used = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(_reads(node))
            used.append(node)
    del graph.node[:]
    graph.node.extend(reversed(used))
    graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in constants.items() if name in needed)


def _kept_apart(nodes: list[Any], numbers: set[str], onnx: Any) -> list[Any]:
    """Put a sum of one term between a product of matrices and a product with a number.

    Numerical stability: onnxruntime makes one operation of the two and keeps the number as a float32 in it
    (MatMulScaleFusion), so that a float64 network, of selu units for example, is off by 1e-8.
    """
    apart: list[Any] = []
    kinds: dict[str, str] = {}  # what made an array, as far as it matters
    for node in nodes:
        scales = node.op_type in ("Mul", "Div") and not numbers.isdisjoint(node.input)
        kind = "number" if scales else "matrices" if node.op_type == "MatMul" else ""
        for i, name in enumerate(node.input):
            if kind and kinds.get(name, kind) != kind:
                alone = f"{name}_alone_{len(apart)}"
                apart.append(onnx.helper.make_node("Sum", [name], [alone]))
                node.input[i] = alone
        apart.append(node)
        if kind:
            kinds[node.output[0]] = kind
    return apart


def _unguarded(node: Any) -> Any:
    """Return the product that stands in the last branch of a guard, under the name of what the guard gives."""
    if node.op_type != "If":
        return node
    branch = next(a.g for a in node.attribute if a.name == "else_branch")
    if [inner.op_type for inner in branch.node] != ["MatMul", "Identity"]:
        return node
    product = branch.node[0]
    product.output[0] = node.output[0]
    return product


def _name_ends(graph: Any, names: dict[str, str]) -> None:
    """Give input and output the names that were asked for; what bears one of them within gets another."""
    used = {name for node in graph.node for name in (*node.output, *_reads(node))} | {a.name for a in graph.initializer}
    same = dict(names)
    for name in used.intersection(names.values()):
        same[name] = next(
            other for i in itertools.count() if (other := f"{name}_{i}") not in used | set(names.values())
        )
    for node in graph.node:
        _rename(node, same)
        node.output[:] = [same.get(name, name) for name in node.output]
    for value in (*graph.initializer, *graph.input, *graph.output):
        value.name = same.get(value.name, value.name)


def _rename(node: Any, same: dict[str, str]) -> None:
    """Let a node, and its subgraphs, read what has been renamed."""
    for i, name in enumerate(node.input):
        node.input[i] = same.get(name, name)
    for attribute in node.attribute:
        for inner in attribute.g.node:
            _rename(inner, same)


def _reads(node: Any) -> Iterator[str]:
    """Yield the names that a node reads, in its subgraphs too."""
    yield from node.input
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from _reads(inner)
