"""``gsjax export-backbone``: the backbone of a run as one safetensors file, without head and fusion."""

import argparse

HELP = "write the backbone of a pre-training run as safetensors"
EXAMPLES = """
gsjax export-backbone runs/unipre3d --out backbone.safetensors
gsjax train --config finetune_objects --workdir runs/tuned --config.init_backbone=backbone.safetensors
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # 'run' is the subcommand's function
    parser.add_argument("trained", metavar="RUN", help="run folder, checkpoint, or exported run")
    parser.add_argument("--out", required=True, help="file to write, .safetensors")


def run(args: argparse.Namespace) -> int:
    from gsjax.train import transfer

    if not args.out.endswith(".safetensors"):
        raise ValueError(f"--out: {args.out!r}: expected a name that ends in .safetensors")
    about = transfer.export(args.trained, args.out)
    model = about["model"]
    features = ", ".join(("positions", *model["features"]))
    print(f"{args.out}: {model['backbone']} ({model['backbone_size']}), step {about['step']}")
    print(f"  reads {features}; start from it with --config.init_backbone={args.out}")
    return 0
