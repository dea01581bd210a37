"""Load a classifier's raw weights, or its averaged ones."""

from ..checkpoints import find_file, read_checkpoint
from ..checkpoints.key_mapping import is_authors_layout
from ..checkpoints.raw_or_averaged import both_weights
from ..errors import UserError
from .classifier import ImageClassifier


def load_classifier(
    model: ImageClassifier, checkpoint: str, averaged: bool = False
) -> tuple[str, ...] | None:
    """Load every weight of a classifier, backbone and head, strictly.

    The published top-1 is of the raw weights, so that they are the default.

    Args:
        model (ImageClassifier): Where to load them.
        checkpoint (str): The authors' ImageNet file or one that was trained
            here: a path, an address, or ``mobilevig://`` and a name.
        averaged (bool): Whether to take the averaged weights instead. Defaults
            to False.

    Returns:
        tuple[str, ...] | None: Names of the classes, if the file has them.

    Raises:
        UserError: If the file is not to be had, has no averaged weights where
            they were asked for, or does not fit the model.
    """
    path = find_file(checkpoint)
    content = read_checkpoint(path)
    weights = both_weights(content)
    chosen = weights.averaged if averaged else weights.raw
    if chosen is None:
        raise UserError(
            f'{path} has no averaged weights (state_dict_ema, or those of '
            "MMEngine's EMAHook): score the raw ones, without --ema."
        )
    if not is_authors_layout(chosen) and not any(
        key.startswith('backbone.') for key in chosen
    ):
        raise UserError(f'{path} is not of a classifier: it has no backbone.')
    try:
        model.load_state_dict(dict(chosen), strict=True)
    except RuntimeError as error:
        raise UserError(
            f'{path} does not fit this classifier: use the config that it was '
            f'trained with.\n{error}'
        ) from error
    except UserError as error:
        raise UserError(f'{path}: {error}') from None
    meta = content.get('meta')
    dataset = meta.get('dataset_meta') if isinstance(meta, dict) else None
    return tuple(dataset['classes']) if dataset and 'classes' in dataset else None
