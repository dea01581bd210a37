"""Register our classes with MMDetection, and provide mmcv with our operators.

``import mobilevig_det`` imports this module. Commands import it only after they have
parsed their arguments.
"""

import sys
from contextlib import suppress

from .errors import UserError
from .versions import check_stack

check_stack()  # before the imports below fail with less helpful errors

from . import registry  # noqa: E402, F401  for mobilevig_det:: in configs
from .mmcv_ops import provide_mmcv_ext  # noqa: E402

provide_mmcv_ext()  # before the imports below import mmcv.ops

from . import backbones  # noqa: E402, F401
from .checkpoints import allow_checkpoint_types  # noqa: E402

allow_checkpoint_types()

if sys.modules.get('timm'):
    with suppress(UserError):  # timm is too old; importing timm_models reports it
        from . import timm_models  # noqa: F401
