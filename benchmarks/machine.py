"""Describe the machine that something was measured on: hardware and versions."""

import os
import platform
from argparse import Namespace
from importlib import metadata
from pathlib import Path

import mobilevig_det
from mobilevig_det.mmcv_ops.mmcv_ext import in_use

import mmcv
import mmdet
import mmengine
import torch

from .backbones import BACKBONE_AMP
from .detectors import DETECTOR_AMP


def hardware(device: str) -> dict[str, object]:
    """Return the name of the processor or GPU and the number of threads.

    Args:
        device (str): 'cpu', 'cuda' or 'cuda:INDEX'.
    """
    name = platform.processor() or platform.machine()
    if device.startswith('cuda'):
        name = torch.cuda.get_device_name(device)
    elif os.path.exists('/proc/cpuinfo'):
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                name = line.split(':')[1].strip()
                break
    return dict(
        device=device,
        name=name,
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
    )


def versions() -> dict[str, object]:
    """Return the versions of this package, its dependencies and the image decoders."""
    return dict(
        mobilevig_det=mobilevig_det.__version__,
        python=platform.python_version(),
        torch=torch.__version__,
        mmengine=mmengine.__version__,
        mmcv=mmcv.__version__,
        operators=in_use(),
        mmdet=mmdet.__version__,
        pillow=metadata.version('pillow'),
        numpy=metadata.version('numpy'),
    )


def describe_machine(args: Namespace) -> dict[str, object]:
    """Return machine, versions and settings for the head of a benchmark's table."""
    facts = hardware(args.device)
    if args.threads:
        facts['threads'] = args.threads
    facts['memory'] = 'kept' if args.keep_memory else 'as the system does'
    facts['training'] = (
        f'{BACKBONE_AMP} (detectors {DETECTOR_AMP})'.replace('torch.', '')
        if args.amp
        else 'float32'
    )
    known = versions()
    return facts | {key: known[key] for key in ('python', 'torch', 'mmengine', 'mmdet')}
