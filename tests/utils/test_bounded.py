"""A bounded map keeps what came first, up to its bytes."""

from __future__ import annotations

from layerdial.utils.bounded import BoundedMap


def test_values_are_kept_until_the_bytes_are_used_and_none_is_removed_for_a_newer_one() -> None:
    kept = BoundedMap[str, int](max_bytes=10)
    assert kept.put("a", 1, 6) and kept.put("b", 2, 4)
    assert not kept.put("c", 3, 1)
    assert [kept.get(key) for key in "abc"] == [1, 2, None]
    assert kept.values() == [1, 2]
