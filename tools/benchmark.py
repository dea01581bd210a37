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
import math
import multiprocessing
import os
import platform
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from mobilevig_det import MobileViG
from mobilevig_det.apis.cli import command, load_config
from mobilevig_det.backbones import mobilevig  # first: names what misfits
from mobilevig_det.errors import UserError
from mobilevig_det.ops.allocator import keep_freed_memory
from mobilevig_det.ops.svga import max_relative

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

ARCHS = ('ti', 's', 'm', 'b')
RIVALS = (
    'resnet18',
    'resnet50',
    'mobilenetv2_140',
    'efficientnet_b0',
    'mobilevitv2_150',
    'efficientformer_l1',
    'efficientformer_l3',
    'efficientformerv2_s2',
    'efficientformerv2_l',
    'poolformer_s12',
    'poolformer_s24',
    'pvt_v2_b1',
    'pvt_v2_b2',
    'repvit_m1_1',
    'repvit_m1_5',
)
PARTS = ('graph', 'inference', 'training')
GRAPH_SHAPES = ('2x400x25x42', '2x464x25x42', '2x400x50x84', '2x100x100x168')
MEMORY_FORMATS = {'': torch.contiguous_format, ', channels-last': torch.channels_last}
# The definition's backward would keep more than so many bytes.
DEFINITION_LIMIT = 2e9
COCO_STEPS = 12 * 14659  # of 8 images
# Under --amp. mmcv's operators know float16, but not bfloat16.
BACKBONE_AMP, DETECTOR_AMP = torch.bfloat16, torch.float16
MATRIX_PRODUCT = 'matrix product'
# Seconds that a turn takes at least.
TURN = 0.05
# Forks of a process that has imported what is needed and computed nothing.
PROCESSES = multiprocessing.get_context(
    'forkserver' if 'forkserver' in multiprocessing.get_all_start_methods() else 'spawn'
)
PROCESSES.set_forkserver_preload(['mobilevig_det', 'mmdet.models'])


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

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        for module in self.modules():
            if isinstance(module, mobilevig.ConvNormAct):
                module.forward = partial(nn.Sequential.forward, module)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
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
        print(
            f'No rivals: timm cannot be imported ({error}); get it with: '
            'pip install timm'
        )
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
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        function()
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'trace.json')
        profiler.export_chrome_trace(path)
        with open(path) as file:
            events = json.load(file)['traceEvents']
    held = peak = 0
    for event in sorted(
        (e for e in events if e.get('name') == '[memory]'), key=lambda e: e['ts']
    ):
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


def contestant(connection, make: Callable, args) -> None:
    """A process for one row: ``make(args)`` gives what is known of it, and
    what to run at each turn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends it.
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.keep_memory:
        keep_freed_memory()
    try:
        facts, run = make(args)
        run()
        # What takes little time is run more often, and once before: others
        # had the caches in between.
        times = max(int(TURN / seconds(run, args.device)), 1)
        connection.send(facts)
        while connection.recv() == 'time':
            if times > 1:
                run()
            connection.send(
                seconds(lambda: [run() for _ in range(times)], args.device) / times
            )
        with quiet():
            connection.send(peak_memory(run, args.device))
    except (
        RuntimeError,
        AssertionError,
        ValueError,
        AttributeError,
        ImportError,
    ) as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        connection.send(lines[-1][:120])


def ask(row: dict, connection, question: str | None = None) -> object:
    """The process's answer, or None, and why in the row, if it failed."""
    if 'failed' in row:
        return None
    try:
        if question:
            connection.send(question)
        answer = connection.recv()
    except (EOFError, OSError):
        answer = 'its process ended: out of memory?'
    if isinstance(answer, str):
        row['failed'] = answer
        return None
    return answer


