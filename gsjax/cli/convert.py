"""``gsjax convert``: weights of other projects, checked array by array and written without pickle.

``uni3d`` and ``cross_modal`` (the thesis's checkpoints) give an ``.npz`` that training of clip_gs and
cross_modal starts from, or that they evaluate (``--config.init_from``); ``mvsplat`` and ``depthsplat`` one that
pm_loss starts from and ``gsjax reconstruct`` runs; tower kinds give a ``.safetensors`` with what is used of the file, for ``KIND:PATH`` where towers are asked for, and
beside it the config files that loading needs. Without ``--out`` the file is only checked and described.

Towers are checked from names and shapes, then read and written one array at a time, so that a pair of
any size takes the memory of its largest array.
"""

import argparse
import importlib
import math
import pathlib
import re
import shlex
import urllib.parse
from collections.abc import Mapping

HELP = (
    "check and convert weights of Uni3D, OpenCLIP, Hugging Face CLIP, EVA-CLIP, cross-modal, MVSplat, "
    "DepthSplat"
)
EXAMPLES = """
gsjax convert openclip weights/open_clip_model.safetensors                # checks and describes
gsjax convert openclip open_clip_pytorch_model.bin --arch ViT-B-32 --out towers.safetensors
gsjax convert uni3d uni3d-b.pt --out uni3d_base.npz
gsjax convert depthsplat depthsplat.pth --out depthsplat.npz --licence MIT
"""

TOWERS = ("openclip", "hf_clip", "evaclip")
FEED_FORWARD = ("mvsplat", "depthsplat")
ARCHIVES = ("uni3d", "cross_modal", *FEED_FORWARD)  # kinds that give an .npz
DTYPES = ("keep", "float32", "bfloat16", "float16")
# Options that only some kinds have.
ONLY = {"heads": ("uni3d",), "without": ("uni3d",), "arch": (*TOWERS, "depthsplat")}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=(*ARCHIVES, *TOWERS), help="what the file holds")
    parser.add_argument("file", help=".pt, .pth, .bin, .ckpt, .safetensors, .index.json, a folder")
    parser.add_argument(
        "--out", help=f"file to write: .npz ({', '.join(ARCHIVES)}) or .safetensors (towers)"
    )
    parser.add_argument("--dtype", choices=DTYPES, default="keep", help="type of what is written")
    parser.add_argument("--licence", help="of the weights, stored with them; default: unknown")
    parser.add_argument(
        "--arch",
        help="name of the model: ViT-B-32 (towers), pm_loss (depthsplat; default: by shapes)",
    )
    parser.add_argument("--heads", type=int, help="uni3d: attention heads, if of no public size")
    parser.add_argument(
        "--without",
        metavar="REGEX",
        help="uni3d: leave out arrays whose path matches, e.g. trans2embed",
    )


def run(args: argparse.Namespace) -> int:
    for option, kinds in ONLY.items():
        if getattr(args, option) is not None and args.kind not in kinds:
            raise ValueError(
                f"--{option}: kind {args.kind} has no such option (only {', '.join(kinds)}); leave "
                "it out"
            )
    if args.out:
        ending = ".npz" if args.kind in ARCHIVES else ".safetensors"
        if not args.out.endswith(ending):
            raise ValueError(f"--out: {args.out!r}: files of kind {args.kind} end in {ending}")
    kinds = dict(uni3d=_uni3d, cross_modal=_cross_modal, mvsplat=_network, depthsplat=_network)
    return kinds.get(args.kind, _towers)(args)


def _cross_modal(args) -> int:
    from gsjax.systems.cross_modal import reference

    found = reference.read(args.file)
    arrays = {p: _cast(x, args.dtype) for p, x in found.arrays.items()}
    print(f"{args.file}: {found.backbone}, {found.features}, fusion {found.fusion_dim}")
    _describe("loaded", {path: (x.dtype, x.shape) for path, x in arrays.items()})
    config = dict(backbone=found.backbone, features=found.features, fusion_dim=found.fusion_dim)
    if not _archived(args, "cross_modal", config, arrays):
        return 0
    print(
        "  use it: --config=configs/cross_modal.py:paper,parity,"
        f"backbone={found.backbone},features={found.features} --config.init_from={args.out}"
    )
    return 0


