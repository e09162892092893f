"""Tools for users' own tests: is a pullback right, and do two array libraries compute the same network?"""

from portnn.agreement import Comparison, Parting, assert_backends_agree, compare_backends
from portnn.differences import check_vjp

__all__ = ["Comparison", "Parting", "assert_backends_agree", "check_vjp", "compare_backends"]
