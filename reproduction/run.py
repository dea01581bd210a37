"""Measure figures one after another; a stopped run can be resumed."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from benchmarks.machine import hardware, versions
from mobilevig_det.config import check_device, load_config
from mobilevig_det.errors import UserError
from mobilevig_det.ops import prepare_process_for_cpu

from mmengine.config import Config
from mmengine.device import get_device
from tqdm import tqdm

from . import figures as names
from .config_metrics import complexity, rates_met
from .figures import INFORMATION, MIN_IMAGES, NOT_CHECKED, Figure, judge
from .report import Report
from .scoring import Checkpoint, Images, Score, fetch_checkpoint, load_images, score

BAR = '{desc}{percentage:3.0f}% |{bar}| {elapsed}, {remaining} left'


@dataclass
class Options:
    """Options of a reproduction.

    Args:
        images (int, optional): Number of images of a random subset. Defaults to None:
            all.
        checkpoints (dict[str, str]): Paths by the names of ``mobilevig://``.
        repository (str, optional): Address of a copy of the authors' repository.
        device (str, optional): Defaults to None: a GPU if there is one.
        cfg_options (dict | list[str], optional): Changes to every config; see
            :func:`mobilevig_det.config.load_config`.
    """

    images: int | None = None
    checkpoints: dict[str, str] = field(default_factory=dict)
    repository: str | None = None
    device: str | None = None
    cfg_options: dict | list[str] | None = None


class Pass(NamedTuple):
    """Figures that are measured in one pass over the images."""

    figures: list[Figure]
    cfg: Config
    images: Images
    file: Checkpoint
    key: str


def reproduce(
    figures: Sequence[Figure], options: Options, out_dir: str | Path
) -> list[str]:
    """Measure figures, and write reproduce.json and reproduce.md after each.

    Figures that an earlier run has measured on images are kept if the checkpoint, the
    images, the config, the machine and the versions are the same.

    Args:
        figures (Sequence[Figure]): The figures to measure.
        options (Options): The options.
        out_dir (str | Path): Folder for the two reports.

    Returns:
        list[str]: The verdicts in the order of the figures. If a figure cannot be
        checked, its row in the report gives the reason.

    Raises:
        UserError: If the folder has a reproduce.json of another kind, or torch cannot
            use the device.
    """
    device = check_device(options.device or get_device())
    if device == 'cpu':
        prepare_process_for_cpu()
    environment = hardware(device) | versions()
    report = Report(Path(out_dir), environment)
    without_data = [f for f in figures if f.what == 'configs']
    with_data = [f for f in figures if f.what != 'configs']
    for group in _groups(without_data):
        _check_config(group, options, report)
    todo = list(_prepare(with_data, options, report))
    sizes = {f.config: f.published for f in names.FIGURES if f.quantity == names.FLOPS}
    # The bar counts FLOPs, so that its estimate of the time left fits all model sizes.
    work = [len(p.images.dataset) * (sizes.get(p.figures[0].config) or 1) for p in todo]
    with tqdm(total=sum(work), bar_format=BAR, disable=not todo) as progress:
        for each, its_work in zip(todo, work):
            progress.set_description(each.figures[0].id)
            step = its_work / len(each.images.dataset)
            before = progress.n
            _measure(each, device, report, lambda n, s=step: progress.update(n * s))
            progress.update(before + its_work - progress.n)  # if the pass has failed
    order = [figure.id for figure in figures]
    # Order rows as the figures; further figures of earlier runs come last.
    report.rows = {id: report.rows[id] for id in order} | report.rows
    report.write()
    return [report.rows[id]['verdict'] for id in order]


def _groups(figures: Sequence[Figure]) -> Iterator[list[Figure]]:
    """Group figures that are measured together."""

    def key(figure: Figure) -> tuple:
        alone = figure.quantity in (names.AVERAGED_TOP1, names.RATES)
        return figure.config, figure.weights or '', figure.quantity if alone else ''

    for each in dict.fromkeys(map(key, figures)):
        yield [figure for figure in figures if key(figure) == each]


def _check_config(group: list[Figure], options: Options, report: Report) -> None:
    try:
        cfg = load_config(group[0].config, options.cfg_options)
        if group[0].quantity == names.RATES:
            measured: dict[str, float]
            measured = {names.RATES: rates_met(cfg, group[0].arch)}
        else:
            measured = complexity(cfg)
    except Exception as error:  # the other configs are still measured
        _not_checked(group, error, report)
        return
    for figure in group:
        _add(figure, Score(measured[figure.quantity]), report)


def _prepare(
    figures: Sequence[Figure], options: Options, report: Report
) -> Iterator[Pass]:
    """Yield the passes that can be made; report why the others cannot."""
    loaded: dict[str, Images] = {}
    for group in _groups(figures):
        first = group[0]
        try:
            cfg = load_config(first.config, options.cfg_options)
            data = str(cfg.test_dataloader.dataset)
            if data not in loaded:
                loaded[data] = load_images(cfg, options.images)
            images = loaded[data]
            file = fetch_checkpoint(
                first.weights or '', options.checkpoints, options.repository
            )
        except Exception as error:
            for figure in group:  # keeps what was measured before
                _not_checked([figure], error, report, **report.measured(figure))
            continue
        key = _key(cfg, images, file)
        kept = [report.measured(figure) for figure in group]
        if any(old.get('key') != key for old in kept):
            yield Pass(group, cfg, images, file, key)
            continue
        for figure, old in zip(group, kept):  # the published figure may have changed
            found = Score(old.pop('measured'), old.pop('interval'))
            _add(figure, found, report, **old)


def _key(cfg: Config, images: Images, file: Checkpoint) -> str:
    """Hash all that a measurement depends on, except for the environment."""
    settings = [cfg.model, cfg.test_dataloader, cfg.test_evaluator]
    parts = [*settings, images.sha256, len(images.dataset), file.sha256]
    return hashlib.sha256('\n'.join(map(str, parts)).encode()).hexdigest()


def _measure(each: Pass, device: str, report: Report, on_batch) -> None:
    quantities = [figure.quantity for figure in each.figures]
    try:
        scores = score(each.cfg, each.file, each.images, device, quantities, on_batch)
    except Exception as error:
        _not_checked(each.figures, error, report, file=each.file.facts())
        return
    for figure in each.figures:
        _add(
            figure,
            scores[figure.quantity],
            report,
            images=len(each.images.dataset),
            of=each.images.of,
            file=each.file.facts(),
            key=each.key,
        )


def _add(
    figure: Figure, found: Score, report: Report, images: int | None = None, **facts
) -> None:
    verdict = judge(figure, found.value, found.interval, images)
    if verdict == NOT_CHECKED:
        facts['reason'] = f'{images} images are too few: give {MIN_IMAGES} or more'
    report.add(
        figure,
        verdict,
        measured=found.value,
        interval=found.interval,
        images=images,
        **facts,
    )


def _not_checked(
    group: list[Figure], error: Exception, report: Report, **facts
) -> None:
    """Report why; an unexpected error with its type, for a bug report."""
    reason = ' '.join(str(error).split())
    if not isinstance(error, UserError):
        reason = f'{type(error).__name__}: {reason}'
    for figure in group:
        verdict = INFORMATION if figure.published is None else NOT_CHECKED
        report.add(figure, verdict, reason=reason, **facts)
