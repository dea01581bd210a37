"""Which checkpoints of a run go when a new one is there."""

ENOUGH = 2  # whatever they are: the last may turn out damaged


def outdated(kept: list, max_keep: int) -> list:
    """The checkpoints to be deleted.

    Args:
        kept (list): Of a run's checkpoints, oldest first: name, and whether the
            schedule asked for it (and not the clock, or a signal).
        max_keep (int): How many of the schedule's are kept; below 1 all.

    Returns:
        list: Those of ``kept`` that are neither among the schedule's newest
        ``max_keep``, nor among the newest two after them, nor needed so that
        two are left.
    """
    scheduled = [number for number, entry in enumerate(kept) if entry[1]]
    last = scheduled[-1] if scheduled else -1
    stay = set(scheduled[-max_keep:] if max_keep > 0 else scheduled)
    stay.update(range(last + 1, len(kept))[-ENOUGH:])
    for number in reversed(range(len(kept))):
        if len(stay) >= ENOUGH:
            break
        stay.add(number)
    return [entry for number, entry in enumerate(kept) if number not in stay]
