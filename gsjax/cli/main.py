"""The ``gsjax`` console script: picks a subcommand and hands it its arguments."""

import argparse
import importlib
import sys

from gsjax import runtime
from gsjax.version import __version__

# Subcommand -> module under gsjax.cli exporting HELP, add_arguments(parser) and run(args).
COMMANDS = (
    *("convert", "embed", "export-backbone", "fit", "fit-objects", "info", "reconstruct", "render"),
    *("search", "study", "tsne", "view"),
)
# Other errors of the system (a full disk, a lost connection) are no fault of the arguments.
_PATHS_AT_FAULT = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="gsjax", description="3D Gaussian splatting in JAX.")
    parser.add_argument("--version", action="version", version=f"gsjax {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        module = importlib.import_module(f"gsjax.cli.{name.replace('-', '_')}")
        sub = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def run(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0, or 2 where the input was at fault."""
    runtime.configure_environment()
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except (ValueError, ImportError, *_PATHS_AT_FAULT) as error:
        print(f"gsjax {args.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run())
