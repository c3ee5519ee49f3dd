"""What the numbers were measured on."""

import os
import pathlib
import platform
import subprocess
from importlib import metadata
from typing import Any

PACKAGES = (
    "vaelab",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "numpy",
    "equinox",
    "brainstate",
    "braintools",
    "keras",
    "torch",
)


def describe() -> dict[str, Any]:
    """Names the processor, the accelerator if there is one, and all versions.

    `load` is how many processes were at work in the last minute: others on the machine
    slow everyone down, and most of all who waits for all cores at each step.
    """
    return {
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        "accelerator": _accelerator(),
        "versions": {"python": platform.python_version()} | _versions(),
    }


def _processor() -> str:
    """The model's name; `platform` alone says no more than x86_64 on Linux."""
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return platform.processor() or platform.machine()


def _accelerator() -> str | None:
    """What JAX computes on, if not the processor. Called in a fresh process."""
    import jax

    device = jax.devices()[0]
    return None if device.platform == "cpu" else device.device_kind


def _versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions
