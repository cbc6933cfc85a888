"""What every config shares: the argument after the colon, and the default blocks.

A config file exports ``get_config(arg=None)`` and starts from :func:`base`::

    def get_config(arg=None):
        arg = common.parse_arg(arg, quick=False, paper=False, size="laptop")
        config = common.base("clip_gs")
        config.train.batch_size = 8 if arg.quick else 64
        ...

Plain values only: nothing here, and nothing in a config file, imports JAX.
"""

import difflib

import ml_collections


def parse_arg(arg: str | None, **defaults) -> ml_collections.ConfigDict:
    """Parses the part of ``--config=file.py:ARG`` behind the colon.

    ``ARG`` is a comma-separated list of ``name=value``; a bare ``name`` means ``name=True``, so
    ``:quick`` and ``:res=64,runlocal`` both read naturally. A value takes the type of its default.

    Args:
        arg: the text, or None.
        **defaults: every name that is understood, with its default (bool, int, float or str).

    Returns:
        ConfigDict of all names.

    Raises:
        ValueError: an unknown name (the message lists the known ones), or a value that does not
            fit its default's type.
    """
    result = dict(defaults)
    for item in filter(None, (part.strip() for part in (arg or "").split(","))):
        name, given, text = item.partition("=")
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"config argument: unknown name {name!r} in {arg!r}; "
                f"known: {', '.join(sorted(defaults)) or 'none'}{hint}"
            )
        result[name] = _convert(name, text if given else "true", defaults[name])
    return ml_collections.ConfigDict(result)


def _convert(name: str, text: str, default):
    """``text`` as a value of ``default``'s type."""
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return type(default)(text)
    except (KeyError, ValueError):
        raise ValueError(
            f"config argument: {name}={text!r} is not a {type(default).__name__} "
            f"(its default is {default!r}); write {name}={default!r} or leave it out"
        ) from None


def data_block() -> ml_collections.ConfigDict:
    """Which data set, how much of it, and how it is read."""
    return ml_collections.ConfigDict(
        dict(
            name="procedural",  # | 'objects_cc0' | 'folder' | 'fitted', or one of data.collections
            dir="",  # cache of prepared sets; '' = $GSJAX_CACHE or ~/.cache/gsjax
            source="",  # raw data; '' = $GSJAX_DATA/<name> where the set needs any
            captions_csv="",  # 'folder' and collections: file or uid, caption, category
            num_objects=512,  # 'procedural' only: training objects
            num_test=0,  # 'procedural' only; 0 = one for every eight, but every category once
            num_gaussians=2048,  # per object, after sub-sampling or padding
            views=8,  # rendered pictures an object
            view_size=64,  # pixels a side
            stored_gaussians=0,  # in a record, to draw from; 0 = what the set does by default
            seed=0,  # of sampled surfaces and procedural objects
            split="v2",  # 'objects_cc0' only: 'v2' (group-disjoint) or 'shipped'
            limit=0,  # 'objects_cc0' and collections: objects a side at most; 0 = all
            up_axis="",  # of the files; '' = 'y' for 'folder', a collection's own
            on_bad_rows="error",  # 'folder' and collections: or 'drop'
            towers="",  # weights of the image/text pair; '' = those shipped for the set
            num_threads=4,  # read threads a process
            prefetch=32,  # examples buffered on the host
            memory=1024,  # MB of decoded pictures and scenes that a process keeps, where a set decodes any
        )
    )


def optim_block() -> ml_collections.ConfigDict:
    """The optimiser. Groups come from the system; ``rules`` go before them."""
    return ml_collections.ConfigDict(
        dict(
            name="adamw",  # 'adamw' | 'sgd'
            lr=1e-3,
            wd=0.1,  # beside the moments; of sgd, in them; never on biases and tensors of rank <= 1
            betas=(0.9, 0.999),
            eps=1e-8,
            momentum=0.0,  # sgd only, which also reads a field ``nesterov`` if there is one
            clip=5.0,  # global gradient norm; 0 = off
            warmup=0.05,  # below 1: share of all steps; from 1 on: steps
            schedule="cosine",  # 'cosine' | 'constant' | 'steps' | 'pieces' | 'onecycle'
            final_scale=0.0,  # cosine ends at final_scale * lr
            layer_decay=1.0,  # learning rate of block j of d is scaled by layer_decay ** (d - j)
            layer_pattern="",  # regex whose one group is j; '' = the system's rules carry it
            ema=0.0,  # decay, reached by a ramp, of the averaged copy that is evaluated; 0 = off
            rules=(),  # ((regex, lr_scale, decay), ...): lr_scale 0 freezes
        )
    )


def train_block() -> ml_collections.ConfigDict:
    """Length, rhythm and safety of a training run."""
    return ml_collections.ConfigDict(
        dict(
            batch_size=64,  # over all devices of all processes
            num_steps=1000,
            accum_steps=1,  # the batch goes through in this many parts
            log_every=10,
            eval_every=0,  # 0 = only after the last step
            save_every=100,
            keep=3,  # newest checkpoints kept
            max_bad_steps=10,  # non-finite updates in a row before the run stops
            prefetch=2,  # batches waiting on the device
            compilation_cache="",  # '' = in the run folder; 'off'; or a folder
            profile=dict(start_step=0, num_steps=0),  # 0 steps = no profile
        )
    )


def base(system: str) -> ml_collections.ConfigDict:
    """The whole tree with its defaults; a config file fills ``model``, ``loss`` and the sizes.

    Args:
        system: folder name under ``gsjax.systems``.
    """
    return ml_collections.ConfigDict(
        dict(
            system=system,
            mode="train",  # 'train' | 'eval'
            seed=0,
            init_from="",  # run folder, checkpoint, .npz or .safetensors: start from it (or evaluate)
            data=data_block(),
            model=dict(),
            loss=dict(),
            optim=optim_block(),
            train=train_block(),
            mesh=dict(data=-1, fsdp=1),  # devices along each axis; -1 = all that are left
            eval=dict(
                evaluators=dict(),  # {name of a module in gsjax.evals: its options}
                show=True,  # pictures of what the run learned, after training and in eval mode
            ),
        )
    )
