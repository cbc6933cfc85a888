"""``gsjax tsne``: what a cross-modal run's features look like in two dimensions, without a label used.

One panel for Gaussians and one for each number of views whose features are pooled, as the figures of the
cross-modal thesis: scikit-learn's t-SNE with its defaults and seed 42, a colour for each class.
"""

import argparse

HELP = "draw t-SNE figures of a cross-modal run's features"
EXAMPLES = """
gsjax tsne runs/cross_modal --out features.png
gsjax tsne runs/cross_modal --out features.pdf --split test --views 1 8
"""
SEED = 42
_SIZE = 2.6  # inches a panel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # 'run' is the subcommand's function
    parser.add_argument("trained", metavar="RUN", help="run folder of configs/cross_modal.py")
    parser.add_argument("--out", required=True, help="picture file; its ending names the format")
    parser.add_argument("--split", default="train", help="'train' or 'test' objects")
    parser.add_argument("--views", type=int, nargs="+", default=[1, 4, 16, 64], metavar="V")
    parser.add_argument("--batch_size", type=int, default=16)


def run(args: argparse.Namespace) -> int:
    import jax
    import numpy as np

    from gsjax.evals import features, shape_recognition
    from gsjax.systems import base
    from gsjax.train import trained

    found = trained.load(args.trained)
    if found.system != "cross_modal":
        raise ValueError(f"RUN: a run of {found.system!r}; expected one of 'cross_modal'")
    system, variables = base.build(found.config), found.variables()
    if "views" not in system.predict_fns:
        raise ValueError(f"RUN: its task is {found.config.task!r}; expected 'self_supervised'")

    def collect(name, split):
        predict = jax.jit(system.predict_fns[name])
        return features.collect(
            system, predict, variables, jax.device_put, split, batch_size=args.batch_size
        )

    seen = collect("views", f"{args.split}/views")
    count = seen["image"].shape[1]
    if max(args.views) > count or min(args.views) < 1:
        raise ValueError(f"--views: expected 1 to {count}, found {args.views}")
    panels = {"Gaussians": collect("embed", args.split)["gaussian"]}
    for views in args.views:
        rng = np.random.default_rng([SEED, views])
        name = "1 view" if views == 1 else f"{views} views"
        panels[name] = shape_recognition.pool(seen["image"], views, rng)
    places = {name: embedded(x) for name, x in panels.items()}
    draw(places, seen["category"], system.info["class_names"], args.out)
    print(f"{args.out}: {len(seen['index'])} objects of {args.split}, {len(panels)} panels")
    return 0


def embedded(x):
    """t-SNE places f32 [n, 2] of features [n, D].

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: too few objects.
    """
    try:
        from sklearn import manifold
    except ImportError as error:
        raise ImportError("gsjax tsne needs scikit-learn: pip install 'gsjax[eval]'") from error
    if len(x) < 4:
        raise ValueError(f"features: expected at least 4 objects, found {len(x)}")
    perplexity = min(30.0, (len(x) - 1) / 3)
    return manifold.TSNE(n_components=2, random_state=SEED, perplexity=perplexity).fit_transform(x)


def draw(places: dict, labels, names, path: str) -> None:
    """Writes the picture: a panel for each entry, a colour for each class.

    Args:
        places: title -> [n, 2].
        labels: int [n].
        names: of the classes, in label order.
        path: picture file.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError("gsjax tsne needs matplotlib: pip install 'gsjax[plots]'") from error
    import numpy as np

    colours = plt.get_cmap("tab10" if len(names) <= 10 else "tab20")
    figure, axes = plt.subplots(
        1, len(places), figsize=(_SIZE * len(places), _SIZE + 0.5), squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for axis, (title, xy) in zip(axes[0], places.items(), strict=True):
        for label in np.unique(labels):
            some = xy[labels == label]
            axis.plot(*some.T, ".", color=colours(label % colours.N), markersize=3)
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    handles = [
        plt.Line2D([], [], linestyle="", marker=".", color=colours(k % colours.N), label=names[k])
        for k in np.unique(labels)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=10, fontsize=6, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
