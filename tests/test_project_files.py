"""Files around the code: changelog, citation, workflow, issue templates, guide."""

import re
from pathlib import Path

import mobilevig_det

import pytest
import yaml
from markdown_pages import DOCS, code_blocks

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / '.github' / 'workflows' / 'ci.yml'
TEMPLATES = sorted((ROOT / '.github' / 'ISSUE_TEMPLATE').glob('*.yml'))


def test_newest_entry_of_the_changelog_is_this_version():
    text = (ROOT / 'CHANGELOG.md').read_text()
    headings = re.findall(r'^## \[(.+?)\] - (\S+)$', text, re.M)
    versions = [version for version, _ in headings]
    assert versions[0] == mobilevig_det.__version__
    numbers = [tuple(map(int, version.split('.'))) for version in versions]
    assert numbers == sorted(set(numbers), reverse=True)
    for _, date in headings[1:]:
        assert re.fullmatch(r'\d{4}-\d\d-\d\d', date)


def test_citation_has_this_version():
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['version'] == mobilevig_det.__version__


def test_workflow_runs_the_commands_of_the_readme():
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


def test_site_lists_every_page():
    text = (ROOT / 'mkdocs.yml').read_text()
    pages = [*DOCS.rglob('*.md'), *ROOT.glob('*.md'), *ROOT.glob('configs/*/README.md')]
    for page in pages:
        assert str(page.relative_to(ROOT)) in text


def test_workflow_sets_python():
    """The Makefile's own search could find another Python of the runner."""
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
def test_issue_templates_ask_for_the_environment(path):
    form = yaml.safe_load(path.read_text())
    assert form['name'] and form['description']
    asked = {item['id']: item for item in form['body']}
    assert 'python -m mobilevig_det env' in asked['env']['attributes']['description']


def test_precommit_runs_ruff():
    hooks = [
        hook['id']
        for repo in yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())[
            'repos'
        ]
        for hook in repo['hooks']
    ]
    assert {'ruff-check', 'ruff-format'} <= set(hooks)


def test_paths_in_contributing_exist():
    text = (ROOT / 'CONTRIBUTING.md').read_text()
    paths = re.findall(r'`((?:mobilevig_det|tests|tools|docs)/[\w./-]*)`', text)
    paths = [path for path in paths if 'NAME' not in path]
    for path in paths:
        assert (ROOT / path).exists(), path
