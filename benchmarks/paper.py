"""The comparison of the paper: its models, their published figures, their latency here.

Published figures are those that the project's sources state; what nobody published, or
what no source here states, stays empty.
"""

from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from mobilevig_det.backbones import MobileViG, PyramidViG, fuse_backbones
from mobilevig_det.export import load

import torch
from matplotlib.figure import Figure
from torch import nn

from .backbones import BASELINES, build_baseline, make_inference
from .interleaved import interleaved
from .runtimes import NAMES, export_backbone

PART = 'paper'
RUNTIMES = {'PyTorch': None, **{NAMES[s]: s for s in ('.onnx', '.xml')}}


class Published(NamedTuple):
    """Top-1 on ImageNet-1K, box and mask AP of Mask R-CNN 1x, and their source."""

    top1: float | None = None
    box_ap: float | None = None
    mask_ap: float | None = None
    source: str = ''


PAPER, VIG = 'arXiv 2307.00395', 'readme of the authors of Vision GNN'
LOGS = f"{PAPER}; AP: the authors' logs"
OURS = {
    **{f'MobileViG-{arch}': (MobileViG, arch) for arch in MobileViG.arch_settings},
    **{f'PyramidViG-{arch}': (PyramidViG, arch) for arch in PyramidViG.arch_settings},
}
PUBLISHED = {
    'MobileViG-ti': Published(75.7, source=PAPER),
    'MobileViG-s': Published(78.2, source=PAPER),
    'MobileViG-m': Published(80.6, 41.3, 38.1, LOGS),
    'MobileViG-b': Published(82.6, 42.0, 38.9, LOGS),
    'PyramidViG-ti': Published(78.5, source=VIG),
    'PyramidViG-s': Published(82.1, source=VIG),
    'PyramidViG-m': Published(83.1, source=VIG),
    'PyramidViG-b': Published(83.7, source=VIG),
    'mobilenetv2_100': Published(71.8, source=PAPER),
    'mobilenetv2_140': Published(74.7, source=PAPER),
    'efficientformer_l3': Published(82.4, source=PAPER),
}
# (faster, slower, times as fast, on what): what the paper says.
CLAIMS = (
    ('MobileViG-s', 'PyramidViG-ti', 2.83, 'GPU of a phone'),
    ('MobileViG-b', 'PyramidViG-s', 2.08, 'GPU of a phone'),
    ('MobileViG-ti', 'mobilenetv2_140', 1.02 / 0.78, 'NPU of an iPhone 13 Mini'),
    ('MobileViG-b', 'efficientformer_l3', 2.77 / 2.30, 'NPU of an iPhone 13 Mini'),
)
FIGURES = 'top-1', 'box AP', 'mask AP', 'source'


def build_model(name: str, size: str) -> nn.Module:
    """Build a model of the comparison, with random weights."""
    if name in OURS:
        cls, arch = OURS[name]
        return cls(arch)
    return build_baseline(name, size)


def make_exported(args: Namespace, build: Callable, size: str, suffix: str):
    """Export a backbone and run it in the runtime of files with this suffix."""
    model = build().eval()
    fuse_backbones(model)
    image = torch.rand(1, 3, *map(int, size.split('x'))).numpy()
    with TemporaryDirectory() as folder:
        *_, path = export_backbone(model, size, Path(folder), suffix)
        session = load(path, args.threads or torch.get_num_threads())
    return {}, lambda: session(image=image)


def paper_rows(args: Namespace) -> Iterator[dict]:
    """Yield rows of each model in each runtime at each of ``args.sizes``.

    A model that takes one size only, or that has no maps for an FPN, fails at others;
    its row says so.
    """
    others = [*(name for name in OURS if name.startswith('Pyramid')), *BASELINES]
    if args.baselines is not None:
        others = args.baselines
    for size in args.sizes:
        for name in [*(f'MobileViG-{arch}' for arch in args.archs), *others]:
            build = partial(build_model, name, size)
            makes: dict[str, Callable] = {
                'PyTorch': partial(make_inference, size=size, build=build, fuse=True)
            }
            for runtime, suffix in RUNTIMES.items():
                if suffix:
                    makes[runtime] = partial(
                        make_exported, size=size, build=build, suffix=suffix
                    )
            for row in interleaved(
                args, PART, f'{name}, {size}', makes, 'PyTorch', model=name
            ):
                if row['name'] != 'PyTorch':
                    row.pop('peak_bytes', None)  # PyTorch doesn't see their memory
                yield row


def _milliseconds(rows: list[dict]) -> dict[tuple[str, str, str], float]:
    """Medians by model, size and runtime."""
    times = {}
    for row in rows:
        if row['part'] == PART and 'failed' not in row:
            size = row['size'].rpartition(', ')[2]
            seconds = sorted(row['seconds'])
            times[row['model'], size, row['name']] = 1e3 * seconds[len(seconds) // 2]
    return times


def summarize(rows: list[dict]) -> list[str]:
    """Format the comparison and the claims as lines of Markdown; none without rows."""
    rows = [row for row in rows if row['part'] == PART]
    times = _milliseconds(rows)
    sizes = list(dict.fromkeys(row['size'].rpartition(', ')[2] for row in rows))
    work = {
        row['model']: row
        for row in reversed(rows)
        if 'gmacs' in row and row['size'].endswith(sizes[0])
    }
    places = [(size, runtime) for size in sizes for runtime in RUNTIMES]
    head = ['model', 'params M', f'GMACs, {sizes[0]}' if sizes else '', *FIGURES]
    table = [[*head, *(f'{runtime}, {size}, ms' for size, runtime in places)]]
    for model in dict.fromkeys(row['model'] for row in rows):
        facts, published = work.get(model, {}), PUBLISHED.get(model, Published())
        cells = [
            f'{facts["params"] / 1e6:.1f}' if facts else '',
            f'{facts["gmacs"]:.2f}' if facts else '',
            *('' if value is None else f'{value}' for value in published),
        ]
        for size, runtime in places:
            time = times.get((model, size, runtime))
            cells.append('–' if time is None else f'{time:.1f}')
        table.append([model, *cells])
    claims = [['faster', 'slower', 'paper', *(f'{r}, {s}' for s, r in places)]]
    for fast, slow, ratio, device in CLAIMS:
        found = [(times.get((slow, *p)), times.get((fast, *p))) for p in places]
        if any(a and b for a, b in found):
            measured = [f'{a / b:.2f}' if a and b else '–' for a, b in found]
            claims.append([fast, slow, f'{ratio:.2f} ({device})', *measured])
    lines = []
    for part in (table, claims):
        if len(part) > 1:
            part.insert(1, ['---'] * len(part[0]))
            lines += [f'| {" | ".join(line)} |' for line in part] + ['']
    return lines


def plot_accuracy(rows: list[dict], path: Path) -> None:
    """Plot published top-1 over the latency in PyTorch at the first size."""
    points = {}
    for (model, _, runtime), time in _milliseconds(rows).items():
        if runtime == 'PyTorch' and PUBLISHED.get(model, Published()).top1:
            points.setdefault(model, (time, PUBLISHED[model].top1))
    if not points:
        return
    figure = Figure(figsize=(7, 4.5), layout='constrained')
    axis = figure.subplots()
    for model, point in points.items():
        axis.plot(
            *point, 'o', color='tab:green' if 'MobileViG' in model else 'tab:gray'
        )
        axis.annotate(model, point, xytext=(4, 4), textcoords='offset points', size=7)
    axis.set(xlabel='ms', ylabel='published top-1, %', xscale='log')
    figure.savefig(path, dpi=110)
