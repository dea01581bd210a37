"""The two READMEs say the same, each in its language."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = {name: (ROOT / name).read_text() for name in ('README.md', 'README_zh-CN.md')}
CODE = r'^```\w*\n.*?^```'


def prose(text):
    return re.sub(CODE, '', text, flags=re.M | re.S)


def code_blocks(text):
    """As they are, but for comments, which are translated."""
    blocks = re.findall(CODE, text, re.M | re.S)
    return [re.sub(r' +# .*$', '', block, flags=re.M) for block in blocks]


def inline_code(text):
    """Counted: where they stand in a sentence depends on the language."""
    return Counter(re.findall(r'`([^`]+)`', prose(text)))


def links(text):
    """The targets, but for those by which the pages name each other."""
    targets = Counter(re.findall(r'\]\(([^)]+)\)', text))
    return Counter({t: n for t, n in targets.items() if t not in PAGES})


def numbers(text):
    return Counter(re.findall(r'(?<![\w.])\d+(?:\.\d+)*', prose(text)))


def table_rows(text):
    """Of each row: its code, links, figures and names in Latin letters."""
    rows = re.findall(r'^\|.*\|$', text, re.M)
    # The first row of a table is words, the second a rule.
    return [
        [re.findall(r'`[^`]+`|\([^)]+\.py\)|[\d.]+|–', cell) for cell in row.split('|')]
        for row in rows
    ]


def headings(text):
    return [len(marks) for marks in re.findall(r'^(#+) ', prose(text), re.M)]


@pytest.mark.parametrize(
    'what', [code_blocks, inline_code, links, numbers, table_rows, headings]
)
def test_same(what):
    english, chinese = (what(text) for text in PAGES.values())
    assert len(english) > 3
    assert english == chinese


def test_each_leads_to_the_other():
    for name, text in PAGES.items():
        (other,) = set(PAGES) - {name}
        assert f']({other})' in '\n'.join(text.splitlines()[:3])


def test_chinese_is_chinese():
    """No line of prose was left untranslated."""
    for line in prose(PAGES['README_zh-CN.md']).splitlines()[3:]:
        words = re.sub(r'`[^`]*`|\]\([^)]*\)', '', line)
        if len(re.findall(r'[A-Za-z]{2,}', words)) > 3:
            assert re.search(r'[\u4e00-\u9fff]', words), line
