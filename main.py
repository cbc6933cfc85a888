"""Trains or evaluates any system: python main.py --config=configs/clip_gs.py:quick --workdir=DIR

Exit codes: 0 done; 1 failed; 2 a setting cannot work (one line says which); 42 stopped by SIGTERM
after writing a checkpoint, start again to go on. Running the same command again goes on, too.
"""

import logging as stdlib_logging
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from gsjax import runtime

runtime.configure_environment()

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file[:argument].", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder: a path, gs:// or s3://.")
_ADDRESS = flags.DEFINE_string("coordinator_address", "", "host:port of process 0, or auto.")
_COUNT = flags.DEFINE_integer("num_processes", 0, "Processes of this run.")
_ID = flags.DEFINE_integer("process_id", -1, "Which of them this is.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Whole traceback for mistaken settings, too.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv) -> None:
    """Runs what the flags ask for; does not return but exits."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; settings look like --config.x=y")
    logging.set_verbosity(logging.INFO)
    stdlib_logging.getLogger("jax").setLevel(stdlib_logging.WARNING)
    # Imported here: JAX must not start before the processes have joined.
    from gsjax.train import distributed, loop, preemption

    try:
        distributed.initialize(_ADDRESS.value, _COUNT.value, _ID.value)
        loop.run(_CONFIG.value, _WORKDIR.value)
    except preemption.Preempted as stop:
        logging.warning("%s", stop)
        sys.exit(preemption.EXIT_CODE)
    except (ValueError, OSError, FloatingPointError) as error:
        _refuse(error)


def _refuse(error: Exception) -> None:
    """One line for the user's own mistakes; the traceback is a flag away."""
    if _TRACEBACK.value:
        raise error
    print(f"error: {error}\n(--traceback shows where)", file=sys.stderr, flush=True)
    sys.exit(2)


def parse_flags(argv):
    """absl's parser, with one line where a flag, a config file or an override is wrong."""
    try:
        return flags.FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if "--traceback" in argv:
            raise
        text = str(error.args[0] if error.args else error)
        if isinstance(error, (AttributeError, KeyError)):  # a repr, of a repr
            text = "no such setting: " + text.encode().decode("unicode_escape").replace("'", "")
        # An error inside the config file arrives as its whole traceback.
        print(f"error: {text.splitlines()[-1] if 'Traceback' in text else text}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
