"""Dataclasses as pytrees whose structures differ between classes.

``jax.tree_util.register_dataclass`` (JAX 0.10 to 0.12) makes structures of different classes with as
many fields compare equal, so that ``jax.jit`` may now and then run the program of the one on the
other. A registration with functions of its own does not.
"""

import dataclasses

import jax


def register(cls):
    """Class decorator: a dataclass all of whose fields are children, known by their names."""
    names = tuple(field.name for field in dataclasses.fields(cls))

    def flatten(value):
        return tuple(getattr(value, name) for name in names), None

    def flatten_with_keys(value):
        keys = (jax.tree_util.GetAttrKey(name) for name in names)
        return tuple(zip(keys, flatten(value)[0])), None

    def unflatten(_, children):
        value = object.__new__(cls)  # no checks: children may be anything while JAX transforms
        for name, child in zip(names, children):
            object.__setattr__(value, name, child)
        return value

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
