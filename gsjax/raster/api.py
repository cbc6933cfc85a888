"""`rasterize`: 3D Gaussians to images, differentiable in every input. The public function.

Stages: `arguments` (checks) -> `stages` (project, colour) -> blend (a backend, all images at once) ->
compose (background, depth, meta). Gaussians at chosen pixels only: `sparse`.
"""

import functools

import jax
import jax.numpy as jnp

from gsjax.raster import arguments, masks, select, stages
from gsjax.raster.blend import backends
from gsjax.raster.blend.backends import BACKENDS
from gsjax.raster.capacity import plan_capacity

Meta = stages.Meta

__all__ = ["BACKENDS", "Meta", "plan_capacity", "rasterize"]


def rasterize(
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
    covars: jax.Array | None = None,
    sh_degree: int | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    camera_model: str = "pinhole",
    radial_coeffs: jax.Array | None = None,
    tangential_coeffs: jax.Array | None = None,
    backgrounds: jax.Array | None = None,
    masks: jax.Array | None = None,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    max_alpha: float = 0.99,
    tile_size: int | None = None,
    capacity: int | None = None,
    backend: str | None = None,
    means2d_probe: jax.Array | None = None,
    absgrad_probe: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, Meta]:
    """Renders C views of each scene. Names, shapes and defaults are those of gsplat.

    Works under jit, grad, vmap and shard_map; gradients reach every array, camera poses and
    intrinsics included. Leading axes ``...`` are scenes, the same in every array. Numbers and names are
    static: jit must not trace them.

    Args:
      means: [..., N, 3] centres in world units.
      quats: [..., N, 4] rotations (w, x, y, z), normalised inside; None with covars.
      scales: [..., N, 3] standard deviations in world units; None with covars.
      opacities: [..., N] in [0, 1].
      colors: [..., N, X] or per view [..., C, N, X] values of any kind; or, with sh_degree, SH
        coefficients [..., N, K, 3] or per view [..., C, N, K, 3], coloured as max(SH + 0.5, 0). May
        be None for the modes of depth alone.
      viewmats: [..., C, 4, 4] world to camera, OpenCV axes.
      Ks: [..., C, 3, 3] intrinsics in pixels; pixel (i, j) has its centre at (i + 0.5, j + 0.5).
      width, height: pixels.
      sh_degree: 0 to 4, at most the stored one.
      covars: [..., N, 3, 3] covariances in place of quats and scales; the symmetric part counts,
        and Gaussians whose image is not positive definite after eps2d are culled.
      render_mode: 'RGB' (colors), 'D' (depth, sum of weight times z), 'ED' (expected depth, D /
        alpha), 'MD' (median depth: z of the Gaussian that takes the transmittance from above 0.5 to
        0.5 or less, 0 where none does), 'FD' (first depth: z of the nearest Gaussian with an alpha
        of at least 1/255, 0 where there is none), or 'RGB+D', 'RGB+ED', 'RGB+MD', 'RGB+FD' (depth
        last). MD and FD walk the lists once more, alike for all backends; their gradient goes to the
        depth of the Gaussian that was selected, none to the selection.
      rasterize_mode: 'classic', or 'antialiased' (Mip-Splatting's 2D filter).
      camera_model: 'pinhole', 'ortho' or 'fisheye' (equidistant), see `camera_models`.
      radial_coeffs: [..., C, R] OpenCV's k1, k2, ... (up to 6 for a pinhole, 4 for a fisheye).
        Gaussians whose centre lies where the distortion folds over are culled.
      tangential_coeffs: [..., C, 2] OpenCV's p1, p2; pinhole only.
      backgrounds: [..., C, X] seen where alpha is below 1; that of depth is 0, so the modes of
        depth alone do not look at them.
      masks: [..., C, tile rows, tile columns] bool, True where a tile is rendered; elsewhere the
        background shows and alpha is 0. A tile_size of None is 16 then, as in gsplat.
      near_plane, far_plane: Gaussians outside are culled by the depth of their centre.
      radius_clip: Gaussians that reach at most this many pixels in both directions are culled.
      eps2d: low-pass added to the 2D variances, pixels squared.
      max_alpha: upper bound of a Gaussian's alpha. 0.99 as 3DGS and gsplat's main branch; gsplat
        1.5.3 has 0.999.
      tile_size: pixels along a tile; None = the backend's choice.
      capacity: entries of the tile lists held at once; None = the backend's choice. Scenes that need
        more are rendered in several passes: it decides memory and speed, never the image. See
        `plan_capacity`.
      backend: one of BACKENDS; None = the best that serves the platform: xla_loop on CPU, elsewhere
        a kernel where the JAX version and the chip have one (mosaic_gpu, mosaic_tpu), else xla_group.
      means2d_probe: [..., C, N, 2] zeros, added to means2d: the gradient by it is the gradient by
        means2d, which density control looks at.
      absgrad_probe: [..., C, N, 2] zeros, of no effect: the gradient by it is that of means2d with
        absolute values taken at each pixel before the sum (AbsGS; gsplat's ``means2d.absgrad``).
        Backends reference, xla_loop, xla_group and mosaic_gpu.

    Returns:
      image [..., C, H, W, X'], alpha [..., C, H, W, 1], and meta: radii [..., C, N, 2] int32 (0 =
      culled), means2d [..., C, N, 2], depths [..., C, N], num_pairs, num_passes, overflow (0 for
      backends with passes) and num_culled_nonfinite, int32 [..., C]; backend and tile_size as used.

    Raises:
      ValueError: an argument has the wrong shape or type or an unknown name.
      NotImplementedError: the backend is not part of this version.

    References:
      3D Gaussian Splatting, arXiv 2308.04079; Mip-Splatting, arXiv 2311.16493; gsplat, arXiv
      2409.06765; AbsGS, arXiv 2404.10484.
    """
    arrays = dict(
        means=means, quats=quats, scales=scales, opacities=opacities, colors=colors,
        viewmats=viewmats, Ks=Ks, covars=covars, radial_coeffs=radial_coeffs,
        tangential_coeffs=tangential_coeffs, backgrounds=backgrounds, masks=masks,
        means2d_probe=means2d_probe, absgrad_probe=absgrad_probe,
    )  # fmt: skip
    options = dict(
        width=width, height=height, sh_degree=sh_degree, render_mode=render_mode,
        rasterize_mode=rasterize_mode, camera_model=camera_model, near_plane=near_plane,
        far_plane=far_plane, radius_clip=radius_clip, eps2d=eps2d, max_alpha=max_alpha,
        tile_size=tile_size, capacity=capacity, backend=backend,
    )  # fmt: skip
    settings, inputs, batch = arguments.prepare(arrays, options)
    out = _render(settings, arguments.join_scenes(inputs, batch))
    return arguments.split_scenes(out, batch)


