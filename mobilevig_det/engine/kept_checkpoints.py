"""Which checkpoints of a run go when a new one is there."""

NEWEST = 2  # kept whatever they are: the last may turn out damaged


def outdated(kept: list, max_keep: int) -> list:
    """The checkpoints to be deleted.

    Args:
        kept (list): Of a run's checkpoints, oldest first: name, and whether the
            schedule asked for it (and not the clock, or a signal).
        max_keep (int): How many of the schedule's are kept; -1 keeps all.

    Returns:
        list: Those of ``kept`` that are neither among the newest two nor among
        the schedule's newest ``max_keep``.
    """
    scheduled = [entry for entry in kept if entry[1]]
    if max_keep > 0:
        scheduled = scheduled[-max_keep:]
    return [
        entry for entry in kept[:-NEWEST] if not any(entry is one for one in scheduled)
    ]
