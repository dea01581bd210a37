"""The report of a reproduction: JSON that a later run resumes from, and Markdown."""

import dataclasses
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from mobilevig_det.errors import UserError
from mobilevig_det.io import atomic_write_text

from .figures import INFORMATION, MISSED, NOT_CHECKED, REPRODUCED, Figure

VERDICTS = (REPRODUCED, MISSED, NOT_CHECKED, INFORMATION)
# Entries of a row that was measured on images, beyond those of the published figure.
MEASURED = ('measured', 'interval', 'images', 'of', 'file', 'key')
HEADER = 'config figure published measured difference tolerance verdict source'.split()
FORMAT = 'mobilevig_det reproduction 1'


class Report:
    """The rows of a folder's report, which is written after each change.

    Rows that were measured on another machine, or with other versions, are discarded.

    Args:
        folder (Path): Gets reproduce.json and reproduce.md.
        environment (dict): Machine and versions.

    Raises:
        UserError: If reproduce.json exists but was not written by this version.
    """

    def __init__(self, folder: Path, environment: dict[str, object]) -> None:
        self.json, self.markdown = folder / 'reproduce.json', folder / 'reproduce.md'
        self.environment = environment
        self.rows: dict[str, dict] = {}
        folder.mkdir(parents=True, exist_ok=True)
        if not self.json.is_file():
            return
        try:
            content = json.loads(self.json.read_text(encoding='utf-8'))
            if content['format'] != FORMAT:
                raise ValueError(f'its format is {content["format"]!r}')
            content['environment']['threads'] = environment['threads']  # may differ
            if content['environment'] == environment:
                self.rows = {row['id']: row for row in content['figures']}
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f'{self.json} is not a report of this version of reproduce.py '
                f'({error}). Move it away, or give another --out-dir.'
            ) from None

    def measured(self, figure: Figure) -> dict:
        """Return what an earlier run measured of a figure; empty if none did."""
        row = self.rows.get(figure.id, {})
        return {name: row[name] for name in MEASURED if 'key' in row}

    def add(self, figure: Figure, verdict: str, **measured) -> None:
        """Set a figure's row and write both files."""
        if figure.published is not None and 'measured' in measured:
            measured['difference'] = measured['measured'] - figure.published
        self.rows[figure.id] = dict(
            dataclasses.asdict(figure), id=figure.id, verdict=verdict, **measured
        )
        self.write()

    def write(self) -> None:
        """Write the reports in JSON and Markdown."""
        content = dict(format=FORMAT, environment=self.environment)
        content['figures'] = list(self.rows.values())
        text = json.dumps(content, indent=1, ensure_ascii=False) + '\n'
        atomic_write_text(self.json, text)
        atomic_write_text(self.markdown, self.text())

    def text(self) -> str:
        """Format the report in Markdown."""
        rows = list(self.rows.values())
        found = Counter(row['verdict'] for row in rows)
        counts = ', '.join(f'{found[v]} {v}' for v in VERDICTS if found[v])
        files = {row['file']['sha256']: row['file'] for row in rows if row.get('file')}
        reasons: dict[str, list[str]] = defaultdict(list)
        for row in rows:
            if 'reason' in row:
                reasons[row['reason']].append(row['id'])
        parts = ['# Published figures, measured again', f'{counts}.']
        parts.append(_table(HEADER, map(_cells, rows)))
        if files:
            cells = [(f['name'], f['bytes'], f['sha256']) for f in files.values()]
            parts.append(_table(('file', 'bytes', 'SHA-256'), cells))
        if reasons:
            listed = {'; '.join(ids): why for why, ids in reasons.items()}
            parts += ['Why some were not checked:', _list(listed)]
        parts += ['Measured on:', _list(self.environment)]
        return '\n\n'.join(parts) + '\n'


def _list(entries: dict) -> str:
    return '\n'.join(f'- {name}: {value}' for name, value in entries.items())


def _table(header: Sequence[str], rows: Iterable[Sequence]) -> str:
    lines = [header, ['---'] * len(header), *rows]
    return '\n'.join(f'| {" | ".join(map(str, cells))} |' for cells in lines)


def _number(value: float | None, form: str = '.2f') -> str:
    if value is None:
        return '–'
    return str(value) if isinstance(value, int) else f'{value:{form}}'


def _cells(row: dict) -> list[str]:
    measured = _number(row.get('measured'))
    if row.get('interval'):
        low, high = row['interval']
        share = f'{row["images"]} of {row["of"]} images'
        measured += f' ({low:.2f} to {high:.2f}, 95 %: {share})'
    return [
        row['config'],
        row['quantity'],
        _number(row['published'], '.1f'),
        measured,
        _number(row.get('difference'), '+.2f'),
        _number(row['tolerance']),
        row['verdict'],
        row['source'],
    ]
