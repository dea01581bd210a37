"""What rows were made with: those of other models or settings don't mix."""

import hashlib
import json
import os
import os.path as osp
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

from ..errors import UserError

FORMAT = 1  # of the rows: another is not gone on with


def settings_of(
    cfg: Config,
    checkpoint: str | None,
    categories: Mapping[int, str],
    score_thr: float,
    **more: Any,
) -> dict[str, Any]:
    """What rows depend on, as JSON has it.

    Args:
        cfg (Config): As it was read, with --cfg-options.
        checkpoint (str | None): A file, whose content counts, or an address.
        categories (Mapping[int, str]): The names of the classes, by id.
        score_thr (float): What scores less is not in the rows.
        **more: What else must not change.
    """
    settings = dict(
        format=FORMAT,
        checkpoint=checkpoint,
        weights=checkpoint,
        score_thr=score_thr,
        **more,
        categories=categories,
        model=cfg.model.to_dict(),
        pipeline=cfg.test_dataloader.dataset.get('pipeline'),
    )
    if checkpoint is not None and osp.isfile(checkpoint):
        settings['weights'] = _content(checkpoint)
    return json.loads(json.dumps(settings, default=str))


def check_settings(
    folder: str, before: Mapping[str, Any], now: Mapping[str, Any]
) -> None:
    """Refuse to go on in a folder whose rows were made otherwise.

    Args:
        folder (str): Its name.
        before (Mapping): What :func:`settings_of` gave then.
        now (Mapping): What it gives now.

    Raises:
        UserError: With the differences.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    old.pop('finished', None)
    if old.get('weights') == new.get('weights'):  # wherever the file lies
        old.pop('checkpoint', None), new.pop('checkpoint', None)
    differences = [
        f'{key} was {_short(old, key)} and is {_short(new, key)}'
        for key in (*new, *(key for key in old if key not in new))
        if (key in old, old.get(key)) != (key in new, new.get(key))
    ]
    if differences:
        raise UserError(
            f'{folder} is of another model or other settings, and --resume would mix '
            f'the two: {"; ".join(differences[:3])}'
            f'{"; …" if len(differences) > 3 else ""}. Choose another --out-dir, or '
            'what was given before.'
        )


def _content(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while data := file.read(2**20):
            digest.update(data)
    return f'{os.path.getsize(path)} bytes of sha256 {digest.hexdigest()}'


def _flat(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """(a.b.0.c, value) of nested dicts and lists of dicts."""
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
