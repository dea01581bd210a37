"""The server of the page of --format web: which requests it answers."""

import os
import shutil
import socket
import subprocess
import sys

from mobilevig_det.export.web import PAGE

import pytest


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    """Return the port of a server, which also answers as my.example."""
    root = tmp_path_factory.mktemp('server')
    page = root / 'page'
    (page / 'ort').mkdir(parents=True)
    shutil.copy(PAGE / 'serve.py', page)
    (page / 'index.html').write_text('the page')
    (page / 'model.json').write_text('{}')
    (page / 'ort' / 'a file.mjs').write_text('module')
    (root / 'secret').write_text('secret')
    (root / 'page_2').mkdir()
    (root / 'page_2' / 'secret').write_text('secret')
    (page / 'inside').symlink_to('model.json')
    (page / 'outside').symlink_to('../secret')
    (page / 'absolute').symlink_to(root / 'secret')
    (page / 'folder').symlink_to('../page_2')
    (page / 'loop').symlink_to('loop')
    (page / 'ort' / 'index.html').symlink_to(root / 'secret')
    os.mkfifo(page / 'pipe')
    command = [sys.executable, page / 'serve.py', '--port', '0', '--host', 'My.example']
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with process, process.stdout as output:
        yield int(output.readline().split(':')[2].split('/')[0])
        process.kill()


def request(port, path, *hosts, method='GET'):
    """Send a request with these Host headers; return the status and the body."""
    lines = [f'{method} {path} HTTP/1.1', *(f'Host: {host}' for host in hosts)]
    with socket.create_connection(('127.0.0.1', port), timeout=30) as connection:
        connection.sendall('\r\n'.join([*lines, '', '']).encode('latin-1'))
        answer = b''
        while part := connection.recv(65536):
            answer += part
    head, _, body = answer.partition(b'\r\n\r\n')
    return int(head.split()[1]), body.decode()


@pytest.mark.parametrize(
    'host', ['localhost', 'LocalHost:{port}', '127.0.0.1:{port}', '[::1]', 'my.example']
)
def test_names_of_the_server_are_answered(host, server):
    assert request(server, '/model.json', host.format(port=server)) == (200, '{}')
    assert request(server, '/', 'localhost:9999') == (200, 'the page')  # a tunnel


@pytest.mark.parametrize(
    'hosts',
    [
        [],
        [''],
        ['evil.example'],
        ['evil.example:{port}'],
        ['localhost.evil.example'],
        ['evil.localhost'],
        ['localhost@evil.example'],
        ['localhost:80:80'],
        ['localhost:'],
        ['0.0.0.0'],
        ['127.0.0.1.nip.io'],
        ['other.my.example'],
        ['localhost', 'evil.example'],
        ['localhost, evil.example'],
    ],
    ids=lambda hosts: ' and '.join(hosts) or 'none',
)
@pytest.mark.parametrize('method', ['GET', 'HEAD'])
def test_other_names_are_refused(hosts, method, server):
    hosts = [host.format(port=server) for host in hosts]
    status, body = request(server, '/model.json', *hosts, method=method)
    assert status == 421 and '{}' not in body


@pytest.mark.parametrize(
    'path',
    [
        '/outside',
        '/absolute',
        '/folder/secret',
        '/folder/',
        '/loop',
        '/pipe',
        '/ort',  # its index.html leads out of the folder
        '/ort/',
        '/../secret',
        '/%2e%2e/secret',
        '/%2e%2e%2fsecret',
        '/..%5csecret',
        '/ort/../../secret',
        '/%252e%252e/secret',
        '//etc/passwd',
        '/%2fetc/passwd',
        'file:///etc/passwd',
        'http://localhost/../secret',
        '/model.json%00',
        '/%00',
        '/' + 'a' * 5000,
        '/%ff%fe',
        '/nothing',
    ],
)
def test_nothing_outside_of_the_folder_is_found(path, server):
    status, body = request(server, path, 'localhost')
    assert status == 404 and 'secret' not in body.replace(path, '')


def test_files_in_the_folder_are_found(server):
    assert request(server, '/inside', 'localhost') == (200, '{}')
    assert request(server, '/ort/a%20file.mjs?x=1', 'localhost') == (200, 'module')
    assert request(server, '/', 'localhost', method='HEAD') == (200, '')
    assert request(server, '/model.json', 'localhost', method='POST')[0] == 501
