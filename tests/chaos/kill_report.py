"""What became of the kills, and whether an end is the one that it should be."""

from dataclasses import dataclass, field

import torch


def is_equal(one: tuple, other: tuple) -> bool:
    """Whether two trainings ended alike, to the bit.

    Args:
        one (tuple): Weights by name, all losses, all metrics.
        other (tuple): Likewise.
    """
    return (
        one[0].keys() == other[0].keys()
        and all(torch.equal(weight, other[0][name]) for name, weight in one[0].items())
        and one[1:] == other[1:]
    )


@dataclass
class Outcome:
    """Of the kills at one point."""

    kills: int = 0
    resumed: int = 0  # by the next start, without a hand
    lost: list = field(default_factory=list)  # iterations that were done again
    nothing_intact: int = 0  # though something had been saved
    torn: int = 0  # left a torn file under a checkpoint's name


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
            f'{outcome.nothing_intact} with nothing intact, {outcome.torn} torn'
            for point, outcome in self.points.items()
            if outcome.resumed < outcome.kills or outcome.nothing_intact or outcome.torn
        ]
        if self.equal < self.trainings:
            of_each.append(f'{self.trainings - self.equal} trainings ended otherwise')
        if self.leftovers or self.orphans:
            of_each.append(f'{self.leftovers} leftovers, {self.orphans} orphans')
        return of_each

    def table(self) -> str:
        """Markdown."""
        lines = [
            '| killed | kills | resumed by themselves | torn file left '
            '| no intact checkpoint | iterations lost, mean | at most |',
            '|---|---|---|---|---|---|---|',
        ]
        total = Outcome()
        for point, outcome in self.points.items():
            lines.append(_row(point, outcome))
            total.kills += outcome.kills
            total.resumed += outcome.resumed
            total.lost += outcome.lost
            total.torn += outcome.torn
            total.nothing_intact += outcome.nothing_intact
        lines.append(_row('all', total))
        lines.append(
            f'\n{self.equal} of {self.trainings} trainings ended with the weights, '
            'losses and metrics of one that was not killed, '
            f'to the bit; {self.leftovers} half-written files and {self.orphans} '
            'processes were left over.'
        )
        lines += [f'- {error}' for error in self.errors]
        return '\n'.join(lines)


def _row(name: str, of: Outcome) -> str:
    mean = f'{sum(of.lost) / len(of.lost):.1f}' if of.lost else '-'
    most = max(of.lost, default=0)
    cells = name, of.kills, of.resumed, of.torn, of.nothing_intact, mean, most
    return f'| {" | ".join(map(str, cells))} |'
