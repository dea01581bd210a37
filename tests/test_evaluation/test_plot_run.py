"""The curves and tables are those of the logs, MMEngine's and the authors'."""

import csv
import gzip
import json
from pathlib import Path

from mobilevig_det.errors import UserError
from mobilevig_det.evaluation.run_log import comparable_arch, published_run, read_run

import pytest
import tool

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope='module')
def plot_run():
    return tool.load('plot_run')


def train_line(step, loss, lr=1e-3, **more):
    return dict(
        lr=lr,
        data_time=0.1,
        loss=loss,
        loss_mask=loss / 2,
        time=1.0,
        epoch=(step - 1) // 20 + 1,
        iter=step,
        memory=9,
        step=step,
        **more,
    )


def val_line(epoch, box, mask):
    values = {
        f'coco/{kind}_mAP{suffix}': round(value * factor, 4)
        for kind, value in (('bbox', box), ('segm', mask))
        for suffix, factor in (('', 1), ('_50', 1.5), ('_75', 1.1), ('_s', -1))
    }
    return dict(values, data_time=0.1, time=1.0, step=epoch)


def write_start(work_dir, stamp, lines, half='', by_epoch=True):
    """The files of one start of training, as MMEngine lays them out; 20
    iterations an epoch."""
    folder = work_dir / stamp
    (folder / 'vis_data').mkdir(parents=True)
    text = '\n'.join(json.dumps(line) for line in lines) + '\n' + half
    (folder / 'vis_data' / 'scalars.json').write_text(text)
    (folder / 'vis_data' / f'{stamp}.json').write_text(text)
    count = 'Epoch(train)  [1][10/20]' if by_epoch else 'Iter(train) [10/60]'
    (folder / f'{stamp}.log').write_text(
        f'2026/01/01 00:00:00 - mmengine - INFO - {count}  lr: 1e-03\n'
    )
    return folder


@pytest.fixture
def work_dir(tmp_path):
    root = tmp_path / 'run'
    write_start(
        root,
        '20260101_000000',
        [
            train_line(10, 4.0, 1e-4),
            train_line(20, 3.0),
            val_line(1, 0.21, 0.2),
            train_line(30, 2.5),
            train_line(40, 2.0),
            val_line(2, 0.32, 0.3),
        ],
    )
    return root


def lines_of(axes):
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]


def test_draws_and_prints_what_was_logged(plot_run, work_dir):
    run = read_run(work_dir)
    loss, rate, ap = plot_run.draw([run], []).axes
    at = [0.5, 1, 1.5, 2]
    assert lines_of(loss) == [(at, [4, 3, 2.5, 2])]
    assert lines_of(rate) == [(at, [1e-4, 1e-3, 1e-3, 1e-3])]
    box, mask = lines_of(ap)
    assert box == ([1, 2], pytest.approx([21, 32]))
    assert mask == ([1, 2], pytest.approx([20, 30]))
    text = plot_run.table([run], []).splitlines()
    assert text[0] == f'{work_dir}: epoch 2.00, loss 2.0000'
    assert text[2].split() == ['1', '21.0', '31.5', '23.1', '20.0', '30.0', '22.0']
    assert text[3].split() == ['2', '32.0', '48.0', '35.2', '30.0', '45.0', '33.0']
    assert run.best()['at'] == 2
    assert read_run(work_dir / '20260101_000000').train == run.train


@pytest.mark.parametrize('half', ['{"lr": 0.00', '{"lr": 0.001, "loss": 1.', '{'])
def test_while_a_line_is_being_written(tmp_path, plot_run, half):
    whole = [train_line(10, 4.0), train_line(20, 3.0)]
    write_start(tmp_path, '20260101_000000', whole, half)
    run = read_run(tmp_path)
    assert [row['loss'] for row in run.train] == [4, 3]
    assert run.val == []
    assert 'no evaluation yet' in plot_run.table([run], [])
    assert lines_of(plot_run.draw([run], []).axes[2])[0] == ([], [])


def test_resumed_run_counts_once(work_dir):
    # Stopped in epoch 4 and resumed from the checkpoint of epoch 2; then a
    # start that failed at once, and a test.
    first = work_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
    with open(first, 'a') as file:
        for line in (train_line(50, 9.0), train_line(60, 9.0), val_line(3, 0.9, 0.9)):
            file.write(json.dumps(line) + '\n')
        file.write('{"lr": 0.0')
    write_start(
        work_dir,
        '20260102_000000',
        [train_line(50, 1.5), train_line(60, 1.0), val_line(3, 0.43, 0.4)],
    )
    write_start(work_dir, '20260103_000000', [])
    write_start(work_dir, '20260104_000000', [val_line(0, 0.43, 0.4)])
    run = read_run(work_dir)
    assert [(row['at'], row['loss']) for row in run.train] == [
        (0.5, 4),
        (1, 3),
        (1.5, 2.5),
        (2, 2),
        (2.5, 1.5),
        (3, 1),
    ]
    assert [(row['at'], row['segm_mAP']) for row in run.val] == [
        (1, 0.2),
        (2, 0.3),
        (3, 0.4),
    ]
    # Started anew in the same folder: nothing of the old run is left.
    write_start(work_dir, '20260105_000000', [train_line(10, 5.0)])
    run = read_run(work_dir)
    assert [(row['at'], row['loss']) for row in run.train] == [(0.5, 5)]
    assert run.val == []


