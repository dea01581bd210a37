"""Weights by name, path and address, and those that do not fit."""

import datetime
import functools
import hashlib
import http.server
import logging
import os
import shutil
import threading
from pathlib import Path

from mobilevig_det.checkpoints import weights
from mobilevig_det.errors import UserError

import pytest
import torch
from checkpoints import build, imagenet_checkpoint
from mmengine.logging import MMLogger
from reference import ARCHS, golden_features, golden_input, golden_state_dict

TI = 'MobileViG_Ti_made_here.pth.tar'


@pytest.fixture(autouse=True)
def caches(monkeypatch, tmp_path):
    """A torch hub of the test's own, and a name and hash for Ti."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    monkeypatch.delenv('MOBILEVIG_WEIGHTS', raising=False)
    monkeypatch.setattr(weights, 'REPOSITORY', 'http://127.0.0.1:9/')
    monkeypatch.setitem(weights.PUBLISHED, 'ti', weights.Published(TI))
    return tmp_path / 'torch' / 'hub' / 'checkpoints'


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder; breaks off in the middle of what is asked as cut_…"""

    def do_GET(self):
        self.server.asked.append(self.path)
        name = self.path.lstrip('/')
        path = Path(self.directory, name.removeprefix('cut_').partition('?')[0])
        if not path.is_file():
            return self.send_error(404)
        body = path.read_bytes()
        self.send_response(200)
        if 'nolength' not in name:
            self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if 'cut_' in name else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(files):
    handler = functools.partial(Handler, directory=str(files))
    with http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        server.asked = []
        server.address = f'http://127.0.0.1:{server.server_port}/'
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def assert_golden(model):
    golden = golden_features()
    with torch.no_grad():
        outs = model(golden_input(64, 96))
    for i, out in enumerate(outs):
        expected = torch.from_numpy(golden[f'ti/64x96/stage{i}'])
        error = (out - expected).abs().max() / expected.abs().max()
        assert error < 1e-5, i


@pytest.fixture
def log():
    """What is logged, as a list of messages."""
    handler = logging.Handler()
    messages = []
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def test_names_of_the_published_files(monkeypatch):
    monkeypatch.undo()
    of_mobilevig = {name for name, p in weights.PUBLISHED.items() if '-' not in name}
    assert of_mobilevig == set(ARCHS)
    assert weights.PUBLISHED['s'].path == 'MobileViG_S_78_2.pth.tar'
    assert weights.PUBLISHED['m'].path == 'MobileViG_M_80_7.pth.tar'
    assert weights.PUBLISHED['b'].path == 'MobileViG_B_82_6.pth.tar'
    for arch, score in (('m', '62_8'), ('b', '64_3')):
        assert weights.PUBLISHED[f'coco-{arch}'].path == (
            f'Detection/det_mobilevig_{arch}_{score}.pth'
        )
    with pytest.raises(UserError) as error:
        build('mobilevig://ti')
    assert 'The address of the published file for mobilevig://ti' in str(error.value)


@pytest.mark.parametrize('scheme', ['mobilevig://', ''])
def test_averaged_weights_are_preferred(files, scheme, log):
    assert_golden(build(f'{scheme}{files}/good.pth.tar'))
    assert any('averaged weights' in line for line in log)
    assert not any('raw' in line for line in log)


def test_raw_weights_are_loaded_with_a_warning(files, log):
    assert_golden(build(f'mobilevig://{files}/raw.pth.tar'))
    assert any('no averaged weights' in line for line in log)


def test_bare_and_ddp_weights_are_loaded(files, tmp_path):
    torch.save(golden_state_dict('ti'), tmp_path / 'bare.pth')
    assert_golden(build(f'{tmp_path}/bare.pth'))
    checkpoint = imagenet_checkpoint()
    for name in ('state_dict', 'state_dict_ema'):
        checkpoint[name] = {f'module.{k}': v for k, v in checkpoint[name].items()}
    torch.save(checkpoint, tmp_path / 'wrapped.pth')
    assert_golden(build(f'{tmp_path}/wrapped.pth'))


