"""Reading checkpoint files: safely, by name or address, under any names."""

from .diagnosis import check_weights
from .reading import read_checkpoint
from .safe_types import allow_checkpoint_types
from .weights import (  # registers mobilevig://
    find_file,
    load_all_safely,
    load_from_mobilevig,
    through_scheme,
)

__all__ = [
    'allow_checkpoint_types',
    'check_weights',
    'find_file',
    'load_all_safely',
    'load_from_mobilevig',
    'read_checkpoint',
    'through_scheme',
]
