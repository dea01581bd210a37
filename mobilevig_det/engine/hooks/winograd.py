"""Convolutions of any detector by Winograd's algorithm, on CPUs."""

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS

from ...ops.winograd import use_winograd


@HOOKS.register_module()
class WinogradHook(Hook):
    """Has a model's 3x3 convolutions of many channels take half of the time.

    Those of FPN, RPN, mask heads and ResNets: see :mod:`...ops.winograd`. Only
    float32 on CPUs; on GPUs cuDNN chooses by itself. Names of weights stay, and
    results but for rounding.

    Args:
        enabled (bool): False leaves the model as it is. Default True.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def before_run(self, runner) -> None:
        if self.enabled:
            turned = use_winograd(runner.model)
            print_log(f"By Winograd's algorithm on CPUs: {turned} convolutions.")
