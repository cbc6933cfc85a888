"""``gsjax convert``: weights of other projects, checked array by array and written without pickle.

``uni3d`` gives an ``.npz`` that training of clip_gs starts from (``--config.init_from``); tower kinds
give a ``.safetensors`` with what is used of the file, for ``KIND:PATH`` where towers are asked for.
Without ``--out`` the file is only checked and described.
"""

import argparse
import pathlib
import re
import urllib.parse

HELP = "check and convert weights of Uni3D, OpenCLIP, Hugging Face CLIP or EVA-CLIP"

TOWERS = ("openclip", "hf_clip", "evaclip")
DTYPES = ("keep", "float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=("uni3d", *TOWERS), help="what the file holds")
    parser.add_argument("file", help=".pt, .pth, .bin, .safetensors, .index.json, or a folder")
    parser.add_argument("--out", help="file to write: .npz (uni3d) or .safetensors (towers)")
    parser.add_argument("--dtype", choices=DTYPES, default="keep", help="type of what is written")
    parser.add_argument("--licence", default="unknown", help="of the weights, stored as a note")
    parser.add_argument("--arch", default="", help="towers: name of the model, e.g. ViT-B-32")
    parser.add_argument("--heads", type=int, help="uni3d: attention heads, if of no public size")
    parser.add_argument(
        "--without",
        metavar="REGEX",
        help="uni3d: leave out arrays whose path matches, e.g. trans2embed",
    )


def run(args: argparse.Namespace) -> int:
    if args.out:
        ending = ".npz" if args.kind == "uni3d" else ".safetensors"
        if not args.out.endswith(ending):
            raise ValueError(f"--out: {args.out!r}: files of kind {args.kind} end in {ending}")
    return _uni3d(args) if args.kind == "uni3d" else _towers(args)


def _uni3d(args) -> int:
    from gsjax.io import archive
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
    _describe("loaded", arrays)
    _names("unused keys of the file", found.ignored)
    _names("left out", left_out)
    _names("new in CLIP-GS, as initialised", found.new)
    print(f"  licence: {args.licence}")
    if not args.out:
        return 0
    notes = dict(licence=args.licence, source=args.file, made_by="gsjax convert uni3d")
    config = dict(size=found.size, **found.fields)
    digest = archive.save(args.out, "clip_gs", config, arrays, notes)
    print(f"  written: {args.out}, digest {digest[:16]}")
    if found.size:
        print(
            f"  train from it: --config=configs/clip_gs.py:size={found.size} "
            f"--config.init_from={args.out}"
        )
    return 0


def _towers(args) -> int:
    from gsjax.io import weights
    from gsjax.models import clip_tables, eva_tables, towers

    options = dict(licence=args.licence)
    options |= dict(dtype="bfloat16") if args.dtype == "bfloat16" else {}
    options |= dict(arch=args.arch) if args.arch else {}
    state_dict = weights.open_state_dict(args.file)
    # The loader checks names, shapes and sizes of everything.
    spec = f"{args.kind}:{args.file}?{urllib.parse.urlencode(options)}"
    loaded = towers.load(spec, lambda path: state_dict)
    ignored = {"evaclip": eva_tables.IGNORE, "hf_clip": clip_tables.IGNORE["hf"]}.get(
        args.kind, clip_tables.IGNORE["openclip"]
    )
    unused = [key for key in state_dict if any(re.match(p, key) for p in ignored)]
    used = {key: _cast(state_dict[key], args.dtype) for key in state_dict if key not in unused}
    print(f"{args.file}: {loaded.name} ({args.kind}), D = {loaded.dim}")
    print(f"  pictures and captions: {loaded.preprocessing}")
    _describe("loaded", used)
    _names("unused keys of the file", unused)
    print(f"  licence: {loaded.licence}")
    if args.out:
        _save_safetensors(args.out, used, dict(options, kind=args.kind, source=args.file))
        print(f"  written: {args.out}; load it as {args.kind}:{args.out}")
    return 0


def _save_safetensors(path: str, arrays: dict, notes: dict) -> None:
    try:
        from safetensors import numpy
    except ImportError as error:
        raise ImportError(
            f"{path} is written by the package safetensors: pip install 'gsjax[clip]'"
        ) from error
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    numpy.save_file(arrays, path, metadata=notes)


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


def _describe(what: str, arrays: dict) -> None:
    parameters = sum(x.size for path, x in arrays.items() if not path.startswith("batch_stats/"))
    size = sum(x.nbytes for x in arrays.values())
    types = ", ".join(sorted({str(x.dtype) for x in arrays.values()}))
    print(
        f"  {what}: {len(arrays)} arrays, {parameters:,} parameters, {size / 1e6:,.1f} MB ({types})"
    )


def _names(what: str, names) -> None:
    """A count and the names, the numbers in them folded: blocks.*.norm1.bias."""
    folded = dict.fromkeys(re.sub(r"\d+", "*", name) for name in names)
    print(f"  {what}: {len(names)}" + (f" ({', '.join(folded)})" if folded else ""))
