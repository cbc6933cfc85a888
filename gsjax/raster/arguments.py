"""Arguments of the public rendering functions: what they are inside, and their checks.

`prepare` turns what a user passes into `Inputs` (arrays) and `Settings` (static), or raises
ValueError naming the argument, what was found, what is expected and what to do.
"""

import inspect
import math
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gsjax.core import sh
from gsjax.raster import camera_models
from gsjax.raster import project as projection
from gsjax.raster.blend import backends

DEPTH_MODES = ("D", "ED", "MD", "FD")
RENDER_MODES = ("RGB", *DEPTH_MODES, *(f"RGB+{mode}" for mode in DEPTH_MODES))
ABSGRAD_BACKENDS = ("reference", "xla_loop", "xla_group", "mosaic_gpu")

GEOMETRY_OPTIONS = (
    "covars", "rasterize_mode", "camera_model", "radial_coeffs", "tangential_coeffs", "near_plane",
    "far_plane", "radius_clip", "eps2d", "max_alpha", "tile_size", "capacity",
)  # fmt: skip
"""Options of `api.rasterize` that decide which Gaussian has which weight where."""

PIXEL_OPTIONS = (*GEOMETRY_OPTIONS, "sh_degree", "render_mode", "backgrounds", "means2d_probe")
"""Those that chosen pixels take."""

# gsplat's tiles, in which its users' masks come.
_MASK_TILE_SIZE = 16


class Settings(NamedTuple):
    """Static arguments."""

    width: int
    height: int
    sh_degree: int | None = None
    render_mode: str = "RGB"
    rasterize_mode: str = "classic"
    camera_model: str = "pinhole"
    near_plane: float = 0.01
    far_plane: float = 1e10
    radius_clip: float = 0.0
    eps2d: float = 0.3
    max_alpha: float = 0.99
    tile_size: int | None = None
    capacity: int | None = None
    backend: str | None = None


class Inputs(NamedTuple):
    """Arrays; None where absent. In `stages` the scene axes are joined to one, S."""

    means: jax.Array
    quats: jax.Array | None
    scales: jax.Array | None
    opacities: jax.Array
    viewmats: jax.Array
    Ks: jax.Array
    covars: jax.Array | None = None
    colors: jax.Array | None = None
    backgrounds: jax.Array | None = None
    masks: jax.Array | None = None
    radial_coeffs: jax.Array | None = None
    tangential_coeffs: jax.Array | None = None
    means2d_probe: jax.Array | None = None
    absgrad_probe: jax.Array | None = None


def prepare(arrays: dict, options: dict) -> tuple[Settings, Inputs, tuple[int, ...]]:
    """Settings with all choices made, inputs as float arrays, and the scene axes.

    Args:
      arrays: fields of `Inputs` as the user gave them.
      options: fields of `Settings` as the user gave them.

    Raises:
      ValueError: an argument has the wrong shape or type or an unknown name.
      NotImplementedError: the backend is not part of this version.
    """
    settings, masks = _as_numbers(Settings(**options)), arrays.get("masks")
    inputs = Inputs(**as_float_arrays(arrays | dict(masks=None)))
    geometry = inputs.means, inputs.quats, inputs.scales, inputs.opacities
    sizes = check_geometry(*geometry, inputs.viewmats, inputs.Ks, inputs.covars)
    check_colors(inputs.colors, settings.sh_degree, settings.render_mode, *sizes)
    has_sh = settings.sh_degree is not None or inputs.colors is None
    channels = 3 if has_sh else inputs.colors.shape[-1]
    check_extras(inputs.backgrounds, inputs.means2d_probe, channels, settings.render_mode, *sizes)
    if "RGB" not in settings.render_mode:
        inputs = inputs._replace(backgrounds=None)  # that of depth is 0
    check_lens(settings.camera_model, inputs.radial_coeffs, inputs.tangential_coeffs, *sizes)
    check_settings(
        settings.width, settings.height, settings.rasterize_mode, settings.near_plane,
        settings.far_plane, settings.eps2d, settings.max_alpha, settings.tile_size,
        settings.capacity, settings.radius_clip,
    )  # fmt: skip
    backend, _ = backends.choose(settings.backend)
    _check_absgrad(inputs.absgrad_probe, backend, *sizes)
    default = _MASK_TILE_SIZE if masks is not None else backends.default_tile_size(backend)
    settings = settings._replace(tile_size=settings.tile_size or default, backend=backend)
    return settings, inputs._replace(masks=check_masks(masks, settings, *sizes)), sizes[0]


