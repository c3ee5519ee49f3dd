"""The README's code runs, notebook pairs agree, and no file names a registry."""

import re
import subprocess
from pathlib import Path

import jupytext
import numpy as np
import pytest
from matplotlib import pyplot

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.md"))


def test_the_readmes_code_does_what_it_says(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names, text = {}, (ROOT / "README.md").read_text(encoding="utf-8")
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", text, re.S)):
        script = tmp_path / f"block{i}.py"
        script.write_text(block)
        exec(compile(block, script, "exec"), names)
    picture = pyplot.imread("digits.png")
    assert np.ptp(picture) == 1
    assert names["terms"].elbo.mean() > -21
    printed = re.search(r"```text\n(.*?)```", text, re.S)[1]
    assert printed in capsys.readouterr().out


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_pairs_are_in_sync(source):
    pair = jupytext.read(source.with_suffix(".ipynb"))

    def cells(notebook):
        return [
            (cell.cell_type, cell.source, cell.metadata.get("tags", []))
            for cell in notebook.cells
        ]

    assert cells(pair) == cells(jupytext.read(source))
    assert not any(cell.get("outputs") for cell in pair.cells)


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_states_its_time_and_its_numbers_and_asserts_them(source):
    first, last = [
        "\n".join(cell.source for cell in cells)
        for cells in (lambda c: (c[:1], c[-1:]))(jupytext.read(source).cells)
    ]
    assert "**Runs in**" in first
    assert "**Expect**" in first
    assert last.count("assert ") >= 3


@pytest.mark.parametrize("source", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_the_wheel_beside_it_and_no_other_package(source):
    code = [cell.source for cell in jupytext.read(source).cells]
    first = next(cell for cell in code if "find_spec" in cell)
    assert 'glob.glob("vaelab-*.whl")' in first
    assert "find-links" not in first and '"vaelab"]' not in first


def test_no_file_records_a_registry_or_a_machines_path():
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    forbidden = re.compile(
        r"pypi\.org|pythonhosted|index-url|registry\.npmjs|/root/|/home/\w+/|find-links\W+/"
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 20
    for file in files:
        if file.is_file() and file.suffix != ".png" and file != Path(__file__):
            match = forbidden.search(file.read_text(encoding="utf-8"))
            assert match is None, f"{file.name}: {match}"


def test_contributing_fits_on_a_page():
    lines = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 45
