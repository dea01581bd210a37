"""The part ``paper`` of the benchmark: its rows, its table, its claims."""

from argparse import Namespace

from benchmarks import paper
from benchmarks.report import save


def stub(monkeypatch, fails=()):
    """Replace the timing: PyTorch takes 4 ms, and the other runtimes 2 ms and 1 ms."""
    made = {}

    def interleaved(args, part, size, makes, base, **facts):
        for (name, make), time in zip(makes.items(), (4e-3, 2e-3, 1e-3), strict=True):
            row = dict(part=part, size=size, name=name, base=base, **facts)
            made[row['model'], name] = make
            if row['model'] in fails:
                row['failed'] = 'one size only'
            elif name == 'PyTorch':
                row.update(gmacs=0.5, params=4_000_000)
            scale = 3 if 'Pyramid' in row['model'] else 1
            yield row | dict(seconds=[scale * time])

    monkeypatch.setattr(paper, 'interleaved', interleaved)
    return made


def arguments(**kwargs):
    return Namespace(
        **dict(sizes=['64x64'], archs=['s'], baselines=None, device='cpu', threads=1)
        | kwargs
    )


def test_rows_are_all_models_of_the_comparison(monkeypatch):
    made = stub(monkeypatch)
    list(paper.paper_rows(arguments(archs=('ti', 's', 'm', 'b'))))
    models = {model for model, _ in made}
    assert models == {*paper.OURS, *paper.BASELINES} >= set(paper.PUBLISHED)
    assert {name for pair in paper.CLAIMS for name in pair[:2]} <= models


def test_table_claims_and_plot(monkeypatch, tmp_path):
    stub(monkeypatch, fails=('levit_192',))
    args = arguments(baselines=['PyramidViG-ti', 'resnet18', 'levit_192'])
    rows = list(paper.paper_rows(args))
    save(dict(machine=dict(device='cpu'), batch_size=1, rows=rows), tmp_path)
    page = (tmp_path / 'benchmark.md').read_text()
    for line in (
        f'| MobileViG-s | 4.0 | 0.50 | 78.2 |  |  | {paper.PAPER} | 4.0 | 2.0 | 1.0 |',
        '| resnet18 | 4.0 | 0.50 |  |  |  |  | 4.0 | 2.0 | 1.0 |',
        '| levit_192 |  |  |  |  |  |  | – | – | – |',
        '| MobileViG-s | PyramidViG-ti | 2.83 (GPU of a phone) | 3.00 | 3.00 | 3.00 |',
    ):
        assert line in page
    assert 'efficientformer_l3' not in page
    assert (tmp_path / 'paper.png').is_file()


def test_other_parts_have_no_comparison():
    assert paper.summarize([dict(part='inference', size='1x1', name='a')]) == []


def test_models_run_in_each_runtime(timm, monkeypatch):
    made, name = stub(monkeypatch), 'resnet10t'
    args = arguments(baselines=[name], batch_size=1)
    list(paper.paper_rows(args))
    for runtime in paper.RUNTIMES:
        facts, run = made[name, runtime](args)
        run()
        assert (facts.get('gmacs', 0) > 0) == (runtime == 'PyTorch')


def test_models_of_one_size_are_built_for_it(timm):
    assert paper.build_model('efficientformerv2_s0', '64x96').timm_args == dict(
        img_size=(64, 96)
    )
    assert type(paper.build_model('deit_tiny_patch16_224', '224x224')).__name__ == (
        'FeatureGetterNet'
    )
