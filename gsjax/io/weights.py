"""State dicts of other projects as NumPy arrays: safetensors and PyTorch files, whole or sharded.

``open_state_dict`` maps names to arrays that are read when asked for, so converting a tower of
billions of parameters takes the memory of its result and one tensor. What the names mean is not
known here: see ``models.name_tables`` and the tables made with it.

Reading safetensors needs the package safetensors (extra ``clip``); PyTorch files need nothing and are
read by ``io.torch_pickle``, which runs none of their code.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from etils import epath

from gsjax.io import json_text, torch_pickle

TORCH_ENDINGS = (".pt", ".pth", ".bin", ".ckpt")
# What a folder is searched for, best first.
FOLDER_FILES = (
    *("open_clip_model.safetensors", "model.safetensors", "model.safetensors.index.json"),
    *("open_clip_model.safetensors.index.json", "open_clip_pytorch_model.bin"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
WRAPPERS = ("state_dict", "model_state_dict", "module", "model")
PREFIXES = ("module.", "_orig_mod.")
_MAX_HEADER = 100_000_000  # bytes; the format's own limit


class StateDict(Mapping):
    """Names to arrays, each read when it is asked for; ``shape(name)`` reads no data.

    Args:
        readers: name -> (shape, function that reads the array).
    """

    def __init__(self, readers: Mapping[str, tuple[tuple[int, ...], Callable[[], np.ndarray]]]):
        self._readers = dict(readers)

    def __getitem__(self, name: str) -> np.ndarray:
        return self._readers[name][1]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)

    def __contains__(self, name) -> bool:  # Mapping's own would read the array
        return name in self._readers

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, from the file's header."""
        return self._readers[name][0]

    def renamed(self, names: Mapping[str, str]) -> "StateDict":
        """The entries that ``names`` (old -> new) lists, under their new names."""
        return StateDict({new: self._readers[old] for old, new in names.items()})


def open_state_dict(path: epath.PathLike) -> StateDict:
    """Opens a file or folder of weights.

    Wrappers ({'state_dict': ...}) and prefixes common to all names ('module.') are taken off, see
    ``unwrap``.

    Args:
        path: local ``.safetensors``, ``.pt``, ``.pth``, ``.bin``, ``.ckpt``, the ``.index.json`` of a sharded
            checkpoint, or a folder that holds one of these under its usual name.

    Raises:
        ValueError: no such file, unknown extension, a damaged file, a shard that is missing, or a
            PyTorch file that asks for anything beyond tensors.
        ImportError: a safetensors file without the package safetensors.
    """
    path = epath.Path(path)
    if path.is_dir():
        path = _file_in(path)
    if not path.exists():
        raise ValueError(f"weights: there is no file {path}")
    name = path.name.lower()
    if name.endswith(".index.json"):
        return _open_sharded(path)
    if name.endswith(".safetensors"):
        return unwrap(_open_safetensors(path), path)
    if name.endswith(TORCH_ENDINGS):
        return unwrap(torch_pickle.read(path), path)
    raise ValueError(
        f"weights: unknown extension of {path}; known are .safetensors, .index.json and "
        f"{', '.join(TORCH_ENDINGS)}"
    )


def read_state_dict(path: epath.PathLike) -> dict[str, np.ndarray]:
    """``open_state_dict`` with every array read into memory; same arguments and errors."""
    return {name: np.array(value) for name, value in open_state_dict(path).items()}


def unwrap(loaded, what: str | epath.PathLike = "state dict") -> StateDict:
    """The state dict within what a training run saved.

    Descends through the names of ``WRAPPERS`` as long as the level above holds no arrays of its own,
    then takes off ``PREFIXES`` that every name carries.

    Args:
        loaded: mapping, possibly nested, or a ``StateDict``.
        what: the file, for messages.

    Raises:
        ValueError: no mapping, no arrays in it, an entry that is no array, or a key that is no text.
    """
    while isinstance(loaded, Mapping) and not isinstance(loaded, StateDict):
        inner = [key for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if not inner or any(isinstance(value, np.ndarray) for value in loaded.values()):
            break
        loaded = loaded[inner[0]]
    if not isinstance(loaded, Mapping) or not loaded:
        raise ValueError(f"weights: {what} holds {_described(loaded)}, not a state dict")
    if not isinstance(loaded, StateDict):
        odd = [key for key, value in loaded.items() if not isinstance(value, np.ndarray)]
        if odd:
            raise ValueError(
                f"weights: entry {odd[0]!r} of {what} is {_described(loaded[odd[0]])}, not a tensor "
                f"({len(odd)} of {len(loaded)} entries); known wrappers are {WRAPPERS}"
            )
        nameless = [key for key in loaded if not isinstance(key, str)]
        if nameless:
            raise torch_pickle.TorchFileError(
                f"weights: {len(nameless)} of {len(loaded)} keys of {what} are no text (the first is "
                f"{nameless[0]!r:.80}); expected a state dict, parameter names to tensors"
            )
        loaded = StateDict({k: (v.shape, lambda v=v: v) for k, v in loaded.items()})
    names = {name: name for name in loaded}
    prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in names.values())), None)
    while prefix:
        names = {old: new.removeprefix(prefix) for old, new in names.items()}
        prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in names.values())), None)
    return loaded.renamed(names)


