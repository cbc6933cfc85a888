"""One scene on many devices: views, image strips and Gaussians split over a mesh.

A mesh axis `tiles` splits both ends of the pipeline: each device projects its share of the Gaussians
and blends its strip of the image; in between, projected Gaussians are exchanged (`exchange`). A scene
whose arrays come sharded over that axis never lies whole on any device. A mesh axis `views` splits
the cameras; along it nothing travels but the sums of gradients.

The picture is that of `rasterize` on one device: every pixel sees the same Gaussians in the same
order.

With the backend `xla_loop`, where devices are CPU cores, a strip is made of several blocks of tile rows
from all over the image, so that all cores have about equal work. JAX must have been told of the cores,
``jax.config.update("jax_num_cpu_devices", 2)`` at start. For as many images as cores, `views` (or data
parallelism) is the better choice: nothing is exchanged and no depth order found twice.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from gsjax.raster import arguments, exchange, stages
from gsjax.raster.blend import backends, xla_loop

# Axes of the scene's own arrays behind [S]: Gaussians, cameras, or both.
_GAUSSIANS = ("means", "quats", "scales", "opacities", "covars")
_CAMERAS = ("viewmats", "Ks", "radial_coeffs", "tangential_coeffs", "backgrounds")


def rasterize_sharded(
    means: jax.Array,
    quats: jax.Array | None,
    scales: jax.Array | None,
    opacities: jax.Array,
    colors: jax.Array | None,
    viewmats: jax.Array,
    Ks: jax.Array,
    width: int,
    height: int,
    *,
    mesh: Mesh,
    tiles: str | None = None,
    views: str | None = None,
    exchange_rows: int | None = None,
    covars: jax.Array | None = None,
    radial_coeffs: jax.Array | None = None,
    tangential_coeffs: jax.Array | None = None,
    backgrounds: jax.Array | None = None,
    means2d_probe: jax.Array | None = None,
    **options,
) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
    """`rasterize` of one scene over a mesh, with gradients to every input.

    Args:
      means: [N, 3], quats: [N, 4], scales: [N, 3], opacities: [N], colors: [N, X], [C, N, X],
        [N, K, 3] or [C, N, K, 3], viewmats: [C, 4, 4], Ks: [C, 3, 3], width, height, covars,
        radial_coeffs, tangential_coeffs, backgrounds, means2d_probe: as in `rasterize`, without
        scene axes.
      mesh: the devices; axes other than the two named hold copies.
      tiles: mesh axis over which Gaussians and image strips are split; None = neither is.
      views: mesh axis over which the C cameras are split; its size must divide C.
      exchange_rows: None sends every projected Gaussian to all devices of `tiles`. A number is the
        most that one device sends to another: only what a strip needs travels, what did not fit is
        missing from the picture and counted in meta['overflow']. See `plan_exchange`.
      options: render_mode, sh_degree, backend and the other settings of `rasterize`; modes that
        select a Gaussian ('MD', 'FD'), masks and absgrad_probe are not among them.

    Returns:
      image [C, H, W, X'], alpha [C, H, W, 1], and meta: num_pairs (of all strips), overflow and
      num_culled_nonfinite, int32 [C], num_passes the most of any strip.

    Raises:
      ValueError: an axis is not in the mesh or does not divide the cameras, an option is not among
        those above, and what `rasterize` raises.
    """
    arrays = dict(
        means=means, quats=quats, scales=scales, opacities=opacities, colors=colors,
        viewmats=viewmats, Ks=Ks, covars=covars, radial_coeffs=radial_coeffs,
        tangential_coeffs=tangential_coeffs, backgrounds=backgrounds, means2d_probe=means2d_probe,
    )  # fmt: skip
    _check(mesh, tiles, views, viewmats, exchange_rows, options)
    settings, inputs, batch = arguments.prepare(arrays, options | dict(width=width, height=height))
    if batch:
        raise ValueError(f"means: has scene axes {batch}; render one scene at a time")
    lanes = 1 if tiles is None else mesh.shape[tiles]
    inputs = arguments.join_scenes(inputs, batch)
    by_gaussian = _GAUSSIANS
    if inputs.colors is not None and not arguments.has_views(settings, inputs.colors):
        by_gaussian += ("colors",)
    inputs = _padded(inputs, by_gaussian, lanes)
    specs = arguments.Inputs(**{
        name: None if value is None else _spec(name, by_gaussian, tiles, views)
        for name, value in inputs._asdict().items()
    })  # fmt: skip
    by_lanes = settings.backend == "xla_loop" and tiles is not None and exchange_rows is None
    one_device = _one_lane if by_lanes else _one_strip
    strips = P(views, tiles)
    image, alpha, meta = jax.shard_map(
        functools.partial(one_device, settings, lanes, tiles, exchange_rows),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=(strips, strips, dict.fromkeys(_STATS, P(views))),
    )(inputs)
    if by_lanes:
        image, alpha = (
            xla_loop.in_order(x, width, height, lanes, settings.tile_size) for x in (image, alpha)
        )
    return image[:, :height], alpha[:, :height], meta


_STATS = ("num_pairs", "num_passes", "overflow", "num_culled_nonfinite")


def plan_exchange(
    radii: jax.Array, means2d: jax.Array, height: int, tile_size: int, num: int
) -> int:
    """Rows that `exchange_rows` must allow for, outside jit.

    Args:
      radii: int [..., C, N, 2], means2d: [..., C, N, 2]: from the meta of `rasterize`.
      height: pixels of the image.
      tile_size: of the backend; meta['tile_size'].
      num: devices of the `tiles` axis.

    Returns:
      The most Gaussians of one device's share whose box reaches one strip, in any view.
    """
    strip = exchange.strip_height(height, tile_size, num)
    size = radii.shape[-2]
    rows = jnp.zeros((*radii.shape[:-1], exchange.FIXED), means2d.dtype)
    rows = rows.at[..., :2].set(means2d).at[..., 7:9].set(radii.astype(means2d.dtype))
    reached = exchange.reaches(rows, strip, num)
    reached = jnp.pad(reached, [(0, 0)] * (reached.ndim - 1) + [(0, -size % num)])
    shares = reached.reshape(*reached.shape[:-1], num, -1)
    return int(jnp.max(jnp.sum(shares, -1)))


def exchanged_bytes(
    num: int, channels: int, cameras: int, devices: int, exchange_rows: int | None = None
) -> int:
    """Bytes that one device receives from the others in a forward pass; backward moves the same.

    Args:
      num: N, channels: X', cameras: those of one device, devices: of the `tiles` axis.
      exchange_rows: as in `rasterize_sharded`.
    """
    rows = -(-num // devices) if exchange_rows is None else exchange_rows
    return 4 * cameras * (devices - 1) * rows * (exchange.FIXED + channels)


def _check(mesh, tiles, views, viewmats, exchange_rows, options):
    for name, axis in (("tiles", tiles), ("views", views)):
        if axis is not None and axis not in mesh.shape:
            raise ValueError(f"{name} is {axis!r}; the mesh has the axes {tuple(mesh.shape)}")
    if tiles is not None and tiles == views:
        raise ValueError(f"tiles and views are both {tiles!r}; name two axes of the mesh")
    cameras = jnp.shape(viewmats)[0]
    if views is not None and cameras % mesh.shape[views]:
        raise ValueError(
            f"viewmats: {cameras} cameras cannot be split over the {mesh.shape[views]} devices of "
            f"axis {views!r}; render a multiple of it"
        )
    if exchange_rows is not None and arguments.as_integer("exchange_rows", exchange_rows) < 1:
        raise ValueError(f"exchange_rows is {exchange_rows}; expected None or at least 1")
    known = set(arguments.Settings._fields) - {"width", "height"}
    unknown = sorted(set(options) - known)
    if unknown:
        raise ValueError(f"rasterize_sharded does not take {unknown}; options are {sorted(known)}")
    if str(options.get("render_mode")).endswith(("MD", "FD")):
        raise ValueError(
            f"render_mode is {options['render_mode']!r}; sharded rendering has no selected depth, "
            "use 'D' or 'ED'"
        )


def _spec(name, by_gaussian, tiles, views):
    """How an array with a leading scene axis is split."""
    if name in by_gaussian:
        return P(None, tiles)
    if name in _CAMERAS:
        return P(None, views)
    return P(None, views, tiles)


def _padded(inputs, by_gaussian, multiple):
    """Gaussians of opacity 0 up to a multiple of the devices."""
    missing = -inputs.means.shape[1] % multiple

    def pad(name, value):
        if value is None or name in _CAMERAS or not missing:
            return value
        axis = 1 if name in by_gaussian else 2
        return jnp.pad(value, [(0, missing if k == axis else 0) for k in range(value.ndim)])

    return arguments.Inputs(**{k: pad(k, v) for k, v in inputs._asdict().items()})


def _one_strip(settings, lanes, tiles, exchange_rows, inputs):
    """What each device does: project a share, exchange, blend a strip."""
    splats, features, nonfinite = _share(settings, inputs)
    strip = exchange.strip_height(settings.height, settings.tile_size, lanes)
    missed = jnp.zeros_like(nonfinite)
    if tiles is not None:
        rows = exchange.rows_of(splats, features)
        if exchange_rows is None:
            rows = exchange.gather(rows, tiles)
        else:
            rows, missed = exchange.send_needed(rows, tiles, strip, exchange_rows)
        splats, features = exchange.of_rows(rows)
        splats = exchange.onto_strip(splats, lax.axis_index(tiles) * strip, strip)
    color, transmittance, stats = backends.load(settings.backend).blend(
        splats, features, width=settings.width, height=strip, max_alpha=settings.max_alpha,
        tile_size=settings.tile_size, capacity=settings.capacity,
    )  # fmt: skip
    stats = stats | dict(overflow=stats["overflow"] + missed, num_culled_nonfinite=nonfinite)
    return _composed(settings, inputs, color, transmittance, stats, tiles)


def _one_lane(settings, lanes, tiles, exchange_rows, inputs):
    """As `_one_strip`, with the tile rows of a lane for a strip."""
    del exchange_rows  # None
    splats, features, nonfinite = _share(settings, inputs)
    splats, features = exchange.of_rows(exchange.gather(exchange.rows_of(splats, features), tiles))
    color, transmittance, stats = xla_loop.blend_lane(
        splats, features, lane=lax.axis_index(tiles), num_lanes=lanes, width=settings.width,
        height=settings.height, max_alpha=settings.max_alpha, tile_size=settings.tile_size,
        capacity=settings.capacity,
    )  # fmt: skip
    stats = stats | dict(num_culled_nonfinite=nonfinite)
    return _composed(settings, inputs, color, transmittance, stats, tiles)


def _share(settings, inputs):
    """Splats and features [C, ...] of a device's own Gaussians, and how many were not finite [C]."""
    scene = stages.projected(settings, inputs)
    nonfinite = jnp.sum(scene.nonfinite[0], -1, dtype=jnp.int32)
    return *jax.tree.map(lambda x: x[0], (scene.splats, scene.features)), nonfinite


def _composed(settings, inputs, color, transmittance, stats, tiles):
    """Rows of the image and of alpha, and stats over all devices."""
    image, alpha = stages.compose(
        settings, color[None], transmittance[None, ..., None], inputs.backgrounds
    )
    return image[0], alpha[0], _over_strips(stats, tiles)


def _over_strips(stats, tiles):
    """Sums over the strips; of passes the most."""
    if tiles is None:
        return stats
    stats = lax.stop_gradient(stats)
    most = lax.pmax(stats["num_passes"], tiles)
    return {k: lax.psum(v, tiles) for k, v in stats.items()} | dict(num_passes=most)
