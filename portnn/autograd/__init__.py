"""Reverse-mode differentiation of functions written against the Array API, for any library that follows it.

A function is run once with arrays that record what is done with them, and the graph of pullbacks that is left is
walked in reverse. The rules are written against the standard too: they run on every library, under its compiler, and
through themselves, which gives second derivatives.

This file only hands names on.
"""

from portnn.autograd.array import Array
from portnn.autograd.draw import dot, graph
from portnn.autograd.namespace import over
from portnn.autograd.ordinary import pair_of, value_of
from portnn.autograd.transform import check, constant, grad, together, value_and_grad, vjp

__all__ = [
    "Array",
    "check",
    "constant",
    "dot",
    "grad",
    "graph",
    "over",
    "pair_of",
    "together",
    "value_and_grad",
    "value_of",
    "vjp",
]
