"""A benchmark's files."""

import csv
import json
from pathlib import Path

from .plots import draw, draw_growth, draw_stages
from .tables import HEADER, markdown, table


def write(result: dict, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / 'benchmark.json').write_text(json.dumps(result, indent=1))


def save(result: dict, folder: Path) -> None:
    write(result, folder)
    (folder / 'benchmark.md').write_text(markdown(result))
    with open(folder / 'benchmark.csv', 'w', newline='') as file:
        csv.writer(file).writerows([HEADER, *table(result)])
    draw(result, folder / 'benchmark.png')
    draw_growth(result, folder / 'growth.png')
    draw_stages(result, folder / 'stages.png')
    print(markdown(result))
    print(f'Written: {folder}/benchmark.{{md,csv,png,json}}, growth.png, stages.png')
