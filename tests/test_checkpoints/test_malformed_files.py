"""Malformed files are refused in bounded memory and time, without side effects."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from malformed_checkpoints import (
    IN_OLD_FILES,
    VALUE_OF,
    containers,
    contents,
    malformed_files,
)
from malicious_checkpoints import BOMBS

ROOT = Path(__file__).parents[2]
READER = """if True:
    import json, resource, signal, sys, time, warnings
    from mobilevig_det.checkpoints import read_checkpoint
    from mobilevig_det.errors import UserError
    from mmengine.logging import HistoryBuffer

    def mib(field):
        with open('/proc/self/status') as status:
            (line,) = [x for x in status if x.startswith(field)]
        return int(line.split()[1]) >> 10

    room = (mib('VmSize') + 1024) << 20
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    warnings.simplefilter('ignore')
    for path in sys.argv[1:]:
        start, began = mib('VmRSS'), time.process_time()
        with open('/proc/self/clear_refs', 'w') as peak:
            peak.write('5')  # the peak starts at what is in use
        signal.setitimer(signal.ITIMER_VIRTUAL, 20)
        try:
            read_checkpoint(path)
            end = ''
        except UserError as error:
            end = str(error)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        seconds = time.process_time() - began
        print(json.dumps([end, mib('VmHWM') - start, seconds]), flush=True)
    assert HistoryBuffer([1.0, 3.0], [1, 1]).statistics('mean') == 2
    print(json.dumps(sorted(HistoryBuffer._statistics_methods)))
"""


@pytest.fixture(scope='module')
def outcomes(tmp_path_factory):
    """What became of each file: message, MiB that the peak grew, seconds; and the
    folder's content before and after."""
    folder = tmp_path_factory.mktemp('malformed')
    files = malformed_files(folder)
    before = sorted(os.listdir(folder))
    reader = subprocess.run(
        [sys.executable, '-c', READER, *map(str, files.values())],
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert reader.returncode == 0, reader.stderr[-2000:]
    *lines, statistics = map(json.loads, reader.stdout.splitlines())
    assert statistics == ['current', 'max', 'mean', 'min']
    assert sorted(os.listdir(folder)) == before
    return {
        what: (str(files[what]), *line) for what, line in zip(files, lines, strict=True)
    }


CASES = [
    *(f'value: {what}' for what in VALUE_OF),
    *(f'old value: {what}' for what in IN_OLD_FILES),
    *(f'container: {what}' for what in containers()),
    *(f'content: {what}' for what in contents()),
    *BOMBS,
]


def test_all_kinds_are_listed(outcomes):
    assert set(CASES) == set(outcomes)


@pytest.mark.parametrize('what', CASES)
def test_malformed_file_is_refused(outcomes, what):
    path, message, grown, seconds = outcomes[what]
    assert message.startswith(path)
    assert message.isprintable()
    assert len(message) < 600
    assert grown < 64 + 20 * os.path.getsize(path) / 2**20
    assert seconds < 15  # of a processor: what is not bounded takes minutes
