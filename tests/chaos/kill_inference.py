"""Kill detection in many images again and again, and count the rows.

``python tests/chaos/kill_inference.py --images 20000 --kills 10`` prints a table:
``infer.py`` in one process, in two under torchrun, and ``infer_ray.py`` with two
models, each straight and under kills, and Ray with one model. Memory is what is
resident and anonymous, without files and Ray's object store; its slope is by least
squares over the second half of the images.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / 'tests' / 'chaos'), str(ROOT / 'tests')]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import tiny_detector  # noqa: E402
from inference_ways import Way, anonymous_kib, bytes_of_rows, descendants, rows, ways  # noqa: E402
from mmengine.config import Config  # noqa: E402
from tqdm import trange  # noqa: E402

# Processes: those with a model, the command itself where it has none, and Ray's.
KINDS = ('models', 'driver', 'others')
EVERY = 0.5  # seconds between two looks at a run
STUCK = 900  # seconds without a new row, which are an error
# Floats of batches that other images shared.
TOLERANCE = dict(rtol=1e-4, atol=1e-3)


@dataclass
class Result:
    """Of a way: what it left, and what it took."""

    kills: int = 0
    starts: int = 0
    rate: float = 0.0  # images/s, between the first rows and the last
    slopes: list[float] = field(default_factory=list)  # KiB an image, of KINDS
    faults: list[str] = field(default_factory=list)


class Run:
    """One start of a way, watched from outside until it ends or is killed."""

    def __init__(self, way: Way, folder: Path, out: Path, resume: bool) -> None:
        self.way, self.out = way, out
        self.log = open(folder / 'log.txt', 'ab')
        command = [*way.command, str(folder / 'images'), '--out-dir', str(out)]
        command += ['--checkpoint', str(folder / 'model' / 'epoch_1.pth')]
        # One by one: kills change who shares a batch, and with it the last digit.
        command += ['--score-thr', '0.4', '--batch-size', '1']
        command += ['--resume'] if resume else []
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
            env=dict(
                os.environ,
                OMP_NUM_THREADS='1',
                PYTHONPATH=os.pathsep.join(
                    [str(ROOT), os.environ.get('PYTHONPATH', '')]
                ),
            ),
        )
        # Time, bytes of rows, and the KiB of each process by KINDS.
        self.seen: list[tuple[float, int, list[dict[int, int]]]] = []
        self.began = time.monotonic()

    def victims(self) -> list[int]:
        """The processes that hold a model."""
        found = descendants(self.process.pid)
        return [pid for pid, line in found.items() if line.startswith(self.way.victims)]

    def kinds(self) -> list[list[int]]:
        """Processes of each of KINDS."""
        models, first = self.victims(), self.process.pid
        others = descendants(first).keys() - {first, *models}
        return [models, [first] if first not in models else [], [*others]]

    def look(self) -> bool:
        """Wait a bit and note what there is; False when it has ended."""
        time.sleep(EVERY)
        kib = [{pid: anonymous_kib(pid) for pid in pids} for pids in self.kinds()]
        size = bytes_of_rows(self.way, self.out)
        if not self.seen or size != self.seen[-1][1]:
            self.changed = time.monotonic()
        self.seen.append((time.monotonic(), size, kib))
        if time.monotonic() - self.changed > STUCK:
            self.kill_all()
            raise RuntimeError(f'{self.way.name} stands still.')
        return self.process.poll() is None

    def kill_all(self) -> None:
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            kill(pid)
        self.process.wait()

    def measured(self, images: int) -> tuple[float, list[float]]:
        """Images a second, without the first and last tenth, and KiB an image."""
        total = self.seen[-1][1]
        done = [images * size / total for _, size, _ in self.seen]
        middle = [i for i, at in enumerate(done) if 0.1 < at / images < 0.9]
        seconds = self.seen[middle[-1]][0] - self.seen[middle[0]][0]
        half = [i for i, at in enumerate(done) if images / 2 <= at < images]
        return (done[middle[-1]] - done[middle[0]]) / seconds, [
            slope([done[i] for i in half], [self.seen[i][2][kind] for i in half])
            for kind in range(len(KINDS))
        ]


def slope(done: list[float], kib: list[dict[int, int]]) -> float:
    """Of the processes that were there all the time; not a number without any."""
    stayed = set.intersection(*map(set, kib)) if kib else set()
    if not stayed or len(set(done)) < 3:
        return float('nan')
    return float(np.polyfit(done, [sum(one[p] for p in stayed) for one in kib], 1)[0])


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


class Harness:
    """Runs over the images of one folder, killed by one seed's plan.

    Args:
        folder (Path): An empty one.
        images (int): How many.
        kills (int): Of the processes that hold a model; then one of the driver.
        seed (int): Of the moments.
    """

    def __init__(self, folder: Path, images: int, kills: int, seed: int) -> None:
        self.folder, self.images, self.kills = folder, images, kills
        self.draw = random.Random(seed)
        make_model(folder / 'model')
        make_images(folder / 'images', images)
        self.straight: dict[str, dict] = {}

    def straight_run(self, way: Way) -> Result:
        """Without a kill; its rows are compared with the first way's."""
        out = self._fresh('straight')
        run = Run(way, self.folder, out, resume=False)
        while run.look():
            pass
        result = Result(starts=1)
        result.rate, result.slopes = run.measured(self.images)
        self._compare(way, out, result)
        return result

    def killed_run(self, way: Way, seconds: float) -> Result:
        """Killed at random moments of a run of so many seconds."""
        out, result = self._fresh('killed'), Result()
        driver_killed = False
        while True:
            run = Run(way, self.folder, out, resume=result.starts > 0)
            result.starts += 1
            if result.starts > 3 * self.kills + 5:
                raise RuntimeError(f'{way.name} does not get on.')
            next_kill = self._moment(run, seconds)
            while run.look():
                if time.monotonic() < next_kill or not run.victims():
                    continue
                if result.kills < self.kills:
                    kill(self.draw.choice(run.victims()))
                    result.kills += 1
                elif not driver_killed:
                    kill(run.process.pid)
                    driver_killed = True
                next_kill = self._moment(run, seconds)
            wait_for_the_end(run)
            if run.process.returncode in (0, 1) and driver_killed:
                break
            if run.process.returncode in (0, 1) and self._is_done(way, out):
                result.faults.append('done before the last kill')
                break
        self._compare(way, out, result)
        return result

    def _moment(self, run: Run, seconds: float) -> float:
        # Not while it starts, mostly: a run that is killed earlier never gets on.
        return time.monotonic() + self.draw.uniform(0.5, 2 * seconds / (self.kills + 2))

    def _is_done(self, way: Way, out: Path) -> bool:
        return sum(1 for _ in rows(way, out)) >= self.images

    def _compare(self, way: Way, out: Path, result: Result) -> None:
        found: dict[str, dict] = {}
        twice = 0
        for row in rows(way, out):
            twice += row['image'] in found
            found[row['image']] = row
        if not self.straight:
            self.straight = found
        missing = self.images - len(found)
        others = sum(
            not is_equal(row, self.straight[name]) for name, row in found.items()
        )
        for count, what in (
            (missing, 'without a row'),
            (twice, 'twice'),
            (others, 'other than in one process'),
        ):
            if count:
                result.faults.append(f'{count} images {what}')

    def _fresh(self, name: str) -> Path:
        shutil.rmtree(self.folder / name, ignore_errors=True)
        return self.folder / name


