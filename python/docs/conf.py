"""The Python API reference, from the docstrings. Build it with: sphinx-build -W python/docs build/docs"""

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
html_theme_options = {"description": "An in-memory collective object store"}
