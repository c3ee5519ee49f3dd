"""Draws the README's picture by running the README's first example.

python docs/picture.py
"""

import re
from pathlib import Path

from matplotlib import pyplot

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Writes docs/images/digits.png."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    example = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[0]
    pyplot.rcParams["savefig.bbox"] = "tight"
    pyplot.rcParams["savefig.dpi"] = 120
    picture = ROOT / "docs" / "images" / "digits.png"
    exec(example.replace('"digits.png"', repr(str(picture))), {})


if __name__ == "__main__":
    main()
