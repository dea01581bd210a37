"""Malformed checkpoint files of every kind, written opcode by opcode."""

import io
import pickle
import struct
import warnings
import zipfile
import zlib
from collections import OrderedDict

import torch
from malicious_checkpoints import MAGIC, PROTOCOL, bombs, text

VALUES = bytes(range(1, 17))  # of the storage '0': four float32
STORED = struct.pack('<q', 4) + VALUES


def number(value):
    data = value.to_bytes(value.bit_length() // 8 + 1, 'little', signed=True)
    return b'\x8a' + bytes([len(data)]) + data


def name(module, attribute):
    return f'c{module}\n{attribute}\n'.encode()


def sequence(*items, end=b't'):
    return b'(' + b''.join(items) + end


def numbers(*values):
    return sequence(*map(number, values))


def call(function, *arguments):
    return function + sequence(*arguments) + b'R'


def storage(count=4, kind='FloatStorage', module='torch', key='0'):
    saved_id = (text('storage'), name(module, kind), text(key), text('cpu'))
    return sequence(*saved_id, number(count)) + b'Q'


def tensor(size=(4,), stride=(1,), offset=0, of=None, end=b'\x89N'):
    shape = [numbers(*size), numbers(*stride)]
    return call(
        name('torch._utils', '_rebuild_tensor_v2'),
        *(of or storage(), number(offset), *shape, end),
    )


def tensor_of_type(dtype):
    return call(
        name('torch._utils', '_rebuild_tensor_v3'),
        storage(16, 'UntypedStorage', 'torch.storage'),
        *(number(0), numbers(4), numbers(1), b'\x89N', name('torch', dtype)),
    )


def array(code='f8', shape=(1,), data='12345678', order='<'):
    """Calls that build a NumPy array."""
    encoded = call(name('_codecs', 'encode'), text(data), text('latin1'))
    dtype = call(name('numpy', 'dtype'), text(code), b'\x89\x88')
    dtype += sequence(b'K\3', text(order), b'NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0')
    start = call(name('numpy.core.multiarray', '_reconstruct'),
                 name('numpy', 'ndarray'), b'K\0\x85', text('b'))  # fmt: skip
    return (
        start
        + sequence(b'K\1', numbers(*shape), dtype + b'b', b'\x89', encoded)
        + (b'b')
    )


HISTORY = name('mmengine.logging.history_buffer', 'HistoryBuffer') + b')\x81'
EXPONENTIAL = b')\x85q\0' + b''.join(
    b'h' + bytes([i - 1]) + b'\x86q' + bytes([i]) for i in range(1, 45)
)
ORDERED = name('collections', 'OrderedDict') + b')R'
LARGE_LIST = b'](' + b'N' * 100_000 + b'eq\0'
LARGE_DICT = b'}(' + b''.join(text(i) + b'}' for i in range(10_000)) + b'uq\0'

# Pickles of one value, by what is wrong with it.
VALUE_OF = {
    'a tuple 500,000 deep': b')' + b'\x85' * 500_000,
    'lists 10,000 deep': b']' * 10_000 + b'a' * 9_999,
    'a list that holds itself': b']q\0h\0a',
    'a dict that holds itself': b'}q\0' + text('a') + b'h\0s',
    'exponential tuples': EXPONENTIAL,
    'a million dicts': b'(' + b'}' * 1_000_000 + b'l',
    'a million marks': b'(' * 1_000_000,
    'an exponential key': b'}' + EXPONENTIAL + b'Ns',
    'a deep key': b'}' + b')' + b'\x85' * 100_000 + b'Ns',
    'keys of one hash': b'}('
    + b''.join(number(i * (2**61 - 1)) + b'N' for i in range(100_000))
    + b'u',
    'an odd number of items': b'}(NNNu',
    'a tensor as a key': b'}' + tensor() + b'Ns',
    'an item of a tensor': tensor() + b'K\0K\0s',
    'a text of 4 GB': b'X\xff\xff\xff\xff',
    'a long of 2 GB': b'\x8b\xff\xff\xff\x7f',
    'bytes of 2^62': b'\x8e' + struct.pack('<Q', 1 << 62),
    'a frame of 2^62': b'\x95' + struct.pack('<Q', 1 << 62) + b'N',
    'digits without end': b'I' + b'9' * 1_000_000 + b'\n',
    'a name without end': b'c' + b'a' * 1_000_000 + b'\nb\n',
    'an opcode of protocol 4': b'\x8f',
    'an unknown opcode': b'\xff',
    'a memo that is missing': b'h\x05',
    'an empty stack': b'R',
    'bytearray': call(name('builtins', 'bytearray'), number(1 << 32)),
    'encode to hex': call(name('_codecs', 'encode'), text('a'), text('hex_codec')),
    'one text, encoded often': text('a' * 100_000) + b'q\0'
    + sequence(*[call(name('_codecs', 'encode'), b'h\0', text('latin1'))] * 3000)
    + b'\x86',
    'one list, made sets of often': LARGE_LIST
    + sequence(*[call(name('builtins', 'set'), b'h\0')] * 3000) + b'\x86',
    'one dict, the state of many': LARGE_DICT
    + sequence(*[name('argparse', 'Namespace') + b')\x81h\0b'] * 3000) + b'\x86',
    'one table of versions, of many': LARGE_DICT + b'}' + text('_metadata')
    + b'h\0sq\1' + sequence(*[ORDERED + b'h\1b'] * 3000) + b'\x87',
    'getattr of a type': call(
        name('__builtin__', 'getattr'), HISTORY[:-2], text('__init__')
    ),
    'numpy.ndarray': call(name('numpy', 'ndarray'), numbers(10**11)),
    'an array larger than its data': array(shape=(10**11,)),
    'an array of negative shape': array(shape=(-1, -1)),
    'an array of many dimensions': array(shape=(1,) * 60),
    'an array of a huge shape': array(shape=(2**62, 2**62)),
    'an array of objects': array('O8'),
    'an array of records': array('V8'),
    'an array of another byte order': array(order='>'),
    'a history of tensors': HISTORY
    + sequence(
        *(text('max_length'), number(9), text('_log_history'), tensor()),
        *(text('_count_history'), tensor()),
        end=b'',
    ).replace(b'(', b'}(', 1)
    + b'ub',
    'a history without values': HISTORY + b'}b',
    'a history that is called': HISTORY[:-2] + array() + b'\x85R',
    'a function with a state': name('builtins', 'set') + b'}' + text('a') + b'Nsb',
    'versions that are text': ORDERED + b'}' + text('_metadata') + text('a') + b'sb',
    'a function': name('builtins', 'set'),
    'a storage': storage(),
    'a negative stride': tensor(stride=(-1,)),
    'a negative size': tensor(size=(-4,)),
    'a negative offset': tensor(offset=-4),
    'an offset behind the end': tensor(offset=1 << 40),
    'sizes that overflow': tensor((2**32, 2**32), (0, 0)),
    'strides that overflow': tensor((2, 2), (2**63 - 1, 2**63 - 1)),
    'sizes over 64 bits': tensor((2**64,), (0,)),
    'more values than are stored': tensor((5,)),
    'a stride behind the end': tensor((2,), (4,)),
    'a stride of 0': tensor((10**11,), (0,)),
    'fewer strides than sizes': tensor((2, 2), (1,)),
    'forty dimensions': tensor((1,) * 40, (1,) * 40),
    'a shape of text': call(
        name('torch._utils', '_rebuild_tensor_v2'),
        *(storage(), number(0), text('4'), text('1'), b'\x89N'),
    ),
    'a conjugate tensor': tensor(end=b'\x89N' + b'}' + text('conj') + b'\x88s'),
    'a shorter storage': tensor((5,), of=storage(5)),
    'a longer storage': tensor((3,), of=storage(3)),
    'a huge storage': tensor(of=storage(10**12)),
    'a negative storage': tensor(of=storage(-4)),
    'a missing storage': tensor(of=storage(key='1')),
    'a storage elsewhere': tensor(of=storage(key='../version')),
    'a quantized storage': tensor(of=storage(16, 'QInt8Storage')),
    'a quantized type': tensor_of_type('qint8'),
    'a type that is none': tensor_of_type('load'),
    'a tensor of no storage': tensor(of=b'N'),
    'torch.Tensor': call(name('torch', 'Tensor'), number(10**11)),
    'a view of a storage': sequence(
        *(text('storage'), name('torch', 'FloatStorage'), text('0'), text('cpu')),
        *(number(4), numbers(0, 0, 0)),
    )
    + b'Q',
}  # fmt: skip


IN_OLD_FILES = ('exponential tuples', 'a million dicts', 'a negative stride')


def pickled(value):
    return b'\x80\x02}' + text('a') + value + b's.'


def archive(data, path, **changed):
    """Write a pickle, and one storage, in torch's format since 1.6."""
    entries = {'data.pkl': data, 'byteorder': b'little', 'data/0': VALUES,
               'version': b'3\n', **changed}  # fmt: skip
    with zipfile.ZipFile(path, 'w') as file:
        for entry, content in entries.items():
            file.writestr(f'archive/{entry}', content)


def old_file(data, keys=('0',), stored=STORED):
    """A pickle and one storage in torch's format before 1.6, as bytes."""
    about = dict(protocol_version=PROTOCOL, little_endian=True, type_sizes={})
    heads = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, about)]
    keys = keys if isinstance(keys, bytes) else pickle.dumps(list(keys), 2)
    return b''.join([*heads, data, keys, stored])


