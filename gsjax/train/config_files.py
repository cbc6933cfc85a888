"""Config files by name: of the checkout, or those that an installed package brings. Imports no JAX.

The files lie in ``configs/`` beside the package; an installed copy has them as ``gsjax/configs``. Both
say ``from configs import common``, so whichever folder there is becomes importable by that name.
"""

import importlib.util
import pathlib
import sys
import types

import gsjax

NOT_CONFIGS = ("common", "__init__")


def folder() -> pathlib.Path:
    """Where the config files are.

    Raises:
        ValueError: this copy of the package has none.
    """
    package = pathlib.Path(gsjax.__file__).parent
    places = (package / "configs", package.parent / "configs")
    found = next((place for place in places if (place / "common.py").is_file()), None)
    if found is None:
        raise ValueError(
            f"configs: neither {places[0]} nor {places[1]} exists; install gsjax again"
        )
    return found


def names() -> list[str]:
    """What ``--config=NAME`` may be."""
    return sorted(p.stem for p in folder().glob("*.py") if p.stem not in NOT_CONFIGS)


def make_importable() -> None:
    """Lets config files say ``from configs import common``.

    A ``configs`` of the path that has no ``common`` of its own, such as a folder of the user's, is
    extended by ours.
    """
    try:
        found = importlib.util.find_spec("configs.common")
    except ModuleNotFoundError:
        found = None
    if found is not None:
        return
    if "configs" not in sys.modules:
        sys.modules["configs"] = types.ModuleType("configs", "Config files that gsjax brings.")
        sys.modules["configs"].__path__ = []
    sys.modules["configs"].__path__.append(str(folder()))


def path_of(text: str) -> tuple[str, str | None]:
    """(path of the file, argument or None) of ``NAME[:ARG]`` or ``PATH.py[:ARG]``.

    A path that exists is taken as it is. Otherwise ``clip_gs`` and ``configs/clip_gs.py`` are the file
    that gsjax brings, so that commands of the documentation work without a checkout.

    Raises:
        ValueError: no such file; the message lists the known names.
    """
    name, given, argument = text.partition(":")
    path = pathlib.Path(name)
    if not path.is_file():
        ours = path.suffix in ("", ".py") and path.parent in (
            pathlib.Path("."),
            pathlib.Path("configs"),
        )
        if not ours or path.stem not in names():
            raise ValueError(
                f"--config: there is no file {name!r}; expected the path of one, or a name of: "
                f"{', '.join(names())}"
            )
        path = folder() / f"{path.stem}.py"
    return str(path), argument if given else None


def load(text: str):
    """The config of ``NAME[:ARG]`` or ``PATH.py[:ARG]``.

    Raises:
        ValueError: no such file, one without ``get_config``, or an argument that it does not know.
    """
    path, argument = path_of(text)
    make_importable()
    spec = importlib.util.spec_from_file_location(f"config_{pathlib.Path(path).stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"--config: {path} exports no get_config(arg)")
    return module.get_config(argument)
