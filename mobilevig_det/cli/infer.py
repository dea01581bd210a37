"""The command ``predict`` in this process, or in those of torchrun."""

from .command import command
from .predict import parse_args, run

main = command(parse_args)(run)
