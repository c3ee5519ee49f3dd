"""Sphinx configuration: the notebooks are executed at every build."""

import inspect
import os

from flax import nnx

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
exclude_patterns = ["_build", "notebooks/*.ipynb", "tables"]

nb_output_stderr = "remove"  # progress bars
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"
default_role = "literal"  # as in Markdown
napoleon_attr_annotations = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Errors of other libraries, whose documentation is not linked.
nitpick_ignore = [
    ("py:exc", "flax.errors.TraceContextError"),
    ("py:exc", "jax.errors.JAXTypeError"),
]

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


def skip_named_tuple_fields(app, what, name, obj, skip, options):
    """Leaves out "Alias for field number 0": the class's docstring says more."""
    return skip or type(obj).__name__ == "_tuplegetter"


def module_signature(app, what, name, obj, options, signature, return_annotation):
    """Shows what __init__ takes, where Flax's metaclass says (*args, **kwargs)."""
    if not isinstance(obj, type) or not issubclass(obj, nnx.Module):
        return None
    parameters = list(inspect.signature(obj.__init__).parameters.values())[1:]
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    return str(inspect.Signature(bare)), None


def setup(app):
    app.connect("autodoc-process-signature", module_signature)
    app.connect("autodoc-skip-member", skip_named_tuple_fields)
