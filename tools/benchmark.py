#!/usr/bin/env python
"""Time the graph step, the backbones beside their rivals, and detectors.

With no arguments: the graph step against its definition, then every size of
MobileViG beside the authors' algorithm and what one would pick instead
(through timm, if it is installed), inference and training. Everything of one
table runs in turns, so that a busy machine slows all of it alike.
"""
import argparse
import csv
import gc
import importlib.abc
import importlib.machinery
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from mobilevig_det import MobileViG, mobilevig  # first: names what misfits
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mobilevig_det.cli import command, load_config
from mobilevig_det.errors import UserError
from mobilevig_det.svga import max_relative

ARCHS = ('ti', 's', 'm', 'b')
RIVALS = ('resnet18', 'resnet50', 'mobilenetv2_140', 'efficientnet_b0',
          'mobilevitv2_150', 'efficientformer_l1', 'efficientformer_l3',
          'efficientformerv2_s2', 'efficientformerv2_l', 'poolformer_s12',
          'poolformer_s24', 'pvt_v2_b1', 'pvt_v2_b2', 'repvit_m1_1',
          'repvit_m1_5')
PARTS = ('graph', 'inference', 'training')
GRAPH_SHAPES = ('2x400x25x42', '2x464x25x42', '2x400x50x84', '2x400x100x168')
# Above, the definition's backward would keep more than 4 GB.
DEFINITION_LIMIT = 4e9
COCO_STEPS = 12 * 14659  # of 8 images


# The authors' algorithm.


def definition(x: Tensor, stride: int = 2) -> Tensor:
    """The graph step as the authors run it: (H + W) / K rounds of roll,
    subtract and maximum."""
    out = x - x
    for dim in (2, 3):
        for i in range(stride, x.shape[dim], stride):
            out = torch.maximum(out, x - torch.roll(x, i, dim))
    return out


class Authors(MobileViG):
    """The backbone with the definition's graph step, in the usual memory
    format, nothing in place, nothing folded."""

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        ours = mobilevig.max_relative, mobilevig._add
        mobilevig.max_relative = definition
        mobilevig._add = lambda out, x: x + out
        try:
            x, outs = self.stem(x), []
            for i, stage in enumerate(self.stages):
                x = stage(self.downsamples[i - 1](x) if i else x)
                outs.append(x)
        finally:
            mobilevig.max_relative, mobilevig._add = ours
        return tuple(outs)


# timm, which wants torchvision (there is no CPU build for every torch).


class _Anything(type):

    def __getattr__(cls, name: str) -> str:
        if name.startswith('__'):
            raise AttributeError(name)
        return name


class _StandIn(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """An empty torchvision: timm imports names from it that none of the
    backbones here uses."""

    def find_spec(self, name, path, target=None):
        if name.split('.')[0] == 'torchvision':
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return None

    def exec_module(self, module):

        def attribute(name):
            if name.startswith('__'):
                raise AttributeError(name)
            return _Anything(name, (), {})

        module.__getattr__ = attribute


def import_timm():
    """timm, or None."""
    stand_in = _StandIn()
    sys.meta_path.append(stand_in)  # Asked last: a real one comes first.
    try:
        import timm
        return timm
    except ImportError as error:
        print(f'No rivals: timm cannot be imported ({error}); get it with: '
              'pip install timm')
    finally:
        sys.meta_path.remove(stand_in)
        for name in [n for n in sys.modules if n.startswith('torchvision')]:
            if isinstance(sys.modules[name].__spec__.loader, _StandIn):
                del sys.modules[name]
    return None


# Measuring.


def synchronize(device: str) -> None:
    if device != 'cpu':
        torch.cuda.synchronize()


def seconds(function: Callable, device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - start


def peak_memory(function: Callable, device: str) -> int:
    """Most bytes in tensors at once beyond those there before: on CPUs from
    every allocation that torch.profiler records."""
    gc.collect()
    if device != 'cpu':
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        function()
        synchronize(device)
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU],
            profile_memory=True) as profiler:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'trace.json')
        profiler.export_chrome_trace(path)
        with open(path) as file:
            events = json.load(file)['traceEvents']
    held = peak = 0
    for event in sorted((e for e in events if e.get('name') == '[memory]'),
                        key=lambda e: e['ts']):
        held += event['args']['Bytes']
        peak = max(peak, held)
    return peak


