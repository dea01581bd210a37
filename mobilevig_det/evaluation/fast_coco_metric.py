"""Faster version of MMDetection's CocoMetric with identical results."""

import itertools
import math
import os.path as osp
import tempfile
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_utils
import torch
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric
from mmdet.registry import METRICS
from mmengine.logging import MMLogger
from pycocotools.cocoeval import COCOeval
from terminaltables import AsciiTable

from ..datasets.masks import encode_rle
from ..errors import UserError

try:
    import faster_coco_eval
except ImportError:
    faster_coco_eval = None

AP_NAMES = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
AR_NAMES = ['AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000']
STATS = {name: i for i, name in enumerate(AP_NAMES + AR_NAMES)}  # of COCOeval.stats


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """COCO's AP and AR, computed faster than by CocoMetric and with identical results.

    Masks are encoded only from the pixels within their bounding boxes. Detections are
    passed on in memory instead of in JSON files, which are written only if
    ``outfile_prefix`` is set. Detections are matched in C++ if faster-coco-eval is
    installed, and by pycocotools otherwise.

    The arguments are those of CocoMetric. With ``use_mp_eval``, MMDetection matches
    detections in several processes.

    Raises:
        UserError: If there are detections in images or of classes that the annotations
            lack.
    """

    _coco_api: Any
    cat_ids: list[int]
    img_ids: list[int]

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Store the detections of a batch, with masks as run-length encodings."""
        super().process(data_batch, [_encode_masks(s) for s in data_samples])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the same metrics as CocoMetric from all stored detections.

        Args:
            results (list): Pairs of ground truth and detections, one for each image.

        Returns:
            dict[str, float]: Metrics by name.
        """
        logger: MMLogger = MMLogger.get_current_instance()
        unknown = set(self.metric_items or ()) - set(STATS)
        if unknown:
            raise KeyError(f'metric item "{min(unknown)}" is not supported')
        truths, found = zip(*results)
        self._load_truth(truths, logger)
        if self.outfile_prefix is not None:
            self.results2json(found, self.outfile_prefix)
        values: dict[str, float] = OrderedDict()
        if self.format_only:
            logger.info(f'results are saved in {osp.dirname(self.outfile_prefix)}')
            return values
        for metric in self.metrics:
            logger.info(f'Evaluating {metric}...')
            if metric == 'proposal_fast':
                recalls = self.fast_eval_recall(
                    found, self.proposal_nums, self.iou_thrs, logger=logger
                )
                named = {f'AR@{n}': r for n, r in zip(self.proposal_nums, recalls)}
                logger.info(''.join(f'\n{n}\t{r:.4f}' for n, r in named.items()))
                values.update(named)
                continue
            if metric == 'segm' and 'masks' not in found[0]:
                raise KeyError(f'{metric} is not in results')
            detections = self._detections(found, metric == 'segm')
            if not detections.anns:
                logger.error('The testing results of the whole dataset is empty.')
                break
            evaluation = self._evaluate(detections, metric)
            stats = evaluation.stats
            if metric == 'proposal':
                for name in self.metric_items or AR_NAMES:
                    values[name] = float(f'{stats[STATS[name]]:.3f}')
                continue
            if self.classwise:
                values.update(self._by_class(evaluation, logger))
            for name in self.metric_items or AP_NAMES:
                values[f'{metric}_{name}'] = float(f'{round(stats[STATS[name]], 3)}')
            shown = ' '.join(f'{ap:.3f}' for ap in stats[:6])
            logger.info(f'{metric}_mAP_copypaste: {shown}')
        return values

    def _load_truth(self, truths: Sequence[dict], logger: MMLogger) -> None:
        """Load the annotations of the data samples if there is no ``ann_file``."""
        if self._coco_api is None:
            logger.info('Converting ground truth to coco format...')
            with tempfile.TemporaryDirectory() as folder:
                prefix = self.outfile_prefix or osp.join(folder, 'results')
                self._coco_api = COCO(self.gt_to_coco_json(truths, prefix))
        if self.cat_ids is None:
            classes = self.dataset_meta['classes']
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=classes)
        if self.img_ids is None:
            self.img_ids = self._coco_api.get_img_ids()

    def _detections(self, found: Sequence[dict], masks: bool) -> COCO:
        """Build in memory what ``COCO.loadRes`` would read from a JSON file."""
        entries: list[dict] = []
        for index, each in enumerate(found):
            if not len(each['labels']):
                continue
            image_id = each.get('img_id', index)
            if image_id not in self._coco_api.imgs:
                raise UserError(
                    f'CocoMetric: objects were found in image {image_id!r}, which the '
                    'annotations do not have: ann_file must be that of the data set.'
                )
            if each['labels'].max() >= len(self.cat_ids):
                classes = self.dataset_meta['classes']
                raise UserError(
                    f'CocoMetric: ann_file has {len(self.cat_ids)} of the '
                    f'{len(classes)} classes of the data set ({", ".join(classes)}), '
                    'but another one was detected. Add it to "categories" in the file.'
                )
            scores = each['scores']
            if masks:
                scores = each.get('mask_scores', scores)
                key, regions = 'segmentation', each['masks']
                areas = mask_utils.area(regions)
            else:
                boxes = each['bboxes'].astype(np.float64)
                boxes[:, 2:] -= boxes[:, :2]
                key, regions = 'bbox', boxes.tolist()
                areas = boxes[:, 2] * boxes[:, 3]
            columns = each['labels'].tolist(), scores.tolist(), areas.tolist(), regions
            entries += [
                {
                    'id': id,
                    'image_id': image_id,
                    'category_id': self.cat_ids[label],
                    'score': score,
                    'area': area,
                    'iscrowd': 0,
                    key: region,
                }
                for id, (label, score, area, region) in enumerate(
                    zip(*columns), len(entries) + 1
                )
            ]
        detections = COCO()
        detections.dataset = {**self._coco_api.dataset, 'annotations': entries}
        detections.createIndex()
        return detections

    def _evaluate(self, detections: COCO, metric: str) -> COCOeval:
        if getattr(
            self, 'use_mp_eval', False
        ):  # missing in older versions of MMDetection
            from mmdet.datasets.api_wrappers import COCOevalMP as evaluator
        else:
            evaluator = choose_evaluator(self._coco_api, detections)
        iou_type = 'segm' if metric == 'segm' else 'bbox'
        evaluation = evaluator(self._coco_api, detections, iou_type)
        evaluation.params.catIds = self.cat_ids
        evaluation.params.imgIds = self.img_ids
        evaluation.params.maxDets = list(self.proposal_nums)
        evaluation.params.iouThrs = self.iou_thrs
        if metric == 'proposal':
            evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation

    def _by_class(self, evaluation: COCOeval, logger: MMLogger) -> dict[str, float]:
        """Return the AP of each class, and log a table of all APs."""
        # Of shape (IoUs, recalls, classes, sizes, numbers of detections).
        precisions = evaluation.eval['precision']
        assert len(self.cat_ids) == precisions.shape[2]
        values, rows = {}, [['category', *AP_NAMES]]
        for index, category_id in enumerate(self.cat_ids):
            own = precisions[:, :, index, :, -1]
            parts = own[..., 0], own[0, :, 0], own[5, :, 0], *own[..., 1:4].T
            aps = [round(_mean(part), 3) for part in parts]
            name = self._coco_api.loadCats(category_id)[0]['name']
            values[f'{name}_precision'] = aps[0]
            rows.append([name, *map(str, aps)])
        logger.info('\n' + AsciiTable(rows).table)
        return values


