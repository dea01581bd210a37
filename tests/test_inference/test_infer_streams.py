"""tools/infer.py over what comes through a pipe, from lists and from tar shards."""

import io
import json
import os
import signal
import tarfile
import threading
import time
import tracemalloc
from pathlib import Path

from mobilevig_det.inference.names import SkipReport
from mobilevig_det.inference.sources import Inputs

import pytest
import torch
from bad_images import encode, picture
from plain_detector import PlainDetector, make_plain_model
from test_resume import infer, rows


@pytest.fixture(autouse=True)
def work(tmp_path, monkeypatch):
    """A model, and five images of two sizes."""
    monkeypatch.chdir(tmp_path)
    os.mkdir('images')
    make_plain_model('model')
    for i in range(5):
        picture(20 + 10 * (i % 2), 20 + i // 4).save(f'images/{i}.png')


@pytest.fixture
def pipe():
    """A pipe that is standard input; its far end."""
    near, far = os.pipe()
    before = os.dup(0)
    os.dup2(near, 0)
    os.close(near)
    yield os.fdopen(far, 'wb', 0)
    os.dup2(before, 0)
    os.close(before)


@pytest.fixture
def interrupts():
    """Ctrl-C is heard, also where a shell has put the tests into the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def written():
    """Names that have a whole row on the disk."""
    path = Path('out/rows/0.jsonl')
    lines = path.read_bytes().splitlines(True) if path.exists() else []
    return [json.loads(line)['image'] for line in lines if line.endswith(b'\n')]


def wait_for(number):
    end = time.monotonic() + 60
    while len(written()) < number and time.monotonic() < end:
        time.sleep(0.01)
    return len(written()) >= number


def beside(function):
    """Run it in a thread; what it returns is in the list then."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function()), daemon=True)
    thread.start()
    return thread, result


def found_in(row):
    return {key: row[key] for key in ('boxes', 'labels', 'scores', 'masks', 'error')}


def test_a_pipe_that_is_held_open(pipe):
    """Names have rows on the disk before it is closed, also in batches of four."""

    def feed():
        with pipe:
            waited = []
            for i in range(5):
                pipe.write(f'images/{i}.png\n'.encode())
                waited.append(i not in (0, 3, 4) or wait_for(i + 1))
        return waited

    thread, waited = beside(feed)
    assert infer('--batch-size', 4, inputs=['-']) == 0
    thread.join()
    assert all(waited[0])
    assert sorted(written()) == [f'images/{i}.png' for i in range(5)]
    content = json.loads(Path('out/predictions.json').read_text())
    order = [image['file_name'] for image in content['images']]
    assert order == [f'images/{i}.png' for i in range(5)]


def test_ctrl_c_while_a_pipe_is_open(pipe, interrupts):
    """Rows are whole, a result is there, and one can go on with a file."""

    def feed():
        pipe.write(b'images/0.png\nimages/1.png\nimages/2.png\n')
        there = wait_for(3)
        os.kill(os.getpid(), signal.SIGINT)
        return there

    thread, there = beside(feed)
    assert infer(inputs=['-']) == 130
    thread.join()
    assert there == [True]
    pipe.close()
    content = json.loads(Path('out/predictions.json').read_text())
    assert len(content['images']) == len(rows()) == 3
    Path('names.txt').write_text(''.join(f'images/{i}.png\n' for i in range(5)))
    detector = PlainDetector()
    assert infer('--resume', detector=detector, inputs=['names.txt']) == 0
    assert sorted(detector.seen) == ['images/3.png', 'images/4.png']


@pytest.mark.parametrize('threads', [1, 2])
def test_ctrl_c_while_the_model_runs(threads, interrupts):
    """In one of two threads of models, or in the only one."""
    names = [f'images/{i}.png' for i in range(5)]

    def stop(picture):
        if picture.name.endswith('3.png'):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        code = infer('--batch-size', 1, detector=PlainDetector(stop), inputs=names)
        assert code == 130 and torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len(written()) == len(rows())
    assert [row['image'] for row in rows()] == names[: len(rows())]
    second = PlainDetector()
    assert infer('--resume', detector=second, inputs=names) == 0
    assert sorted(row['image'] for row in rows()) == names
    assert len(second.seen) == 5 - (len(written()) - len(second.seen))


def make_tar(path, members):
    with tarfile.open(path, 'w') as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def members(start=0):
    """As WebDataset has them: what belongs together has one key."""
    found = {}
    for i in range(start, start + 4):
        image = encode(picture(20 + 10 * (i % 2), 20), 'PNG')
        found |= {f'a/b.c/{i}.png': image, f'a/b.c/{i}.json': b'{}', f'a/{i}.cls': b'1'}
    return found


IMAGES = [f'a/b.c/{i}.png' for i in range(8)]


def test_shards_are_as_their_files():
    for shard, start in ('s-0.tar', 0), ('s-1.tar', 4):
        make_tar(shard, members(start))
        with tarfile.open(shard) as tar:
            tar.extractall('files', filter='data')
    assert infer(inputs=['s-{0..1}.tar']) == 0
    of_shards = {row['image']: found_in(row) for row in rows()}
    assert set(of_shards) == {f's-{i // 4}.tar/{name}' for i, name in enumerate(IMAGES)}
    assert infer(inputs=['files/a/b.c']) == 0
    of_files = {row['image']: found_in(row) for row in rows() if row['width']}
    for i, name in enumerate(IMAGES):
        assert of_shards[f's-{i // 4}.tar/{name}'] == of_files[f'files/{name}']


def test_a_list_of_shards_and_images_goes_on():
    """--resume opens a shard again, and looks at nothing twice."""
    make_tar('s.tar', members())
    Path('list.txt').write_text('images/0.png\ns.tar\nimages/1.png\n')
    assert infer(inputs=['list.txt']) == 0
    names = [row['image'] for row in sorted(rows(), key=lambda row: row['place'])]
    of_shard = [f's.tar/{name}' for name in IMAGES[:4]]
    assert names == ['images/0.png', *of_shard, 'images/1.png']
    lines = Path('out/rows/0.jsonl').read_text().splitlines(True)
    left_out = [json.loads(lines.pop(i))['image'] for i in (4, 1)]
    Path('out/rows/0.jsonl').write_text(''.join(lines))
    detector = PlainDetector()
    assert infer('--resume', detector=detector, inputs=['list.txt']) == 0
    assert sorted(detector.seen) == sorted(left_out)


@pytest.mark.parametrize('kept', ['header', 'data', 'end', 'nothing', 'text'])
def test_a_damaged_shard(kept, capsys):
    """One message; what can be read is done, and so is what comes after it."""
    make_tar('s-0.tar', members())
    data = Path('s-0.tar').read_bytes()
    with tarfile.open('s-0.tar') as tar:
        last = tar.getmember('a/b.c/2.png')
    cut, whole = dict(
        header=(data[: last.offset + 100], 2),
        data=(data[: last.offset_data + last.size // 2], 2),
        end=(data[: last.offset_data + -(-last.size // 512) * 512], 3),
        nothing=(b'', 0),
        text=(b'<html>404 Not Found</html>' * 90, 0),
    )[kept]
    Path('s-0.tar').write_bytes(cut)
    make_tar('s-1.tar', members(4))
    assert infer(inputs=['s-0.tar', 's-1.tar']) == 'infer.py: 1 skipped, see above.'
    names = {row['image'] for row in rows()}
    assert names == {
        *(f's-0.tar/{name}' for name in IMAGES[:whole]),
        *(f's-1.tar/{name}' for name in IMAGES[4:]),
    }
    (line,) = [
        line
        for line in capsys.readouterr().err.replace('\r', '\n').splitlines()
        if 'skipped ' in line and 'see above' not in line
    ]
    assert 'infer.py: skipped s-0.tar: the tar file is cut off or damaged' in line
    assert ('the images before that point were processed' in line) == (whole > 0)


def test_what_is_in_a_shard_beside_images(capsys):
    content = dict.fromkeys(('broken.jpg', '../up.PNG', './dot.png', 'a.txt'), b'text')
    content['../up.PNG'] = content['./dot.png'] = encode(picture(20, 20), 'PNG')
    make_tar('s.tar', content)
    with tarfile.open('s.tar', 'a') as tar:
        tar.add('images', 'folder.png', recursive=False)
        link = tarfile.TarInfo('link.png')
        link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
        tar.addfile(link)
        tar.add('images/0.png', 'long/' * 60 + '0.png')  # a header of its own
    make_tar('none.tar', {'a.txt': b'text'})
    code = infer(inputs=['s.tar', 'none.tar', 'missing.tar'], draw=True)
    assert code == 'infer.py: 3 skipped, see above.'
    errors = {row['image']: row['error'] for row in rows()}
    long = 's.tar/' + 'long/' * 60 + '0.png'
    assert set(errors) == {'s.tar/broken.jpg', 's.tar/../up.PNG', 's.tar/dot.png', long}
    assert [name for name, error in errors.items() if error] == ['s.tar/broken.jpg']
    error = capsys.readouterr().err
    assert 'skipped none.tar: no images are in this tar file' in error
    assert 'skipped missing.tar: there is no such file' in error
    # Pictures stay below their folder, whatever the names in the shard are.
    drawn = {str(path) for path in Path('out').rglob('*') if path.suffix != '.json'}
    assert {'out/vis/s.tar/__/up.PNG', 'out/vis/s.tar/dot.png'} <= drawn
    assert not Path('up.PNG').exists() and not Path('out/vis/up.PNG').exists()


def test_a_shard_is_not_held():
    """Of 2,000 members, neither headers nor names pile up."""
    image = b'x' * 10
    make_tar('s.tar', {f'{i:0100}.png': image for i in range(2000)})
    images = iter(Inputs(['s.tar'], SkipReport('test')))
    for _ in range(100):
        next(images)
    tracemalloc.start()
    for _ in range(1800):
        next(images)
    grown, _ = tracemalloc.get_traced_memory()  # with the shard still open
    tracemalloc.stop()
    assert grown < 150_000  # 24 bytes for each name
    assert sum(1 for _ in images) == 100
