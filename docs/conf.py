"""The documentation. Build it with: sphinx-build -W docs build/docs, and the package on PYTHONPATH."""

import muster

project = "Muster"
copyright = "the Muster authors"
version = release = muster.__version__
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon"]
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
nitpicky = False
html_theme = "alabaster"
html_theme_options = {"description": "An in-memory collective object store", "page_width": "1100px"}
