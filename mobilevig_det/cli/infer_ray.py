"""The command ``predict`` with ``--executor ray``."""

from functools import partial

from . import predict
from .command import command

parse_args = partial(predict.parse_args, executor='ray')
main = command(parse_args)(predict.run)