def test_folder_then_cache_then_download(files, server, caches, tmp_path, monkeypatch):
    monkeypatch.setattr(weights, 'REPOSITORY', server.address)
    shutil.copy(files / 'good.pth.tar', files / TI)
    assert_golden(build('mobilevig://ti'))
    assert server.asked == [f'/{TI}']
    assert os.listdir(caches) == [TI]
    build('mobilevig://ti')  # from the cache now
    assert len(server.asked) == 1
    # A folder that has another file, then one that has it.
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(tmp_path))
    build('mobilevig://ti')
    torch.save({'state_dict': {}}, tmp_path / TI)
    with pytest.raises(UserError, match='no weights'):
        build('mobilevig://ti')
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(tmp_path / 'nowhere'))
    with pytest.raises(UserError, match='MOBILEVIG_WEIGHTS'):
        build('mobilevig://ti')


@pytest.mark.parametrize('scheme', ['mobilevig://', ''])
def test_address_is_downloaded(files, server, caches, scheme):
    assert_golden(build(f'{scheme}{server.address}good.pth.tar'))
    # The same name at another address is another file.
    with pytest.raises(UserError, match='404'):
        build(f'{scheme}{server.address}elsewhere/good.pth.tar')


@pytest.mark.parametrize('name', ['cut_good.pth.tar', 'cut_nolength.pth.tar'])
def test_interrupted_download_leaves_no_file(files, server, caches, name):
    shutil.copy(files / 'good.pth.tar', files / 'nolength.pth.tar')
    with pytest.raises(UserError) as error:
        build(f'mobilevig://{server.address}{name}')
    assert ('broke off' if name == 'cut_good.pth.tar' else 'cut off') in str(
        error.value
    )
    assert os.listdir(caches) == []  # neither the half file nor a rest


def test_failed_download_says_what_to_do():
    with pytest.raises(UserError, match='could not be downloaded') as error:
        build('mobilevig://ti')
    assert 'mobilevig:///path' in str(error.value)


def test_wrong_sha256_is_refused(files, caches, monkeypatch, server):
    shutil.copy(files / 'good.pth.tar', files / TI)
    good = hashlib.sha256((files / TI).read_bytes()).hexdigest()
    monkeypatch.setattr(weights, 'REPOSITORY', server.address)
    monkeypatch.setitem(weights.PUBLISHED, 'ti', weights.Published(TI, '0' * 64))
    with pytest.raises(UserError, match=good):  # downloaded
        build('mobilevig://ti')
    assert os.listdir(caches) == []
    monkeypatch.setenv('MOBILEVIG_WEIGHTS', str(files))
    with pytest.raises(UserError, match=good):  # found in the folder
        build('mobilevig://ti')
    monkeypatch.setitem(weights.PUBLISHED, 'ti', weights.Published(TI, good))
    build('mobilevig://ti')
    monkeypatch.delenv('MOBILEVIG_WEIGHTS')
    build('mobilevig://ti')


