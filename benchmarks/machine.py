"""Describe the hardware and the versions of a measurement."""

import platform
import re
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


def environment(device: str) -> dict[str, object]:
    """Return the processor or GPU, the threads, and the versions of the libraries.

    Args:
        device (str): 'cpu', 'cuda' or 'cuda:INDEX'.
    """
    name = platform.processor() or platform.machine()
    cpus = Path('/proc/cpuinfo')
    if device.startswith('cuda'):
        name = torch.cuda.get_device_name(device)
    elif cpus.exists() and (found := re.search('model name.*: (.+)', cpus.read_text())):
        name = found[1]
    return dict(
        device=device,
        name=name,
        capability=torch.backends.cpu.get_cpu_capability(),
        threads=torch.get_num_threads(),
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
    """Return machine, versions and settings, which stand above a benchmark's table."""
    facts = environment(args.device)
    if args.threads:
        facts['threads'] = args.threads
    facts['memory'] = 'kept' if args.keep_memory else 'as the system does'
    facts['training'] = (
        f'{BACKBONE_AMP} (detectors {DETECTOR_AMP})'.replace('torch.', '')
        if args.amp
        else 'float32'
    )
    return facts
