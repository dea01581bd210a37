"""Find a font that has the characters of class names, in any script."""

import functools
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

# Set to a font file to draw with it.
FONT_VARIABLE = 'MOBILEVIG_FONT'
# Parts of the file names of fonts with many characters, the best first.
PREFERRED = (
    *('notosanscjk', 'sourcehansans', 'notosanssc', 'pingfang', 'hiragino', 'msyh'),
    *('wqy', 'droidsansfallback', 'malgun', 'yugoth', 'simhei', 'arialuni', 'notosans'),
)


@functools.lru_cache(maxsize=64)
def find_font(characters: frozenset[str], preferred: str | None = None) -> str:
    """Return the font file that has the most of some characters.

    Of equal fonts the order is: ``preferred``, DejaVu Sans of Matplotlib, the fonts of
    the system. A warning names the characters that no font has.

    Args:
        characters (frozenset[str]): The characters.
        preferred (str, optional): A font file. Defaults to None.
    """
    best, fewest = '', None
    for path in _candidates(preferred):
        missing = _missing(path, characters)
        if missing is None:
            if path == preferred:
                warnings.warn(
                    f'{FONT_VARIABLE}={path} is no font file that can be read; another '
                    'font is used.',
                    stacklevel=2,
                )
            continue
        if fewest is None or len(missing) < len(fewest):
            best, fewest = path, missing
        if not fewest:
            break
    if fewest:
        warnings.warn(
            f'No font here has all characters of the class names: {len(fewest)} are '
            f'drawn as rectangles, as {"".join(fewest[:5])}. Install a font that has '
            'them (for Chinese, Japanese and Korean: `apt install fonts-noto-cjk`), or '
            f'set {FONT_VARIABLE} to the path of a font file.',
            stacklevel=2,
        )
    return best


def _candidates(preferred: str | None) -> Iterator[str]:
    """Yield font files; those of the system are searched only if they are needed."""
    import matplotlib

    if preferred:
        yield preferred
    yield str(Path(matplotlib.get_data_path(), 'fonts', 'ttf', 'DejaVuSans.ttf'))
    yield from sorted(system_fonts(), key=_rank)


def system_fonts() -> Iterable[str]:
    """Return the font files of the operating system."""
    from matplotlib.font_manager import findSystemFonts

    return findSystemFonts()


def _rank(path: str) -> tuple[int, bool, str]:
    name = Path(path).stem.lower().replace('-', '').replace('_', '')
    ranks = [rank for rank, part in enumerate(PREFERRED) if part in name]
    return min(ranks, default=len(PREFERRED)), 'regular' not in name, path


def _missing(path: str, characters: frozenset[str]) -> list[str] | None:
    """Return the visible characters that a font lacks; None if it is unusable."""
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    try:
        ImageFont.truetype(path, 20)  # raises for fonts of fixed sizes, as of emojis
        font = FT2Font(path)
    except (OSError, RuntimeError, ValueError):
        return None
    if 'lastresort' in path.lower():  # It has a rectangle for every character.
        return None
    visible = (c for c in sorted(characters) if c.isprintable() and not c.isspace())
    return [c for c in visible if not font.get_char_index(ord(c))]
