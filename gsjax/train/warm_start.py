"""Where ``config.init_from`` leads: a run of this package, or a file of weights made for the model.

A run may be of a somewhat different model: what fits is taken (``checkpoint.load_variables``). A file is
made for one model (``gsjax convert``): everything in it must have its place.
"""

import jax
from etils import epath

from gsjax.io import archive, weights
from gsjax.train import checkpoint
from gsjax.train import state as state_lib


def load_variables(path, abstract_variables) -> checkpoint.Loaded:
    """Variables to start from, cast to the model's types.

    Args:
        path: run folder or checkpoint, or an ``.npz`` of ``io.archive`` or a ``.safetensors`` whose names
            are paths of variables ('params/encoder/cls_token', 'batch_stats/...').
        abstract_variables: ShapeDtypeStructs with shardings.

    Returns:
        What was found; ``missing`` names the variables that the file does not hold. The step of a file
        of weights is 0.

    Raises:
        ValueError: the file cannot be read, or arrays of it have no place in this model or another
            shape.
    """
    if str(path).endswith(".npz"):
        stored = archive.read(epath.Path(path))
        found, what = stored.arrays, f"weights of kind {stored.kind!r} for {stored.config}"
    elif str(path).endswith(".safetensors"):
        found = weights.open_state_dict(path)
        what = "arrays by other names or of another size"
    else:
        return checkpoint.load_variables(path, abstract_variables)
    wanted = state_lib.flat(abstract_variables)
    wrong = []
    for name in found:
        if name not in wanted:
            wrong.append(f"{name}: not in this model")
            continue
        shape = found.shape(name) if isinstance(found, weights.StateDict) else found[name].shape
        if tuple(shape) != tuple(wanted[name].shape):
            wrong.append(f"{name}: found {tuple(shape)}, expected {wanted[name].shape}")
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(
            f"{path}: {len(wrong)} of its {len(found)} arrays do not fit the model: "
            f"{'; '.join(wrong[:5])}{more}. It holds {what}; choose that size, or convert again and leave "
            "arrays out"
        )
    arrays = {name: _placed(found[name], wanted[name]) for name in found}
    return checkpoint.Loaded(0, arrays, sorted(wanted.keys() - arrays.keys()))


def _placed(value, struct: jax.ShapeDtypeStruct) -> jax.Array:
    """A host array as the model's type, each device holding its part."""
    value = value.astype(struct.dtype)
    if struct.sharding is None:
        return jax.numpy.asarray(value)
    return jax.make_array_from_callback(value.shape, struct.sharding, lambda index: value[index])
