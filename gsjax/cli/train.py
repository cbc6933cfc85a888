"""``gsjax train``: trains or evaluates any system from its config; what main.py does, without a checkout.

``main.py`` stands on :func:`execute` and :func:`parse_flags`, too: settings, exit codes and messages are
the same.
"""

import argparse
import contextlib
import logging as stdlib_logging
import sys
import traceback as traceback_lib

HELP = "train or evaluate any system from its config; start it again to go on"
ABOUT = """Trains (or, with --config.mode=eval, evaluates) what a config describes. The config is the name of one that
gsjax brings, or a file of your own; what follows the colon are its arguments, and --config.A.B=VALUE
overrides any field. Running the same command again goes on from the newest checkpoint.

Exit codes: 0 done; 1 failed; 2 a setting cannot work (one line says which); 42 stopped by SIGTERM after
writing a checkpoint, start again to go on."""
EXAMPLES = """
gsjax train --config clip_gs:quick --workdir runs/quick
gsjax train --config clip_gs --workdir runs/clip_gs --config.train.num_steps=200 --config.seed=1
gsjax train --config clip_gs --workdir runs/clip_gs --config.mode=eval
gsjax train --config my_configs/mine.py:size=small --workdir runs/mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from gsjax.train import config_files

    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME[:ARG]",
        help=f"path of a config file, or one of: {_known(config_files)}",
    )
    parser.add_argument("--workdir", required=True, help="run folder: a path, gs:// or s3://")
    parser.add_argument("--coordinator_address", default="", help="host:port of process 0")
    parser.add_argument("--num_processes", type=int, default=0, help="processes of this run")
    parser.add_argument("--process_id", type=int, default=-1, help="which of them this is")
    parser.add_argument(
        "--traceback", action="store_true", help="where a mistaken setting was found"
    )
    parser.set_defaults(takes_rest=True)  # --config.A.B=VALUE


def _known(config_files) -> str:
    try:
        return ", ".join(config_files.names())
    except ValueError:  # `gsjax doctor` says so; the other commands need none
        return "(none: this copy has no config files)"


def run(args: argparse.Namespace) -> int:
    config = read(args.config, args.rest)
    return execute(
        config,
        args.workdir,
        address=args.coordinator_address,
        num_processes=args.num_processes,
        process_id=args.process_id,
        traceback=args.traceback,
    )


def read(text: str, overrides=()):
    """The config of ``NAME[:ARG]`` with overrides, locked.

    Args:
        text: as ``train.config_files.path_of`` takes it.
        overrides: command line words: ``--config.A.B=VALUE``.

    Raises:
        ValueError: no such config.
        SystemExit: 2 after one line, where an override cannot work.
    """
    from absl import flags
    from ml_collections import config_flags

    from gsjax.train import config_files

    path, argument = config_files.path_of(text)
    config_files.make_importable()
    named = path if argument is None else f"{path}:{argument}"
    argv = ["gsjax", f"--config={named}", *overrides]
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_file(
        "config", None, flag_values=values, sys_argv=argv, lock_config=True
    )
    left = parse_flags(argv, values)[1:]
    if left:
        raise ValueError(f"unknown arguments {left}; settings look like --config.x=y")
    if not flags.FLAGS.is_parsed():  # worker processes and absl's logging ask for their own
        flags.FLAGS.mark_as_parsed()
    return config.value


def execute(
    config,
    workdir,
    *,
    address: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    traceback: bool = False,
) -> int:
    """Joins the processes of the run and runs it. Returns the exit code.

    Args:
        config: tree of ``configs/common.py``.
        workdir: run folder.
        address, num_processes, process_id: as ``train.distributed.initialize`` takes them.
        traceback: raise what a mistaken setting raises.
    """
    from absl import logging

    logging.set_verbosity(logging.INFO)
    stdlib_logging.getLogger("jax").setLevel(stdlib_logging.WARNING)
    # Imported here: JAX must not start before the processes have joined.
    from gsjax.train import checkpoint, distributed, loop, preemption

    try:
        distributed.initialize(address, num_processes, process_id)
        loop.run(config, workdir)
    except preemption.Preempted as stop:
        logging.warning("%s", stop)
        return preemption.EXIT_CODE
    except (ValueError, FloatingPointError, OSError, checkpoint.NotWritten) as error:
        if traceback:
            raise
        with contextlib.suppress(OSError):  # what it says may go to the disk that is full
            print(f"error: {error}\n(--traceback shows where)", file=sys.stderr, flush=True)
        if isinstance(error, _MISTAKES):
            return 2
        distributed.leave_at_once(1)
        return 1
    except Exception:
        if distributed.is_one_of_several():  # what Python would print, it does not get to
            with contextlib.suppress(OSError):
                traceback_lib.print_exc()
            distributed.leave_at_once(1)
        raise
    return 0


# A path that is wrong is a setting. Other trouble with files and connections (no room, a server away, another
# process gone) may be over when the run is started again, which launchers do after 1 and not after 2.
_MISTAKES = (
    *(ValueError, FloatingPointError),
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
)


def parse_flags(argv, values=None):
    """absl's parser, with one line and exit code 2 where a flag, a config file or an override is wrong.

    Args:
        argv: command line, program first.
        values: ``absl.flags.FlagValues``; None = the global ones.

    Returns:
        What of ``argv`` is no flag.
    """
    from absl import flags

    try:
        return (flags.FLAGS if values is None else values)(argv)
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
        if "--traceback" in argv:
            raise
        text = str(error.args[0] if error.args else error)
        if isinstance(error, (AttributeError, KeyError)):
            text = _no_such_setting(text, argv)
        # An error inside the config file arrives as its whole traceback.
        print(f"error: {text.splitlines()[-1] if 'Traceback' in text else text}", file=sys.stderr)
        sys.exit(2)


def _no_such_setting(text: str, argv) -> str:
    """One line with the setting's whole name, from what ml_collections says of its last part."""
    name, _, remedy = text.encode().decode("unicode_escape").partition("\n")  # a repr, of a repr
    name, remedy = name.strip("\"'"), remedy.strip("\"'")
    named = (word.split("=")[0].removeprefix("--") for word in argv if word.startswith("--config."))
    full = next((found for found in named if name in found.split(".")), name)
    if not remedy and full.startswith("config.eval.evaluators."):
        whole = ".".join(full.split(".")[:4])
        remedy = f"The config leaves it out; give all options: --{whole}=\"{{'{name}': ...}}\""
    return f"no such setting: {full}" + (f"\n{remedy}" if remedy else "")
