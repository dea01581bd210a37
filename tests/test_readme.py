"""What the README says, against the code."""

import re
import shlex
from pathlib import Path

from mobilevig_det import MobileViG
from mobilevig_det.apis.cli import find_config

import pytest
from mmdet.registry import MODELS
from page import DOCS, code_blocks
from tool import load

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text()


def test_config_block_builds():
    (block,) = code_blocks(ROOT / 'README.md', 'python')
    config = {}
    exec(block, config)
    backbone = dict(config['model']['backbone'], init_cfg=None)
    assert backbone.pop('_delete_')
    model = MODELS.build(backbone)
    assert isinstance(model, MobileViG)
    assert config['model']['neck']['in_channels'] == MobileViG.out_channels(
        model.arch, model.out_indices
    )


@pytest.mark.parametrize('arch', MobileViG.arch_settings)
def test_arch_table(arch):
    row = re.search(rf"^\| `'{arch}'` \| ([\d, ]+) \| ([\d.]+) M", README, re.MULTILINE)
    assert row[1] == ', '.join(map(str, MobileViG.out_channels(arch)))
    parameters = sum(p.numel() for p in MobileViG(arch).parameters())
    assert float(row[2]) == round(parameters / 1e6, 1)


def test_commands_parse_and_files_exist():
    commands = [
        line
        for block in code_blocks(ROOT / 'README.md', 'bash')
        for line in block.splitlines()
    ]
    seen = set()
    for line in commands:
        words = shlex.split(line, comments=True)
        if words[0] == 'make':
            target = words[1]
            assert re.search(
                rf'^{target}:', (ROOT / 'Makefile').read_text(), re.MULTILINE
            )
        elif words[0] == 'python':
            assert (ROOT / words[1]).is_file()
            tool = load(Path(words[1]).stem)
            args = tool.parse_args(words[2:])
            if words[1] != 'tools/run_onnx.py':  # which has none
                assert find_config(args.config)
        elif words[0] == 'bash':
            assert (ROOT / words[1]).is_file()
            assert find_config(words[2])
        else:
            assert words[0] in ('pip', 'export')
        seen.add(words[0])
    assert {'make', 'python', 'bash', 'pip'} <= seen


def test_base_for_mmdetections_own_tools():
    (line,) = re.findall(
        r'^_base_ = (__import__.*)$', (DOCS / 'install.md').read_text(), re.M
    )
    assert eval(line) == find_config('mobilevig_m_fpn_1x')


def test_links_lead_somewhere():
    pages = [
        *sorted(ROOT.glob('*.md')),
        *sorted(ROOT.glob('configs/*/README.md')),
        *sorted((ROOT / 'docs').glob('*.md')),
    ]
    links = 0
    for page in pages:
        for link in re.findall(r'\]\(([^)#:\s]+)(?:#[^)]*)?\)', page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)
            links += 1
    assert links > 20


def test_contents_list_every_page():
    contents = (ROOT / 'docs' / 'README.md').read_text()
    links = re.findall(r'\]\(([\w-]+\.md)\)', contents)
    pages = {path.name for path in (ROOT / 'docs').glob('*.md')} - {'README.md'}
    assert sorted(links) == sorted(pages)
