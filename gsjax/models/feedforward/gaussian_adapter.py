"""From raw channels of every pixel, and its depth, to Gaussians in the world.

Heads speak of the camera's frame, with quaternions (x, y, z, w); what leaves here is the library's:
world axes, (w, x, y, z), scales in world units, colours as spherical harmonics of the rasterizer's basis.
Nothing here has parameters. All of it is float32 at least.

| variant | scales | offset of the pixel | colour | degree |
| --- | --- | --- | --- | --- |
| ``mvsplat`` (arXiv 2403.14627; also pixelSplat, arXiv 2312.12337) | pixels, times depth | sigmoid | SH | 4 |
| ``depthsplat`` (arXiv 2410.13862, March 2025) | world units, softplus | sigmoid | SH + picture | 2 |
| ``depthsplat_oct2024`` (what PM-Loss, arXiv 2506.05327, builds on) | world units, exp | sigmoid, or none | SH + picture | 4 |

World units make DepthSplat's sizes depend on the scale of a scene's poses; MVSplat's do not.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gsjax.core import gaussians, rays, rotations, sh

VARIANTS = ("mvsplat", "depthsplat", "depthsplat_oct2024")
OFFSETS = ("sigmoid", "tanh", "unconstrained")
SH_ROTATIONS = ("rasterizer", "e3nn_compat")
# Of pixels, in the sum over both axes that MVSplat and pixelSplat call the scale multiplier.
_FOOTPRINT = 0.1
# Takes world axes to those whose z is e3nn's polar axis y.
_E3NN_AXES = np.asarray([[0, 0, 1], [1, 0, 0], [0, 1, 0]])


@dataclasses.dataclass(frozen=True)
class Config:
    """How raw channels are read.

    Attributes:
        variant: see the table above.
        sh_degree: 0 to 4.
        offset: how far from its pixel's centre a Gaussian's ray may be: 'sigmoid': within the pixel;
            'tanh': ``offset_factor`` / 2 pixels at most; 'unconstrained': ``offset_factor`` times the raw
            value in pixels, PM-Loss's choice.
        offset_factor: of the last two.
        scale_min: of 'mvsplat' in units of a tenth of the footprint, of 'depthsplat' in world units.
        scale_max: likewise; of 'depthsplat_oct2024' in world units.
        sh_rotation: 'rasterizer': colours turn with the camera, exactly. 'e3nn_compat': the rotation that
            the published code applies to the same numbers: that of e3nn's basis, whose polar axis is y
            and which has no Condon-Shortley phase. Bands from 1 on are then not what the rasterizer
            means by them; published weights were trained so.
    """

    variant: str = "depthsplat"
    sh_degree: int = 2
    offset: str = "sigmoid"
    offset_factor: float = 0.5
    scale_min: float = 1e-10
    scale_max: float = 3.0
    sh_rotation: str = "rasterizer"

    def __post_init__(self):
        sh.num_coeffs(self.sh_degree)
        for name, known in (
            ("variant", VARIANTS), ("offset", OFFSETS), ("sh_rotation", SH_ROTATIONS),
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name}: unknown {getattr(self, name)!r}; known: {', '.join(known)}"
                )
        if not 0 <= self.scale_min < self.scale_max:
            raise ValueError(
                f"scale_min, scale_max: expected 0 <= min < max, found {self.scale_min} and "
                f"{self.scale_max}"
            )

    @property
    def channels(self) -> int:
        """Raw channels a pixel: offset 2, scales 3, quaternion 4, colours 3 (degree + 1)^2."""
        return 9 + 3 * sh.num_coeffs(self.sh_degree)


PRESETS = {
    "mvsplat": Config("mvsplat", 4, scale_min=0.5, scale_max=15.0),
    "depthsplat": Config(),
    "depthsplat_oct2024": Config("depthsplat_oct2024", 4, scale_max=0.3),
    "pm_loss": Config("depthsplat_oct2024", 4, "unconstrained", scale_max=0.3),
}


def sh_mask(degree: int) -> np.ndarray:
    """What raw coefficients are multiplied by, [K]: 1 for the mean colour, 0.1 / 4^l for level l."""
    return np.concatenate(
        [[1.0 if not n else 0.1 * 0.25**n] * (2 * n + 1) for n in range(degree + 1)]
    )


def map_density(density: jax.Array, exponent: float = 0.0) -> jax.Array:
    """pixelSplat's map from probability to opacity, (1 - (1 - p)^e + p^(1/e)) / 2 with e = 2^exponent.

    The identity at 0, where the released configurations of MVSplat and pixelSplat keep it.
    """
    if exponent == 0.0:
        return density
    power = 2.0**exponent
    return 0.5 * (1 - (1 - density) ** power + density ** (1 / power))


def footprint(Ks: jax.Array, height: int, width: int) -> jax.Array:
    """A tenth of a pixel's width plus height at depth 1, [...], of normalised intrinsics [..., 3, 3].

    The sum of K^-1 (1 / W, 1 / H) over the upper 2x2 part, times 0.1, as published: a skew counts.
    """
    y = 1 / height / Ks[..., 1, 1]
    return _FOOTPRINT * ((1 / width - Ks[..., 0, 1] * y) / Ks[..., 0, 0] + y)


def scales(config: Config, raw: jax.Array, depths: jax.Array, Ks: jax.Array) -> jax.Array:
    """Standard deviations in world units.

    Args:
        config: variant and bounds.
        raw: [B, V, H, W, 3].
        depths: [B, V, H, W]; only 'mvsplat' reads them.
        Ks: [B, V, 3, 3] normalised; likewise.

    Returns:
        [B, V, H, W, 3].
    """
    if config.variant == "depthsplat":
        return jnp.clip(jax.nn.softplus(raw - 4), config.scale_min, config.scale_max)
    if config.variant == "depthsplat_oct2024":
        return jnp.minimum(jnp.exp(raw - 4), config.scale_max)
    pixels = config.scale_min + (config.scale_max - config.scale_min) * jax.nn.sigmoid(raw)
    pixel = footprint(Ks, *depths.shape[-2:])[..., None, None]
    return pixels * (depths * pixel)[..., None]


def offsets(config: Config, raw: jax.Array) -> jax.Array:
    """Pixels [..., 2] by which rays leave their pixels' centres."""
    if config.offset == "sigmoid":
        return jax.nn.sigmoid(raw) - 0.5
    if config.offset == "tanh":
        return jnp.tanh(raw) * (config.offset_factor / 2)
    return raw * config.offset_factor


