"""Inputs of a target by seed and number: one of its sound files, damaged by ``mutate``."""

import random
import shutil
import tempfile
from pathlib import Path

from tests.fuzz import mutate, seeds, targets


class Inputs:
    """The inputs of one target.

    Args:
        target: the reader.
        folder: becomes the folder that the reader is called with, sound files in it.

    Attributes:
        sound: the damaged files of each seed as they are before.
    """

    def __init__(self, target: targets.Target, folder: Path):
        self.target, self.sound = target, []
        for make in reversed(seeds.SEEDS[target.name]):
            with tempfile.TemporaryDirectory() as scratch:
                make(Path(scratch))
                self.sound.insert(0, [(Path(scratch) / name).read_bytes() for name in target.files])
                shutil.copytree(scratch, folder, dirs_exist_ok=True)

    def make(self, seed: int, index: int) -> list[bytes]:
        """The files of input ``index``; the first ones are the seeds themselves."""
        if index < len(self.sound):
            return list(self.sound[index])
        rng = random.Random(f"{seed}/{self.target.name}/{index}")
        parts = list(rng.choice(self.sound))
        chosen = rng.sample(
            range(len(parts)), 1 if rng.random() < 0.8 else rng.randint(1, len(parts))
        )
        for place in chosen:
            others = [sound[place] for sound in self.sound]
            parts[place] = mutate.mutate(rng, parts[place], others)
        return parts

    def run(self, folder: Path, parts: list[bytes]) -> BaseException | None:
        """Writes the files and calls the reader; see ``Target.run``."""
        targets.write(self.target, folder, parts)
        return self.target.run(folder)
