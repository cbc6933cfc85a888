"""The targets under atheris, which keeps inputs that reach new lines of the readers.

    pip install atheris
    python -m tests.fuzz.atheris_run --target ply -runs=100000 CORPUS_FOLDER

Options with one dash are libFuzzer's (-runs, -max_total_time, -rss_limit_mb=2048, -timeout=5); a folder
holds inputs to start from and gets new ones; without it the seeds start a temporary one. The first input
whose outcome is not documented is written to crash-* and ends the run.
"""

import argparse
import logging
import random
import sys
import tempfile
import warnings
from pathlib import Path

from tests.fuzz import inputs, mutate, targets

_MODULES = ("gsjax.io", "gsjax.data", "gsjax.evals", "gsjax.models", "gsjax.train")


def main(argv: list[str]) -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.atheris_run", description=__doc__)
    parser.add_argument("--target", required=True, choices=sorted(targets.TARGETS))
    args, rest = parser.parse_known_args(argv)
    import atheris

    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    target = targets.find(args.target)
    with tempfile.TemporaryDirectory() as scratch:
        folder, corpus = Path(scratch) / "input", Path(scratch) / "corpus"
        with atheris.instrument_imports(include=list(_MODULES)):
            made = inputs.Inputs(target, folder)
            made.run(folder, made.make(0, 0))
        places = [place for place in rest if not place.startswith("-")]
        if not places:
            rest.append(str(corpus))
        start = Path(places[0]) if places else corpus
        start.mkdir(parents=True, exist_ok=True)
        for number, parts in enumerate(made.sound):
            (start / f"sound-{number}").write_bytes(targets.join(parts))
        count = len(target.files)

        def one(data: bytes) -> None:
            made.run(folder, targets.split(data, count))

        def change(data: bytes, most: int, seed: int) -> bytes:
            """libFuzzer's own mutations and those that know formats, in turns."""
            rng = random.Random(seed)
            if rng.random() < 0.5:
                return atheris.Mutate(data, most)
            parts = targets.split(data, count)
            place = rng.randrange(count)
            others = [sound[place] for sound in made.sound]
            parts[place] = mutate.mutate(rng, parts[place], others)
            return targets.join(parts)[:most]

        options = ["-timeout=5", "-rss_limit_mb=2048", f"-max_len={mutate.MOST_BYTES}"]
        atheris.Setup([sys.argv[0], *options, *rest], one, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