def _patched(data, old, new):
    assert data.count(old) >= 1
    return data.replace(old, new)


def containers():
    """Containers that are damaged, as bytes by what is wrong."""
    good = io.BytesIO()
    archive(pickled(tensor()), good)
    data = good.getvalue()
    at = data.rfind(b'archive/data/0') - 46  # its entry in the directory
    start = data.find(b'archive/data/0') - 30
    end = data.rfind(b'PK\5\6')

    def changed(place, new):
        return data[:place] + new + data[place + len(new) :]

    def packed(method, **entries):
        file = io.BytesIO()
        with zipfile.ZipFile(file, 'w', method) as a:
            for entry, content in entries.items():
                a.writestr('archive/' + entry.replace('__', '/'), content)
        return file.getvalue()

    twice = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(twice, 'w') as file:
        warnings.simplefilter('ignore')
        for content in (pickled(b'N'), pickled(tensor())):
            file.writestr('archive/data.pkl', content)
    size = struct.pack('<II', 1 << 20, 1 << 20)
    zeros = pickled(tensor((1 << 22,), of=storage(1 << 22)))
    return {
        'sizes of the directory that lie': changed(at + 20, size),
        'a directory that claims compression': changed(at + 10, b'\x08\0'),
        'a header that claims compression': changed(start + 8, b'\x08\0'),
        'a header of another name': changed(start + 30, b'archive/data/1'),
        'a header that is none': changed(start, b'PK\0\0'),
        'an encrypted entry': changed(at + 8, b'\1'),
        'an encrypted header': changed(start + 6, b'\1'),
        'an offset elsewhere': changed(at + 42, b'\xff\xff\0\0'),
        'a directory of another length': changed(end + 12, b'\0\0\0\0'),
        'an entry twice': twice.getvalue(),
        'bytes after it': data + b'\0' * 100,
        'bytes before it': b'\x80\2N.' + data,
        'an archive before it': data + data,
        'an archive in an archive': packed(0, **{'data.pkl': data}),
        'no pickle': packed(0, version=b'3\n'),
        'two pickles': packed(0, **{'data.pkl': b'}.', 'x__data.pkl': b'}.'}),
        'an unknown byte order': packed(0, **{'data.pkl': b'}.', 'byteorder': b'x'}),
        'no entry': packed(0),
        'BZIP2': packed(zipfile.ZIP_BZIP2, **{'data.pkl': b'}.' + bytes(10**7)}),
        'LZMA': packed(zipfile.ZIP_LZMA, **{'data.pkl': b'}.' + bytes(10**7)}),
        'a pickle that is compressed': packed(8, **{'data.pkl': b'(' * 10**8}),
        'values that are compressed': packed(
            8, **{'data.pkl': zeros, 'data__0': bytes(1 << 24)}
        ),
        'values with a wrong checksum': _patched(
            packed(8, **{'data.pkl': pickled(tensor()), 'data__0': VALUES}),
            struct.pack('<I', zlib.crc32(VALUES)),
            b'\0\0\0\0',
        ),
        '30,000 entries': packed(0, **{f'{i}': b'' for i in range(30_000)}),
        'old: nothing but its magic': pickle.dumps(MAGIC, 2),
        'old: another version': old_file(b'}.').replace(
            pickle.dumps(PROTOCOL, 2), pickle.dumps(7, 2), 1
        ),
        'old: another count': old_file(
            pickled(tensor()), stored=struct.pack('<q', 3) + VALUES
        ),
        'old: a negative count': old_file(
            pickled(tensor()), stored=struct.pack('<q', -4) + VALUES
        ),
        'old: cut off': old_file(pickled(tensor()))[:-1],
        'old: a storage without values': old_file(pickled(tensor()), ()),
        'old: a storage twice': old_file(pickled(tensor()), ('0', '0')),
        'old: another storage': old_file(pickled(tensor()), ('1',)),
        'old: keys that are exponential': old_file(
            pickled(tensor()), b'\x80\x02](' + EXPONENTIAL + b'e.'
        ),
        'old: a storage of two sizes': old_file(
            pickled(sequence(tensor(), tensor((2,), of=storage(2))))
        ),
        'old: a huge storage': old_file(pickled(tensor(of=storage(10**12)))),
        'safetensors: a header without end': struct.pack('<Q', 10**6) + b'{' * 100,
        'safetensors: values behind the end': _safetensors([0, 10**9]),
        'safetensors: values before the start': _safetensors([8, 0]),
    }


