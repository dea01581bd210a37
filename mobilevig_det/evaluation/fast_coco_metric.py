"""MMDetection's CocoMetric in less time, with the same figures."""

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
from .coco_eval import make_coco_eval

AP_NAMES = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']
AR_NAMES = ['AR@100', 'AR@300', 'AR@1000', 'AR_s@1000', 'AR_m@1000', 'AR_l@1000']
PLACES = {name: i for i, name in enumerate(AP_NAMES + AR_NAMES)}  # in COCOeval.stats


@METRICS.register_module()
class FastCocoMetric(CocoMetric):
    """MMDetection's CocoMetric in less time, with the same figures.

    Masks are encoded from what is inside their bounding boxes; detections go from
    memory to the evaluation, through JSON files only where ``outfile_prefix`` asks
    for them; the evaluation is faster-coco-eval's where that is installed, and
    pycocotools' elsewhere.

    Args:
        As CocoMetric's. ``use_mp_eval`` takes MMDetection's evaluation in several
        processes instead.

    Raises:
        UserError: If something was found in images that the annotations lack.
    """

    _coco_api: Any
    cat_ids: list[int]
    img_ids: list[int]

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep what was found, with its masks as run lengths."""
        super().process(data_batch, [_with_run_lengths(s) for s in data_samples])

    def compute_metrics(self, results: list) -> dict[str, float]:
        """The figures of all that was kept, as CocoMetric's."""
        logger: MMLogger = MMLogger.get_current_instance()
        unknown = set(self.metric_items or ()) - set(PLACES)
        if unknown:
            raise KeyError(f'metric item "{min(unknown)}" is not supported')
        truths, found = zip(*results)
        self._load_truth(truths)
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
                    values[name] = float(f'{stats[PLACES[name]]:.3f}')
                continue
            if self.classwise:
                values.update(self._by_class(evaluation, logger))
            for name in self.metric_items or AP_NAMES:
                values[f'{metric}_{name}'] = float(f'{round(stats[PLACES[name]], 3)}')
            shown = ' '.join(f'{ap:.3f}' for ap in stats[:6])
            logger.info(f'{metric}_mAP_copypaste: {shown}')
        return values

    def _load_truth(self, truths: Sequence[dict]) -> None:
        """The annotations, from the data samples where there is no file of them."""
        if self._coco_api is None:
            MMLogger.get_current_instance().info(
                'Converting ground truth to coco format...'
            )
            with tempfile.TemporaryDirectory() as folder:
                prefix = self.outfile_prefix or osp.join(folder, 'results')
                self._coco_api = COCO(self.gt_to_coco_json(truths, prefix))
        if self.cat_ids is None:
            classes = self.dataset_meta['classes']
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=classes)
        if self.img_ids is None:
            self.img_ids = self._coco_api.get_img_ids()

    def _detections(self, found: Sequence[dict], masks: bool) -> COCO:
        """What ``COCO.loadRes`` makes of a file of them."""
        categories = np.array(self.cat_ids)
        entries: list[dict] = []
        for index, each in enumerate(found):
            if not len(each['labels']):
                continue
            image_id = each.get('img_id', index)
            if image_id not in self._coco_api.imgs:
                raise UserError(
                    f'CocoMetric: something was found in image {image_id!r}, which the '
                    'annotations do not have: ann_file must be that of the data set.'
                )
            scores = (
                each.get('mask_scores', each['scores']) if masks else each['scores']
            )
            if masks:
                key, regions = 'segmentation', each['masks']
                areas = mask_utils.area(regions)
            else:
                boxes = each['bboxes'].astype(np.float64)
                boxes[:, 2:] -= boxes[:, :2]
                key, regions = 'bbox', boxes.tolist()
                areas = boxes[:, 2] * boxes[:, 3]
            entries += [
                {
                    'id': id,
                    'image_id': image_id,
                    'category_id': category_id,
                    'score': score,
                    'area': area,
                    'iscrowd': 0,
                    key: region,
                }
                for id, category_id, score, area, region in zip(
                    range(len(entries) + 1, len(entries) + len(regions) + 1),
                    categories[each['labels']].tolist(),
                    scores.tolist(),
                    areas.tolist(),
                    regions,
                )
            ]
        detections = COCO()
        detections.dataset = dict(
            images=self._coco_api.dataset['images'],
            categories=self._coco_api.dataset['categories'],
            annotations=entries,
        )
        detections.createIndex()
        return detections

    def _evaluate(self, detections: COCO, metric: str) -> COCOeval:
        kind = 'segm' if metric == 'segm' else 'bbox'
        if getattr(self, 'use_mp_eval', False):
            from mmdet.datasets.api_wrappers import COCOevalMP

            evaluation = COCOevalMP(self._coco_api, detections, kind)
        else:
            evaluation = make_coco_eval(self._coco_api, detections, kind)
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
        """Each class's AP, and a table of it at IoUs and sizes."""
        # Of shape (IoUs, recalls, classes, sizes, numbers of detections).
        precisions = evaluation.eval['precision']
        assert len(self.cat_ids) == precisions.shape[2]
        values, rows = {}, [['category', *AP_NAMES]]
        for index, category_id in enumerate(self.cat_ids):
            own = precisions[:, :, index, :, -1]
            parts = [own[..., 0], own[0, :, 0], own[5, :, 0]]
            parts += [own[..., size] for size in (1, 2, 3)]
            aps = [round(_mean(part), 3) for part in parts]
            name = self._coco_api.loadCats(category_id)[0]['name']
            values[f'{name}_precision'] = aps[0]
            rows.append([name, *map(str, aps)])
        logger.info('\n' + AsciiTable(rows).table)
        return values


def _with_run_lengths(sample: dict) -> dict:
    """A copy with encoded masks, where they are boolean tensors."""
    masks = sample['pred_instances'].get('masks')
    if not isinstance(masks, torch.Tensor) or masks.dtype != torch.bool:
        return sample
    encoded = encode_rle(masks.cpu().numpy())
    return {**sample, 'pred_instances': {**sample['pred_instances'], 'masks': encoded}}


def _mean(precision: np.ndarray) -> float:
    """Over what is known; NaN where nothing is."""
    known = precision[precision > -1]
    return np.mean(known) if known.size else float('nan')