def _network(args) -> int:
    from gsjax.io import weights
    from gsjax.models import name_tables
    from gsjax.models.feedforward import depthsplat, depthsplat_tables, mvsplat, mvsplat_tables

    state_dict = weights.open_state_dict(args.file)
    if args.kind == "mvsplat":
        preset, config = args.kind, mvsplat.PRESETS[args.kind]
        params = mvsplat_tables.convert(state_dict, config, what=args.file, dtype=None)
    else:
        preset = args.arch or depthsplat_tables.find(state_dict, args.file)
        if preset not in depthsplat.PRESETS:
            raise ValueError(f"--arch: unknown {preset!r}; known: {', '.join(depthsplat.PRESETS)}")
        config = depthsplat.PRESETS[preset]
        params = depthsplat_tables.convert(state_dict, config, what=args.file, dtype=None)
    arrays = name_tables.flatten({"params": params})
    arrays = {p: _cast(x, args.dtype) for p, x in arrays.items()}
    print(f"{args.file}: {args.kind}, {preset}")
    _describe("loaded", {path: (x.dtype, x.shape) for path, x in arrays.items()})
    if not _archived(args, args.kind, dict(preset=preset), arrays):
        return 0
    print(f"  use it: gsjax reconstruct IMAGES --weights {shlex.quote(args.out)} --out scene.ply")
    return 0


def _archived(args, kind: str, config: dict, arrays) -> bool:
    """Names the licence and writes the archive; False without --out."""
    from gsjax.io import archive

    licence = args.licence or "unknown"
    print(f"  licence: {licence}")
    if not args.out:
        return False
    notes = dict(licence=licence, source=args.file, made_by=f"gsjax convert {args.kind}")
    digest = archive.save(args.out, kind, config, arrays, notes)
    print(f"  written: {args.out}, digest {digest[:16]}")
    return True


def _uni3d(args) -> int:
    from gsjax.systems.clip_gs import uni3d

    found = uni3d.read(args.file, args.heads)
    arrays = found.arrays
    left_out = [p for p in arrays if args.without and re.search(args.without, p)]
    if args.without and not left_out:
        raise ValueError(f"--without: {args.without!r} matches none of the {len(arrays)} arrays")
    arrays = {p: _cast(x, args.dtype) for p, x in arrays.items() if p not in left_out}
    size = found.size or "no public size"
    fields = ", ".join(f"{name} {value}" for name, value in found.fields.items())
    print(f"{args.file}: Uni3D, {size}: {fields}")
    _describe("loaded", {path: (x.dtype, x.shape) for path, x in arrays.items()})
    _names("unused keys of the file", found.ignored)
    _names("left out", left_out)
    _names("new in CLIP-GS, as initialised", found.new)
    if not _archived(args, "clip_gs", dict(size=found.size, **found.fields), arrays):
        return 0
    if found.size:
        print(
            f"  train from it: --config=configs/clip_gs.py:size={found.size} "
            f"--config.init_from={args.out}"
        )
    return 0