def rotate_sh(values: jax.Array, rotmats: jax.Array, mode: str) -> jax.Array:
    """Colours seen from the camera's axes, in the world's.

    Args:
        values: [..., K, D].
        rotmats: [..., 3, 3] camera to world; leading axes broadcast.
        mode: 'rasterizer' or 'e3nn_compat', see ``Config``.

    Returns:
        [..., K, D].
    """
    if mode == "rasterizer":
        return sh.rotate_sh(values, rotmats)
    # e3nn's Y_lm(x, y, z) is the rasterizer's at (z, x, y) but for the sign (-1)^m. So its matrix for R is
    # the rasterizer's for the rotation seen in those axes, between two changes of sign.
    degree = sh.degree_of(values.shape[-2])
    order = np.concatenate([np.arange(-n, n + 1) for n in range(degree + 1)])
    signs = jnp.asarray((-1.0) ** order, values.dtype)[:, None]
    axes = jnp.asarray(_E3NN_AXES, rotmats.dtype)
    turned = jnp.einsum("ij,...jk,lk->...il", axes, rotmats, axes, precision="highest")
    return signs * sh.rotate_sh(signs * values, turned)


def means(
    config: Config, raw: jax.Array, depths: jax.Array, Ks: jax.Array, c2ws: jax.Array
) -> jax.Array:
    """World positions alone: what another depth of the same pixels changes, with DepthSplat's variants.

    Args:
        config: how offsets are read.
        raw: [B, V, H, W, C], C >= 2; the first two channels are read.
        depths: [B, V, H, W].
        Ks: [B, V, 3, 3] normalised.
        c2ws: [B, V, 4, 4].

    Returns:
        [B, V H W, 3].
    """
    batch, views, height, width = depths.shape
    exact = jnp.promote_types(raw.dtype, jnp.float32)
    step = jnp.asarray((1 / width, 1 / height), exact)
    xy = (
        rays.pixel_centers(height, width, exact)
        + offsets(config, raw[..., :2].astype(exact)) * step
    )
    xy = xy.reshape(batch, views, -1, 2)
    points = rays.unproject(xy, depths.astype(exact).reshape(batch, views, -1), Ks, c2ws)
    return points.reshape(batch, -1, 3)


