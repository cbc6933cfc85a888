"""Where ``config.init_from`` leads: a run of this package, or an archive of converted weights.

A run may be of a somewhat different model: what fits is taken (``checkpoint.load_variables``). An
archive is made for one model by ``gsjax convert``: everything in it must have its place.
"""

import jax
from etils import epath

from gsjax.io import archive
from gsjax.train import checkpoint
from gsjax.train import state as state_lib


def load_variables(path, abstract_variables) -> checkpoint.Loaded:
    """Variables to start from, cast to the model's types.

    Args:
        path: run folder or checkpoint, or an ``.npz`` of ``io.archive`` whose names are paths of
            variables ('params/encoder/cls_token', 'batch_stats/...').
        abstract_variables: ShapeDtypeStructs with shardings.

    Returns:
        What was found; ``missing`` names the variables that the file does not hold. The step of an
        archive is 0.

    Raises:
        ValueError: the file cannot be read, or arrays of an archive have no place in this model or
            another shape.
    """
    if not str(path).endswith(".npz"):
        return checkpoint.load_variables(path, abstract_variables)
    stored = archive.read(epath.Path(path))
    wanted = state_lib.flat(abstract_variables)
    wrong = [f"{name}: not in this model" for name in stored.arrays if name not in wanted]
    wrong += [
        f"{name}: found {value.shape}, expected {wanted[name].shape}"
        for name, value in stored.arrays.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"{path}: {len(wrong)} of its {len(stored.arrays)} arrays do not fit the model: "
            f"{'; '.join(wrong[:5])}{more}. It holds weights of kind {stored.kind!r} for "
            f"{stored.config}; choose that size, or convert again and leave arrays out"
        )
    arrays = {name: _placed(value, wanted[name]) for name, value in stored.arrays.items()}
    return checkpoint.Loaded(0, arrays, sorted(wanted.keys() - arrays.keys()))


def _placed(value, struct: jax.ShapeDtypeStruct) -> jax.Array:
    """A host array as the model's type, each device holding its part."""
    value = value.astype(struct.dtype)
    if struct.sharding is None:
        return jax.numpy.asarray(value)
    return jax.make_array_from_callback(value.shape, struct.sharding, lambda index: value[index])
