"""One run of the command ``predict``: a model over inputs, records, and a result."""

import hashlib
import json
import os
import os.path as osp
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from terminaltables import AsciiTable

from ..checkpoints import find_file
from ..classification.config_checks import is_classifier
from ..config import load_config
from ..datasets import hush_opencv
from ..engine.launch import restarts
from ..errors import UserError
from ..ops import prepare_process_for_cpu
from ..paths import without_secrets
from .drawings import Drawings
from .local import LocalExecutor, Processes
from .models import find_model, load_predictor
from .names import SkipReport, inside, is_address
from .predictors import Predictor
from .sources import Inputs
from .stores import JsonLinesStore, RecordStore
from .writers import (
    FORMATS,
    Summary,
    check_format,
    print_classes,
    read_test_set,
    write_result,
)

FORMAT = 2  # of the records; others are not resumed


class Model(NamedTuple):
    """A loaded model and the ids of its classes.

    Attributes:
        cfg (Config | None): As it was read, with --cfg-options.
        checkpoint (str): Its file, address or name.
        predictor (Predictor): The model.
        score_thr (float): Predictions that score less are left out.
        categories (dict[int, str]): Names of the classes by id, in the model's order.
        image_ids (dict[str, int]): Of the test set's images, by real path.
    """

    cfg: Config | None
    checkpoint: str
    predictor: Predictor
    score_thr: float
    categories: dict[int, str]
    image_ids: dict[str, int]

    @classmethod
    def load(cls, args: Namespace, device: str | None) -> 'Model':
        config, checkpoint = find_model(args.config, args.checkpoint)
        cfg = None
        if config is not None:
            cfg = load_config(config, args.cfg_options)
        elif args.cfg_options:
            raise UserError('--cfg-options need the --config that they change.')
        # Of a classifier, the best classes are recorded whatever they score.
        classifier = cfg is not None and is_classifier(cfg)
        score_thr = 0.0 if classifier else args.score_thr
        predictor = load_predictor(cfg, checkpoint, device, score_thr)
        if predictor.device == 'cpu':
            prepare_process_for_cpu()
        if classifier:
            return cls(
                cfg, checkpoint, predictor, 0.0, dict(enumerate(predictor.classes)), {}
            )
        ids, image_ids = read_test_set(predictor.classes, cfg)
        categories = dict(zip(ids, predictor.classes))
        return cls(cfg, checkpoint, predictor, score_thr, categories, image_ids)

    def settings(self, **more: Any) -> dict[str, Any]:
        """Return what the records depend on, as JSON represents it; ``--resume`` never
        mixes those of two models."""
        settings = dict(
            format=FORMAT,
            weights=_content(find_file(self.checkpoint)),
            score_thr=self.score_thr,
            **more,
            categories=self.categories,
        )
        if self.cfg is not None:
            settings['model'] = self.cfg.model.to_dict()
            settings['pipeline'] = self.cfg.test_dataloader.dataset.get('pipeline')
        return json.loads(json.dumps(settings, default=str))


def _content(path: Path) -> str:
    digest, size = hashlib.sha256(), 0
    # The weights of OpenVINO's .xml are in a file of their own.
    for file in [path, *([path.with_suffix('.bin')] if path.suffix == '.xml' else [])]:
        with file.open('rb') as opened:
            while data := opened.read(2**20):
                digest.update(data)
                size += len(data)
    return f'{size} bytes of sha256 {digest.hexdigest()}'


def predict(args: Namespace, program: str) -> None:
    """Run a model over inputs.

    Args:
        args (Namespace): The arguments of :mod:`mobilevig_det.cli.predict`.
        program (str): The name at the start of messages.

    Raises:
        UserError: If something that the user gave is wrong.
        KeyboardInterrupt: After a Ctrl-C, when what is done has been written.
        SystemExit: If inputs could not be used.
    """
    hush_opencv()
    _check_inputs(args.inputs, args.out_dir)
    if args.executor == 'ray':
        _predict_on_ray(args, program)
    else:
        _predict_here(args, program)


def _check_inputs(inputs: Iterable[str], out_dir: str) -> None:
    """Raise a UserError if an input is, or lies in, what this run would write."""

    def comparable(path: str) -> str:
        return without_secrets(path) if is_address(path) else osp.realpath(path)

    for own in ('rows', *set(FORMATS.values())):
        written = comparable(inside(out_dir, own))
        for name in inputs:
            if f'{comparable(name)}/'.startswith(f'{written}/'):
                raise UserError(
                    f'{without_secrets(name)} lies where this run writes its results, '
                    'and would be overwritten: choose another --out-dir.'
                )


