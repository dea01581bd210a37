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
from dataclasses import dataclass, field
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

from mobilevig_det.engine.newest_checkpoint import check_checkpoint  # noqa: E402
from mobilevig_det.errors import UserError  # noqa: E402

import torch  # noqa: E402
from kill_points import POINTER, POINTS, RANDOM, Kill  # noqa: E402
from victim import ITERATIONS, Numbers, start  # noqa: E402

STUCK = 120  # seconds after which a start that doesn't end is an error


@dataclass
class Outcome:
    """Of the kills at one point."""

    kills: int = 0
    resumed: int = 0  # by the next start, without a hand
    lost: list = field(default_factory=list)  # iterations that were done again
    nothing_intact: int = 0  # though something had been saved


@dataclass
class Report:
    """Of a whole run of the harness."""

    points: dict = field(default_factory=dict)
    trainings: int = 0
    equal: int = 0  # weights, losses and metrics, to the bit
    leftovers: int = 0  # half-written files where a training ended
    orphans: int = 0  # processes that outlived a kill
    errors: list = field(default_factory=list)  # each kind once

    def faults(self) -> list[str]:
        """What a training that survives has none of."""
        of_each = [
            f'{point}: {outcome.kills - outcome.resumed} not resumed, '
            f'{outcome.nothing_intact} with nothing intact'
            for point, outcome in self.points.items()
            if outcome.resumed < outcome.kills or outcome.nothing_intact
        ]
        if self.equal < self.trainings:
            of_each.append(f'{self.trainings - self.equal} trainings ended otherwise')
        if self.leftovers or self.orphans:
            of_each.append(f'{self.leftovers} leftovers, {self.orphans} orphans')
        return of_each

    def table(self) -> str:
        """Markdown."""
        lines = [
            '| killed | kills | resumed by themselves | no intact checkpoint '
            '| iterations lost, mean | at most |',
            '|---|---|---|---|---|---|',
        ]
        total = Outcome()
        for point, outcome in self.points.items():
            lines.append(_row(point, outcome))
            total.kills += outcome.kills
            total.resumed += outcome.resumed
            total.lost += outcome.lost
            total.nothing_intact += outcome.nothing_intact
        lines.append(_row('all', total))
        lines.append(
            f'\n{self.equal} of {self.trainings} trainings of {ITERATIONS} iterations '
            'ended with the weights, losses and metrics of one that was not killed, '
            f'to the bit; {self.leftovers} half-written files and {self.orphans} '
            'processes were left over.'
        )
        lines += [f'- {error}' for error in self.errors]
        return '\n'.join(lines)


def _row(name: str, of: Outcome) -> str:
    mean = f'{sum(of.lost) / len(of.lost):.1f}' if of.lost else '-'
    cells = name, of.kills, of.resumed, of.nothing_intact, mean, max(of.lost, default=0)
    return f'| {" | ".join(map(str, cells))} |'


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
        killed, saved, pending = 0, False, []
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
            intact = bool(intact_checkpoints(folder / 'run'))
            outcome.nothing_intact += saved and not intact
            saved = saved or intact
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
        weights, losses, metrics = self.whole
        ended = torch.load(folder / 'end.pth')
        same = weights.keys() == ended.keys() and all(
            torch.equal(weights[name], ended[name]) for name in weights
        )
        self.report.trainings += 1
        self.report.equal += same and (losses, metrics) == numbers.seen()
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
            found.append((check_checkpoint(str(path))['meta']['iter'], path))
        except UserError:
            pass
    return sorted(found)


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
