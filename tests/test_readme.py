"""README.md and docs/: commands parse, code runs, links lead to files."""

import re
import shlex
from collections import Counter
from pathlib import Path

from mobilevig_det import MobileViG
from mobilevig_det.config import find_config

import pytest
from markdown_pages import DOCS, code_blocks
from mmdet.registry import MODELS
from tool import load

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob('*.md')),
    *sorted(ROOT.glob('configs/*/README.md')),
    *sorted(DOCS.glob('*.md')),
]


def test_config_of_the_readme_builds():
    block = code_blocks(ROOT / 'README.md', 'python')[-1]
    config = {}
    exec(block, config)
    backbone = dict(config['model']['backbone'], init_cfg=None)
    assert backbone.pop('_delete_')
    model = MODELS.build(backbone)
    assert isinstance(model, MobileViG)
    assert config['model']['neck']['in_channels'] == MobileViG.out_channels(
        model.arch, model.out_indices
    )


def test_commands_of_the_readme_parse():
    commands = [
        line
        for block in code_blocks(ROOT / 'README.md', 'bash')
        for line in block.splitlines()
    ]
    programs = set()
    for line in commands:
        words = shlex.split(line, comments=True)
        if words[0] == 'make':
            makefile = (ROOT / 'Makefile').read_text()
            assert re.search(rf'^{words[1]}:', makefile, re.MULTILINE)
        elif words[0] == 'python' and words[1] != '-m':
            assert (ROOT / words[1]).is_file()
            args = load(Path(words[1]).stem).parse_args(words[2:])
            if hasattr(args, 'config'):
                assert find_config(args.config)
        elif words[0] == 'bash':
            assert (ROOT / words[1]).is_file()
            assert find_config(words[2])
        programs.add(words[0])
    assert {'make', 'python', 'pip'} <= programs


def test_base_for_mmdetections_own_tools():
    (line,) = re.findall(
        r'^_base_ = (__import__.*)$', (DOCS / 'install.md').read_text(), re.M
    )
    assert eval(line) == find_config('mobilevig_m_fpn_1x')


def links_of(page):
    """Return the targets of a page's links to files, with their anchors."""
    return re.findall(r'\]\(([^)#:\s]*)(?:#([^)]*))?\)', page.read_text())


def anchors_of(page):
    """Return the anchors that GitHub gives the headings of a page."""
    text = re.sub(r'^```.*?^```', '', page.read_text(), flags=re.M | re.S)
    headings = re.findall(r'^#+ (.*)$', text, re.M)
    texts = [re.sub(r'\[([^\]]*)\]\([^)]*\)', r'\1', heading) for heading in headings]
    return {re.sub(r'[^\w\- ]', '', t).strip().lower().replace(' ', '-') for t in texts}


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page):
    for link, anchor in links_of(page):
        target = page.parent / link if link else page
        assert target.exists(), link
        if anchor and target.suffix == '.md':
            assert anchor in anchors_of(target), f'{link}#{anchor}'


def test_contents_list_every_page():
    links = [link for link, _ in links_of(DOCS / 'README.md')]
    pages = {path.name for path in DOCS.glob('*.md')} - {'README.md'}
    assert pages <= set(links)


def test_translation_has_the_same_code_and_links():
    english, chinese = ROOT / 'README.md', ROOT / 'README_zh-CN.md'
    for language in ('bash', 'python'):
        pages = [code_blocks(page, language) for page in (english, chinese)]
        # Comments are translated.
        without_comments = [re.sub(r' +#.*', '', '\n'.join(page)) for page in pages]
        assert without_comments[0] == without_comments[1]
    other = {english.name, chinese.name}  # the pages link to each other
    links, translated = (
        Counter(link for link, _ in links_of(page) if link not in other)
        for page in (english, chinese)
    )
    assert links == translated
