"""Every published figure, and the code that measures it again."""

from .figures import FIGURES, Figure, exit_code
from .run import Options, reproduce

__all__ = ['FIGURES', 'Figure', 'Options', 'exit_code', 'reproduce']
