"""Settings that records depend on: ``--resume`` never mixes those of two models."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..checkpoints import find_file
from ..errors import UserError

FORMAT = 2  # of the records; others are not resumed


def settings_of(
    cfg: Config | None,
    checkpoint: str,
    categories: Mapping[int, str],
    score_thr: float,
    **more: Any,
) -> dict[str, Any]:
    """Return what records depend on, as JSON represents it.

    Args:
        cfg (Config | None): As it was read, with --cfg-options.
        checkpoint (str): A file, an address or a name; its content counts.
        categories (Mapping[int, str]): Names of the classes, by id.
        score_thr (float): Detections that score less are not in the records.
        **more: What else must not change.
    """
    settings = dict(
        format=FORMAT,
        weights=_content(find_file(checkpoint)),
        score_thr=score_thr,
        **more,
        categories=categories,
    )
    if cfg is not None:
        settings['model'] = cfg.model.to_dict()
        settings['pipeline'] = cfg.test_dataloader.dataset.get('pipeline')
    return json.loads(json.dumps(settings, default=str))


def check_settings(
    folder: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Refuse to resume records that were made with other settings.

    Args:
        folder (str): Its name, for the message.
        before (Mapping): What :func:`settings_of` returned then.
        now (Mapping): What it returns now.

    Raises:
        UserError: With the differences.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    old.pop('finished', None)
    differences = [
        f'{key} was {_short(old, key)} and is {_short(new, key)}'
        for key in (*new, *(key for key in old if key not in new))
        if (key in old, old.get(key)) != (key in new, new.get(key))
    ]
    if differences:
        more = '; …' if len(differences) > 3 else ''
        raise UserError(
            f'{folder} is of another model or other settings, and --resume would mix '
            f'the two: {"; ".join(differences[:3])}{more}. Choose another --out-dir, '
            'or what was given before.'
        )


def _content(path: Path) -> str:
    digest, size = hashlib.sha256(), 0
    # The weights of OpenVINO's .xml are in a file of their own.
    for file in [path, *([path.with_suffix('.bin')] if path.suffix == '.xml' else [])]:
        with file.open('rb') as opened:
            while data := opened.read(2**20):
                digest.update(data)
                size += len(data)
    return f'{size} bytes of sha256 {digest.hexdigest()}'


def _flat(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield (a.b.0.c, value) of nested dicts and lists of dicts."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = dict(enumerate(value))
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(item, f'{key}.{name}' if key else str(name))
    else:
        yield key, value


def _short(settings: Mapping[str, Any], key: str) -> str:
    if key not in settings:
        return 'not there'
    value = str(settings[key])
    return value if len(value) <= 100 else f'{value[:99]}…'