def _encode_masks(sample: dict) -> dict:
    """Return a copy with run-length encodings if the masks are boolean tensors."""
    instances = sample['pred_instances']
    masks = instances.get('masks')
    if not isinstance(masks, torch.Tensor) or masks.dtype != torch.bool:
        return sample
    encoded = encode_rle(masks.cpu().numpy())
    return {**sample, 'pred_instances': {**instances, 'masks': encoded}}


def _mean(precision: np.ndarray) -> float:
    """Return the mean of the precisions other than -1, or NaN if there are none."""
    known = precision[precision > -1]
    return np.mean(known) if known.size else float('nan')


def choose_evaluator(truth: COCO, detections: COCO) -> type[COCOeval]:
    """Choose the C++ evaluation if its results are identical, else pycocotools.

    They may differ if ids are not 64-bit integers or if scores are not finite.

    Args:
        truth (COCO): The annotations.
        detections (COCO): The detections.

    Returns:
        type[COCOeval]: The class of the evaluation.
    """
    annotations = truth.dataset.get('annotations', ())
    entries = [*annotations, *detections.dataset['annotations']]
    keys = 'id', 'image_id', 'category_id'
    ids = itertools.chain(
        truth.imgs, truth.cats, (entry[key] for entry in entries for key in keys)
    )
    if (
        faster_coco_eval is not None
        and all(type(id) is int and abs(id) < 2**63 for id in ids)
        and all(math.isfinite(entry.get('score', 0)) for entry in entries)
    ):
        return CompiledCOCOeval
    return COCOeval


class CompiledCOCOeval(COCOeval):
    """COCOeval of pycocotools that evaluates and accumulates with faster-coco-eval.

    ``params``, ``eval`` (``precision``, ``recall``, ``scores``) and ``stats`` are the
    same as in pycocotools. ``summarize`` is inherited from pycocotools, because that of
    faster-coco-eval uses another number of detections if ``maxDets`` isn't
    (1, 10, 100). ``evalImgs`` and ``ious``, which describe single images, stay empty.
    """

    def evaluate(self) -> None:
        """Match the detections of every image, and accumulate."""
        # The COCO class of faster-coco-eval looks up ids faster. It shares the entries.
        truth = faster_coco_eval.COCO(self.cocoGt.dataset)
        found = faster_coco_eval.COCO(self.cocoDt.dataset)
        fast = faster_coco_eval.COCOeval_faster(truth, found, self.params.iouType)
        names = 'imgIds catIds iouThrs recThrs maxDets areaRng areaRngLbl useCats'
        for name in names.split():
            setattr(fast.params, name, getattr(self.params, name))
        fast.evaluate()
        fast.accumulate()
        for name in names.split():  # evaluate() has sorted them
            setattr(self.params, name, getattr(fast.params, name))
        results = 'precision', 'recall', 'scores'
        self.eval = {name: fast.eval[name] for name in results}

    def accumulate(self, p=None) -> None:
        """Do nothing, because :meth:`evaluate` has accumulated already."""
