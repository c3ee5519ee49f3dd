import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vaelab

ROOT = Path(__file__).resolve().parent.parent
MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(vaelab.__path__, "vaelab.")
    if "._" not in module.name
]


def public_members():
    for module in [vaelab, *MODULES]:
        for name in module.__all__:
            yield pytest.param(getattr(module, name), id=f"{module.__name__}.{name}")


def test_importing_vaelab_is_light():
    code = (
        "import sys, vaelab\n"
        "heavy = {'sklearn', 'matplotlib', 'pandas', 'orbax', 'ipywidgets'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_module_introduces_its_subject_and_lists_its_names(module):
    assert len(module.__doc__.split()) >= 8
    assert module.__all__ == sorted(module.__all__, key=_isort_key)


@pytest.mark.parametrize("member", list(public_members()))
def test_every_public_name_has_a_docstring(member):
    # Not inspect.getdoc, which would give the text of a base class.
    if inspect.isclass(member):
        assert vars(member)["__doc__"]
        for name, method in vars(member).items():
            if inspect.isfunction(method) and not name.startswith("_"):
                assert method.__doc__, name
    else:
        assert member.__doc__


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_every_public_name_is_on_the_api_page(module):
    """A module's names are there with it, or with the package that offers them."""
    api = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    pages = re.findall(r"automodule:: (\S+)\n   :members:", api)
    shown = {id(vars(sys.modules[page])[n]) for page in pages for n in _names(page)}
    missing = [n for n in module.__all__ if id(vars(module)[n]) not in shown]
    assert module.__name__ in pages or not missing


def test_the_version_is_that_of_the_package():
    assert vaelab.__version__ == importlib.metadata.version("vaelab")


def _names(page):
    return sys.modules[page].__all__


def _isort_key(name):
    """CONSTANTS, then Classes, then functions: the order that ruff keeps."""
    rank = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return rank, name
