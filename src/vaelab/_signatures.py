"""What a constructor takes, as an editor shows it."""

import inspect
from typing import Any


class ConstructorSignature:
    """The signature of a class's constructor, where NNX shows `(*args, **kwargs)`.

    It is worked out for each class, so that one that inherits shows its own.
    """

    def __get__(self, instance: Any, owner: type) -> inspect.Signature:
        """Returns that of the class, or for an instance that of calling it."""
        method = owner.__init__ if instance is None else owner.__call__
        signature = inspect.signature(method)
        return signature.replace(parameters=list(signature.parameters.values())[1:])
