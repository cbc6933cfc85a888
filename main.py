"""Trains or evaluates any system: python main.py --config=configs/clip_gs.py:quick --workdir=DIR

Exit codes: 0 done; 1 failed; 2 a setting cannot work (one line says which); 42 stopped by SIGTERM
after writing a checkpoint, start again to go on. Running the same command again goes on, too.
``gsjax train`` does the same where the package is installed without a checkout.
"""

from absl import app, flags
from ml_collections import config_flags

from gsjax import runtime

runtime.configure_environment()

from gsjax.cli import train  # noqa: E402  (the environment above must be settled first)

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file[:argument].", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run folder: a path, gs:// or s3://.")
_ADDRESS = flags.DEFINE_string("coordinator_address", "", "host:port of process 0, or auto.")
_COUNT = flags.DEFINE_integer("num_processes", 0, "Processes of this run.")
_ID = flags.DEFINE_integer("process_id", -1, "Which of them this is.")
_TRACEBACK = flags.DEFINE_bool("traceback", False, "Whole traceback for mistaken settings, too.")
flags.mark_flags_as_required(["config", "workdir"])


def main(argv) -> int:
    """Runs what the flags ask for. Returns the exit code."""
    if len(argv) > 1:
        raise app.UsageError(f"unknown arguments {argv[1:]}; settings look like --config.x=y")
    return train.execute(
        _CONFIG.value,
        _WORKDIR.value,
        address=_ADDRESS.value,
        num_processes=_COUNT.value,
        process_id=_ID.value,
        traceback=_TRACEBACK.value,
    )


if __name__ == "__main__":
    app.run(main, flags_parser=train.parse_flags)
