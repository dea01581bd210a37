"""What the figures were measured on."""

from argparse import Namespace

from .backbones import BACKBONE_AMP
from .detectors import DETECTOR_AMP
from .hardware import hardware, versions


def machine(args: Namespace) -> dict[str, object]:
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