def wait_for_the_end(run: Run) -> None:
    """Until nothing of a killed run is there."""
    run.process.wait()
    try:
        os.killpg(run.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def is_equal(one: dict, other: dict) -> bool:
    """Whether two rows say the same, to the rounding of floats."""
    return (
        all(one[key] == other[key] for key in ('labels', 'width', 'height', 'error'))
        and np.allclose(one['scores'], other['scores'], **TOLERANCE)
        and np.allclose(one['boxes'], other['boxes'], **TOLERANCE)
        and one['masks'] == other['masks']
    )


def make_model(folder: Path) -> None:
    tiny_detector.make(folder)
    cfg = Config.fromfile(folder / 'config.py')
    for transform in cfg.test_dataloader.dataset.pipeline:
        if transform.type == 'Resize':
            transform.scale = (64, 64)
    cfg.model.test_cfg.rpn.update(nms_pre=50, max_per_img=20)
    cfg.model.test_cfg.rcnn.max_per_img = 5
    cfg.dump(folder / 'config.py')


def make_images(folder: Path, count: int) -> None:
    """Small ones of a few sizes, and one in a hundred cut off."""
    folder.mkdir()
    numbers = np.random.default_rng(0)
    for i in trange(count, desc='Making images'):
        height, width = 48 + 8 * (i % 3), 64
        image = np.full((height, width, 3), numbers.integers(0, 256, 3), np.uint8)
        for _ in range(3):
            x, y, r, *color = map(int, numbers.integers(4, 48, 6))
            cv2.circle(image, (x, y), r // 2, [4 * c for c in color], -1)
        data = cv2.imencode('.jpg', image)[1].tobytes()
        if i % 100 == 7:
            data = data[: len(data) // 2]
        (folder / f'{i:06}.jpg').write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--images', type=int, default=20_000)
    parser.add_argument('--kills', type=int, default=10)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--ways', nargs='+', default=list(ways()), choices=ways())
    args = parser.parse_args()
    faults: list[str] = []
    slopes = ' | '.join(f'KiB an image, {kind}' for kind in KINDS)
    print(f'| way | images/s | {slopes} | kills | starts | faults |')
    print('|---' * (len(KINDS) + 5) + '|')
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(Path(folder), args.images, args.kills, args.seed)
        for name in args.ways:
            way = ways()[name]
            straight = harness.straight_run(way)
            results = {name: straight}
            if args.kills and name != 'Ray, one':
                seconds = args.images / straight.rate
                results[f'{name}, killed'] = harness.killed_run(way, seconds)
            for title, of in results.items():
                faults += [f'{title}: {fault}' for fault in of.faults]
                cells = [title, f'{of.rate:.1f}' if of.rate else '-']
                cells += [f'{slope:.2f}' for slope in of.slopes] or ['-'] * len(KINDS)
                cells += [of.kills, of.starts, '; '.join(of.faults) or 'none']
                print(f'| {" | ".join(map(str, cells))} |')
    if faults:
        raise SystemExit('Not survived: ' + '; '.join(faults))


if __name__ == '__main__':
    main()
