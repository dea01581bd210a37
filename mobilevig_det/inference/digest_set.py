"""Deduplicate long streams of file names in a few bytes of memory per name."""

import hashlib
from collections.abc import Iterable

import numpy as np

MIN_RECENT = 2**8  # digests in a Python set, which takes some 80 bytes each


class DigestSet:
    """Set of strings that stores a 64-bit digest of each instead of the string.

    Two of ten million names collide once in some 400,000 such sets. Digests are a
    sorted array and, until they are merged, a small set: 8 to 20 bytes each.

    Args:
        names (Iterable[str]): The first names. Defaults to ().
    """

    def __init__(self, names: Iterable[str] = ()) -> None:
        self._sorted = np.zeros(0, np.uint64)
        self._recent: set[int] = set()
        for name in names:
            self.add(name)

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def __contains__(self, name: object) -> bool:
        return self._has(digest_of(str(name)))

    def add(self, name: str) -> bool:
        """Add a name; return whether it is new."""
        digest = digest_of(name)
        if self._has(digest):
            return False
        self._recent.add(digest)
        if len(self._recent) > max(MIN_RECENT, len(self._sorted) // 16):
            self._sorted = self.digests
            self._recent = set()
        return True

    @property
    def digests(self) -> np.ndarray:
        """All digests, sorted; uint64."""
        recent = np.fromiter(self._recent, np.uint64, len(self._recent))
        return np.sort(np.concatenate([self._sorted, recent]))

    @classmethod
    def from_digests(cls, digests: np.ndarray) -> 'DigestSet':
        """Return the set of sorted :attr:`digests`."""
        result = cls()
        result._sorted = digests
        return result

    def _has(self, digest: int) -> bool:
        if digest in self._recent:
            return True
        place = int(np.searchsorted(self._sorted, np.uint64(digest)))
        return place < len(self._sorted) and int(self._sorted[place]) == digest


def digest_of(name: str) -> int:
    """Return the 64-bit digest of a name, which may have surrogates."""
    data = name.encode(errors='surrogatepass')
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), 'little')