def _predict_here(args: Namespace, program: str) -> None:
    processes = Processes(args.launcher)
    report = SkipReport(program, quiet=not processes.first)
    inputs = Inputs(args.inputs, report)
    if not inputs:
        sys.exit(f'{program}: there is nothing to look at.')
    processes.check_inputs(inputs)
    check_format(args.format)
    model = Model.load(args, processes.device(args.device))
    vis = osp.join(args.out_dir, 'vis')
    drawings = None
    if not args.no_save_vis and not model.predictor.is_classifier:
        drawings = Drawings(vis, inputs)
    try:
        with JsonLinesStore(args.out_dir) as store:
            if processes.first:
                settings = model.settings(pictures=drawings is not None)
                store.begin(settings, args.resume or restarts() > 0)
                if drawings is not None:
                    os.makedirs(vis, exist_ok=True)
            processes.wait()
            executor = LocalExecutor(
                model.predictor,
                store,
                list(model.categories),
                args.batch_size,
                drawings,
                report,
                processes,
            )
            complete = executor.run(inputs)
            if processes.first:
                lines = _write(args, store, model)
                if complete:
                    store.finish()
    except OSError as error:
        raise UserError(
            f'{error}. The rows so far are complete: once this is corrected, the same '
            'command with --resume resumes the run.'
        ) from error
    if processes.first:
        if drawings is not None:
            lines.append(f'Drawings: {vis}/')
        print('\n'.join(lines))
    if not complete:
        raise KeyboardInterrupt
    if processes.first:
        if store.errors:
            print(
                f'{program}: {store.errors} were skipped by earlier runs and not tried '
                'again. To have --resume try them, delete their rows: '
                f"""sed -i '/"error": "/d' {shlex.quote(store.path)}/*.jsonl""",
                file=sys.stderr,
            )
        if skipped := processes.add('skipped', 0) + store.errors:
            sys.exit(f'{program}: {skipped} skipped, see above.')


def _predict_on_ray(args: Namespace, program: str) -> None:
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'  # it would report to its makers
    try:
        import pyarrow  # noqa: F401
        import ray.data  # noqa: F401
    except ImportError as error:
        raise UserError(
            f'This needs Ray Data, which cannot be imported ({error}): '
            'pip install "mobilevig_det[ray]"'
        ) from error
    from . import ray_executor
    from .parquet_store import ParquetStore

    if args.format != 'rows' and is_address(args.out_dir):
        raise UserError(
            f'--format {args.format} is written into a local --out-dir. In an object '
            'store, rows/ is the result: use --format rows.'
        )
    report = SkipReport(program)
    # Here first: what doesn't fit is reported before a cluster is asked for.
    model = Model.load(args, 'cpu')
    out_dir, checkpoint = _absolute(args.out_dir), _absolute(model.checkpoint)
    inputs = Inputs(args.inputs, report)
    store = ParquetStore(out_dir)
    store.begin(model.settings(), args.resume)
    blocks, left, count = ray_executor.make_blocks(
        inputs, args.block_size, store.is_done
    )
    if not count:
        shown = ', '.join(map(without_secrets, args.inputs))
        raise UserError(f'There are no images in {shown}.')
    if blocks:
        job = ray_executor.RayJob(
            config=None if model.cfg is None else model.cfg.pretty_text,
            checkpoint=checkpoint,
            categories=model.categories,
            score_thr=model.score_thr,
            batch_size=args.batch_size,
            out_dir=out_dir,
            folder=os.getcwd(),
            must_see=[
                _absolute(path)
                for path in (*filter(osp.exists, args.inputs), store.path, checkpoint)
            ],
        )
        ray_executor.run(
            blocks,
            left,
            job,
            args.address,
            args.actors,
            args.cpus_per_actor,
            args.num_gpus,
        )
    errors = store.check(count)
    lines = [f'{count} images, {errors} of which could not be used.']
    lines += _write(args, store, model)
    store.finish()
    print('\n'.join([*lines, f'Rows: {store.path}/*.parquet']))
    if errors:
        sys.exit(f'{program}: the column error of the rows says why.')


def _write(args: Namespace, store: RecordStore, model: Model) -> list[str]:
    """Write the result of all records; return lines that say what was written."""
    lines = [f'Model: {without_secrets(model.checkpoint)}']
    classifier = model.predictor.is_classifier
    if args.format != 'rows':
        format = 'classes' if classifier and args.format == 'coco' else args.format
        path, summary = write_result(
            args.out_dir, format, store.records(), model.categories, model.image_ids
        )
        lines.append(f'{"Classes" if classifier else "Detections"}: {path}')
        if not classifier:
            lines[:0] = _table(summary, model.score_thr)
    if classifier and args.executor != 'ray':
        print_classes(store.records(), model.categories)
    return lines


def _table(summary: Summary, score_thr: float) -> Iterable[str]:
    rows = [['class', 'detections', 'images with one', 'mean score']]
    rows += [
        [name, count, images, f'{score:.2f}']
        for name, count, images, score in summary.table()
    ]
    if len(rows) > 1:
        yield AsciiTable(rows).table
    yield (
        f'{summary.detections} detections of at least {score_thr:g} in '
        f'{summary.images} images and frames.'
    )


def _absolute(path: str) -> str:
    return path if is_address(path) else osp.abspath(path)
