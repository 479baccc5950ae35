"""Configuration of the documentation: ``sphinx-build -W docs docs/_build``.

With ``DOCS_OFFLINE=1`` the links to the documentation of other libraries are left out, as a machine without a network needs.
"""

import os

import irwrappers

project = "irwrappers"
author = "The irwrappers developers"
copyright = "the irwrappers developers"
release = version = irwrappers.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False
napoleon_use_rtype = False

intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "numpy": ("https://numpy.org/doc/stable", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
    "gymnasium": ("https://gymnasium.farama.org", None),
    "stable_baselines3": ("https://stable-baselines3.readthedocs.io/en/master", None),
    "sb3_contrib": ("https://sb3-contrib.readthedocs.io/en/master", None),
}
if os.environ.get("DOCS_OFFLINE"):
    intersphinx_mapping = {}

html_theme = "furo"
html_title = "irwrappers"
html_static_path = ["_static"]
