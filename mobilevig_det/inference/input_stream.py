"""All that arguments stand for, one after the other; lists are never held whole."""

import os.path as osp
from collections.abc import Iterator

import cv2

from .input_files import Input, Skipped, find_inputs
from .input_lists import count_lines, is_list, listed_names
from .seen_names import SeenNames
from .tar_shards import images_in_shard, is_shard


class Inputs:
    """Images and videos: named ones, and those of lists, of a pipe and of tar shards.

    Named images come first, then lists and shards in their order, then named videos,
    each once.

    Args:
        names (list[str]): Files, folders, patterns, lists (``.txt``, ``.lst``; ``-``
            is standard input) and shards (``.tar``).
        skipped (Skipped): Is told of what there isn't.

    Attributes:
        images (list[str]): That are named, not listed.
        videos (list[str]): Likewise.
        streams (list[str]): Lists and shards.
    """

    def __init__(self, names: list[str], skipped: Skipped) -> None:
        self.skipped = skipped
        images, self.videos = find_inputs(names, skipped)
        self.streams = [name for name in images if is_list(name) or is_shard(name)]
        self.images = [name for name in images if not (is_list(name) or is_shard(name))]

    def __bool__(self) -> bool:
        return bool(self.images or self.videos or self.streams)

    def __iter__(self) -> Iterator[Input]:
        yield from map(Input, self.images)
        if self.streams:
            seen = SeenNames()
            for name in (*self.images, *self.videos):
                seen.add(name)
            again = 0
            for found in self._streamed():
                if seen.add(found.name):
                    yield found
                else:
                    again += 1
            if again:
                self.skipped.note(
                    f'{again} of the listed names were there before, and are done once.'
                )
        yield from map(Input, self.videos)

    def _streamed(self) -> Iterator[Input]:
        for stream in self.streams:
            if is_shard(stream):
                yield from images_in_shard(stream, self.skipped)
                continue
            for name in listed_names(stream, self.skipped):
                if is_shard(name):
                    yield from images_in_shard(name, self.skipped)
                else:
                    yield Input(name)

    def count(self) -> int | None:
        """Images and frames, as far as files say; None of a pipe or a shard."""
        frames = sum(frame_count(cv2.VideoCapture(path)) for path in self.videos)
        total: int | None = len(self.images) + frames
        for stream in self.streams:
            count = None if is_shard(stream) else count_lines(stream)
            total = None if total is None or count is None else total + count
        return total

    def described(self) -> Iterator[str]:
        """What is the same in all processes that see the same inputs."""
        yield from self.images
        yield from self.videos
        for stream in self.streams:
            yield f'{stream}, {osp.getsize(stream) if osp.exists(stream) else 0} bytes'


def frame_count(video: cv2.VideoCapture) -> int:
    """What the file says; 0 if it doesn't."""
    return max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT)))
