"""Every figure that the READMEs and the model zoo publish, in one table.

Tests compare the pages with it, so that no figure is published that
``tools/reproduce.py`` does not measure.
"""

from dataclasses import dataclass

# What is measured; the text is what the report says.
PARAMETERS = 'parameters'
BACKBONE_PARAMETERS = 'parameters of the backbone, M'
FLOPS = 'FLOPs, G'
BACKBONE_FLOPS = 'FLOPs of the backbone, G'
GMACS = 'GMACs of the backbone at 800×1344'
RATES = 'logged learning rates met'
TOP1 = 'top-1, %'
AVERAGED_TOP1 = 'top-1 of the averaged weights, %'
BOX_AP = 'box AP'
MASK_AP = 'mask AP'

PAPER = 'paper'
HERE = 'measured here'
# Percent points. Half a digit of rounding, and what other decoders, resizing and
# kernels change; M's file is named after a top-1 of 80.7, where the paper says 80.6.
SCORE = 0.2
ROUNDING = 0.05  # of a figure with one digit after the point


@dataclass(frozen=True)
class Figure:
    """A published figure.

    Args:
        what (str): What data it needs: 'configs' (none), 'imagenet' or 'coco'.
        config (str): Name or path of the config.
        quantity (str): What is measured: one of the above.
        published (float | None): None where nothing was published, and the
            measured value is for information.
        tolerance (float): How far off it may be.
        source (str): Who published it, and where.
        arch (str): 'ti', 's', 'm' or 'b'.
        weights (str | None): The file's name in
            :data:`mobilevig_det.checkpoints.weights.PUBLISHED`.
    """

    what: str
    config: str
    quantity: str
    published: float | None
    tolerance: float
    source: str
    arch: str
    weights: str | None = None

    @property
    def id(self) -> str:
        return f'{self.config}: {self.quantity}'


# arch: whole detector, its FLOPs; the backbone's parameters, FLOPs and GMACs
DETECTORS = {
    'ti': (24158530, 188.9, 4.1, 14.4, 14.2),
    's': (26166042, 195.9, 6.1, 21.4, 21.1),
    'm': (32325546, 206.9, 12.2, 32.4, 32.0),
    'b': (45089594, 235.1, 25.0, 60.5, 59.8),
}
# arch: parameters with both classifiers, FLOPs at 224x224, top-1
CLASSIFIERS = {
    'ti': (5271074, 0.7, 75.7),
    's': (7276538, 1.0, 78.2),
    'm': (14075786, 1.5, 80.6),
    'b': (26868506, 2.8, 82.6),
}
# arch: box AP, mask AP, epoch
COCO = {'m': (41.3, 38.1, 12), 'b': (42.0, 38.9, 10)}
LOGGED_RATES = 3516  # of a run


def _detector(arch: str) -> list[Figure]:
    quantities = (PARAMETERS, FLOPS, BACKBONE_PARAMETERS, BACKBONE_FLOPS, GMACS)
    tolerances = (0, ROUNDING, ROUNDING, ROUNDING, ROUNDING)
    return [
        Figure('configs', f'mobilevig_{arch}_fpn_1x', quantity, value, off, HERE, arch)
        for quantity, value, off in zip(quantities, DETECTORS[arch], tolerances)
    ]


def _classifier(arch: str) -> list[Figure]:
    config = f'mobilevig_{arch}_300e'
    parameters, flops, top1 = CLASSIFIERS[arch]
    return [
        Figure('configs', config, PARAMETERS, parameters, 0, HERE, arch),
        Figure('configs', config, FLOPS, flops, ROUNDING, HERE, arch),
        Figure('imagenet', config, TOP1, top1, SCORE, PAPER, arch, arch),
        Figure('imagenet', config, AVERAGED_TOP1, None, 0, '–', arch, arch),
    ]


def _coco_run(arch: str) -> list[Figure]:
    config, weights = f'mobilevig_{arch}_fpn_1x', f'coco-{arch}'
    box, mask, epoch = COCO[arch]
    log = f"authors' log, epoch {epoch}; paper"
    return [
        Figure('configs', config, RATES, LOGGED_RATES, 0, "authors' log", arch),
        Figure('coco', config, BOX_AP, box, SCORE, log, arch, weights),
        Figure('coco', config, MASK_AP, mask, SCORE, log, arch, weights),
    ]


FIGURES = tuple(
    sorted(
        (
            figure
            for makers, archs in (
                (_detector, DETECTORS),
                (_classifier, CLASSIFIERS),
                (_coco_run, COCO),
            )
            for arch in archs
            for figure in makers(arch)
        ),
        # What is quickest first.
        key=lambda figure: ('configs', 'imagenet', 'coco').index(figure.what),
    )
)
