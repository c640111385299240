"""A map that holds values up to a number of bytes."""

from __future__ import annotations

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedMap(Generic[Key, Value]):
    """Values by key until `max_bytes` are used up; what comes then is not kept, and what is kept stays.

    Nothing is thrown out for newer values: where a corpus is gone through again and again in another order, those would
    be no likelier to be asked for.
    """

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._values: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """Return the value of `key`, or None where it was not kept."""
        return self._values.get(key)

    def put(self, key: Key, value: Value, n_bytes: int) -> bool:
        """Keep a value of `n_bytes` if there is room; return whether it is kept."""
        self._left -= n_bytes
        if self._left < 0:
            return False
        self._values[key] = value
        return True

    def values(self) -> list[Value]:
        """Return what is kept, in the order in which it came."""
        return list(self._values.values())
