"""Find checkpoint files by name, path or address, and read them safely."""

from .diagnosis import check_weights, explain_mismatch
from .reading import read_checkpoint
from .safety import allow_checkpoint_types
from .weights import (  # registers mobilevig://
    find_file,
    load_all_safely,
    load_from_mobilevig,
    through_scheme,
)

__all__ = [
    'allow_checkpoint_types',
    'check_weights',
    'explain_mismatch',
    'find_file',
    'load_all_safely',
    'load_from_mobilevig',
    'read_checkpoint',
    'through_scheme',
]
