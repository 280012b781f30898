"""Sphinx: the API reference, from the docstrings. `make docs` builds it."""

import layer_folding

project = "layer-folding"
author = "the authors of layer-folding"
release = version = layer_folding.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
default_role = "code"  # docstrings name code in single backquotes, too
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "undoc-members": True, "class-doc-from": "class"}
napoleon_numpy_docstring = False
napoleon_use_rtype = False
python_maximum_signature_line_length = 80
html_theme = "alabaster"
html_theme_options = {"description": "Make trained CNNs shallower and faster", "fixed_sidebar": True}
html_show_sphinx = False
html_copy_source = False


def _without_package(app: object, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """`lf.fold` and `lf.export` are packages that can be called; the reference describes the call alone."""
    if "The package:" in lines:
        del lines[lines.index("The package:") :]


def setup(app: object) -> None:
    """Register what changes docstrings."""
    app.connect("autodoc-process-docstring", _without_package)  # type: ignore[attr-defined]
