"""Packages that can be called: `lf.fold(model, example)` is the function `fold` of the package `layer_folding.fold`.

Importing a package sets the package as an attribute of its parent. So one name cannot stand for the package and for a
function in the parent, unless the package itself answers the call.
"""

import inspect
import sys
from collections.abc import Callable
from types import ModuleType


def make_callable(package: str, function: Callable[..., object]) -> None:
    """Let calls of the imported ``package`` be calls of ``function``, with its signature and its documentation."""

    class CallablePackage(ModuleType):
        __call__ = staticmethod(function)

    module = sys.modules[package]
    module.__class__ = CallablePackage
    module.__dict__["__module__"] = function.__module__  # where the source is
    module.__dict__["__signature__"] = inspect.signature(function)
    module.__doc__ = f"{inspect.getdoc(function)}\n\nThe package:\n\n{module.__doc__}"
