"""Which names were there before, without holding the names."""

import hashlib
from array import array

EMPTY = 0


def digest_of_name(name: str) -> int:
    """Of 8 bytes, never 0. Of ten million names two are alike once in some 400,000
    times."""
    data = name.encode(errors='surrogatepass')
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, 'little') or 1


class SeenNames:
    """A set of names that only grows: 12 to 24 bytes each, however long they are.

    Python's own set of as many numbers takes five times that.
    """

    def __init__(self) -> None:
        self._table = array('Q', [EMPTY]) * 1024
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, name: str) -> bool:
        """Whether it is a new one."""
        digest = digest_of_name(name)
        place = self._place(digest)
        if self._table[place] == digest:
            return False
        self._table[place] = digest
        self._count += 1
        if 3 * self._count > 2 * len(self._table):
            old = self._table
            self._table = array('Q', [EMPTY]) * (2 * len(old))
            for digest in old:
                if digest != EMPTY:
                    self._table[self._place(digest)] = digest
        return True

    def _place(self, digest: int) -> int:
        """Where it is, or would be: the first that is its own or empty."""
        table, last = self._table, len(self._table) - 1
        place = digest & last
        while table[place] not in (EMPTY, digest):
            place = (place + 1) & last
        return place