def _towers(args) -> int:
    from gsjax.io import safetensors_file, weights
    from gsjax.models import towers

    options = {name: getattr(args, name) for name in ("arch", "licence") if getattr(args, name)}
    state_dict = weights.open_state_dict(args.file)
    loader = importlib.import_module(towers.FOREIGN[args.kind])
    checked = loader.check(args.kind, args.file, state_dict, options)
    out, files = pathlib.Path(args.out or ""), {}
    if args.out:
        files = _files_to_write(
            out, checked, lambda: loader.check(args.kind, args.out, state_dict, checked.options)
        )
    unused = set(checked.unused)
    # One array after the other: types are known, and too large numbers found, before any is written.
    used = {}
    for key in state_dict:
        if key not in unused:
            value = _cast(state_dict[key], args.dtype)
            used[key] = value.dtype, value.shape
    odd = sorted({str(dtype) for dtype, _ in used.values()} - set(safetensors_file.TYPES))
    if args.out and odd:
        raise ValueError(f"--out: safetensors has no type for {odd}; choose --dtype float32")
    print(f"{args.file}: {checked.name} ({args.kind}), D = {checked.dim}")
    print(f"  pictures and captions: {checked.preprocessing}")
    _describe("loaded", used)
    _names("unused keys of the file", checked.unused)
    print(f"  licence: {checked.licence}")
    if not args.out:
        return 0
    notes = dict(kind=args.kind, arch=checked.name, licence=checked.licence, source=args.file)
    safetensors_file.save(out, used, lambda key: _cast(state_dict[key], args.dtype), notes)
    for name, text in files.items():
        (out.parent / name).write_text(text)
    for name in checked.files:
        print(f"  {'written' if name in files else 'kept as it is'}: {out.parent / name}")
    query = urllib.parse.urlencode(checked.options)
    spec = f"{args.kind}:{args.out}" + f"?{query}" * bool(query)
    print(f"  written: {args.out}; load it as {shlex.quote(spec)}")
    return 0


def _files_to_write(out: pathlib.Path, checked, check_there) -> Mapping[str, str]:
    """Config files to put beside ``out``: those that are not there; any that is must say the same.

    Args:
        out: the weights to write.
        checked: what they are, ``towers.Checked``.
        check_there: () -> the same, with the files beside ``out``.

    Raises:
        ValueError: a file there that says something else.
    """
    found = {name: out.parent / name for name in checked.files}
    found = {name: place for name, place in found.items() if place.exists()}
    if all(place.read_text() == checked.files[name] for name, place in found.items()):
        return {name: text for name, text in checked.files.items() if name not in found}
    try:
        there = check_there()
        same = (there.config, there.preprocessing) == (checked.config, checked.preprocessing)
        why = "" if same else f": {there.preprocessing}, {there.config}"
    except ValueError as error:
        same, why = False, f" ({error})"
    if not same:
        raise ValueError(
            f"--out: {', '.join(map(str, found.values()))} is there and describes other towers"
            f"{why}; write into another folder"
        )
    return {name: text for name, text in checked.files.items() if name not in found}


def _cast(value, dtype: str):
    """The array, contiguous, as stored."""
    import ml_dtypes
    import numpy as np

    types = dict(keep=value.dtype, bfloat16=ml_dtypes.bfloat16)
    with np.errstate(over="ignore"):  # reported below
        result = np.asarray(value, types.get(dtype, dtype), order="C")
    if dtype == "float16" and not np.isfinite(result).all():
        raise ValueError("--dtype: a weight is beyond float16; choose bfloat16")
    return result


def _describe(what: str, arrays: Mapping[str, tuple]) -> None:
    """Counts of arrays given as name -> (dtype, shape)."""
    parameters = sum(
        math.prod(shape)
        for path, (_, shape) in arrays.items()
        if not path.startswith("batch_stats/")
    )
    size = sum(math.prod(shape) * dtype.itemsize for dtype, shape in arrays.values())
    types = ", ".join(sorted({str(dtype) for dtype, _ in arrays.values()}))
    print(
        f"  {what}: {len(arrays)} arrays, {parameters:,} parameters, {size / 1e6:,.1f} MB ({types})"
    )


def _names(what: str, names) -> None:
    """A count and the names, the numbers in them folded: blocks.*.norm1.bias."""
    folded = dict.fromkeys(re.sub(r"\d+", "*", name) for name in names)
    print(f"  {what}: {len(names)}" + (f" ({', '.join(folded)})" if folded else ""))
