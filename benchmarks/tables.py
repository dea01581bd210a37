"""The rows as a table."""

import statistics

from .backbones import MATRIX_PRODUCT

COCO_STEPS = 12 * 14659  # of 8 images
HEADER = (
    'what',
    'size',
    'name',
    'median ms',
    'min-max ms',
    'ns/element',
    'images/s',
    'params M',
    'GMACs',
    'peak MB',
    'x ceiling',
    'x base',
    'launches',
    'waits',
    'GPU idle',
)


def median(row: dict) -> float:
    return statistics.median(row['seconds'])


def table(result: dict) -> list[tuple[str, ...]]:
    """A line for each row. ``x ceiling``: time over what the machine's
    matrix-product rate allows for the FLOPs; ``x base``: how many times faster
    than the row's ``base``, and the base's memory over the row's."""
    lines = []
    timed = {
        (row['part'], row['size'], row['name']): row
        for row in result['rows']
        if 'failed' not in row
    }
    for row in result['rows']:
        start = (row['part'], row['size'], row['name'])
        if 'failed' in row:
            lines.append(
                (*start, 'failed: ' + row['failed'], *[''] * (len(HEADER) - 4))
            )
            continue
        base = timed.get((*start[:2], row.get('base')))
        ratio = ''
        if base is not None and base is not row:
            ratio = f'{median(base) / median(row):.2f}'
            if 'peak_bytes' in row and 'peak_bytes' in base:
                memory = base['peak_bytes'] / max(row['peak_bytes'], 1)
                ratio += f' ({memory:.2f})'
        gmacs = row.get('gmacs')
        batch = row.get('images', result['batch_size'])
        limit = timed.get((*start[:2], MATRIX_PRODUCT))
        if limit is row:
            batch = 1
        ideal = (
            median(limit) * gmacs * batch / limit['gmacs'] if gmacs and limit else None
        )
        lines.append(
            (
                *start,
                f'{median(row) * 1e3:.2f}',
                f'{min(row["seconds"]) * 1e3:.2f}-{max(row["seconds"]) * 1e3:.2f}',
                f'{median(row) / row["elements"] * 1e9:.2f}'
                if 'elements' in row
                else '',
                '' if 'elements' in row else f'{batch / median(row):.2f}',
                f'{row["params"] / 1e6:.2f}' if gmacs else '',
                f'{gmacs:.2f}' if gmacs else '',
                f'{row["peak_bytes"] / 1e6:.1f}' if 'peak_bytes' in row else '',
                f'{median(row) / ideal:.2f}' if ideal else '',
                ratio,
                *_device_columns(row),
            )
        )
    return lines


def _device_columns(row: dict) -> tuple[str, str, str]:
    """Idle is what is left of the median, for under a profiler the processor is
    slower, and the device is not."""
    seen = row.get('activity')
    if not seen:
        return '', '', ''
    idle = max(1 - seen['busy'] / median(row), 0)
    return (
        str(seen['launches']),
        f'{seen["waits"]} (item {seen["items"]}, nonzero {seen["nonzeros"]})',
        f'{idle:.0%}',
    )


def markdown(result: dict) -> str:
    facts = ', '.join(f'{k} {v}' for k, v in result['machine'].items())
    rows = [HEADER, ('---',) * len(HEADER), *table(result)]
    notes = [
        f'{row["name"]}, {row["size"]}: 12 epochs of COCO at this rate take '
        f'{median(row) * COCO_STEPS * 8 / row["images"] / 3600:.0f} h.'
        for row in result['rows']
        if row['part'] == 'detector, training step'
        and 'failed' not in row
        and result['machine']['device'] != 'cpu'
    ]
    notes += [row['note'] for row in result['rows'] if 'note' in row]
    notes += [
        f'{row["name"]}: {row["pipe_bytes"] / 1e6:.2f} MB an image through the pipe.'
        for row in result['rows']
        if 'pipe_bytes' in row
    ]
    return '\n'.join(
        [
            facts,
            '',
            *(f'| {" | ".join(row)} |' for row in rows),
            '',
            'x ceiling: time over what the rate of the matrix product allows. '
            "x base: times faster than the definition, the authors' algorithm, "
            "compiled mmcv or PyTorch (in brackets its peak memory over this one's). "
            'Peak: tensors made by the run, without weights and input; of the '
            'evaluation all that the process took more than before. Waits: of the '
            'processor for the GPU, and how many operators ran of two kinds that '
            'wait. GPU idle: the share of the median in which nothing ran there.',
            *notes,
            '',
        ]
    )