def adapt(
    config: Config,
    raw: jax.Array,
    depths: jax.Array,
    opacities: jax.Array,
    images: jax.Array,
    Ks: jax.Array,
    c2ws: jax.Array,
) -> gaussians.Gaussians:
    """One Gaussian a pixel.

    Args:
        config: how channels are read.
        raw: [B, V, H, W, config.channels]: offset 2, scales 3, quaternion 4 (x, y, z, w), then for each
            of red, green, blue its (degree + 1)^2 coefficients.
        depths: [B, V, H, W] along the optical axis.
        opacities: [B, V, H, W] in [0, 1].
        images: [B, V, H, W, 3] in [0, 1]; DepthSplat's colours start from them, MVSplat's do not.
        Ks: [B, V, 3, 3] normalised.
        c2ws: [B, V, 4, 4] rigid.

    Returns:
        Gaussians with leading axis B and V H W of them, views first, then rows.

    Raises:
        ValueError: shapes do not fit.
    """
    batch, views, height, width = depths.shape
    expected = {
        "raw": (raw, (batch, views, height, width, config.channels)),
        "opacities": (opacities, (batch, views, height, width)),
        "images": (images, (batch, views, height, width, 3)),
        "Ks": (Ks, (batch, views, 3, 3)),
        "c2ws": (c2ws, (batch, views, 4, 4)),
    }
    for name, (array, shape) in expected.items():
        if array.shape != shape:
            raise ValueError(
                f"{name}: expected {list(shape)} for depths {list(depths.shape)} and SH degree "
                f"{config.sh_degree}, found {list(array.shape)}"
            )
    exact = jnp.promote_types(raw.dtype, jnp.float32)
    raw, depths, images, Ks, c2ws = (x.astype(exact) for x in (raw, depths, images, Ks, c2ws))
    pixels = views * height * width
    turns = c2ws[..., :3, :3]
    # The model's quaternions come x, y, z, w; the zero one means no rotation.
    local = rotations.quat_normalize(jnp.roll(raw[..., 5:9], 1, axis=-1))
    turn = rotations.rotmat_to_quat(turns)[:, :, None, None]
    colours = raw[..., 9:].reshape(batch, views, height * width, 3, -1)
    colours = colours * jnp.asarray(sh_mask(config.sh_degree), exact)
    if config.variant != "mvsplat":
        colours = colours.at[..., 0].add(sh.rgb_to_sh0(images).reshape(colours.shape[:-1]))
    # A view's pixels and channels behind its coefficients: one matrix turns them all.
    colours = jnp.moveaxis(colours, -1, 2)
    count = colours.shape[2]
    turned = rotate_sh(colours.reshape(batch, views, count, -1), turns, config.sh_rotation)
    turned = jnp.moveaxis(turned.reshape(colours.shape), 2, -2)
    sizes = scales(config, raw[..., 2:5], depths, Ks)
    return gaussians.Gaussians(
        means=means(config, raw, depths, Ks, c2ws),
        quats=rotations.quat_multiply(turn, local).reshape(batch, pixels, 4),
        scales=sizes.reshape(batch, pixels, 3),
        opacities=opacities.astype(exact).reshape(batch, pixels),
        sh=turned.reshape(batch, pixels, count, 3),
    )