def _safetensors(offsets):
    header = str({'a': dict(dtype='F32', shape=[2], data_offsets=offsets)})
    header = header.replace("'", '"').encode()
    return struct.pack('<Q', len(header)) + header + bytes(8)


def contents():
    """Contents that torch saves, and that no model can use."""
    one = torch.ones(3)
    sparse = torch.eye(3).to_sparse()
    quantized = torch.quantize_per_tensor(one, 0.1, 0, torch.qint8)
    nested = torch.nested.nested_tensor([one, one])
    weights = {
        'a sparse weight': {'a.weight': sparse},
        'a compressed weight': {'a.weight': torch.eye(3).to_sparse_csr()},
        'a weight of the meta device': {'a.weight': one.to('meta')},
        'a quantized weight': {'a.weight': quantized},
        'a nested weight': {'a.weight': nested},
        'a weight twice': {'a.weight': one, 'module.a.weight': one},
        'a negative variance': {'a.running_var': torch.tensor([1.0, -1e-6])},
        'an infinite variance': {'a.running_var': torch.tensor([1.0, torch.inf])},
        'a variance that is NaN': {'a.running_var': torch.tensor([1.0, torch.nan])},
        'a name of control characters': {'\x1b[2Ja.weight': one},
        'a name without end': {'a' * 100_000: one},
    }
    return {
        **{key: {'state_dict': OrderedDict(value)} for key, value in weights.items()},
        'bare weights twice': {'a.weight': one, 'module.a.weight': one},
        'averaged weights of the meta device': {
            'state_dict': {'a.weight': one},
            'state_dict_ema': {'a.weight': one.to('meta')},
        },
        'a tensor': one,
    }


def malformed_files(folder):
    """Write all of them; returns their paths by what is wrong."""
    files = {}

    def path(what):
        assert what not in files
        files[what] = folder / f'{len(files)}.pth'
        return files[what]

    for what, value in VALUE_OF.items():
        archive(pickled(value), path(f'value: {what}'))
    for what in IN_OLD_FILES:
        path(f'old value: {what}').write_bytes(old_file(pickled(VALUE_OF[what])))
    for what, data in containers().items():
        path(f'container: {what}').write_bytes(data)
    for what, content in contents().items():
        torch.save(content, path(f'content: {what}'))
    (folder / 'bombs').mkdir()
    files.update(bombs(folder / 'bombs'))
    return files