def load_in_rank(rank, folder, address, results):
    os.environ['LOCAL_RANK'] = str(rank)
    torch.distributed.init_process_group(
        'gloo',
        f'file://{folder}/rendezvous',
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    try:
        loaded = weights.load_from_mobilevig(address)
        results.put('stem.stem.0.weight' in loaded['state_dict'])
    except UserError as error:
        results.put(str(error))


def test_one_rank_downloads(server, caches, tmp_path):
    """Two ranks over gloo: one request, both get the file. When it fails,
    both end."""
    context = torch.multiprocessing.get_context('fork')  # imports are done
    results = context.Queue()
    for name in ('good', 'cut_good'):
        folder = tmp_path / name
        folder.mkdir()
        ranks = [
            context.Process(
                target=load_in_rank,
                args=(rank, folder, f'{server.address}{name}.pth.tar', results),
            )
            for rank in range(2)
        ]
        for rank in ranks:
            rank.start()
        found = [results.get(timeout=60) for _ in ranks]
        for rank in ranks:
            rank.join(timeout=60)
        assert len(server.asked) == 1 + (name != 'good')
        assert found == [True] * 2 or 'broke off' in ''.join(found)


def test_unknown_name_lists_the_names():
    with pytest.raises(UserError, match='ti, s, m, b'):
        build('mobilevig://xl')


def test_message_names_the_size_of_the_file(tmp_path):
    torch.save(imagenet_checkpoint('s'), tmp_path / 's.pth')
    with pytest.raises(UserError, match="it has arch='s'") as error:
        build(f'mobilevig://{tmp_path}/s.pth')
    for word in (
        'unexpected: stages.0.2',
        'of another shape: '
        'downsamples.1.conv.weight (176, 84, 3, 3) instead of '
        '(168, 84, 3, 3)',
    ):
        assert word in str(error.value)
    with pytest.raises(UserError, match='missing: stages.0.3.layer_scale'):
        build(f'{tmp_path}/s.pth', 'b')


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda sd: sd.pop('backbone.1.1.fc2.1.running_mean'),
            'missing: stages.3.1.ffn.fc2.norm.running_mean$',
        ),
        (
            lambda sd: sd.update({'stem.extra': torch.zeros(1)}),
            'unexpected: stem.extra$',
        ),
        (
            lambda sd: sd.update({'stem.stem.4.bias': torch.zeros(41)}),
            r'of another shape: stem.1.norm.bias \(41,\) instead of \(42,\)$',
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, change, message):
    checkpoint = imagenet_checkpoint()
    change(checkpoint['state_dict_ema'])
    torch.save(checkpoint, tmp_path / 'ti.pth')
    with pytest.raises(UserError, match=message):
        build(f'mobilevig://{tmp_path}/ti.pth')


def test_weights_of_another_model_are_refused(tmp_path):
    resnet = {
        'conv1.weight': torch.zeros(64, 3, 7, 7),
        'layer1.0.conv1.weight': torch.zeros(64, 64, 1, 1),
    }
    for prefix in ('', 'backbone.'):
        torch.save({prefix + k: v for k, v in resnet.items()}, tmp_path / 'resnet.pth')
        for door in ('mobilevig://', ''):
            with pytest.raises(UserError, match='belongs to another model'):
                build(f'{door}{tmp_path}/resnet.pth')


@pytest.mark.parametrize(
    'address',
    [
        'http://me:SECRET@127.0.0.1:9/a.pth',
        'HTTP://me:SECRET@127.0.0.1:9/a.pth',
        'https://SECRET@127.0.0.1:9/a.pth',
        'http://me:SEC/RET@127.0.0.1:9/a.pth',
        'http://127.0.0.1:9/a.pth?X-Amz-Signature=SECRET&a=b',
        'http://127.0.0.1:9/a.pth#token=SECRET',
        'http://127.0.0.1:9/a b\n.pth?sig=SECRET',
        'ftp://me:SECRET@127.0.0.1/a.pth',
        's3://KEY:SECRET@bucket/a.pth?endpoint_override=SECRET',
        'mobilevig://http://me:SECRET@127.0.0.1:9/a.pth',
    ],
)
def test_messages_about_an_address_have_no_secrets(address, capfd):
    with pytest.raises(UserError) as error:
        weights.find_file(address)
    shown = str(error.value) + ''.join(capfd.readouterr())
    assert 'RET' not in shown and 'SEC' not in shown


def test_user_and_password_are_sent_to_their_host_only(server, monkeypatch, files):
    """In a header, as HTTP has it, and not to where a redirect leads."""
    heard = []

    def do_GET(self):
        heard.append((self.path, self.headers.get('Authorization')))
        if self.path == '/moved.pth':
            self.send_response(302)
            self.send_header('Location', f'{server.address}good.pth.tar')
            self.end_headers()
        else:
            real(self)

    real = Handler.do_GET
    monkeypatch.setattr(Handler, 'do_GET', do_GET)
    address = server.address.replace('//', '//me:p%40ss@')
    assert weights.find_file(f'{address}moved.pth').is_file()
    assert heard == [('/moved.pth', 'Basic bWU6cEBzcw=='), ('/good.pth.tar', None)]


def test_a_file_of_unknown_length_has_a_limit(server, monkeypatch):
    monkeypatch.setattr(weights, 'MAX_UNKNOWN', 2**20)
    with pytest.raises(UserError, match='sends more than 1 MiB'):
        weights.find_file(f'{server.address}good.pth.tar?nolength')
