"""What a training ends with, where it ends neither well nor by an error."""

NOT_FINITE = 3  # losses or gradients were not finite for too long
