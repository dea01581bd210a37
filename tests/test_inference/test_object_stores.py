"""Addresses as s3://…: their parts, and what of them may be seen."""

from mobilevig_det.errors import UserError
from mobilevig_det.inference.names import inside
from mobilevig_det.paths import without_secrets

import pytest

fs = pytest.importorskip('pyarrow.fs', reason='pip install "mobilevig_det[ray]"')

from mobilevig_det.inference import object_stores  # noqa: E402


@pytest.mark.parametrize(
    'address, shown',
    [
        ('/photos/a:b@c?d', '/photos/a:b@c?d'),
        ('s3://photos/in', 's3://photos/in'),
        ('s3://KEY:SECRET@photos/in?a=SECRET', 's3://photos/in'),
        ('s3://KEY:SE%2FCRET@photos/a@b/c?a=x', 's3://photos/a@b/c'),
        ('s3://photos/a:b@c', 's3://photos/a:b@c'),
        ('s3://KEY:SE@CRET@photos/in?a', 's3://photos/in'),
        # Nothing that pyarrow takes, but a message is made of it.
        ('s3://KEY:SE/CRET@photos/in', 's3://photos/in'),
        ('s3://KEY:SE?CRET@photos/in?SECRET', 's3://photos/in'),
        ('s3://KEY:SE/CR@ET@photos/in', 's3://photos/in'),
        ('hdfs://me@host:8020/a', 'hdfs://host:8020/a'),
    ],
)
def test_what_messages_show(address, shown):
    assert without_secrets(address) == shown
    if 'KEY' in address:
        for refused in (address.replace('s3', 'ftp'), f'{address}&bogus=1'):
            with pytest.raises(UserError) as told:
                object_stores.find_filesystem(refused)
            assert 'KEY' not in str(told.value) and 'CRET' not in str(told.value)


@pytest.mark.parametrize(
    'folder, name, expected',
    [
        ('/a', 'rows', '/a/rows'),
        ('/a?b', 'rows', '/a?b/rows'),
        ('s3://b/a/', 'rows', 's3://b/a/rows'),
        ('s3://k:s@b/a?region=x/y', 'rows', 's3://k:s@b/a/rows?region=x/y'),
        ('s3://b?region=x', 'rows', 's3://b/rows?region=x'),
    ],
)
def test_inside(folder, name, expected):
    assert inside(folder, name) == expected


@pytest.mark.parametrize(
    'where, path, name, asked, opened',
    [
        (
            's3://k:s@s3/in?region=x',
            's3/in/a b#1?%20.jpg',
            's3://s3/in/a b#1?%20.jpg',
            ('s3://k:s@s3/?region=x', 's3'),
            's3/in/a b#1?%20.jpg',
        ),
        (
            'hdfs://me@host:8020/in',
            '/in/a.jpg',
            'hdfs://host:8020/in/a.jpg',
            ('hdfs://me@host:8020/', '/'),
            '/in/a.jpg',
        ),
        (
            'file:///in',
            '/in/100%.jpg',
            'file:///in/100%.jpg',
            ('file:///', '/'),
            '/in/100%.jpg',
        ),
    ],
)
def test_images_are_found_by_their_names(monkeypatch, where, path, name, asked, opened):
    assert object_stores.image_name(where, path) == name
    address, root = asked
    known = {address: ('file system', root)}
    monkeypatch.setattr(object_stores, '_from_uri', known.__getitem__)
    assert object_stores.find_image(name, where) == ('file system', opened)


def test_credentials_are_for_their_own_scheme(monkeypatch):
    known = {'gs://b/': ('store', 'b'), 's3://k:s@c/?region=x': ('other', 'c')}
    monkeypatch.setattr(object_stores, '_from_uri', known.__getitem__)
    where = 's3://k:s@a/list.txt?region=x'
    assert object_stores.find_image('gs://b/1.jpg', where) == ('store', 'b/1.jpg')
    assert object_stores.find_image('s3://c/1.jpg', where) == ('other', 'c/1.jpg')
    assert object_stores.find_image('gs://b/1.jpg', '/a.txt') == ('store', 'b/1.jpg')


@pytest.mark.parametrize('name', ['a b', 'a#b', 'é', 'a%2525'])
def test_what_is_escaped_in_an_address(tmp_path, name):
    path = f'{tmp_path}/{name}'
    found = object_stores.find_filesystem(f'file://{path}')
    assert found == (fs.LocalFileSystem(), path.replace('%25', '%'))
