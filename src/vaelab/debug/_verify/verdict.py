"""Is everything finite now, and what was finite before as it was?"""

import itertools
from enum import IntEnum
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from vaelab.debug._lineage.findings import Findings
from vaelab.debug._replay.arrays import bad_mask, kinds, to_numpy
from vaelab.debug._replay.events import CLEAN
from vaelab.debug._replay.interpreter import Replay
from vaelab.debug._trace.jaxprs import fresh_traces, open_jaxpr, silenced
from vaelab.debug._trace.locate import Frame

__all__ = ["Verdict", "new_key", "verdict_of"]

_number = itertools.count()


def new_key() -> str:
    """A key under which functions are traced anew."""
    return f"trial {next(_number)}"


class Verdict(IntEnum):
    """What a trial came to."""

    BAD = 0
    FINITE = 1  # but some of what was finite before has changed
    GOOD = 2


def verdict_of(found: Findings) -> Verdict:
    """What the call as it is now comes to.

    It runs operation by operation, which costs far less than a compilation. In half
    precision the compiled call, whose sums are taken in other types, has the last word.
    """
    call = found.call
    before = list(call.out_paths), list(call.out_states)
    try:
        with fresh_traces(new_key()):
            closed = jax.make_jaxpr(call.flat)(call.leaves)
        closed, _ = silenced(closed)
        jaxpr, consts = open_jaxpr(closed)
        if list(call.out_paths) != before[0]:
            return Verdict.BAD
        wanted = [not bad or k in found.suspects for k, bad in enumerate(found.bad)]
        clean = [CLEAN] * len(call.leaves)
        values, _ = Replay().run(Frame(jaxpr), consts, call.leaves, clean, wanted)
        if not _all_finite(values, wanted):
            return Verdict.BAD
        root = found.root
        if "float32" not in root.result.dtype or root.compiled_only:
            values = jax.jit(core.jaxpr_as_fun(closed))(*call.leaves)
            if not _all_finite(values, wanted):
                return Verdict.BAD
        pairs = zip(values, found.outs, strict=True)
        same = all(_agree(new, old) for new, old in pairs if new is not None)
        return Verdict.GOOD if same else Verdict.FINITE
    except Exception:  # a candidate may fail in any way: then it is none
        return Verdict.BAD
    finally:
        call.out_paths, call.out_states = before


def _all_finite(values: list[Any], wanted: list[bool]) -> bool:
    pairs = zip(values, wanted, strict=True)
    return not any(any(kinds(x)) for x, is_wanted in pairs if is_wanted)


def _agree(new: Any, old: Any) -> bool:
    """Whether what was finite is still the same, but for rounding."""
    if not jnp.issubdtype(old.dtype, jnp.inexact) or np.shape(new) != old.shape:
        return np.shape(new) == old.shape
    tolerance = float(jnp.finfo(old.dtype).eps) ** 0.5
    fine = ~bad_mask(old)
    wide = np.complex128 if jnp.issubdtype(old.dtype, jnp.complexfloating) else float
    was, now = (to_numpy(array)[fine].astype(wide) for array in (old, new))
    largest = np.abs(was).max(initial=0) or 1
    return np.allclose(now, was, rtol=0, atol=tolerance * largest)