def shapes(state_dict: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Name -> shape; without reading data where ``state_dict`` is a ``StateDict``."""
    if isinstance(state_dict, StateDict):
        return {name: state_dict.shape(name) for name in state_dict}
    return {name: tuple(np.shape(value)) for name, value in state_dict.items()}


def _described(value) -> str:
    return "nothing" if isinstance(value, Mapping) else f"a {type(value).__name__}"


def _file_in(folder: epath.Path) -> epath.Path:
    """The checkpoint in a folder."""
    for name in FOLDER_FILES:
        if (folder / name).exists():
            return folder / name
    raise ValueError(
        f"weights: folder {folder} holds none of {', '.join(FOLDER_FILES)}; name the file itself"
    )


def _open_safetensors(path: epath.Path) -> StateDict:
    try:
        import safetensors
    except ImportError as error:
        raise ImportError(
            f"{path} is read by the package safetensors: pip install 'gsjax[clip]'"
        ) from error
    try:
        # Stays open, and mapped, as long as one of its readers lives.
        file = safetensors.safe_open(str(path), framework="np")
        readers = {}
        for name in file.keys():
            shape = tuple(file.get_slice(name).get_shape())
            readers[name] = shape, lambda name=name: _safetensor(file, name, path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(
            f"weights: {path} is damaged, or not a safetensors file ({error}); get it again"
        ) from None
    return StateDict(readers)


def read_metadata(path: epath.PathLike) -> dict[str, str]:
    """Texts that a safetensors file carries beside its arrays; {} without any.

    Raises:
        ValueError: no such file, or no safetensors file.
    """
    path = epath.Path(path)
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            if size > _MAX_HEADER:
                raise ValueError(f"a header of {size} bytes")
            found = json_text.parse(file.read(size), "header", dict).get("__metadata__") or {}
            return {str(name): str(text) for name, text in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"weights: {path} cannot be read, or is no safetensors file ({error})"
        ) from None


def _safetensor(file, name: str, path: epath.Path) -> np.ndarray:
    try:
        return file.get_tensor(name)
    except (TypeError, AttributeError) as error:  # which of the two depends on its version
        raise ImportError(
            f"{path}: {name} is of a type that this version of safetensors does not give to NumPy "
            f"({error}); take a newer one: pip install 'gsjax[clip]'"
        ) from error


def _open_sharded(path: epath.Path) -> StateDict:
    """All shards that an index names, as one."""
    try:
        places = json_text.read(path, dict)["weight_map"]
        by_file: dict[str, list[str]] = {}
        for name, file in places.items():
            by_file.setdefault(_plain_name(file), []).append(name)
    except (KeyError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"weights: {path} is no index of a sharded checkpoint ({error})") from None
    parts: list[tuple[StateDict, Sequence[str]]] = []
    for file, names in sorted(by_file.items()):
        shard = path.parent / file
        if not shard.exists():
            raise ValueError(
                f"weights: {path.name} names {file}, which is missing; {len(by_file)} shards must "
                f"lie in {path.parent}"
            )
        opened = (
            _open_safetensors(shard)
            if file.endswith(".safetensors")
            else unwrap(torch_pickle.read(shard), shard)
        )
        absent = sorted(set(names) - set(opened))
        if absent:
            raise ValueError(f"weights: {shard} lacks {absent[:3]}, which {path.name} puts there")
        parts.append((opened, names))
    readers = {n: (part.shape(n), lambda p=part, n=n: p[n]) for part, ns in parts for n in ns}
    return unwrap(StateDict({name: readers[name] for name in places}), path)


def _plain_name(file: str) -> str:
    """A shard's name; refuses a path that leaves the folder."""
    if not file or "/" in file or "\\" in file or file == "..":
        raise ValueError(f"shard {file!r} is not a file name in the same folder")
    return file
