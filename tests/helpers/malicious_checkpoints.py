"""Malicious checkpoint files: pickles that run code, and decompression bombs."""

import io
import pickle
import struct
import tarfile
import zipfile

import torch

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of torch's format before 1.6


def text(value):
    data = str(value).encode()
    return b'X' + struct.pack('<I', len(data)) + data


class CreatesFile:
    """Creates a file when its state is set."""

    def __setstate__(self, path):
        open(path, 'w').close()


def running_pickles(trace):
    """Pickles that create a file when they are loaded, by the opcode that does it."""
    command = text(f'touch {trace}')
    system, popen = b'cos\nsystem\n', b'csubprocess\nPopen\n'
    shell = b'(' + text('touch') + text(trace) + b'l'
    return {
        'GLOBAL, REDUCE': b'\x80\x02' + system + command + b'\x85R.',
        'STACK_GLOBAL': b'\x80\x04' + text('os') + text('system') + b'\x93' + command
        + b'\x85R.',
        'INST': b'(' + command + b'ios\nsystem\n.',
        'OBJ': b'(' + popen + shell + b'o.',
        'NEWOBJ': b'\x80\x02' + b'cmalicious_checkpoints\nCreatesFile\n)\x81'
        + text(trace) + b'b.',
        'BUILD': b'\x80\x02(imalicious_checkpoints\nCreatesFile\n'
        + text(trace) + b'b.',
        'in a dict': b'\x80\x02}' + text('state_dict') + system + command + b'\x85Rs.',
        'eval': b'\x80\x02cbuiltins\neval\n'
        + text(f'open({str(trace)!r}, "w")')
        + b'\x85R.',
        'getattr': b'\x80\x02cbuiltins\ngetattr\n(cposixpath\nos\n' + text('system')
        + b'tR' + command + b'\x85R.',
    }  # fmt: skip


def bare(data, path):
    path.write_bytes(data)


def zipped(data, path, compression=zipfile.ZIP_STORED, **entries):
    """Write a pickle in torch's format since 1.6."""
    with zipfile.ZipFile(path, 'w', compression) as archive:
        archive.writestr('archive/data.pkl', data)
        archive.writestr('archive/byteorder', 'little')
        archive.writestr('archive/version', '3\n')
        for name, entry in entries.items():
            archive.writestr(f'archive/{name}', entry)


def legacy(data, path):
    """Write a pickle in torch's format before 1.6."""
    about = dict(protocol_version=PROTOCOL, little_endian=True, type_sizes={})
    heads = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, about)]
    path.write_bytes(b''.join([*heads, data, pickle.dumps([], 2)]))


def tarred(data, path):
    """Write a pickle in torch's format before 0.1.10, with separate storages."""
    with tarfile.open(path, 'w') as archive:
        for name in ('sys_info', 'pickle', 'tensors', 'storages'):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


CONTAINERS = dict(bare=bare, zip=zipped, legacy=legacy, tar=tarred)


def _number(value):
    return b'\x8a\x08' + struct.pack('<q', value)


BOMBS = ('compressed', 'stride 0', 'legacy', 'storage', 'Tensor', 'ndarray',
         'bytearray', 'overlapping')  # fmt: skip


def bombs(folder):
    """Write small files that need very much memory, by what they do."""
    many = 10**11
    files = {name: folder / f'{i}.pth' for i, name in enumerate(BOMBS)}
    zipped(pickle.dumps({}, 2), files['compressed'], zipfile.ZIP_DEFLATED,
           **{'data/0': bytes(200 << 20)})  # fmt: skip
    torch.save({'a.weight': torch.zeros(1).expand(many)}, files['stride 0'])
    good = {'a.weight': torch.zeros(1000)}
    torch.save(good, files['legacy'], _use_new_zipfile_serialization=False)
    data = files['legacy'].read_bytes()
    assert b'M\xe8\x03' in data  # the number 1000
    files['legacy'].write_bytes(data.replace(b'M\xe8\x03', _number(many)))
    torch.save(good, folder / 'good.pth')
    with zipfile.ZipFile(folder / 'good.pth') as archive:
        data = archive.read('good/data.pkl').replace(b'M\xe8\x03', _number(many))
        zipped(data, files['storage'], **{'data/0': archive.read('good/data/0')})

    def called(name, arguments):
        return b'\x80\x02}' + text('x') + name + arguments + b'Rs.'

    zipped(called(b'ctorch\nTensor\n', _number(many) + b'\x85'), files['Tensor'])
    zipped(called(b'cnumpy\nndarray\n', _number(many) + b'\x85\x85'), files['ndarray'])
    zipped(
        called(b'cbuiltins\nbytearray\n', _number(10**9) + b'\x85'), files['bytearray']
    )
    _overlapping(files['overlapping'])
    return files


def _overlapping(path):
    """Write a table of contents whose entries are all the same bytes."""
    zipped(pickle.dumps({}, 2), path, **{'data/0': bytes(1 << 20)})
    with zipfile.ZipFile(path, 'a') as archive:
        (entry,) = [e for e in archive.infolist() if e.filename.endswith('data/0')]
        archive.filelist.extend([entry] * 100)
        archive._didModify = True
