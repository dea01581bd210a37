"""What a training ends with, where it ends neither well nor by an error."""

STOPPED = 143  # by a signal: 128 + SIGTERM, as other trainers have it
NOT_FINITE = 3  # losses or gradients were not finite for too long
HUNG = 4  # another process died or does not answer
