"""Executes one notebook and writes it as a web page.

    python notebooks/run.py 01_digits_vae

prints the output of the notebook's last cell and where the page is.
"""

import sys
from pathlib import Path

import jupytext
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from traitlets.config import Config

HERE = Path(__file__).resolve().parent


def main(name: str) -> None:
    """Runs `notebooks/<name>.md` and writes `build/notebooks/<name>.html`."""
    notebook = jupytext.read(HERE / f"{name}.md")
    without_ports = Config({"KernelManager": {"transport": "ipc"}})
    NotebookClient(notebook, timeout=600, config=without_ports).execute()
    page = HERE.parent / "build" / "notebooks" / f"{name}.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")
    last_cell = [cell for cell in notebook.cells if cell.cell_type == "code"][-1]
    print("".join(output.get("text", "") for output in last_cell.outputs).strip())
    print(f"The rendered page is {page.as_uri()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
