"""What was measured, in a JSON file that a later run goes on from, and in
Markdown for an issue."""

import json
import os
from pathlib import Path

from mobilevig_det.errors import UserError

from .figures import Figure
from .verdicts import INFORMATION, MISSED, NOT_CHECKED, REPRODUCED

VERDICTS = (REPRODUCED, MISSED, NOT_CHECKED, INFORMATION)
# What a row has beside the published figure, once it is measured on images.
MEASURED = ('measured', 'interval', 'images', 'of', 'file', 'key')
FORMAT = 'mobilevig_det reproduction 1'


class Report:
    """The rows of a folder's report, written anew after each change.

    Rows that were measured elsewhere, or with other versions, are forgotten: a
    report is of one machine.

    Args:
        folder (Path): Gets reproduce.json and reproduce.md.
        environment (dict): Machine and versions.

    Raises:
        UserError: If there is another reproduce.json.
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
            if _same(content['environment'], environment):
                self.rows = {row['id']: row for row in content['figures']}
        except (ValueError, LookupError, TypeError) as error:
            raise UserError(
                f'{self.json} is no report of this version of reproduce.py ({error}): '
                'move it away, or give another --out-dir.'
            ) from None

    def measured(self, figure: Figure) -> dict:
        """What an earlier run measured of a figure; empty if none did."""
        row = self.rows.get(figure.id, {})
        return {name: row[name] for name in MEASURED if 'key' in row}

    def add(self, figure: Figure, verdict: str, **measured) -> None:
        """Set a figure's row, and write both files."""
        if figure.published is not None and 'measured' in measured:
            measured['difference'] = measured['measured'] - figure.published
        self.rows[figure.id] = dict(
            id=figure.id,
            config=figure.config,
            quantity=figure.quantity,
            published=figure.published,
            source=figure.source,
            tolerance=figure.tolerance,
            verdict=verdict,
            **measured,
        )
        self.write()

    def write(self) -> None:
        content = dict(
            format=FORMAT,
            environment=self.environment,
            figures=list(self.rows.values()),
        )
        _write(self.json, json.dumps(content, indent=1, ensure_ascii=False) + '\n')
        _write(self.markdown, self.text())

    def text(self) -> str:
        """The whole report in Markdown."""
        rows = self.rows.values()
        found = [row['verdict'] for row in rows]
        counts = [f'{found.count(v)} {v}' for v in VERDICTS if v in found]
        lines = ['# Published figures, measured again', '', ', '.join(counts) + '.', '']
        lines += [
            '| config | figure | published | measured | difference | tolerance '
            '| verdict | source |',
            '|---|---|---|---|---|---|---|---|',
            *map(_table_row, rows),
        ]
        files = {row['file']['sha256']: row['file'] for row in rows if row.get('file')}
        if files:
            lines += ['', '| file | bytes | SHA-256 |', '|---|---|---|']
            lines += [
                f'| {file["name"]} | {file["bytes"]} | {sha256} |'
                for sha256, file in files.items()
            ]
        reasons: dict[str, list[str]] = {}
        for row in rows:
            if row.get('reason'):
                reasons.setdefault(row['reason'], []).append(row['id'])
        if reasons:
            lines += ['', 'Why some were not checked:', '']
            lines += [f'- {"; ".join(ids)}: {why}' for why, ids in reasons.items()]
        lines += ['', 'Measured on:', '']
        lines += [f'- {name}: {value}' for name, value in self.environment.items()]
        return '\n'.join(lines) + '\n'


def _number(value: float | None, form: str = '.2f') -> str:
    if value is None:
        return '–'
    return str(value) if isinstance(value, int) else f'{value:{form}}'


def _table_row(row: dict) -> str:
    measured = _number(row.get('measured'))
    if row.get('interval'):
        low, high = row['interval']
        measured += (
            f' ({low:.2f} to {high:.2f}, 95 %: {row["images"]} of {row["of"]} images)'
        )
    cells = [
        row['config'],
        row['quantity'],
        _number(row['published'], '.1f'),
        measured,
        _number(row.get('difference'), '+.2f'),
        _number(row['tolerance']),
        row['verdict'],
        row['source'],
    ]
    return f'| {" | ".join(cells)} |'


def _same(one: dict, other: dict) -> bool:
    """Whether two environments are the same, however busy."""
    ones, others = ({**each, 'threads': None} for each in (one, other))
    return ones == others


def _write(path: Path, text: str) -> None:
    """In one move, so that no half of it is left."""
    part = path.with_name(f'{path.name}.part')
    part.write_text(text, encoding='utf-8')
    os.replace(part, path)