def in_turns(rows: list[dict], makes: list[Callable], rounds: int, args) -> list[dict]:
    """Time all rows in turns, each in its own process: what one leaves in the
    allocator would make another faster or slower."""
    there = []
    for row, make in zip(rows, makes):
        where = f'{row["part"]} {row["size"]}: {row["name"]}'
        progress(f'{where}, warming up')
        connection, theirs = PROCESSES.Pipe()
        PROCESSES.Process(
            target=contestant, args=(theirs, make, args), daemon=True
        ).start()
        theirs.close()
        row.update(ask(row, connection) or {}, seconds=[])
        there.append((row, where, connection))
    for i in range(rounds):
        for row, where, connection in there:
            progress(f'{where}, {i + 1} of {rounds}')
            row['seconds'].append(ask(row, connection, 'time'))
    for row, where, connection in there:
        progress(f'{where}, memory')
        row['peak_bytes'] = ask(row, connection, 'memory')
    progress('')
    return rows


def progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f'\r\033[K{text}', end='', file=sys.stderr, flush=True)
    elif text.endswith('warming up'):
        print(text, file=sys.stderr, flush=True)


def machine(args) -> dict[str, object]:
    name = platform.processor() or platform.machine()
    if args.device != 'cpu':
        name = torch.cuda.get_device_name()
    elif os.path.exists('/proc/cpuinfo'):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                name = line.split(':')[1].strip()
                break
    import mmdet
    import mmengine

    return dict(
        device=args.device,
        name=name,
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=args.threads or torch.get_num_threads(),
        memory='kept' if args.keep_memory else 'as the system does',
        training=f'{BACKBONE_AMP} (detectors {DETECTOR_AMP})'.replace('torch.', '')
        if args.amp
        else 'float32',
        python=platform.python_version(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmdet=mmdet.__version__,
    )


# What is measured.


def make_graph(args, function: Callable, shape: list[int], layout, backward):
    x = torch.randn(shape, device=args.device).contiguous(memory_format=layout)
    grad = torch.randn_like(x)
    x.requires_grad_(backward)

    def run():
        out = function(x)
        if backward:
            torch.autograd.grad(out, x, grad)

    return dict(elements=x.numel()), run


def graph_rows(args) -> Iterator[dict]:
    for size in args.graph_shapes:
        shape = [int(n) for n in size.split('x')]
        kept = 8 * math.prod(shape) * sum(-(-n // 2) - 1 for n in shape[2:])
        for kind in ('forward', 'forward + backward'):
            backward = kind != 'forward'
            rows_of_kind, makes = [], []
            for end, layout in MEMORY_FORMATS.items():
                for name, function in (
                    ('definition', definition),
                    ('ours', max_relative),
                ):
                    if backward and name == 'definition' and kept > DEFINITION_LIMIT:
                        continue
                    rows_of_kind.append(
                        dict(part=f'graph step, {kind}', size=size, name=name + end)
                    )
                    makes.append(
                        partial(
                            make_graph,
                            function=function,
                            shape=shape,
                            layout=layout,
                            backward=backward,
                        )
                    )
            yield from in_turns(rows_of_kind, makes, args.rounds, args)


def make_matrix_product(args):
    """The ceiling: what the machine reaches at a plain matrix product."""
    n = 2048 if args.device == 'cpu' else 8192
    a = torch.rand(n, n, device=args.device)
    return dict(gmacs=n**3 / 1e9, params=0), lambda: a @ a


def build(cls, arch: str, **kwargs) -> nn.Module:
    torch.manual_seed(0)
    return cls(arch, layer_scale_init_value=0.5, **kwargs)


def build_rival(name: str) -> nn.Module:
    return (
        import_timm()
        .create_model(name, features_only=True, pretrained=False)
        .to(memory_format=torch.channels_last)
    )


def make_inference(args, size: str, build: Callable, fuse: bool = False):
    model = build().eval().to(args.device)
    images = torch.rand(
        args.batch_size, 3, *map(int, size.split('x')), device=args.device
    )
    if not isinstance(model, MobileViG):
        images = images.contiguous(memory_format=torch.channels_last)
    counter = FlopCounterMode(display=False)

    def run():
        with torch.no_grad():
            model(images)

    with counter:
        run()
    facts = dict(
        params=sum(p.numel() for p in model.parameters()),
        gmacs=counter.get_total_flops() / 2e9 / len(images),
    )
    if fuse:
        model.fuse()
    return facts, run


def inference_rows(args) -> Iterator[dict]:
    rivals = args.rivals if args.rivals and import_timm() else ()
    for size in args.sizes:
        make = partial(make_inference, size=size)
        makes = {MATRIX_PRODUCT: make_matrix_product}
        for arch in args.archs:
            name, ours = f'MobileViG-{arch}', partial(build, MobileViG, arch)
            makes[f'{name}, authors'] = partial(
                make, build=partial(build, Authors, arch)
            )
            makes[name] = partial(make, build=ours)
            makes[f'{name}, fused'] = partial(make, build=ours, fuse=True)
        for name in rivals:
            makes[name] = partial(make, build=partial(build_rival, name))
        yield from in_turns(
            [dict(part='inference', size=size, name=name) for name in makes],
            list(makes.values()),
            args.rounds,
            args,
        )


def make_training(args, build: Callable):
    """Forward and backward of the mean square of every feature."""
    model = build().train().to(args.device)
    images = torch.rand(
        args.batch_size, 3, *map(int, args.sizes[-1].split('x')), device=args.device
    )

    def run():
        model.zero_grad()
        with torch.autocast(args.device, BACKBONE_AMP, enabled=args.amp):
            loss = sum(out.square().mean() for out in model(images))
        loss.backward()

    return {}, run


def training_rows(args) -> Iterator[dict]:
    for arch in args.archs:
        name, ours = f'MobileViG-{arch}', partial(build, MobileViG, arch)
        makes = {
            f'{name}, authors': partial(build, Authors, arch),
            name: ours,
            f"{name}, with_cp='act'": partial(ours, with_cp='act'),
        }
        yield from in_turns(
            [
                dict(part='training step', size=args.sizes[-1], name=name)
                for name in makes
            ],
            [partial(make_training, build=b) for b in makes.values()],
            max(args.rounds - 2, 1),
            args,
        )


def make_detector(args, arch: str | None, training: bool):
    """Whole Mask R-CNN, MMDetection's heads: a training step with AdamW, or
    a prediction."""
    from mmdet.registry import MODELS
    from mmdet.testing import demo_mm_inputs
    from mmengine.registry import init_default_scope

    init_default_scope('mmdet')
    cfg = load_config(f'mobilevig_{arch or "m"}_fpn_1x').model
    cfg.backbone.init_cfg = None
    if arch is None:
        cfg.backbone = dict(
            type='ResNet', depth=50, norm_cfg=dict(type='BN', requires_grad=True)
        )
        cfg.neck.in_channels = [256, 512, 1024, 2048]
    model = MODELS.build(cfg).to(args.device).train(training)
    shape = [3, *map(int, args.sizes[-1].split('x'))]
    inputs = model.data_preprocessor(
        demo_mm_inputs(
            args.batch_size,
            [shape] * args.batch_size,
            num_items=[8] * args.batch_size,
            num_classes=80,
            with_mask=True,
            device=args.device,
        ),
        True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 1e-6)

    def train():
        with torch.autocast(args.device, DETECTOR_AMP, enabled=args.amp):
            losses = model.parse_losses(model(**inputs, mode='loss'))[0]
        optimizer.zero_grad()
        losses.backward()
        optimizer.step()

    def predict():
        with torch.no_grad():
            model(**inputs, mode='predict')

    return {}, train if training else predict


def detector_rows(args) -> Iterator[dict]:
    size = 'x'.join([str(args.batch_size), '3', args.sizes[-1]])
    archs = {f'MobileViG-{arch}': arch for arch in args.archs}
    archs['ResNet-50'] = None
    for part, training in (
        ('detector, training step', True),
        ('detector, inference', False),
    ):
        yield from in_turns(
            [dict(part=part, size=size, name=name) for name in archs],
            [
                partial(make_detector, arch=arch, training=training)
                for arch in archs.values()
            ],
            max(args.rounds - 2, 1),
            args,
        )


# Showing.


HEADER = (
    'what',
    'size',
    'name',
    'median ms',
    'min-max ms',
    'ns/element',
    'images/s',
    'params M',
    'GMACs',
    'peak MB',
    'x ceiling',
    'x authors',
)


def median(row: dict) -> float:
    return statistics.median(row['seconds'])


def table(result: dict) -> list[tuple[str, ...]]:
    """A line for each row. ``x ceiling``: time over what the machine's
    matrix-product rate allows for the FLOPs; ``x authors``: how many times
    faster than the authors' algorithm, and its memory over ours."""
    lines = []
    timed = {
        (row['part'], row['size'], row['name']): row
        for row in result['rows']
        if 'failed' not in row
    }
    for row in result['rows']:
        start = (row['part'], row['size'], row['name'])
        if 'failed' in row:
            lines.append(
                (*start, 'failed: ' + row['failed'], *[''] * (len(HEADER) - 4))
            )
            continue
        base = timed.get(
            (
                *start[:2],
                row['name'].replace('ours', 'definition')
                if 'elements' in row
                else row['name'].split(',')[0] + ', authors',
            )
        )
        ratio = ''
        if base is not None and base is not row:
            memory = base['peak_bytes'] / max(row['peak_bytes'], 1)
            ratio = f'{median(base) / median(row):.2f} ({memory:.2f})'
        gmacs, batch = row.get('gmacs'), result['batch_size']
        limit = timed.get((*start[:2], MATRIX_PRODUCT))
        if limit is row:
            batch = 1
        ideal = (
            median(limit) * gmacs * batch / limit['gmacs'] if gmacs and limit else None
        )
        lines.append(
            (
                *start,
                f'{median(row) * 1e3:.2f}',
                f'{min(row["seconds"]) * 1e3:.2f}-{max(row["seconds"]) * 1e3:.2f}',
                f'{median(row) / row["elements"] * 1e9:.2f}'
                if 'elements' in row
                else '',
                '' if 'elements' in row else f'{batch / median(row):.2f}',
                f'{row["params"] / 1e6:.2f}' if gmacs else '',
                f'{gmacs:.2f}' if gmacs else '',
                f'{row["peak_bytes"] / 1e6:.1f}',
                f'{median(row) / ideal:.2f}' if ideal else '',
                ratio,
            )
        )
    return lines


def markdown(result: dict) -> str:
    facts = ', '.join(f'{k} {v}' for k, v in result['machine'].items())
    rows = [HEADER, ('---',) * len(HEADER), *table(result)]
    steps = COCO_STEPS * 8 / result['batch_size']
    notes = [
        f'{row["name"]}: 12 epochs of COCO at this rate take '
        f'{median(row) * steps / 3600:.0f} h.'
        for row in result['rows']
        if row['part'] == 'detector, training step'
        and 'failed' not in row
        and result['machine']['device'] != 'cpu'
    ]
    return '\n'.join(
        [
            facts,
            '',
            *(f'| {" | ".join(row)} |' for row in rows),
            '',
            'x ceiling: time over what the rate of the matrix product allows. '
            "x authors: times faster than the authors' algorithm (in brackets "
            "its peak memory over this one's). Peak: tensors made by the run, "
            'without weights and input.',
            *notes,
            '',
        ]
    )


def draw_growth(result: dict, path: Path) -> None:
    """What the graph step costs an element, as the map grows."""
    lines = defaultdict(dict)
    for row in result['rows']:
        if 'elements' in row and 'failed' not in row:
            height, width = map(int, row['size'].split('x')[2:])
            cost = median(row) / row['elements'] * 1e9
            lines[row['part'], row['name']][height * width] = cost
    if not lines:
        return
    parts = list(dict.fromkeys(part for part, _ in lines))
    figure = Figure(figsize=(9, 3.5), layout='constrained')
    axes = figure.subplots(1, len(parts), squeeze=False, sharey=True)
    for (part, name), line in lines.items():
        axis = axes[0, parts.index(part)]
        pixels = sorted(line)
        axis.loglog(
            pixels,
            [line[n] for n in pixels],
            'o-' if 'channels-last' not in name else 's--',
            color='tab:green' if 'ours' in name else 'tab:gray',
            label=name,
        )
        axis.set(title=part, xlabel='pixels of the map', ylabel='ns/element')
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc='outside lower center', ncols=4
    )
    figure.savefig(path, dpi=110)


def draw(result: dict, path: Path) -> None:
    rows = [
        row
        for row in result['rows']
        if 'failed' not in row and row['name'] != MATRIX_PRODUCT
    ]
    parts = list(dict.fromkeys((row['part'], row['size']) for row in rows))
    bars = [sum((row['part'], row['size']) == part for row in rows) for part in parts]
    figure = Figure(
        figsize=(9, sum(0.8 + 0.22 * n for n in bars)), layout='constrained'
    )
    axes = figure.subplots(
        len(parts), 1, squeeze=False, height_ratios=[3 + n for n in bars]
    )
    for axis, part in zip(axes[:, 0], parts):
        shown = [r for r in rows if (r['part'], r['size']) == part][::-1]
        middle = [median(row) * 1e3 for row in shown]
        axis.barh(
            [row['name'] for row in shown],
            middle,
            xerr=[
                [m - min(r['seconds']) * 1e3 for m, r in zip(middle, shown)],
                [max(r['seconds']) * 1e3 - m for m, r in zip(middle, shown)],
            ],
            color=[
                'tab:gray'
                if r['name'] in RIVALS
                or any(
                    theirs in r['name']
                    for theirs in ('authors', 'definition', 'ResNet')
                )
                else 'tab:green'
                for r in shown
            ],
        )
        axis.set(title=', '.join(part), xlabel='ms')
        axis.tick_params('y', labelsize=7)
    figure.savefig(path, dpi=110)


def write(result: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'benchmark.json').write_text(json.dumps(result, indent=1))


def save(result: dict, folder: Path) -> None:
    write(result, folder)
    (folder / 'benchmark.md').write_text(markdown(result))
    with open(folder / 'benchmark.csv', 'w', newline='') as file:
        csv.writer(file).writerows([HEADER, *table(result)])
    draw(result, folder / 'benchmark.png')
    draw_growth(result, folder / 'growth.png')
    print(markdown(result))
    print(f'Written: {folder}/benchmark.{{md,csv,png,json}}, growth.png')


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Time the graph step, the backbones and detectors'
    )
    parser.add_argument('--parts', nargs='*', choices=PARTS, default=list(PARTS))
    parser.add_argument(
        '--detector',
        action='store_true',
        help='also whole Mask R-CNN training steps and inference',
    )
    parser.add_argument('--archs', nargs='+', choices=ARCHS, default=ARCHS)
    parser.add_argument('--rivals', nargs='*', default=RIVALS, help='models of timm')
    parser.add_argument(
        '--sizes',
        nargs='+',
        default=['224x224', '800x1216'],
        help='heights x widths; training takes the last one',
    )
    parser.add_argument('--graph-shapes', nargs='+', default=GRAPH_SHAPES)
    parser.add_argument('--batch-size', type=int, default=1)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--threads', type=int, help='of the CPU')
    parser.add_argument(
        '--amp',
        action='store_true',
        help='train under autocast: backbones bfloat16, detectors float16',
    )
    parser.add_argument(
        '--keep-memory',
        action='store_true',
        help="reuse freed memory, as this project's tools do on CPUs",
    )
    parser.add_argument('--out-dir', default='work_dirs/benchmark')
    parser.add_argument('--from-file', help='draw a benchmark.json again, run nothing')
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    out_dir = Path(args.out_dir)
    if args.from_file:
        try:
            result = json.loads(Path(args.from_file).read_text())
            result['rows'][0]['part']
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise UserError(
                f'{args.from_file} is not a benchmark.json that '
                f'this tool wrote: {error!r}.'
            ) from error
        save(result, out_dir)
        return
    for sizes, example in (
        (args.sizes, '224x224'),
        (args.graph_shapes, GRAPH_SHAPES[0]),
    ):
        for size in sizes:
            numbers = size.split('x')
            if len(numbers) != example.count('x') + 1 or not all(
                n.isdigit() and int(n) for n in numbers
            ):
                raise UserError(f'{size!r} is not a size like {example}.')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise UserError('--device cuda: PyTorch sees no GPU here.')
    result = dict(machine=machine(args), batch_size=args.batch_size, rows=[])
    measures = dict(graph=graph_rows, inference=inference_rows, training=training_rows)
    for rows in [measures[part] for part in PARTS if part in args.parts] + [
        detector_rows
    ] * args.detector:
        # What is done is kept if the rest is stopped.
        for row in rows(args):
            result['rows'].append(row)
            write(result, out_dir)
    save(result, out_dir)


if __name__ == '__main__':
    main()
