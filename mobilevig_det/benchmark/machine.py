"""What the figures were measured on."""

import os
import platform
from argparse import Namespace
from pathlib import Path

import mmdet
import mmengine
import torch

from .backbones import BACKBONE_AMP
from .detectors import DETECTOR_AMP


def machine(args: Namespace) -> dict[str, object]:
    name = platform.processor() or platform.machine()
    if args.device != 'cpu':
        name = torch.cuda.get_device_name()
    elif os.path.exists('/proc/cpuinfo'):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                name = line.split(':')[1].strip()
                break
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