@functools.partial(jax.jit, static_argnums=0)
def _render(settings: arguments.Settings, inputs: arguments.Inputs):
    """All stages behind the checks; one leading scene axis."""
    scene = stages.projected(settings, inputs)
    views = scene.splats.depths.shape[:2]
    splats, features = jax.tree.map(stages.join_views, (scene.splats, scene.features))
    splats, is_open = _masked(settings, splats, inputs.masks)
    extras = {}
    if inputs.absgrad_probe is not None:
        extras["absgrad_probe"] = stages.join_views(inputs.absgrad_probe)
    color, transmittance, stats = backends.load(settings.backend).blend(
        splats,
        features,
        width=settings.width,
        height=settings.height,
        max_alpha=settings.max_alpha,
        tile_size=settings.tile_size,
        capacity=settings.capacity,
        **extras,
    )
    transmittance, selected = transmittance[..., None], _selected_depth(settings, splats)
    if is_open is not None:
        color = jnp.where(is_open, color, 0.0)
        transmittance = jnp.where(is_open, transmittance, 1.0)
        selected = None if selected is None else jnp.where(is_open, selected, 0.0)
    blended = stages.split_views((color, transmittance, selected, stats), views)
    color, transmittance, selected, stats = blended
    image, alpha = stages.compose(settings, color, transmittance, inputs.backgrounds, selected)
    return image, alpha, stages.meta(settings, scene, stats)


def _masked(settings, splats, open_tiles):
    """Splats without those that masks hide, and [I, H, W, 1] bool of what is open; or None."""
    if open_tiles is None:
        return splats, None
    size = settings.width, settings.height, settings.tile_size
    open_tiles = stages.join_views(open_tiles)
    hidden = jax.vmap(lambda *a: masks.hide(*a, *size))(splats, open_tiles)
    return hidden, masks.to_pixels(open_tiles, *size)[..., None]


def _selected_depth(settings, splats):
    """[I, H, W, 1] depth of the selected Gaussian, 0 where there is none; None in other modes."""
    if not settings.render_mode.endswith(("MD", "FD")):
        return None
    function = select.median if settings.render_mode.endswith("MD") else select.first
    chosen = function(
        splats, width=settings.width, height=settings.height, max_alpha=settings.max_alpha
    )
    if splats.depths.shape[-1] == 0:
        return jnp.zeros((*chosen.shape, 1), splats.depths.dtype)
    depths = jax.vmap(lambda depth, index: depth[index])(splats.depths, jnp.maximum(chosen, 0))
    return jnp.where(chosen >= 0, depths, 0.0)[..., None]
