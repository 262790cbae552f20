"""Keep what belongs to a fixed image, for the next registrations to the same image."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["Kept"]

T = TypeVar("T")


class Kept:
    """Intermediate results of one fixed image: voxels, working copies, descriptors, spanning trees, organs.

    They are looked up by all that they depend on beside the image, so that a registration gives the same bytes with
    them as without. Whoever holds a ``Kept`` makes a new one for another fixed image or mask. Of more than ``most``
    results the one that was not used for longest makes way: moving images of different sizes need working copies of
    their own.
    """

    def __init__(self, most: int = 4) -> None:
        self.most = most
        self._found: OrderedDict[Hashable, Any] = OrderedDict()

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the results behind when it is pickled."""
        return Kept, (self.most,)

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result of a key; make it the first time."""
        if key not in self._found:
            self._found[key] = make()
            while len(self._found) > self.most:
                self._found.popitem(last=False)
        self._found.move_to_end(key)
        return self._found[key]
