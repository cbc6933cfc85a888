"""Settings of a fit as plain values: what ``configs/scene_fit.py`` and ``gsjax fit`` begin with."""

import dataclasses

from gsjax.systems.scene_fit.recipe import Recipe

# The preset of 3DGS-MCMC's code and of gsplat.
_MCMC = dict(
    init_opacity=0.5, init_scale=0.1, opacity_reg=0.01, scale_reg=0.01, refine_stop=25_000
)  # fmt: skip
_FULL_STEPS = 30_000
SIZES = ("quick", "laptop", "paper")


def data() -> dict:
    """What is fitted, see `data.load`."""
    return dict(
        source="",  # folder of photographs or a mesh file; '' = the embedded scene
        downscale=1,  # photographs at 1/k of their size
        axes="",  # of JSON files: '' = as the format has them, 'opengl' | 'opencv'
        test_every=8,  # every 8th photograph is held out; 0 = none
        recipe="",  # meshes: '' | 'modelnet10' | 'objaverse'
        views=36,  # meshes: on three rings
        view_size=128,  # meshes: pixels a side
        test_views=6,  # meshes: held out, between the others
        points=5_000,  # meshes: samples of the surface that Gaussians begin at
        seed=0,
    )


def fit(strategy: str = "mcmc", size: str = "laptop") -> dict:
    """Fields of `Recipe` but the seed.

    Args:
      strategy: 'mcmc' or 'default'.
      size: 'paper' is gsplat's setting (30,000 steps; 1 million Gaussians of MCMC, of which 3 million
        gain another 0.5 dB), 'laptop' a tenth of its steps, 'quick' a hundredth.

    Raises:
      ValueError: unknown size.
    """
    if size not in SIZES:
        raise ValueError(f"size: found {size!r}, expected one of {', '.join(SIZES)}")
    values = {f.name: f.default for f in dataclasses.fields(Recipe) if f.name != "seed"}
    values["strategy"] = strategy
    values["background"] = "auto"  # 'random' where pictures have alpha, else 'black'
    values |= _MCMC if strategy == "mcmc" else dict(refine_stop=15_000, start_fraction=0.5)
    values["num_gaussians"] = {"quick": 2_000, "laptop": 20_000, "paper": 1_000_000}[size]
    if size == "quick":
        values["sh_degree"] = 1
    return with_steps(values, {"quick": 300, "laptop": 3_000, "paper": _FULL_STEPS}[size])


def with_steps(values: dict, num_steps: int) -> dict:
    """The same with another number of steps, all schedules in proportion.

    Opacities need refinements to recover from a reset: there are at most three resets, and none closer
    than a refinement.
    """
    share, every = num_steps / values["num_steps"], values["refine_every"]
    schedule = {
        name: max(1, round(values[name] * share))
        for name in ("sh_every", "refine_start", "refine_stop", "reset_every")
    }
    if num_steps < _FULL_STEPS:
        schedule["reset_every"] = max(num_steps // 4 // every * every, every)
    return values | schedule | {"num_steps": num_steps}


def evaluation() -> dict:
    """Weight files of LPIPS, which none ships: see `gsjax.metrics.lpips`."""
    return dict(lpips_backbone="", lpips_heads="")


def train() -> dict:
    """Rhythm of a run."""
    return dict(
        log_every=500,
        eval_every=0,  # 0 = only at the end
        save_every=1_000,
        keep=2,
        time_limit=0.0,  # seconds after which a checkpoint is written, exit code 42; 0 = none
        compilation_cache="",
    )
