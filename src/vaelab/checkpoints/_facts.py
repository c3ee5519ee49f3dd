"""The facts of a checkpoint: JSON with a version and checksums."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

FORMAT = 2


class OtherFormatError(ValueError):
    """A whole checkpoint, but of another version of vaelab or of nobody's."""


def sealed(facts: Mapping[str, Any], arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns facts with their version and the checksums of the arrays.

    Args:
        facts: what goes into JSON.
        arrays: arrays by their names, in groups.
    """
    return {"format": FORMAT, **facts, "checksums": checksums(arrays)}


def checked(facts: Any) -> dict[str, Any]:
    """Returns facts, if they are of this version and say what a run or `save` writes.

    Raises:
        OtherFormatError: they are not.
    """
    version = facts.get("format") if isinstance(facts, dict) else None
    if version != FORMAT:
        raise OtherFormatError(
            f"it has format {version!r} and this vaelab reads format {FORMAT}: use the "
            "vaelab that wrote it"
        )
    _check(facts)
    return facts


def checksums(arrays: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Returns a checksum for the dtype, the shape and the bytes of each array."""
    return {
        group: {name: _checksum(array) for name, array in named.items()}
        for group, named in arrays.items()
    }


def _checksum(array: Any) -> str:
    array = np.asarray(array)
    digest = hashlib.sha256(f"{array.dtype} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _check(facts: dict[str, Any]) -> None:
    kind = facts.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise OtherFormatError(f"its kind is {kind!r}: it is no checkpoint of vaelab")
    for name, is_right in {**_MODEL, **_KINDS[kind]}.items():
        if name not in facts or not is_right(facts[name]):
            seen = repr(facts[name])[:60] if name in facts else "missing"
            raise OtherFormatError(
                f"its {name} is {seen}, which vaelab never writes: train anew, in "
                "another folder"
            )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _optional(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_right(value)


def _list_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(is_right, value))


def _dict_of(is_right: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: _is_dict(value) and all(map(is_right, value.values()))


def _is_callback(value: Any) -> bool:
    return _is_dict(value) and _is_text(value.get("class")) and "state" in value


_MODEL: dict[str, Callable[[Any], bool]] = {
    "model": _optional(_is_dict),
    "keys": _dict_of(_is_text),
    "checksums": _dict_of(_dict_of(_is_text)),
}
_RUN: dict[str, Callable[[Any], bool]] = {
    "data": _is_dict,
    "settings": _is_dict,
    "stream": lambda value: True,
    "epoch": _is_count,
    "step": _is_count,
    "history": _dict_of(_list_of(_is_number)),
    "learning_rate_scale": _is_number,
    "sums": _dict_of(lambda value: _list_of(_is_number)(value) and len(value) == 2),
    "steps_in_epoch": _is_count,
    "callbacks": _list_of(_is_callback),
    "best_step": _optional(_is_count),
}
_KINDS = {"model": {}, "run": _RUN}
