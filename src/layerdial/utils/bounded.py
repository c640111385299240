"""A map that holds values up to a number of bytes."""

from __future__ import annotations

from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class BoundedMap(Generic[Key, Value]):
    """Values by key, up to `max_bytes` in all; values that come after that are not kept.

    No value is removed for a newer one: where a corpus is iterated again and again in another order, the newer one is
    no more likely to be needed.
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
