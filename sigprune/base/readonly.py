"""Mappings that cannot be changed and, unlike ``types.MappingProxyType``, can be pickled and copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class ReadOnlyDict(Mapping[K, V]):
    """A mapping without methods that change it, in the order of what it was made from.

    Example:
        >>> import pickle
        >>> kept = ReadOnlyDict({"fc.weight": 3})
        >>> kept["fc.weight"], pickle.loads(pickle.dumps(kept)) == kept
        (3, True)
        >>> kept["fc.weight"] = 4
        Traceback (most recent call last):
        TypeError: 'ReadOnlyDict' object does not support item assignment
    """

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[K, V]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: K) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._items!r})"

    def __reduce__(self) -> tuple[Callable[[Mapping[K, V]], ReadOnlyDict[K, V]], tuple[dict[K, V]]]:
        return type(self), (self._items,)
