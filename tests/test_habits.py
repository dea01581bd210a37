"""The files by which others join: each says what the code says."""

import re
from pathlib import Path

import mobilevig_det

import pytest
import yaml
from markdown_pages import code_blocks

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / '.github' / 'workflows' / 'ci.yml'
TEMPLATES = sorted((ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.yml'))


def test_changelog_is_of_this_version():
    text = (ROOT / 'CHANGELOG.md').read_text()
    headings = re.findall(r'^## \[(.+?)\] - (\S+)$', text, re.M)
    versions = [version for version, _ in headings]
    assert versions[0] == mobilevig_det.__version__
    numbers = [tuple(map(int, version.split('.'))) for version in versions]
    assert numbers == sorted(set(numbers), reverse=True)
    for _, date in headings[1:]:
        assert re.fullmatch(r'\d{4}-\d\d-\d\d', date)


def test_changelog_says_where_imports_went():
    text = (ROOT / 'CHANGELOG.md').read_text()
    moved = re.findall(r'^ *\| `mobilevig_det\S+` \| `(\S+)` \|$', text, re.M)
    assert len(moved) == 2
    for name in moved:
        module, _, attribute = name.rpartition('.')
        assert hasattr(__import__(module, fromlist=[attribute]), attribute)


def test_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == mobilevig_det.__version__


def test_workflow_runs_what_the_readme_says():
    jobs = yaml.safe_load(WORKFLOW.read_text())['jobs']
    (commands,) = (
        block
        for block in code_blocks(ROOT / 'README.md', 'bash')
        if block.startswith('make ')
    )
    job = jobs['commands']
    steps = [step['run'] for step in job['steps'] if 'run' in step]
    assert steps == commands.splitlines() == ['make demo', 'make test']
    # Strings: YAML reads a bare 3.10 as 3.1.
    assert job['strategy']['matrix']['python'] == ['3.10', '3.13']
    assert any(step.get('run') == 'python -m build' for step in jobs['build']['steps'])


def test_workflow_says_which_python():
    """The Makefile takes it from the environment, where its own search would
    find another one of the runner's."""
    job = yaml.safe_load(WORKFLOW.read_text())['jobs']['commands']
    assert job['env']['PYTHON'] == 'python'
    makefile = (ROOT / 'Makefile').read_text()
    assert '$(PYTHON)' in makefile
    assert not re.search(r'^(export |override )?PYTHON *:?=', makefile, re.M)


def test_workflow_programs_parse():
    for job in yaml.safe_load(WORKFLOW.read_text())['jobs'].values():
        for step in job['steps']:
            for program in re.findall(
                r"<<'PROGRAM'\n(.*?)^PROGRAM$", step.get('run', ''), re.M | re.S
            ):
                compile(program, WORKFLOW, 'exec')


@pytest.mark.parametrize('path', TEMPLATES, ids=lambda path: path.stem)
def test_issue_templates_ask_for_the_report(path):
    form = yaml.safe_load(path.read_text())
    assert form['name'] and form['description']
    asked = {item['id']: item for item in form['body']}
    assert 'python -m mobilevig_det env' in asked['env']['attributes']['description']


def test_there_are_two_templates():
    assert [path.stem for path in TEMPLATES] == ['bug', 'feature']


def test_precommit_runs_what_make_test_does():
    hooks = [
        hook['id']
        for repo in yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())[
            'repos'
        ]
        for hook in repo['hooks']
    ]
    assert {'ruff-check', 'ruff-format'} <= set(hooks)


def test_the_rooms_of_the_guide_are_there():
    """CONTRIBUTING.md names files that exist, NAME and … aside."""
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    paths = re.findall(r'`((?:mobilevig_det|tests|tools|docs)/[\w./-]*)`', text)
    paths = [path for path in paths if 'NAME' not in path]
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists(), path
