"""Code blocks of Markdown pages."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / 'docs'


def code_blocks(page, language):
    """Return the page's code blocks in that language, in order."""
    return re.findall(
        rf'^```{language}\n(.*?)^```', (DOCS / page).read_text(), re.M | re.S
    )


def code_block(page, language, start):
    """Return the only code block that begins with ``start``."""
    (block,) = (
        block for block in code_blocks(page, language) if block.startswith(start)
    )
    return block
