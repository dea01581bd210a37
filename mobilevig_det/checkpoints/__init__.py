"""Reading checkpoint files: safely, by name or address, under any names."""

from .reading import read_checkpoint
from .safe_types import allow_checkpoint_types
from .weights import load_from_mobilevig  # registers mobilevig://

__all__ = ['allow_checkpoint_types', 'load_from_mobilevig', 'read_checkpoint']
