"""Run the command ``predict``: predict inputs, store records and write the result."""

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

FORMAT = 2  # Version of the record format. Records of other versions can't be resumed.


class Model(NamedTuple):
    """A loaded model and the ids of its classes.

    Attributes:
        cfg (Config | None): The config with --cfg-options applied; None for an
            exported detector.
        checkpoint (str): The path, URL or name of the weights.
        predictor (Predictor): The model with its preprocessing.
        score_thr (float): Minimum score of a prediction.
        categories (dict[int, str]): Class name by category id, in the model's order.
        image_ids (dict[str, int]): Image id by real path, of the test set's images.
    """

    cfg: Config | None
    checkpoint: str
    predictor: Predictor
    score_thr: float
    categories: dict[int, str]
    image_ids: dict[str, int]

    @classmethod
    def load(cls, args: Namespace, device: str | None) -> 'Model':
        """Load the model that the arguments name.

        Args:
            args (Namespace): The arguments of :mod:`mobilevig_det.cli.predict`.
            device (str | None): The device; None uses a GPU if one is available.

        Raises:
            UserError: If the model is not found or can't be loaded.
        """
        config, checkpoint = find_model(args.config, args.checkpoint)
        cfg = None
        if config is not None:
            cfg = load_config(config, args.cfg_options)
        elif args.cfg_options:
            raise UserError('--cfg-options need the --config that they change.')
        # A classifier's best classes are recorded regardless of their scores.
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
        """Return the settings that determine the records.

        ``--resume`` compares them, so that it never mixes the records of two models.

        Args:
            more: Further settings.

        Returns:
            dict[str, Any]: Values as they are read back from JSON.
        """
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
    # OpenVINO stores the weights next to the .xml file, in a .bin file.
    for file in [path, *([path.with_suffix('.bin')] if path.suffix == '.xml' else [])]:
        with file.open('rb') as opened:
            while data := opened.read(2**20):
                digest.update(data)
                size += len(data)
    return f'{size} bytes of sha256 {digest.hexdigest()}'


def predict(args: Namespace, program: str) -> None:
    """Predict all inputs and write the result.

    Args:
        args (Namespace): The arguments of :mod:`mobilevig_det.cli.predict`.
        program (str): The program name at the start of messages.

    Raises:
        UserError: If an argument, the model or an output folder can't be used.
        KeyboardInterrupt: After Ctrl-C, when the results so far have been written.
        SystemExit: If some inputs were skipped, or there are no inputs.
    """
    hush_opencv()
    _check_inputs(args.inputs, args.out_dir)
    if args.executor == 'ray':
        _predict_on_ray(args, program)
    else:
        _predict_here(args, program)


def _check_inputs(inputs: Iterable[str], out_dir: str) -> None:
    """Raise a UserError if this run would overwrite an input."""

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
        sys.exit(f'{program}: the inputs contain no images or videos.')
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
    os.environ['RAY_USAGE_STATS_ENABLED'] = '0'  # no telemetry
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
    # Load the model here first, to report errors before a cluster is started.
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
    lines = [f'{count} images, {errors} of which were skipped.']
    lines += _write(args, store, model)
    store.finish()
    print('\n'.join([*lines, f'Rows: {store.path}/*.parquet']))
    if errors:
        sys.exit(f'{program}: the column error of the rows says why.')


def _write(args: Namespace, store: RecordStore, model: Model) -> list[str]:
    """Write the result of all records, and return lines that describe it."""
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
