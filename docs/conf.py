"""How the site of the documentation is built, without a network: sphinx-build -W docs docs/_build."""

import re
import sys
from pathlib import Path

import definetti_np

sys.path.insert(0, str(Path(__file__).parent))
from tables import arguments_table, operations_tables  # noqa: E402

project = "definetti_np"
author = "the definetti_np developers"
version = release = definetti_np.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]

# Markdown: the tables that are made from the code stand where a page says {{ arguments }} or {{ operations }}.
myst_enable_extensions = ["substitution"]
myst_heading_anchors = 3
myst_substitutions = {"arguments": arguments_table(definetti_np.train), "operations": operations_tables()}

# Docstrings: a name between single backticks becomes a link where there is something of that name.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# A link that leads nowhere is an error. Types and names in docstrings become links only where they are public.
nitpicky = True
nitpick_ignore_regex = [("py:(obj|class|exc)", ".*")]

html_theme = "alabaster"
html_static_path = ["_static"]
html_title = f"definetti_np {release}"
html_copy_source = False
html_show_copyright = False
toc_object_entries = False  # the bar at the side lists pages and headings
html_sidebars = {"**": ["about.html", "searchfield.html", "navigation.html"]}
html_theme_options = {
    "description": "Posteriors from exchangeable data, with neural networks and simulation on the fly, on CPUs",
    "fixed_sidebar": True,
    "font_family": "Helvetica, Arial, sans-serif",
    "head_font_family": "Helvetica, Arial, sans-serif",
    "font_size": "16px",
    "page_width": "1260px",
    "sidebar_width": "250px",
    "show_powered_by": False,
}


def setup(app):
    app.connect("autodoc-process-docstring", adapt_docstring)


def adapt_docstring(app, what, name, thing, options, lines):
    """Leave out what modules say of themselves, since the pages say it; keep |x| from being a substitution."""
    lines[:] = [] if what == "module" else [re.sub(r"\|(\w+)\|", r"\|\1\|", line) for line in lines]
