"""Reading an archive that anybody may have written.

A small file can claim to hold huge arrays, or hold one piece of data under a thousand
names. So nothing is read before its size is known to fit: each array takes as many
bytes as its shape and type need, is stored as it is (not compressed), and is read once.
What is read cannot be more than the file has.
"""

import json
import math
import os
import zipfile
from typing import Any

import jax.numpy as jnp
import numpy as np

__all__ = ["Archive"]

_HEADER = 1024  # more than NumPy writes before the bytes of an array


class Archive:
    """A `.npz` archive of bytes with a description, as `save_crash` writes it.

    Args:
        path: the file.

    Raises:
        ValueError: it is no such archive.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = open(path, "rb")  # noqa: SIM115 (closed by __exit__)
        try:
            self.zip = zipfile.ZipFile(self.file)
        except zipfile.BadZipFile:
            self.file.close()
            raise self.foreign() from None
        self.unread = {info.filename: info for info in self.zip.infolist()}
        size = os.path.getsize(path)
        if sum(info.file_size for info in self.unread.values()) > size:
            self.file.close()
            raise self.foreign("it claims to hold more than its own size")

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *_: Any) -> None:
        self.zip.close()
        self.file.close()

    def description(self, kind: str) -> Any:
        """What the JSON part says.

        Args:
            kind: what stands under `format` in it.

        Raises:
            ValueError: it is of another kind.
        """
        try:
            info = self.unread["description.npy"]
            found = json.loads(self._bytes("description", info.file_size))
            known = found["format"] == kind
            known &= isinstance(found["args"], list)
            known &= isinstance(found["kwargs"], dict)
        except (KeyError, ValueError, TypeError, RecursionError):
            raise self.foreign() from None
        if not known:
            raise self.foreign()
        return found

    def array(self, name: str, dtype: Any, shape: Any) -> np.ndarray:
        """An array of the archive.

        Args:
            name: under which it is stored.
            dtype: the name of its type.
            shape: its shape.

        Raises:
            ValueError: what is stored has another size, or was read before.
        """
        try:
            kind = jnp.dtype(dtype)
            is_shape = all(type(n) is int and n >= 0 for n in shape)
        except TypeError:
            raise self.foreign(f"{name} has no type or no shape") from None
        if kind.hasobject or not kind.itemsize or not is_shape:
            raise self.foreign(f"{name} is of type {dtype}")
        size = math.prod(shape) * kind.itemsize
        data = bytearray(self._bytes(name, size))
        if len(data) != size:
            raise self.foreign(f"{name} holds {len(data)} bytes instead of {size}")
        return np.frombuffer(data, kind).reshape(shape)

    def _bytes(self, name: str, size: int) -> bytes:
        """The bytes of one array, of which there may be `size` at most."""
        info = self.unread.pop(f"{name}.npy", None)
        if info is None:
            raise self.foreign(f"{name} is missing, or stands there twice")
        if info.compress_type != zipfile.ZIP_STORED:
            raise self.foreign(f"{name} is compressed")
        if info.file_size > size + _HEADER:
            raise self.foreign(f"{name} is larger than its shape and type say")
        with self.zip.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            if version != (1, 0):
                raise self.foreign(f"{name} has an unknown header")
            _, _, kind = np.lib.format.read_array_header_1_0(stream)
            if kind != np.uint8:
                raise self.foreign(f"{name} is of type {kind}")
            return stream.read()

    def foreign(self, why: str = "") -> ValueError:
        """The error for a file that somebody else wrote, or changed."""
        because = f": {why}" if why else ""
        return ValueError(f"{self.path} is no file of save_crash{because}")
