"""Sphinx configuration: the notebooks are executed at every build."""

import os

import vaelab

project = "vaelab"
author = "the vaelab authors"
version = release = vaelab.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "notebooks/*.ipynb"]

nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_title = "vaelab"
html_static_path = ["images"]
html_theme_options = {
    "path_to_docs": "",
    "use_download_button": True,
}

# Where the sources are published, such as https://host/owner/vaelab. Without it, pages
# have no links to the repository and to Colab.
if repository := os.environ.get("VAELAB_REPOSITORY"):
    html_theme_options |= {
        "repository_url": repository,
        "repository_branch": os.environ.get("VAELAB_BRANCH", "main"),
        "use_repository_button": True,
        "use_issues_button": True,
        "launch_buttons": {
            "colab_url": "https://colab.research.google.com",
            "notebook_interface": "jupyterlab",
        },
    }
