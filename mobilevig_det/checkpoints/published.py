"""The files that the authors published, by our names for them."""

from typing import NamedTuple

PAGES = 'https://huggingface.co/SLDGroup/'


class Published(NamedTuple):
    """A file; None is what we do not know."""

    path: str | None  # below its model page
    sha256: str | None = None
    page: str | None = 'MobileViG'

    @property
    def repository(self) -> str | None:
        """Address that ``path`` is below."""
        return self.page and f'{PAGES}{self.page}/resolve/main/'


def name_of(family: str, arch: str) -> str:
    """Our name of a backbone's ImageNet file: 'm' of MobileViG-M, 'greedyvig-s'."""
    return arch if family == 'mobilevig' else f'{family}-{arch}'


def _of(page: str | None, path: str) -> Published:
    return Published(path, page=page)


# No hash was published, and none of the files could be fetched where this was
# written. Not known are the name of MobileViG-Ti's file, and where MobileViGv2's
# ImageNet files are (their names are another project's, B's by analogy).
PUBLISHED = {
    # ImageNet-1K: for a backbone's init_cfg
    'ti': Published(None),
    's': Published('MobileViG_S_78_2.pth.tar'),
    'm': Published('MobileViG_M_80_7.pth.tar'),
    'b': Published('MobileViG_B_82_6.pth.tar'),
    **{
        f'mobilevigv2-{size.lower()}': _of(None, f'MobileViG_V2_{size}_Class.pth')
        for size in ('Ti', 'S', 'M', 'B')
    },
    'greedyvig-s': _of('GreedyViG', 'S_GreedyViG_81_1.pth'),
    'greedyvig-m': _of('GreedyViG', 'M_GreedyViG_82_9.pth'),
    'greedyvig-b': _of('GreedyViG', 'B_GreedyViG_83_9.pth'),
    **{
        f'rapidnet-{size.lower()}': _of('RapidNet', f'RapidNet_{size}.pth')
        for size in ('Ti', 'S', 'M', 'B')
    },
    **{
        f'adaptvig-{size.lower()}': _of('AdaptViG', f'AdaptViG_{size}_model_best.pth')
        for size in 'SMB'
    },
    # Mask R-CNN on COCO: for load_from, tools/test.py, …
    'coco-m': Published('Detection/det_mobilevig_m_62_8.pth'),
    'coco-b': Published('Detection/det_mobilevig_b_64_3.pth'),
    **{
        f'coco-{page.lower()}-{size.lower()}': _of(page, path.format(size))
        for page, path, sizes in (
            ('MobileViGv2', 'Obj_Detection/MobileViG_V2_{}_Detection.pth', 'MB'),
            ('GreedyViG', 'Detection/GreedyViG_{}_Det.pth', 'SB'),
            ('RapidNet', 'Detection/RapidNet_{}_Detection.pth', 'MB'),
            ('AdaptViG', 'Detection/AdaptViG_{}_Det.pth', 'MB'),
        )
        for size in sizes
    },
}
