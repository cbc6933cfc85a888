"""Gaussians of a surface without a fit: opaque discs in one grey, lit by a light at the camera.

Colour depends on the direction that a Gaussian is seen from, so spherical harmonics say what a fit
would have found: with normal n and direction d the shade is ambient + diffuse |n . d|, and the closest
function of degree 3 to |t| on the sphere is 1/2 P0(t) + 5/8 P2(t) (odd degrees vanish). By the addition
theorem the coefficient of a basis function Y of degree 2 is then diffuse (5/8) (4 pi / 5) Y(n).
"""

import numpy as np

from gsjax.core import sh
from gsjax.data import discs
from gsjax.data.features import SH_C0
from gsjax.raster import mesh as mesh_raster


def head_light(normals: np.ndarray, shading: mesh_raster.Shading) -> np.ndarray:
    """Coefficients f32 [M, 16, 3] of surfaces with these normals [M, 3] in ``shading.albedo``.

    Raises:
        ValueError: the light is not at the camera.
    """
    if shading.direction is not None:
        raise ValueError("shading: expected a head light (direction None)")
    result = np.zeros((len(normals), 16, 3))
    albedo = np.asarray(shading.albedo)
    mean = albedo * (shading.ambient + shading.diffuse / 2)
    result[:, 0] = (mean - 0.5) / SH_C0
    basis = np.asarray(sh.basis(2, np.asarray(normals, np.float32)))[:, 4:9]
    result[:, 4:9] = shading.diffuse * (np.pi / 2) * basis[..., None] * albedo
    return result.astype(np.float32)


def gaussians(
    points: np.ndarray, normals: np.ndarray, area: float, shading: mesh_raster.Shading
) -> dict[str, np.ndarray]:
    """Raw Gaussians with ``sh`` [M, 16, 3], one a point.

    Args:
        points: [M, 3], uniform by area.
        normals: [M, 3], unit length; their sign does not matter.
        area: of the surface.
        shading: of the pictures.
    """
    made = discs.from_surface(points, normals, np.zeros_like(points), area=area, fps_length=0)
    kept = ("means", "quats", "log_scales", "logit_opacities")
    return {name: made[name] for name in kept} | {"sh": head_light(normals, shading)}
