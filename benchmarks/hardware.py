"""What something was measured on: hardware, and versions."""

import os
import platform
from importlib import metadata
from pathlib import Path

import mobilevig_det
from mobilevig_det.mmcv_ops.mmcv_ext import in_use

import mmcv
import mmdet
import mmengine
import torch


def hardware(device: str) -> dict[str, object]:
    """The processor or the GPU, as far as the system tells.

    Args:
        device (str): 'cpu', 'cuda', 'cuda:1', ….
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
    """Ours, of what is under us, and of what decodes the images."""
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
