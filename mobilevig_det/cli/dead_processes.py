"""What torch's errors about dead processes mean, in one message."""

import re

_GO_ON = 'Go on with --resume.'
_MEANINGS = (
    (
        r'DataLoader worker \(pid\D* [\d, ]+\) (is killed by|exited unexpectedly)',
        'A process that loads data was killed, as systems do when memory runs out: '
        'a smaller train_dataloader.num_workers (or val_dataloader.num_workers) '
        'needs less; in a container, look at its limits, also of /dev/shm.',
    ),
    (
        r'Connection (closed|reset) by peer',
        'Another process of this job died: its own messages, above or in its log, '
        'say why.',
    ),
)


def explain_dead_process(error: Exception) -> str | None:
    """One message for an error that a dead process caused here; else None."""
    for pattern, meaning in _MEANINGS:
        found = re.search(pattern, str(error))
        if found:
            first_line = str(error).strip().splitlines()[0]
            return f'{meaning} {_GO_ON} ({first_line})'
    return None
