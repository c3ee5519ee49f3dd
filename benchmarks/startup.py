"""How long it takes from `import vaelab` to the end of the first epoch.

    python benchmarks/startup.py [--rounds 5]

Each measurement is a fresh process, without a compilation cache. The rounds alternate
between the contestants; the table shows medians in seconds, and the ratio of the import
to that of what vaelab is built on.
"""

import argparse
import os
import statistics
import subprocess
import sys

FOUNDATIONS = "import flax.nnx, optax"
IMPORT = "import vaelab"
FIRST_EPOCH = """
import optax
import vaelab
from flax import nnx

model = vaelab.VAE((8, 8), 32, 8, rngs=nnx.Rngs(0, noise=1))
images = vaelab.data.load_digits().train
vaelab.fit(
    model, images, epochs=1, batch_size=128, optimizer=optax.adam(1e-3), progress=False
)
"""


def seconds(code: str) -> float:
    """Wall time of some code in a fresh process, without the start of Python."""
    timed = (
        f"import time; start = time.perf_counter()\n{code}\n"
        "print(time.perf_counter() - start)"
    )
    cacheless = {k: v for k, v in os.environ.items() if "COMPILATION_CACHE" not in k}
    done = subprocess.run(
        [sys.executable, "-c", timed],
        env=cacheless,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split()[-1])


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    contestants = {
        FOUNDATIONS: FOUNDATIONS,
        IMPORT: IMPORT,
        "to the first epoch's end": FIRST_EPOCH,
    }
    taken = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, code in contestants.items():
            taken[name].append(seconds(code))
    for name, times in taken.items():
        print(f"{name:26}{statistics.median(times):6.2f} s")
    ratios = [b / a for a, b in zip(taken[FOUNDATIONS], taken[IMPORT], strict=True)]
    print(f"the import, in those of its foundations: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