def split_options(options: dict, known: tuple[str, ...]) -> tuple[dict, dict]:
    """Keyword arguments as arrays and settings.

    Raises:
      ValueError: a name is not among the known ones.
    """
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ValueError(f"{unknown[0]}: found an unknown option, expected one of {known}")
    arrays = {k: v for k, v in options.items() if k in Inputs._fields}
    return arrays, {k: v for k, v in options.items() if k in Settings._fields}


def has_views(settings: Settings, colors: jax.Array) -> bool:
    """Whether colours have an axis of cameras; of their axes the scenes are one, S."""
    return colors.ndim == (4 if settings.sh_degree is None else 5)


def join_scenes(arrays, batch: tuple[int, ...]):
    """The scene axes of all arrays of a pytree as one, also where there are none."""
    scenes = math.prod(batch)
    return jax.tree.map(lambda x: x.reshape(scenes, *x.shape[len(batch) :]), arrays)


def split_scenes(out, batch: tuple[int, ...]):
    """Inverse of `join_scenes`, for results."""
    return jax.tree.map(lambda x: x.reshape(*batch, *x.shape[1:]), out)


def _as_numbers(settings):
    """Plain Python numbers, so that equal settings share one compiled program."""
    integers = ("width", "height", "tile_size", "capacity", "sh_degree")
    floats = ("near_plane", "far_plane", "radius_clip", "eps2d", "max_alpha")
    values, optional = settings._asdict(), Settings._field_defaults
    for name in integers:
        if values[name] is not None or name not in optional:
            values[name] = as_integer(name, values[name])
    return Settings(**values | {k: _as_number(k, values[k]) for k in floats})


def as_integer(name: str, value) -> int:
    """A static argument as a Python integer: that, or one of NumPy or JAX.

    Raises:
      ValueError: not an integer, or traced.
    """
    _refuse_traced(name, value, "an integer")
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError as error:
        raise ValueError(
            f"{name}: found {value!r}, expected an integer; round it before the call"
        ) from error


def _as_number(name, value) -> float:
    _refuse_traced(name, value, "a number")
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: found {value!r}, expected one real number for all scenes and views"
        ) from error


def _refuse_traced(name, value, expected):
    if isinstance(value, jax.core.Tracer):
        raise ValueError(
            f"{name}: found a traced value, expected {expected}; it is static: close over it, or "
            "name it in static_argnames of jax.jit"
        )


