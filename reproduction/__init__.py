"""Every published figure, and what it takes to measure it again."""

from .figures import FIGURES, Figure
from .run import Options, reproduce
from .verdicts import exit_code

__all__ = ['FIGURES', 'Figure', 'Options', 'exit_code', 'reproduce']
