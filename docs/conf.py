"""Sphinx configuration: ``make docs`` builds the pages and the reference into ``docs/_build/html``."""

from pygments.lexers.special import TextLexer

from fedhelp_med import __version__

project = "fedhelp-med"
author = "the fedhelp-med authors"
release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
root_doc = "index"

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
suppress_warnings = ["ref.python"]  # an attribute called ``bytes`` makes the type ambiguous

html_theme = "pydata_sphinx_theme"
html_title = "fedhelp-med"
html_theme_options = {"navigation_with_keys": True, "show_toc_level": 2, "footer_start": [], "footer_end": []}


def setup(app):
    """Let fences name ``csv``, for which Pygments has no lexer."""
    app.add_lexer("csv", TextLexer)
