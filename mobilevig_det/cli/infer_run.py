"""What the command ``infer`` does with its arguments."""

import argparse
import copy
import os
import os.path as osp
import shlex
import sys

from mmengine.config import Config
from terminaltables import AsciiTable

from ..classification.config_checks import is_classifier
from ..config import load_config
from ..datasets import hush_opencv
from ..engine.launch import restarts
from ..errors import UserError
from ..inference.class_results import print_classes
from ..inference.classifier_inference import Classifier
from ..inference.coco_results import Summary, read_test_set
from ..inference.detector import find_model, load_detector, prepare
from ..inference.drawings import Drawings
from ..inference.inference_run import InferenceRun
from ..inference.inferencer import Inferencer
from ..inference.input_files import Skipped
from ..inference.input_stream import Inputs
from ..inference.processes import Processes
from ..inference.results import check_format, write_result
from ..inference.row_files import SortedRows
from ..inference.row_folder import RowFolder
from ..inference.row_settings import settings_of


def print_summary(summary: Summary, score_thr: float) -> None:
    rows = [['class', 'detections', 'images with one', 'mean score']]
    rows += [
        [name, count, images, f'{score:.2f}']
        for name, count, images, score in summary.table()
    ]
    if len(rows) > 1:
        print(AsciiTable(rows).table)
    print(
        f'{summary.detections} detections of at least {score_thr:g} '
        f'in {summary.images} images and frames.'
    )


def load_model(
    cfg: Config, checkpoint: str, score_thr: float, device: str | None
) -> tuple[Inferencer | Classifier, list[int], dict[str, int]]:
    """The model, the ids of its classes, and those of the test set's images."""
    if is_classifier(cfg):
        classifier = Classifier(cfg, checkpoint, device)
        return classifier, list(range(len(classifier.classes))), {}
    detector = load_detector(prepare(copy.deepcopy(cfg), score_thr), checkpoint, device)
    return detector, *read_test_set(detector.classes, cfg)


def infer(args: argparse.Namespace) -> None:
    hush_opencv()
    processes = Processes(args.launcher)
    skipped = Skipped('infer.py')
    inputs = Inputs(
        args.inputs, skipped if processes.first else Skipped('infer.py', quiet=True)
    )
    if not inputs:
        sys.exit('infer.py: there is nothing to look at.')
    processes.check_inputs(inputs)
    config, checkpoint = find_model(args.config, args.checkpoint)
    cfg = load_config(config, args.cfg_options)
    check_format(args.format)
    classifier = is_classifier(cfg)
    # Of a classifier, the best classes are told whatever they score.
    score_thr = 0.0 if classifier else args.score_thr
    vis = osp.join(args.out_dir, 'vis')
    drawings = None if args.no_save_vis or classifier else Drawings(vis, inputs)
    drawn = drawings is not None
    model, category_ids, image_ids = load_model(
        cfg, checkpoint, score_thr, processes.device(args.device)
    )
    categories = dict(zip(category_ids, model.classes))
    run = InferenceRun(
        model, args.batch_size, score_thr, category_ids, drawings, skipped, processes
    )
    try:
        with RowFolder(args.out_dir) as folder:
            if processes.first:
                settings = settings_of(
                    cfg, checkpoint, categories, score_thr, pictures=drawn
                )
                folder.begin(settings, args.resume or restarts() > 0)
                if drawn:
                    os.makedirs(vis, exist_ok=True)
            processes.wait()
            whole = run.finish(folder, inputs)
            if processes.first:
                listed = classifier and args.format == 'coco'
                out, summary = write_result(
                    args.out_dir,
                    'classes' if listed else args.format,
                    folder.files,
                    categories,
                    image_ids,
                )
                if whole:
                    folder.finish()
                if classifier:
                    print_classes(SortedRows(folder.files), categories)
    except OSError as error:
        raise UserError(
            f'{error}. The rows so far are whole: once this is mended, the same '
            'command with --resume goes on.'
        ) from error
    if processes.first:
        found = 'Classes'
        if not classifier:
            found = 'Detections'
            print_summary(summary, score_thr)
        print(f'Model: {checkpoint}\n{found}: {out}')
        if drawn:
            print(f'Pictures: {vis}/')
    if not whole:
        raise KeyboardInterrupt
    if processes.first:
        tell_of_earlier(folder)
        end(processes.add('skipped', 0) + folder.errors)


def tell_of_earlier(folder: RowFolder) -> None:
    if folder.errors:
        print(
            f'infer.py: {folder.errors} were skipped by earlier runs and not tried '
            'again. To have --resume try them, delete their rows: '
            f"""sed -i '/"error": "/d' {shlex.quote(folder.path)}/*.jsonl""",
            file=sys.stderr,
        )


def end(skipped: int) -> None:
    if skipped:
        sys.exit(f'infer.py: {skipped} skipped, see above.')
