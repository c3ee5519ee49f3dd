import importlib
import inspect
import sys
import textwrap
import types

import jax
import jax.numpy as jnp
import nbformat
import optax
import pytest
from nbclient import NotebookClient

from vaelab.debug import NonFiniteError, explain, nan_guard
from vaelab.debug._places import is_user_file, place_in_words
from vaelab.debug._trace import locate


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A library as pip installs it, with a compiled function in it."""
    folder = tmp_path / "site-packages"
    (folder / "layerlib").mkdir(parents=True)
    (folder / "layerlib" / "nn.py").write_text(
        textwrap.dedent("""
        import jax, jax.numpy as jnp

        @jax.jit
        def layer(x):
            return jnp.log(x)

        def double(x):
            y = layer(x)
            return y * 2

        def eager(x):
            return jnp.sqrt(x)
        """)
    )
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module("layerlib.nn")
    for name in ("layerlib", "layerlib.nn"):
        sys.modules.pop(name)


def line_of(function, text):
    lines, first = inspect.getsourcelines(function)
    return first + next(k for k, line in enumerate(lines) if text in line)


def test_a_librarys_line_is_shown_beside_the_users(library):
    def loss(x):
        y = library.double(x)
        return y.sum()

    report = explain(jax.jit(loss), jnp.array([1.0, -1.0]))
    assert (report.file, report.line) == (__file__, line_of(loss, "double(x)"))
    assert (report.function, report.source) == ("loss", "y = library.double(x)")
    inside = report.inside
    assert (inside.file, inside.line) == (library.__file__, 6)
    assert inside.source == "return jnp.log(x)"
    where = f"your line test_places.py:{report.line} in loss, inside layerlib/nn.py:6"
    assert report.place == report.chain[0].place == where
    assert where in " ".join(str(report).split()) and where in report._repr_html_()
    for text in (str(report), report._repr_html_()):
        assert text.count("y = library.double(x)") == 1
        assert text.count("return jnp.log(x)") == 1


def test_two_lines_of_a_library_are_two_places_for_one_line_of_the_users(library):
    jaxpr = jax.make_jaxpr(lambda x: library.double(x))(1.0)
    top = locate.Frame(jaxpr.jaxpr)
    assert len(jaxpr.eqns) == 2
    places = [locate.place_of(top, eqn) for eqn in jaxpr.eqns]
    reported = [locate.place_to_report(top, eqn) for eqn in jaxpr.eqns]
    assert len({place.where for place in places}) == 2
    assert {place.file for place in reported} == {__file__}


def test_without_a_line_of_the_users_a_librarys_line_is_the_place(library):
    report = explain(library.double, jnp.array(-1.0))
    assert (report.file, report.line) == (library.__file__, 6)
    assert report.inside is None
    assert report.place == "layerlib/nn.py:6 in layer"


def test_the_optimizers_line_alone():
    adam = optax.adam(1e-3)
    state = adam.init(jnp.ones(2))
    report = explain(lambda g: adam.update(g, state)[0], jnp.full(2, jnp.nan))
    assert report.file == __file__ and report.inside.file != __file__
    alone = explain(adam.update, jnp.full(2, 1e30), state)
    assert alone.file is None
    assert alone.place.startswith("no line of yours, inside optax/")
    assert f"inside optax/{alone.place.partition('inside optax/')[2]}" in str(alone)


def test_the_guard_shows_both_lines_of_an_eager_operation(library):
    with pytest.raises(NonFiniteError) as caught, nan_guard():
        library.eager(jnp.array(-1.0))  # here
    report = caught.value.report
    assert report.file == __file__ and report.source.endswith("# here")
    assert report.inside.source == "return jnp.sqrt(x)"


@pytest.mark.parametrize(
    ("file", "users"),
    [
        ("/mine/train.py", True),
        ("<ipython-input-5-0123abcd>", True),
        ("/opt/venv/lib/python3.11/site-packages/equinox/nn.py", False),
        ("/usr/lib/python3/dist-packages/numpyro/__init__.py", False),
        (textwrap.__file__, False),
        ("<frozen importlib._bootstrap>", False),
        (locate.__file__, False),
        (sys.modules["vaelab"].__file__, False),  # wherever it is installed
    ],
)
def test_whose_file_it_is(file, users):
    assert is_user_file(file) == users


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("/mine/train.py", "train.py:3"),
        ("/v/site-packages/optax/_src/base.py", "optax/_src/base.py:3"),
        ("<ipython-input-5-0123abcd>", "cell 5, line 3"),
        ("/tmp/ipython-input-12-2876473497.py", "cell 12, line 3"),
        ("/tmp/ipython-input-2876473497.py", "a cell, line 3"),
        ("/tmp/ipykernel_99/713594289.py", "a cell, line 3"),
        ("/mine/713594289.py", "713594289.py:3"),
    ],
)
def test_a_place_in_words(file, words):
    assert place_in_words(file, 3) == words


def test_a_cell_is_found_by_its_text_where_nothing_else_tells(monkeypatch):
    import linecache

    file, text = "/tmp/ipython-input-2876473497.py", "y = 1\nx = 2\n"
    shell = types.SimpleNamespace(
        compile=object(), user_ns={"In": ["", "y = 1\nx = 2", "x = 3", "y = 1\nx = 2"]}
    )
    module = types.SimpleNamespace(get_ipython=lambda: shell)
    monkeypatch.setitem(sys.modules, "IPython", module)
    lines = text.splitlines(keepends=True)
    monkeypatch.setitem(linecache.cache, file, (len(text), None, lines, file))
    assert place_in_words(file, 2) == "cell 3, line 2"
    shell.user_ns["In"] = []
    assert place_in_words(file, 2) == "a cell, line 2"


CELLS = [
    "import jax, jax.numpy as jnp\nfrom vaelab.debug import explain",
    "def loss(x):\n    y = x * 2\n    return jnp.log(y)",
    "report = explain(jax.jit(loss), -1.0)\nprint(report.place)\nreport",
]


def test_a_real_notebook_names_its_cells():
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3").execute()
    printed, shown = notebook.cells[-1].outputs
    assert printed.text == "cell 2, line 3 in loss\n"
    assert "cell 2, line 3 in loss" in shown.data["text/html"]
    assert "\nfirst NaN: log, forward pass\n" in shown.data["text/plain"]
