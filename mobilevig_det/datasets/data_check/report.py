"""Findings of the data checks."""

import reprlib
from collections.abc import Sequence
from typing import NamedTuple

MAX_LENGTH = 400  # characters of a detail


class Finding(NamedTuple):
    """One thing that is wrong with the data.

    Attributes:
        kind: What is wrong, in the same words for all findings of a kind.
        stops: Whether it stops training. If not, it is tolerated.
        file: The split and the file.
        record: The record in the file, such as ``annotation 17 (image 3)``. May be
            empty.
        detail: What was found there. May be empty.
    """

    kind: str
    stops: bool
    file: str
    record: str
    detail: str

    def __str__(self) -> str:
        parts = self.file, self.record, self.kind, self.detail
        return ': '.join(part for part in parts if part)


class DataReport:
    """Result of the data checks.

    Attributes:
        findings (list[Finding]): What is wrong, in the order in which it was found.
        counts (list[str]): What each file holds, a line for each.
        skipped (list[str]): What could not be checked, and why.
    """

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.counts: list[str] = []
        self.skipped: list[str] = []

    @property
    def stopping(self) -> list[Finding]:
        """The findings that stop training."""
        return [finding for finding in self.findings if finding.stops]

    def by_kind(self) -> dict[tuple[bool, str, str], list[Finding]]:
        """Group findings by (stops, file, kind), those that stop training first."""
        groups: dict[tuple[bool, str, str], list[Finding]] = {}
        for finding in self.findings:
            key = (finding.stops, finding.file, finding.kind)
            groups.setdefault(key, []).append(finding)
        return dict(sorted(groups.items(), key=lambda item: not item[0][0]))


class FileReport:
    """Add the findings of one file to a report.

    Args:
        report (DataReport): Gets the findings.
        file (str): Name of the file, and of the split that it belongs to.
    """

    def __init__(self, report: DataReport, file: str) -> None:
        self._report = report
        self._file = file

    @property
    def stops(self) -> bool:
        """Whether a finding of this file stops training."""
        return any(f.stops and f.file == self._file for f in self._report.findings)

    def add(self, kind: str, stops: bool, record: str = '', detail: str = '') -> None:
        """Add a :class:`Finding`."""
        texts = printable(record), printable(detail)
        self._report.findings.append(Finding(kind, stops, self._file, *texts))

    def error(self, kind: str, record: str = '', detail: str = '') -> None:
        """Add a finding that stops training."""
        self.add(kind, True, record, detail)

    def warning(self, kind: str, record: str = '', detail: str = '') -> None:
        """Add a finding that is tolerated."""
        self.add(kind, False, record, detail)

    def count(self, text: str) -> None:
        """Add what was counted in the file."""
        self._report.counts.append(printable(f'{self._file}: {text}'))

    def skip(self, reason: str) -> None:
        """Add that something could not be checked."""
        self._report.skipped.append(printable(f'{self._file}: {reason}'))


def printable(text: str) -> str:
    """Return text on one line that any terminal shows, at most ``MAX_LENGTH`` long."""
    if len(text) > MAX_LENGTH:
        text = text[: MAX_LENGTH - 2] + ' …'
    return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def short(value) -> str:
    """Return a value of an annotation file as a short text."""
    return value if isinstance(value, str) else reprlib.repr(value)


def first_few(names: Sequence[str], number: int = 8) -> str:
    """Return the first names, and how many others there are, as text."""
    text = ', '.join(map(repr, names[:number])) or 'none'
    more = len(names) - number
    return text + (f', … ({more} more)' if more > 0 else '')