@contextmanager
def quiet() -> Iterator[None]:
    """Without the profiler's remarks, which C++ code writes."""
    sys.stderr.flush()
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def in_turns(rows: List[dict], runs: List[Callable], rounds: int,
             device: str) -> List[dict]:
    """Warm up, note each peak, then time ``rounds`` times in turns."""
    done = []
    for row, run in zip(rows, runs):
        progress(f'{row["part"]} {row["size"]}: {row["name"]}, warming up')
        try:
            run()
            with quiet():
                row['peak_bytes'] = peak_memory(run, device)
            row['seconds'] = []
            done.append((row, run))
        except (RuntimeError, AssertionError, ValueError) as error:
            row['failed'] = str(error).strip().splitlines()[-1][:120]
    for i in range(rounds):
        for row, run in done:
            progress(f'{row["part"]} {row["size"]}: {row["name"]}, '
                     f'{i + 1} of {rounds}')
            row['seconds'].append(seconds(run, device))
    progress('')
    return rows


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f'\r\033[K{text}', end='', file=sys.stderr, flush=True)
    elif text.endswith('warming up'):
        print(text, file=sys.stderr, flush=True)


def ceiling(device: str, dtype: torch.dtype = torch.float32) -> float:
    """The machine's rate at a matrix product, in FLOP/s."""
    n = 2048 if device == 'cpu' else 8192
    a = torch.rand(n, n, device=device, dtype=dtype)
    a @ a
    return 2 * n**3 / statistics.median(
        seconds(lambda: a @ a, device) for _ in range(7))


def machine(device: str) -> Dict[str, object]:
    name = platform.processor() or platform.machine()
    if device != 'cpu':
        name = torch.cuda.get_device_name()
    elif os.path.exists('/proc/cpuinfo'):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                name = line.split(':')[1].strip()
                break
    import mmdet
    import mmengine
    return dict(
        device=device,
        name=name,
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmdet=mmdet.__version__,
        gflops=ceiling(device) / 1e9)


# What is measured.


