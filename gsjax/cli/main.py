"""The ``gsjax`` console script: picks a subcommand and hands it its arguments."""

import argparse
import importlib
import sys
import textwrap

from gsjax import runtime
from gsjax.version import __version__

# What people want to do -> subcommands, each a module under gsjax.cli exporting HELP, EXAMPLES,
# add_arguments(parser) and run(args), and ABOUT where the help needs more than a line.
GROUPS = {
    "look at splats": ("render", "view"),
    "make splats": ("fit", "fit-objects", "reconstruct"),
    "find splats by words or pictures": ("search", "embed"),
    "train and compare": ("train", "cost", "study", "tsne", "export-backbone"),
    "bring weights of other projects": ("convert",),
    "see what is here and whether it works": ("info", "doctor"),
}
COMMANDS = tuple(sorted(name for names in GROUPS.values() for name in names))
# Other errors of the system (a full disk, a lost connection) are no fault of the arguments.
_PATHS_AT_FAULT = (
    *(FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError),
)
_BEGIN = """
New here? `gsjax doctor` checks the installation, `gsjax train --config clip_gs:quick --workdir runs/quick`
trains something in minutes, `gsjax COMMAND --help` has examples.
"""


def _module(command: str):
    return importlib.import_module(f"gsjax.cli.{command.replace('-', '_')}")


def overview() -> str:
    """All subcommands by what one wants to do, a line each."""
    lines = ["3D Gaussian splatting in JAX.", ""]
    for purpose, names in GROUPS.items():
        lines.append(f"{purpose}:")
        for name in names:
            text = textwrap.wrap(_module(name).HELP, 76)
            lines += [f"  {name:17s}{text[0]}", *(f"{'':19s}{more}" for more in text[1:])]
        lines.append("")
    return "\n".join(lines) + _BEGIN


def _parser() -> argparse.ArgumentParser:
    """The parser of all subcommands."""
    parser = argparse.ArgumentParser(
        prog="gsjax",
        usage="gsjax [--version] COMMAND ...",
        description=overview(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"gsjax {__version__}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", prog="gsjax", help=argparse.SUPPRESS
    )
    for name in COMMANDS:
        module = _module(name)
        sub = commands.add_parser(
            name,
            description=getattr(module, "ABOUT", module.HELP),
            epilog="examples:\n" + textwrap.indent(module.EXAMPLES.strip("\n"), "  "),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Parsed arguments; ``rest`` holds what a command passes on. Exits with 2 where they are wrong."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and not getattr(args, "takes_rest", False):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    return args


def run(argv: list[str] | None = None) -> int:
    """Entry point. Returns the exit status: 0, or 2 where the input was at fault."""
    runtime.configure_environment()
    args = parse(argv)
    if args.command is None:
        print(overview(), end="")
        return 0
    try:
        return args.run(args) or 0
    except (ValueError, ImportError, *_PATHS_AT_FAULT) as error:
        print(f"gsjax {args.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(run())
