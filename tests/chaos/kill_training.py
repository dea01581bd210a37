"""Kill a training again and again, resume it, and count what was lost.

``python tests/chaos/kill_training.py --kills 200`` prints a table;
``--stock`` has MMEngine's own checkpoint hook and loop in the place of ours.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS / 'chaos'), str(TESTS / 'helpers'), str(TESTS.parent)]

from mobilevig_det.engine.checkpoint_files import read_training_checkpoint  # noqa: E402
from mobilevig_det.errors import UserError  # noqa: E402

import torch  # noqa: E402
from kill_points import POINTER, POINTS, RANDOM, Kill  # noqa: E402
from kill_report import Outcome, Report, is_equal  # noqa: E402
from victim import Numbers, start  # noqa: E402

STUCK = 120  # seconds after which a start that doesn't end is an error


class Harness:
    """Trainings in one folder, killed by one seed's plan.

    Args:
        folder (Path): An empty one.
        seed (int): Of what is killed where.
        stock (bool): MMEngine's own hook and loop.
    """

    def __init__(self, folder: Path, seed: int, stock: bool) -> None:
        self.folder, self.stock = folder, stock
        self.draw = random.Random(seed)
        self.report = Report()
        # MMEngine's augmentation depends on the number of workers.
        self.workers = [0] if stock else [0, 0, 2]
        self.points = [point for point, both in POINTS.items() if both or not stock]
        self.points += [RANDOM] * 3
        self.whole, self.seconds = self._train_whole()

    def run(self, kills: int) -> Report:
        """Kill so often, and have all trainings end."""
        left = kills
        while left > 0:
            left -= self._train_killed(left)
        return self.report

    def _train_whole(self) -> tuple[tuple, float]:
        folder, numbers = self._fresh('whole'), Numbers()
        began = time.monotonic()
        if self._start(folder, numbers, None) != 0:
            raise RuntimeError((folder / 'error.txt').read_text())
        seconds = time.monotonic() - began
        return (torch.load(folder / 'end.pth'), *numbers.seen()), seconds

    def _train_killed(self, kills: int) -> int:
        """One training, killed at most so often. Returns how often it was."""
        folder, numbers = self._fresh('killed'), Numbers()
        killed, saved, pending, torn = 0, False, [], set()
        for _ in range(4 * kills + 10):
            kill = self._plan() if killed < kills else None
            before, numbers.first[0] = numbers.done[0], -1
            status = self._start(folder, numbers, kill)
            if numbers.first[0] >= 0:
                at_once = numbers.first[0] > 0 or not saved
                _settle(pending, at_once, before - numbers.first[0])
            if status == 0:
                self._compare(folder, numbers)
                return killed
            if status != -signal.SIGKILL:
                self._note_error(folder)
                repair(folder / 'run')
                _settle(pending, False, before - newest_iteration(folder / 'run'))
                continue
            killed += 1
            outcome = self.report.points.setdefault(kill.point, Outcome())
            outcome.kills += 1
            intact = {path for _, path in intact_checkpoints(folder / 'run')}
            was, torn = torn, torn_checkpoints(folder / 'run', intact)
            outcome.torn += bool(torn - was)
            outcome.nothing_intact += saved and not intact
            saved = saved or bool(intact)
            pending.append(outcome)
        raise RuntimeError('The training does not get on.')

    def _plan(self) -> Kill:
        return Kill(
            self.draw.choice(self.points), self.draw.randrange(4), self.draw.random()
        )

    def _start(self, folder: Path, numbers: Numbers, kill: Kill | None) -> int:
        """Train until the end or the kill: the exit code, or minus the signal."""
        child = start(folder, numbers, kill, self.draw.choice(self.workers), self.stock)
        at = None
        if kill is not None and kill.point == RANDOM:
            at = kill.fraction * self.seconds
        began = time.monotonic()
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            passed = time.monotonic() - began
            if done:
                break
            if passed > STUCK:
                os.killpg(child, signal.SIGKILL)
                raise RuntimeError(f'A training hangs after {kill}.')
            if at is not None and passed >= at:
                os.killpg(child, signal.SIGKILL)
                at = None
            time.sleep(0.002)
        self.report.orphans += outlives(child)
        return os.waitstatus_to_exitcode(status)

    def _compare(self, folder: Path, numbers: Numbers) -> None:
        ended = (torch.load(folder / 'end.pth'), *numbers.seen())
        self.report.trainings += 1
        self.report.equal += is_equal(self.whole, ended)
        self.report.leftovers += len(list((folder / 'run').rglob('.*.part')))

    def _note_error(self, folder: Path) -> None:
        line = (folder / 'error.txt').read_text().strip().splitlines()[-1]
        line = line.replace(str(folder), '…')[:160]
        if line not in self.report.errors:
            self.report.errors.append(line)

    def _fresh(self, name: str) -> Path:
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        return folder


def _settle(pending: list, resumed: bool, lost: int) -> None:
    """Book what became of the kills since the last start that got to training:
    the first of them has cost the iterations."""
    for outcome in pending:
        outcome.resumed += resumed
        outcome.lost.append(lost)
        lost = 0
    pending.clear()


def intact_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """The iterations and paths of the files that a training could go on from."""
    found = []
    for path in folder.glob('epoch_*.pth'):
        try:
            found.append((read_training_checkpoint(str(path))['meta']['iter'], path))
        except UserError:
            pass
    return sorted(found)


def torn_checkpoints(folder: Path, intact: set[Path]) -> set[tuple[Path, int]]:
    """Paths of the others, and when they were written: one may be torn again."""
    others = set(folder.glob('epoch_*.pth')) - intact
    return {(path, path.stat().st_mtime_ns) for path in others}


def newest_iteration(folder: Path) -> int:
    """Of the newest intact checkpoint; 0 without one."""
    return max((iteration for iteration, _ in intact_checkpoints(folder)), default=0)


def repair(folder: Path) -> None:
    """What a person does by hand where a training refuses to resume: the newest
    intact checkpoint becomes the last one, torn ones go."""
    intact = intact_checkpoints(folder)
    for path in folder.glob('epoch_*.pth'):
        if path not in [good for _, good in intact]:
            path.unlink()
    (folder / POINTER).unlink(missing_ok=True)
    if intact:
        (folder / POINTER).write_text(str(intact[-1][1]))


def outlives(group: int) -> bool:
    """Whether a process of the group is there a few seconds after its kill."""
    for _ in range(500):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.01)
    os.killpg(group, signal.SIGKILL)
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--kills', type=int, default=200)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--stock', action='store_true', help="MMEngine's own")
    args = parser.parse_args()
    torch.set_num_threads(1)  # no thread is lost in a fork
    with tempfile.TemporaryDirectory() as folder:
        report = Harness(Path(folder), args.seed, args.stock).run(args.kills)
    print(report.table())
    faults = report.faults()
    if faults and not args.stock:
        raise SystemExit('Not survived: ' + '; '.join(faults))


if __name__ == '__main__':
    main()
