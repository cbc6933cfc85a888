"""``gsjax fit``: photographs with known cameras, or a mesh, to a splat file."""

import argparse
import sys

HELP = "fit Gaussians to photographs (COLMAP, nerfstudio, Blender) or to a mesh"
EXAMPLES = """
gsjax fit photographs/ --out runs/scene                    # laptop size
gsjax fit photographs/ --out runs/scene --size paper       # a GPU, 30,000 steps
gsjax fit photographs/ --out runs/try --size quick --downscale 8
gsjax fit mesh.glb --out runs/mesh
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        help="folder of photographs with their cameras, or a mesh: .obj, .off, .glb, .stl or .npz",
    )
    parser.add_argument("--out", required=True, help="run folder; scene.ply is written there")
    parser.add_argument("--strategy", choices=("mcmc", "default"), default="mcmc")
    parser.add_argument("--size", choices=("quick", "laptop", "paper"), default="laptop")
    parser.add_argument("--num_steps", type=int, default=0, help="instead of the size's")
    parser.add_argument("--num_gaussians", type=int, default=0, help="instead of the size's")
    parser.add_argument("--downscale", type=int, default=1, help="photographs at 1/k of their size")
    parser.add_argument("--axes", choices=("opengl", "opencv"), default=None, help="of JSON files")
    parser.add_argument("--test_every", type=int, default=8, help="every k-th photograph held out")
    parser.add_argument("--antialiased", action="store_true", help="Mip-Splatting's filters")
    parser.add_argument("--refine_poses", action="store_true", help="cameras move a little")
    parser.add_argument("--exposure", action="store_true", help="affine colours per photograph")
    parser.add_argument("--time_limit", type=float, default=0, help="seconds; then exit code 42")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lpips_backbone", default="", help="torchvision's AlexNet or VGG-16 file")
    parser.add_argument("--lpips_heads", default="", help="LPIPS's weights/v0.1 file for it")


def config_of(args: argparse.Namespace):
    """The config that the arguments ask for, as ``configs/scene_fit.py`` makes it.

    Raises:
        ValueError: a negative number.
    """
    import ml_collections

    from gsjax.systems.scene_fit import presets

    for name in ("num_steps", "num_gaussians", "time_limit"):
        if getattr(args, name) < 0:
            raise ValueError(f"--{name}: found {getattr(args, name):g}, expected at least 0")
    fit = presets.fit(args.strategy, args.size)
    if args.num_steps:
        fit = presets.with_steps(fit, args.num_steps)
    fit["num_gaussians"] = args.num_gaussians or fit["num_gaussians"]
    fit["antialiased"] = args.antialiased
    fit["lr_pose"] = 1e-5 if args.refine_poses else 0.0  # gsplat
    fit["lr_exposure"] = 1e-3 if args.exposure else 0.0
    data = presets.data() | dict(
        source=args.source, downscale=args.downscale, axes=args.axes or "",
        test_every=args.test_every,
    )  # fmt: skip
    train = presets.train() | dict(time_limit=args.time_limit)
    evaluation = dict(lpips_backbone=args.lpips_backbone, lpips_heads=args.lpips_heads)
    blocks = dict(data=data, fit=fit, train=train, eval=evaluation)
    return ml_collections.ConfigDict(
        dict(system="scene_fit", mode="train", seed=args.seed, **blocks)
    )


def run(args: argparse.Namespace) -> int:
    from absl import logging

    from gsjax.train import loop, preemption

    logging.set_verbosity(logging.INFO)
    try:
        results = loop.run(config_of(args), args.out)
    except preemption.Preempted as stop:
        print(stop)
        return preemption.EXIT_CODE
    except FloatingPointError as error:  # no fault of the arguments: neither 2 nor a traceback
        print(f"gsjax fit: {error}", file=sys.stderr)
        return 1
    held_out = {k: v for k, v in results.items() if not k.endswith("_image")}
    print(f"{args.out}/scene.ply:", ", ".join(f"{k} {v:.4g}" for k, v in held_out.items()))
    return 0
