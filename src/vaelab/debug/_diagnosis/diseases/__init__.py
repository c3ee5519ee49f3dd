"""One disease per file: `DISEASE` says when it is one, in which words, what helps.

A file that is put here is found by itself. Its program goes into `tests/debug/corpus`.
"""

import importlib
import pkgutil
from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache
from graphlib import TopologicalSorter

from vaelab.debug._diagnosis.disease import Disease, Remedy

__all__ = ["diseases", "remedies"]


@lru_cache(maxsize=1)
def diseases() -> Mapping[str, Disease]:
    """All of them by name, in the order in which they are asked."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found: dict[str, Disease] = {
        name: importlib.import_module(f"{__name__}.{name}").DISEASE for name in names
    }
    earlier: dict[str, list[str]] = {name: [] for name in names}
    for name, disease in found.items():
        for later in disease.before:
            earlier[later].append(name)
    order = list(TopologicalSorter(earlier).static_order())
    order.sort(key=lambda name: found[name].rank)
    return {name: found[name] for name in order}


@lru_cache(maxsize=1)
def remedies() -> Mapping[str, tuple[Remedy, ...]]:
    """What they write instead, by what stands in the source."""
    found: dict[str, list[Remedy]] = defaultdict(list)
    for disease in diseases().values():
        for name, remedy in disease.remedies.items():
            found[name].append(remedy)
    return {name: tuple(there) for name, there in found.items()}
