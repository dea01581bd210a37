"""Our operators in the place of ``mmcv._ext``, where mmcv has none."""

import importlib
import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import find_spec, module_from_spec
from pathlib import Path

NAME = 'mmcv._ext'
STAND_IN = Path(__file__).with_name('mmcv_stand_in.py')


def provide_mmcv_ext() -> bool:
    """Let ``mmcv.ops`` be imported where mmcv has no compiled operators.

    A compiled extension, or the file that our wheel puts in its place, is
    left alone. The effect lasts for this process.

    Returns:
        Whether the stand-in was put in place by this call.
    """
    if NAME in sys.modules or find_spec(NAME):
        return False
    loader = SourceFileLoader(NAME, str(STAND_IN))
    module = module_from_spec(ModuleSpec(NAME, loader, origin=str(STAND_IN)))
    loader.exec_module(module)
    # As an import of it would have done.
    sys.modules[NAME] = module
    vars(importlib.import_module('mmcv'))['_ext'] = module
    return True
