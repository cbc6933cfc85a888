"""All constants of a fit in one hashable value, which compiled programs depend on."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a scene is fitted. Defaults: gsplat's, where the field agrees on any.

    Attributes:
      strategy: 'mcmc' (3DGS-MCMC, arXiv 2404.09591) or 'default' (3DGS, arXiv 2308.04079).
      num_steps: optimiser steps.
      num_gaussians: exact count at the end of MCMC, starting capacity of the default strategy.
      start_fraction: share of them in use at the start of MCMC; 1 = all, none is ever added.
      grow: default strategy: enlarge full buffers by half (compiles again).
      max_gaussians: the default strategy's bound; 0 = none.
      sh_degree: of the colours.
      sh_every: steps after which one more SH degree takes part.
      views_per_step: C; learning rates grow with sqrt(C).
      refine_start, refine_stop, refine_every: when density control acts.
      reset_every: steps between opacity resets of the default strategy.
      grow_grad: mean gradient (pixels of the half image) above which Gaussians multiply.
      absgrad: sum absolute gradients over pixels instead (AbsGS; choose grow_grad of 6e-4 or so).
      min_opacity: Gaussians below are dead.
      noise_lr: weight of the noise of MCMC.
      lr_means: times the scene's scale; decays to lr_means_final of it, exponentially.
      lr_scales, lr_quats, lr_opacities, lr_sh0, lr_shN: constant.
      lr_pose, lr_exposure: 0 = no refinement of poses, no affine colours per image.
      ssim: weight of D-SSIM; 1 - ssim that of L1 (3DGS, Eq. 7).
      opacity_reg, scale_reg: weights of mean opacity and mean scale (MCMC preset 0.01 each).
      depth_reg: weight of the depth loss where depth maps are given.
      background: 'random' (a new colour a step, for objects cut out of their background), 'white' or
        'black'.
      antialiased: Mip-Splatting (arXiv 2311.16493): 2D filter and 3D smoothing filter.
      half_until: share of the steps at half resolution.
      init_opacity, init_scale: of the first Gaussians; scale in units of the distance to neighbours.
      seed: of everything random.
    """

    strategy: str = "mcmc"
    num_steps: int = 30_000
    num_gaussians: int = 100_000
    start_fraction: float = 1.0
    grow: bool = True
    max_gaussians: int = 0
    sh_degree: int = 3
    sh_every: int = 1000
    views_per_step: int = 1
    refine_start: int = 500
    refine_stop: int = 25_000
    refine_every: int = 100
    reset_every: int = 3000
    grow_grad: float = 2e-4
    absgrad: bool = False
    min_opacity: float = 0.005
    noise_lr: float = 5e5
    lr_means: float = 1.6e-4
    lr_means_final: float = 0.01
    lr_scales: float = 5e-3
    lr_quats: float = 1e-3
    lr_opacities: float = 5e-2
    lr_sh0: float = 2.5e-3
    lr_shN: float = 2.5e-3 / 20
    lr_pose: float = 0.0
    lr_exposure: float = 0.0
    ssim: float = 0.2
    opacity_reg: float = 0.0
    scale_reg: float = 0.0
    depth_reg: float = 0.0
    background: str = "black"
    antialiased: bool = False
    half_until: float = 0.0
    init_opacity: float = 0.1
    init_scale: float = 1.0
    seed: int = 0

    def __post_init__(self):
        _choice("strategy", self.strategy, ("mcmc", "default"))
        _choice("background", self.background, ("random", "white", "black"))
        for name in ("num_steps", "num_gaussians", "views_per_step", "refine_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit.{name}: found {getattr(self, name)}, expected at least 1")
        if not 0 < self.start_fraction <= 1:
            raise ValueError(
                f"fit.start_fraction: found {self.start_fraction}, expected within (0, 1]"
            )
        if not 0 < self.init_opacity < 1:  # its logit must be finite
            raise ValueError(f"fit.init_opacity: found {self.init_opacity}, expected within (0, 1)")
        if not 0 <= self.half_until < 1:
            raise ValueError(f"fit.half_until: found {self.half_until}, expected within [0, 1)")
        if not 0 <= self.sh_degree <= 4:
            raise ValueError(f"fit.sh_degree: found {self.sh_degree}, expected 0 to 4")

    @property
    def half_steps(self) -> int:
        """Steps at half resolution, a multiple of refine_every."""
        return int(self.half_until * self.num_steps) // self.refine_every * self.refine_every


def _choice(name, found, known):
    if found not in known:
        raise ValueError(f"fit.{name}: found {found!r}, expected one of {', '.join(known)}")