def as_float_arrays(named: dict) -> dict:
    """Values as JAX arrays of one floating type, at least float32; None stays None.

    16-bit arrays are widened here, once: gradients come back in the type of the input.

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
    means: jax.Array, quats: jax.Array | None, scales: jax.Array | None, opacities: jax.Array,
    viewmats: jax.Array, Ks: jax.Array, covars: jax.Array | None = None,
) -> tuple[tuple[int, ...], int, int]:  # fmt: skip
    """Batch axes, number of Gaussians, number of cameras.

    Raises:
      ValueError: a shape does not fit that of means (or of viewmats, for Ks), or the Gaussians'
        shapes are given twice or not at all.
    """
    if means.ndim < 2 or means.shape[-1] != 3:
        _fail("means", means, "[..., N, 3]", "one row of x, y, z for each Gaussian")
    batch, num = means.shape[:-2], means.shape[-2]
    same = f"the axes of means, {list(means.shape)}"
    given = [n for n, x in dict(quats=quats, scales=scales, covars=covars).items() if x is not None]
    if given not in (["quats", "scales"], ["covars"]):
        raise ValueError(
            f"quats, scales, covars: found {', '.join(given) or 'none of them'}; expected quats "
            "and scales, or covars alone: pass None for the others"
        )
    if covars is not None:
        _expect("covars", covars, (*batch, num, 3, 3), f"{same}, whole matrices")
    else:
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
    per_scene, per_view = (*batch, num), (*batch, cameras, num)
    if sh_degree is not None:
        if not 0 <= sh_degree <= sh.MAX_DEGREE:
            raise ValueError(f"sh_degree: found {sh_degree}, expected 0 to {sh.MAX_DEGREE}")
        count = sh.num_coeffs(sh_degree)
        fits = colors.ndim > 2 and colors.shape[:-2] in (per_scene, per_view)
        if not fits or colors.shape[-1] != 3 or colors.shape[-2] < count:
            shape, other = (_text((*axes, f"K >= {count}", 3)) for axes in (per_scene, per_view))
            remedy = f"SH coefficients of degree {sh_degree}, per scene or per view"
            _fail("colors", colors, f"{shape} or {other}", remedy)
        return
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
            channels = backgrounds.shape[-1] if backgrounds.ndim else 1  # not looked at
        remedy = "one colour for each camera, the channels of colors; depth is not among them"
        _expect("backgrounds", backgrounds, (*batch, cameras, channels), remedy)
    if probe is not None:
        _expect("means2d_probe", probe, (*batch, cameras, num, 2), "zeros, one for each means2d")


def check_lens(
    camera_model: str, radial: jax.Array | None, tangential: jax.Array | None,
    batch: tuple[int, ...], num: int, cameras: int,
):  # fmt: skip
    """Raises ValueError if the coefficients do not fit the cameras or their model."""
    del num
    camera_models.check(camera_model, camera_models.Lens(radial, tangential))
    if radial is not None:
        shape = (*batch, cameras, radial.shape[-1])
        _expect("radial_coeffs", radial, shape, "k1, k2, ... of each camera; broadcast a shared")
    if tangential is not None:
        shape = (*batch, cameras, 2)
        _expect("tangential_coeffs", tangential, shape, "p1, p2 of each camera; broadcast a shared")


def _check_absgrad(probe, backend, batch, num, cameras):
    if probe is None:
        return
    _expect("absgrad_probe", probe, (*batch, cameras, num, 2), "zeros, one for each means2d")
    if "absgrad_probe" not in inspect.signature(backends.load(backend).blend).parameters:
        raise ValueError(
            f"absgrad_probe: found an array for backend {backend!r}, which has no absolute "
            f"gradients; expected None, or one of the backends {', '.join(ABSGRAD_BACKENDS)}"
        )


def check_masks(masks, settings: Settings, batch: tuple[int, ...], num: int, cameras: int):
    """masks as a bool array, or None.

    Raises:
      ValueError: not of type bool, or not one entry a tile.
    """
    del num
    if masks is None:
        return None
    masks = jnp.asarray(masks)
    if masks.dtype != jnp.bool_:
        raise ValueError(
            f"masks: found {masks.dtype}, expected bool: True where a tile is rendered; compare "
            "with a threshold first"
        )
    down, across = (-(-n // settings.tile_size) for n in (settings.height, settings.width))
    remedy = f"rows and columns of tiles of {settings.tile_size} pixels; see tile_size"
    _expect("masks", masks, (*batch, cameras, down, across), remedy)
    return masks


def check_settings(
    width, height, rasterize_mode, near_plane, far_plane, eps2d, max_alpha, tile_size, capacity,
    radius_clip=0.0,
):  # fmt: skip
    """Raises ValueError for static settings out of range."""
    positive = dict(width=width, height=height)
    positive |= {
        k: v for k, v in dict(tile_size=tile_size, capacity=capacity).items() if v is not None
    }
    for name, value in positive.items():
        if value < 1:
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
    if not radius_clip >= 0:
        raise ValueError(f"radius_clip: found {radius_clip}, expected pixels, at least 0")
    if not 0 < max_alpha < 1:
        raise ValueError(f"max_alpha: found {max_alpha}, expected between 0 and 1, both excluded")


def _text(shape) -> str:
    return f"[{', '.join(str(s) for s in shape)}]"


def _expect(name, array, shape, remedy):
    if array.shape != tuple(shape):
        _fail(name, array, _text(shape), remedy)


def _fail(name, array, expected, remedy):
    raise ValueError(f"{name}: found shape {list(array.shape)}, expected {expected}: {remedy}")