def test_published_rows_are_the_papers(plot_run, work_dir):
    # box and mask AP, AP50, AP75 as the paper has them
    expected = dict(
        m=(12, '41.3   62.8   45.1   38.1   60.1   40.8'),
        b=(10, '42.0   64.3   46.0   38.9   61.4   41.6'),
    )
    for arch, (epoch, row) in expected.items():
        run = published_run(arch)
        assert len(run.val) == 12 and run.train[-1]['at'] > 11.9
        assert run.best()['at'] == epoch
        text = plot_run.table([read_run(work_dir)], [run])
        assert row in text.splitlines()[-1]
        # beside each of ours, the published one of the same epoch
        beside = [line.split('|')[1].split() for line in text.splitlines()[2:4]]
        with open(
            ROOT / f'mobilevig_det/evaluation/data/coco_1x_{arch}_val.csv'
        ) as file:
            for cells, published in zip(beside, csv.DictReader(file)):
                assert cells == [
                    f'{100 * float(published[name]):.1f}'
                    for name in ('bbox_mAP', 'segm_mAP')
                ]


@pytest.mark.parametrize('arch', ['m', 'b'])
def test_published_curves(plot_run, work_dir, arch):
    run = published_run(arch)
    at = [row['at'] for row in run.train]
    assert at == sorted(at)
    assert at[0] == 50 / 14659
    # rows of the whole log, unchanged
    path = ROOT / f'mobilevig_det/evaluation/data/coco_1x_{arch}_rate.csv.gz'
    with gzip.open(path, 'rt') as file:
        rates = {
            (int(row['epoch']), int(row['iter'])): float(row['lr'])
            for row in csv.DictReader(file)
        }
    for row in run.train:
        assert row['lr'] == rates[row['epoch'], row['iter']]
    loss, rate, ap = plot_run.draw([read_run(work_dir)], [run]).axes
    behind, ours = loss.lines
    assert list(behind.get_ydata()) == [row['loss'] for row in run.train]
    assert behind.get_zorder() < ours.get_zorder()
    assert behind.get_label() == f'published {arch.upper()}'
    assert len(ap.lines) == 4


@pytest.mark.parametrize(
    'backbone, ann_file, expected',
    [
        (dict(type='MobileViG', arch='m'), 'instances_train2017.json', 'm'),
        (dict(type='MobileViG'), 'instances_train2017.json', 'm'),
        (dict(type='mmdet.MobileViG', arch='b'), 'instances_train2017.json', 'b'),
        (dict(type='MobileViG', arch='ti'), 'instances_train2017.json', 'm'),
        (dict(type='MobileViG', arch='ti'), 'instances_train.json', None),
        (dict(type='ResNet', depth=50), 'instances_train2017.json', None),
    ],
)
def test_which_published_run_is_comparable(work_dir, backbone, ann_file, expected):
    path = work_dir / '20260101_000000' / 'vis_data' / 'config.py'
    path.write_text(
        f'model = dict(backbone={backbone!r})\n'
        "custom_imports = dict(imports=['not_there'])\n"
        f"train_dataloader = dict(dataset=dict(ann_file='{ann_file}'))\n"
    )
    assert comparable_arch(work_dir) == expected


def test_command(plot_run, work_dir, tmp_path, monkeypatch, capsys):
    other = tmp_path / 'other'
    write_start(other, '20260101_000000', [train_line(10, 7.0)])
    arguments = [str(work_dir), str(other), '--published', 'b']
    monkeypatch.setattr('sys.argv', ['plot_run.py', *arguments])
    plot_run.main()
    printed = capsys.readouterr().out
    for name in (work_dir, other, work_dir / 'curves.png'):
        assert str(name) in printed
    picture = (work_dir / 'curves.png').read_bytes()
    assert picture.startswith(b'\x89PNG') and len(picture) > 10000


def test_unusable_folders(plot_run, work_dir, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match='no folder .*nowhere'):
        read_run(tmp_path / 'nowhere')
    (tmp_path / 'empty').mkdir()
    with pytest.raises(UserError, match='no logs of training yet'):
        read_run(tmp_path / 'empty')
    write_start(tmp_path / 'test', '20260101_000000', [val_line(0, 0.1, 0.1)])
    with pytest.raises(UserError, match='no logs of training yet'):
        read_run(tmp_path / 'test')

    folder = write_start(
        tmp_path / 'iters', '20260101_000000', [train_line(10, 4.0)], by_epoch=False
    )
    assert [row['at'] for row in read_run(tmp_path / 'iters').train] == [10]
    monkeypatch.setattr(
        'sys.argv', ['plot_run.py', str(work_dir), str(tmp_path / 'iters')]
    )
    with pytest.raises(SystemExit, match='plot them separately'):
        plot_run.main()
    next(folder.glob('*.log')).unlink()
    with pytest.raises(UserError, match='no text log'):
        read_run(tmp_path / 'iters')

    scalars = work_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
    scalars.write_text('nonsense\n' + scalars.read_text())
    with pytest.raises(UserError, match='line 1: not JSON'):
        read_run(work_dir)
    monkeypatch.setattr('sys.argv', ['plot_run.py', str(tmp_path / 'other')])
    with pytest.raises(SystemExit, match='plot_run.py: There is no folder'):
        plot_run.main()
