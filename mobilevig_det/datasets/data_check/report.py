"""What the checks have found."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

# DataReport.add for one file
Add = Callable[..., None]


class Finding(NamedTuple):
    kind: str  # what is wrong, the same for all of a kind
    stops: bool
    file: str
    record: str  # which one: 'annotation 17 (image 3)'
    detail: str

    def __str__(self) -> str:
        return ': '.join(
            part for part in (self.file, self.record, self.kind, self.detail) if part
        )


class DataReport:
    """The findings, in the order in which they were made."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def add(
        self, kind: str, stops: bool, record: str = '', detail: str = '', *, file: str
    ) -> None:
        self.findings.append(Finding(kind, stops, file, record, detail))

    @property
    def stopping(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.stops]

    def by_kind(self) -> dict[tuple, list[Finding]]:
        """Findings by (stops, file, kind), those that stop first."""
        groups: dict[tuple, list[Finding]] = {}
        for finding in self.findings:
            key = (finding.stops, finding.file, finding.kind)
            groups.setdefault(key, []).append(finding)
        return dict(sorted(groups.items(), key=lambda item: not item[0][0]))


def some(names: Sequence[str], number: int = 8) -> str:
    """The first names, and how many more there are."""
    text = ', '.join(map(repr, names[:number])) or 'none'
    more = len(names) - number
    return text + (f', … ({more} more)' if more > 0 else '')
