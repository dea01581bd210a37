"""Measure figures one after another; a stopped run can be resumed."""

import hashlib
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machine import environment
from mobilevig_det.config import check_device, load_config
from mobilevig_det.errors import UserError
from mobilevig_det.ops import prepare_process_for_cpu

from mmengine.config import Config
from mmengine.device import get_device

from . import figures as names
from .config_metrics import complexity, rates_met
from .figures import INFORMATION, MIN_IMAGES, NOT_CHECKED, Figure, judge
from .report import Report
from .scoring import Checkpoint, Images, Score, fetch_checkpoint, load_images, score


def reproduce(figures: Sequence[Figure], args: Namespace) -> list[str]:
    """Measure figures, and write reproduce.json and reproduce.md after each.

    Figures that an earlier run has measured on images are kept if the checkpoint, the
    images, the config, the machine and the versions are the same.

    Args:
        figures (Sequence[Figure]): The figures to measure.
        args (Namespace): Arguments of the command.

    Returns:
        list[str]: The verdicts in the order of the figures. If a figure cannot be
        checked, its row in the report gives the reason.

    Raises:
        UserError: If the folder has a reproduce.json of another kind, or torch cannot
            use the device.
    """
    args.device = check_device(args.device or get_device())
    if args.device == 'cpu':
        prepare_process_for_cpu()
    report = Report(Path(args.out_dir), environment(args.device))
    data: dict[str, Images] = {}
    for group in _groups(figures):
        try:
            cfg = load_config(group[0].config, args.cfg_options)
            if group[0].what == 'configs':
                _measure_config(group, cfg, report)
            else:
                _measure_on_images(group, cfg, args, data, report)
        except Exception as error:  # the other figures are still measured
            reason = ' '.join(str(error).split())
            if not isinstance(error, UserError):  # for a bug report
                reason = f'{type(error).__name__}: {reason}'
            for figure in group:
                verdict = INFORMATION if figure.published is None else NOT_CHECKED
                kept = report.measured(figure)
                report.add(figure, verdict, **kept | dict(reason=reason))
    order = [figure.id for figure in figures]
    # Order rows as the figures; further figures of earlier runs come last.
    report.rows = {id: report.rows[id] for id in order} | report.rows
    report.write()
    return [report.rows[id]['verdict'] for id in order]


def _groups(figures: Sequence[Figure]) -> list[list[Figure]]:
    """Group figures that are measured together."""
    groups: dict[tuple, list[Figure]] = {}
    for figure in figures:
        alone = figure.quantity in (names.AVERAGED_TOP1, names.RATES)
        key = figure.config, figure.weights, alone and figure.quantity
        groups.setdefault(key, []).append(figure)
    return list(groups.values())


def _measure_config(group: list[Figure], cfg: Config, report: Report) -> None:
    if group[0].quantity == names.RATES:
        measured: dict[str, float] = {names.RATES: rates_met(cfg, group[0].arch)}
    else:
        measured = complexity(cfg)
    for figure in group:
        _add(figure, Score(measured[figure.quantity]), report)


def _measure_on_images(
    group: list[Figure],
    cfg: Config,
    args: Namespace,
    data: dict[str, Images],
    report: Report,
) -> None:
    """Measure a group in one pass over the images, unless an earlier run has.

    ``data`` keeps the images that were loaded, by their data set.
    """
    dataset = str(cfg.test_dataloader.dataset)
    if dataset not in data:
        data[dataset] = load_images(cfg, args.images)
    images = data[dataset]
    file = fetch_checkpoint(group[0].weights or '', args.checkpoint, args.repository)
    key = _key(cfg, images, file)
    kept = [report.measured(figure) for figure in group]
    if all(old.get('key') == key for old in kept):
        for figure, old in zip(group, kept):  # the published figure may have changed
            found = Score(old.pop('measured'), old.pop('interval'))
            _add(figure, found, report, **old)
        return
    quantities = [figure.quantity for figure in group]
    scores = score(cfg, file, images, args.device, quantities)
    facts = dict(of=images.of, file=file.facts(), key=key)
    for figure in group:
        found = scores[figure.quantity]
        _add(figure, found, report, images=len(images.dataset), **facts)


def _key(cfg: Config, images: Images, file: Checkpoint) -> str:
    """Hash all that a measurement depends on, except for the environment."""
    settings = [cfg.model, cfg.test_dataloader, cfg.test_evaluator]
    parts = [*settings, images.sha256, len(images.dataset), file.sha256]
    return hashlib.sha256('\n'.join(map(str, parts)).encode()).hexdigest()


def _add(
    figure: Figure, found: Score, report: Report, images: int | None = None, **facts
) -> None:
    """Judge a measurement and add it to the report."""
    verdict = judge(figure, found.measured, found.interval, images)
    if verdict == NOT_CHECKED:
        facts['reason'] = f'{images} images are too few: give {MIN_IMAGES} or more'
    report.add(figure, verdict, images=images, **found._asdict(), **facts)