def graph_rows(args) -> List[dict]:
    rows = []
    for size in args.graph_shapes:
        shape = [int(n) for n in size.split('x')]
        x = torch.randn(shape, device=args.device, requires_grad=True)
        grad = torch.randn_like(x)
        rounds = sum(-(-n // 2) - 1 for n in shape[2:])
        functions = {'definition': definition, 'ours': max_relative}
        if rounds * 2 * x.nbytes > DEFINITION_LIMIT:
            del functions['definition']
        for kind in ('forward', 'forward + backward'):

            def run(function, kind=kind, x=x, grad=grad):
                if kind == 'forward':
                    with torch.no_grad():
                        function(x)
                else:
                    torch.autograd.grad(function(x), x, grad)

            rows += in_turns([
                dict(part=f'graph step, {kind}', size=size, name=name)
                for name in functions
            ], [lambda f=f: run(f) for f in functions.values()],
                             3 * args.rounds, args.device)
    return rows


def describe(model: nn.Module, images: Tensor) -> dict:
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(images)
    return dict(
        params=sum(p.numel() for p in model.parameters()),
        gmacs=counter.get_total_flops() / 2e9 / len(images))


def make(cls, arch: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return cls(arch, layer_scale_init_value=0.5, **kwargs)


def inference_rows(args) -> List[dict]:
    models, rows = {}, []
    for arch in args.archs:
        models[f'MobileViG-{arch}, authors'] = make(Authors, arch).eval()
        models[f'MobileViG-{arch}'] = make(MobileViG, arch).eval()
        models[f'MobileViG-{arch}, fused'] = make(MobileViG,
                                                  arch).eval().fuse()
    timm = import_timm() if args.rivals else None
    missing = {}
    for name in args.rivals if timm else ():
        try:
            models[name] = timm.create_model(
                name, features_only=True, pretrained=False).eval().to(
                    memory_format=torch.channels_last)
        except (RuntimeError, AttributeError, ValueError) as error:
            missing[name] = f'timm {timm.__version__}: {error}'[:120]
    for size in args.sizes:
        images = torch.rand(
            args.batch_size, 3, *map(int, size.split('x')),
            device=args.device)
        rows_of_size, runs = [], []
        for name, model in models.items():
            row = dict(part='inference', size=size, name=name)
            x = images if name not in args.rivals else images.contiguous(
                memory_format=torch.channels_last)
            try:
                row.update(describe(model.to(args.device), x))
            except (RuntimeError, AssertionError, ValueError) as error:
                missing[name] = str(error).strip().splitlines()[-1][:120]
                continue

            def run(model=model, x=x):
                with torch.no_grad():
                    model(x)

            rows_of_size.append(row)
            runs.append(run)
        rows += in_turns(rows_of_size, runs, args.rounds, args.device)
        rows += [
            dict(part='inference', size=size, name=name, failed=why)
            for name, why in missing.items()
        ]
    return rows


def training_rows(args) -> List[dict]:
    """Forward and backward of the mean square of every feature."""
    rows = []
    size = args.sizes[-1]
    images = torch.rand(
        args.batch_size, 3, *map(int, size.split('x')), device=args.device)
    for arch in args.archs:
        models = {
            f'MobileViG-{arch}, authors': make(Authors, arch),
            f'MobileViG-{arch}': make(MobileViG, arch),
            f"MobileViG-{arch}, with_cp='act'": make(
                MobileViG, arch, with_cp='act'),
            f'MobileViG-{arch}, with_cp=True': make(
                MobileViG, arch, with_cp=True),
        }
        for model in models.values():
            model.to(args.device).train()

        def run(model):
            model.zero_grad()
            with torch.autocast(
                    args.device, torch.bfloat16, enabled=args.amp):
                loss = sum(out.square().mean() for out in model(images))
            loss.backward()

        rows += in_turns([
            dict(part='training step', size=size, name=name)
            for name in models
        ], [
            lambda m=m: run(m) for m in models.values()
        ], max(args.rounds - 2, 1), args.device)
    return rows


def detector_rows(args) -> List[dict]:
    """Whole Mask R-CNN, MMDetection's heads: a training step with AdamW, and
    a prediction."""
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmengine.registry import init_default_scope
    init_default_scope('mmdet')
    height, width = map(int, args.sizes[-1].split('x'))
    detectors = {}
    for name, arch, backbone in (
        *((f'MobileViG-{arch}', arch, {}) for arch in args.archs),
            ('ResNet-50', 'm',
             dict(
                 _delete_=True,
                 type='ResNet',
                 depth=50,
                 norm_cfg=dict(type='BN', requires_grad=True)))):
        cfg = load_config(f'mobilevig_{arch}_fpn_1x',
                          dict(model=dict(backbone=backbone))).model
        cfg.backbone.init_cfg = None
        if name == 'ResNet-50':
            cfg.neck.in_channels = [256, 512, 1024, 2048]
        detectors[name] = MODELS.build(cfg).to(args.device)

    def data(model):
        return model.data_preprocessor(
            demo_mm_inputs(
                args.batch_size, [[3, height, width]] * args.batch_size,
                num_items=[8] * args.batch_size,
                num_classes=80,
                with_mask=True,
                device=args.device), True)

    def train(model, optimizer, inputs):
        with torch.autocast(args.device, torch.bfloat16, enabled=args.amp):
            losses = model.parse_losses(model(**inputs, mode='loss'))[0]
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()

    def predict(model, inputs):
        with torch.no_grad():
            model(**inputs, mode='predict')

    rows, size = [], f'{args.batch_size}x3x{height}x{width}'
    for part in ('detector, training step', 'detector, inference'):
        runs = []
        for model in detectors.values():
            inputs = data(model)
            if part.endswith('step'):
                model.train()
                optimizer = torch.optim.AdamW(model.parameters(), 1e-6)
                runs.append(lambda m=model, o=optimizer, i=inputs: train(
                    m, o, i))
            else:
                model.eval()
                runs.append(lambda m=model, i=inputs: predict(m, i))
        rows += in_turns([
            dict(part=part, size=size, name=name) for name in detectors
        ], runs, max(args.rounds - 3, 1), args.device)
    return rows


# Showing.


HEADER = ('what', 'size', 'name', 'median ms', 'min-max ms', 'images/s',
          'params M', 'GMACs', 'peak MB', 'x ceiling', 'x authors')


def median(row: dict) -> float:
    return statistics.median(row['seconds'])


def table(result: dict) -> List[Tuple[str, ...]]:
    """A line for each row. ``x ceiling``: time over what the machine's
    matrix-product rate allows for the FLOPs; ``x authors``: how many times
    faster than the authors' algorithm, and its memory over ours."""
    lines = []
    timed = {(row['part'], row['size'], row['name']): row
             for row in result['rows'] if 'seconds' in row}
    for row in result['rows']:
        start = (row['part'], row['size'], row['name'])
        if 'failed' in row:
            lines.append((*start, 'failed: ' + row['failed'],
                          *[''] * (len(HEADER) - 4)))
            continue
        base = timed.get(
            (*start[:2], 'definition' if 'graph' in row['part'] else
             row['name'].split(',')[0] + ', authors'))
        ratio = ''
        if base is not None and base is not row:
            memory = base['peak_bytes'] / max(row['peak_bytes'], 1)
            ratio = f'{median(base) / median(row):.2f} ({memory:.2f})'
        gmacs = row.get('gmacs')
        batch, limit = result['batch_size'], result['machine']['gflops']
        lines.append((
            *start, f'{median(row) * 1e3:.2f}',
            f'{min(row["seconds"]) * 1e3:.2f}-{max(row["seconds"]) * 1e3:.2f}',
            '' if 'graph' in row['part'] else f'{batch / median(row):.2f}',
            f'{row["params"] / 1e6:.2f}' if gmacs else '',
            f'{gmacs:.2f}' if gmacs else '', f'{row["peak_bytes"] / 1e6:.1f}',
            f'{median(row) / (2 * gmacs * batch / limit):.2f}'
            if gmacs else '', ratio))
    return lines


def markdown(result: dict) -> str:
    facts = ', '.join(
        f'{k} {v:.0f}' if k == 'gflops' else f'{k} {v}'
        for k, v in result['machine'].items())
    rows = [HEADER, ('---', ) * len(HEADER), *table(result)]
    steps = COCO_STEPS * 8 / result['batch_size']
    notes = [
        f'{row["name"]}: 12 epochs of COCO at this rate take '
        f'{median(row) * steps / 3600:.0f} h.' for row in result['rows']
        if row['part'] == 'detector, training step' and 'seconds' in row
    ]
    return '\n'.join([
        facts, '', *(f'| {" | ".join(row)} |' for row in rows), '',
        'x ceiling: time over what the matrix-product rate (gflops) allows. '
        'x authors: times faster than the authors\' algorithm (in brackets '
        'its peak memory over this one\'s). Peak: tensors made by the run, '
        'without weights and input.', *notes, ''
    ])


def draw(result: dict, path: Path) -> None:
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    rows = [row for row in result['rows'] if 'seconds' in row]
    parts = list(dict.fromkeys((row['part'], row['size']) for row in rows))
    figure, axes = plt.subplots(
        len(parts),
        1,
        squeeze=False,
        layout='constrained',
        figsize=(9, sum(0.8 + 0.22 * sum(
            (row['part'], row['size']) == part for row in rows)
                        for part in parts)),
        height_ratios=[
            3 + sum((row['part'], row['size']) == part for row in rows)
            for part in parts
        ])
    for axis, part in zip(axes[:, 0], parts):
        shown = [r for r in rows if (r['part'], r['size']) == part][::-1]
        middle = [median(row) * 1e3 for row in shown]
        axis.barh(
            [row['name'] for row in shown],
            middle,
            xerr=[[m - min(r['seconds']) * 1e3
                   for m, r in zip(middle, shown)],
                  [max(r['seconds']) * 1e3 - m
                   for m, r in zip(middle, shown)]],
            color=[
                'tab:green' if 'MobileViG' in r['name'] or r['name'] == 'ours'
                else 'tab:gray' for r in shown
            ])
        axis.set(title=', '.join(part), xlabel='ms')
        axis.tick_params('y', labelsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write(result: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'benchmark.json').write_text(json.dumps(result, indent=1))


def save(result: dict, folder: Path) -> None:
    write(result, folder)
    (folder / 'benchmark.md').write_text(markdown(result))
    with open(folder / 'benchmark.csv', 'w', newline='') as file:
        csv.writer(file).writerows([HEADER, *table(result)])
    draw(result, folder / 'benchmark.png')
    print(markdown(result))
    print(f'Written: {folder}/benchmark.{{md,csv,png,json}}')


def parse_args(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Time the graph step, the backbones and detectors')
    parser.add_argument(
        '--parts', nargs='*', choices=PARTS, default=list(PARTS))
    parser.add_argument(
        '--detector',
        action='store_true',
        help='also whole Mask R-CNN training steps and inference')
    parser.add_argument('--archs', nargs='+', choices=ARCHS, default=ARCHS)
    parser.add_argument(
        '--rivals', nargs='*', default=RIVALS, help='models of timm')
    parser.add_argument(
        '--sizes',
        nargs='+',
        default=['224x224', '800x1216'],
        help='heights x widths; training takes the last one')
    parser.add_argument('--graph-shapes', nargs='+', default=GRAPH_SHAPES)
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--threads', type=int, help='of the CPU')
    parser.add_argument(
        '--amp', action='store_true', help='train under bfloat16 autocast')
    parser.add_argument('--out-dir', default='work_dirs/benchmark')
    parser.add_argument(
        '--from-file', help='draw a benchmark.json again, run nothing')
    return parser.parse_args(argv)


@command
def main(argv: Optional[List[str]] = None) -> None:
    args = parse_args(argv)
    out_dir = Path(args.out_dir)
    if args.from_file:
        try:
            result = json.loads(Path(args.from_file).read_text())
            result['rows'][0]['part']
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(f'{args.from_file} is not a benchmark.json that '
                            f'this tool wrote: {error!r}.') from error
        save(result, out_dir)
        return
    for sizes, example in ((args.sizes, '224x224'),
                           (args.graph_shapes, GRAPH_SHAPES[0])):
        for size in sizes:
            numbers = size.split('x')
            if (len(numbers) != example.count('x') + 1
                    or not all(n.isdigit() and int(n) for n in numbers)):
                raise UserError(f'{size!r} is not a size like {example}.')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: PyTorch sees no GPU here.')
    if args.threads:
        torch.set_num_threads(args.threads)
    result = dict(
        machine=machine(args.device), batch_size=args.batch_size, rows=[])
    measures = dict(
        graph=graph_rows, inference=inference_rows, training=training_rows)
    for rows in [
            measures[part] for part in PARTS if part in args.parts
    ] + [detector_rows] * args.detector:
        result['rows'] += rows(args)
        write(result, out_dir)  # What is done is kept if the rest is stopped.
    save(result, out_dir)


if __name__ == '__main__':
    main()
