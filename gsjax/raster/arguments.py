"""Checks of the arguments of `api.rasterize`: shapes, names and numbers, with a remedy each."""

import jax
import jax.numpy as jnp

from gsjax.core import sh
from gsjax.raster import project as projection

RENDER_MODES = ("RGB", "D", "ED", "RGB+D", "RGB+ED")


def as_float_arrays(named: dict) -> dict:
    """Values as JAX arrays of one floating type, at least float32; None stays None.

    Raises:
      ValueError: an argument is not an array of numbers.
    """
    arrays = {}
    for name, value in named.items():
        if value is not None:
            try:
                arrays[name] = jnp.asarray(value)
            except (TypeError, ValueError) as error:
                found = type(value).__name__
                raise ValueError(f"{name}: expected an array of numbers, found {found}") from error
            if jnp.issubdtype(arrays[name].dtype, jnp.complexfloating):
                raise ValueError(f"{name}: expected real numbers, found {arrays[name].dtype}")
    floating = [a.dtype for a in arrays.values() if jnp.issubdtype(a.dtype, jnp.floating)]
    dtype = jnp.result_type(jnp.float32, *floating)
    return {k: arrays[k].astype(dtype) if k in arrays else None for k in named}


def check_geometry(
    means: jax.Array, quats: jax.Array, scales: jax.Array, opacities: jax.Array,
    viewmats: jax.Array, Ks: jax.Array,
) -> tuple[tuple[int, ...], int, int]:  # fmt: skip
    """Batch axes, number of Gaussians, number of cameras.

    Raises:
      ValueError: a shape does not fit that of means (or of viewmats, for Ks).
    """
    if means.ndim < 2 or means.shape[-1] != 3:
        _fail("means", means, "[..., N, 3]", "one row of x, y, z for each Gaussian")
    batch, num = means.shape[:-2], means.shape[-2]
    same = f"the axes of means, {list(means.shape)}"
    _expect("quats", quats, (*batch, num, 4), f"{same}, then w, x, y, z")
    _expect("scales", scales, (*batch, num, 3), f"{same}, linear standard deviations")
    _expect("opacities", opacities, (*batch, num), f"{same} without the last; squeeze a 1")
    if viewmats.ndim != means.ndim + 1 or viewmats.shape[-2:] != (4, 4):
        shape = _text((*batch, "C", 4, 4))
        _fail(
            "viewmats", viewmats, shape, "batch axes, then cameras; a single one as viewmat[None]"
        )
    cameras = viewmats.shape[-3]
    _expect("viewmats", viewmats, (*batch, cameras, 4, 4), "the batch axes of means, then cameras")
    _expect(
        "Ks", Ks, (*batch, cameras, 3, 3), "one matrix for each of viewmats; broadcast a shared"
    )
    return batch, num, cameras


def check_colors(
    colors: jax.Array | None, sh_degree: int | None, render_mode: str,
    batch: tuple[int, ...], num: int, cameras: int,
):  # fmt: skip
    """Raises ValueError if colors does not fit the mode, the degree or the other shapes."""
    if render_mode not in RENDER_MODES:
        raise ValueError(f"render_mode: found {render_mode!r}, expected one of {RENDER_MODES}")
    if colors is None:
        if "RGB" in render_mode:
            raise ValueError(f"colors: render_mode {render_mode!r} needs them, found None")
        return
    if sh_degree is not None:
        count = sh.num_coeffs(sh_degree)
        shape = _text((*batch, num, f"K >= {count}", 3))
        fits = colors.ndim == len(batch) + 3 and colors.shape[:-2] == (*batch, num)
        if not fits or colors.shape[-1] != 3 or colors.shape[-2] < count:
            _fail("colors", colors, shape, f"SH coefficients of degree {sh_degree}, per scene")
        return
    per_scene, per_view = (*batch, num), (*batch, cameras, num)
    if colors.ndim == 0 or colors.shape[:-1] not in (per_scene, per_view):
        shape = f"{_text((*per_scene, 'X'))} or {_text((*per_view, 'X'))}"
        _fail("colors", colors, shape, "values per scene or per view; pass sh_degree for SH")


def check_extras(
    backgrounds: jax.Array | None, probe: jax.Array | None, channels: int, render_mode: str,
    batch: tuple[int, ...], num: int, cameras: int,
):  # fmt: skip
    """Raises ValueError if backgrounds or means2d_probe do not fit."""
    if backgrounds is not None:
        if "RGB" not in render_mode:
            raise ValueError(
                f"backgrounds: render_mode {render_mode!r} has none (that of depth is 0); pass None"
            )
        remedy = "one colour for each camera, the channels of colors; depth is not among them"
        _expect("backgrounds", backgrounds, (*batch, cameras, channels), remedy)
    if probe is not None:
        _expect("means2d_probe", probe, (*batch, cameras, num, 2), "zeros, one for each means2d")


def check_settings(
    width, height, rasterize_mode, near_plane, far_plane, eps2d, max_alpha, tile_size, capacity
):
    """Raises ValueError for static settings out of range."""
    positive = dict(width=width, height=height)
    positive |= {
        k: v for k, v in dict(tile_size=tile_size, capacity=capacity).items() if v is not None
    }
    for name, value in positive.items():
        if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
            raise ValueError(f"{name}: found {value!r}, expected an integer of at least 1")
    if rasterize_mode not in projection.MODES:
        raise ValueError(
            f"rasterize_mode: found {rasterize_mode!r}, expected one of {projection.MODES}"
        )
    if not 0 <= near_plane < far_plane:
        raise ValueError(
            f"near_plane, far_plane: found {near_plane}, {far_plane}; expected 0 <= near < far"
        )
    if not eps2d >= 0:
        raise ValueError(f"eps2d: found {eps2d}, expected pixels squared, at least 0")
    if not 0 < max_alpha < 1:
        raise ValueError(f"max_alpha: found {max_alpha}, expected between 0 and 1, both excluded")


def _text(shape) -> str:
    return f"[{', '.join(str(s) for s in shape)}]"


def _expect(name, array, shape, remedy):
    if array.shape != tuple(shape):
        _fail(name, array, _text(shape), remedy)


def _fail(name, array, expected, remedy):
    raise ValueError(f"{name}: found shape {list(array.shape)}, expected {expected}: {remedy}")
