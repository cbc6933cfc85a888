"""Encoder sizes as plain values (no JAX), for config files.

The transformers are the EVA-02 / EVA models of timm that Uni3D (arXiv 2310.06773) scales over;
``debug`` and ``laptop`` are this project's own. ``base`` is the paper's main model. ``embed_dim`` 0
means the width of the cached embeddings.
"""

# not in the paper; Uni3D's patch encoder: Dense 6-128-256, 512-512, then encoder2trans
_PATCHES = dict(enc_hidden=(128, 256, 512), enc_dim=512, gs_widths=(64, 128, 256))
_UNI3D = dict(num_group=512, group_size=64, embed_dim=1024, **_PATCHES)

SIZES = {
    "debug": dict(
        width=64, depth=2, heads=2, hidden=128, mlp="packed_swiglu",
        num_group=16, group_size=8, embed_dim=0,
        enc_hidden=(16, 32, 64), enc_dim=64, gs_widths=(16, 32, 32),
    ),
    "laptop": dict(
        width=192, depth=6, heads=3, hidden=512, mlp="packed_swiglu",
        num_group=64, group_size=32, embed_dim=0,
        enc_hidden=(64, 128, 256), enc_dim=256, gs_widths=(32, 64, 128),
    ),
    "tiny": dict(width=192, depth=12, heads=3, hidden=512, mlp="packed_swiglu", **_UNI3D),
    "small": dict(width=384, depth=12, heads=6, hidden=1024, mlp="packed_swiglu", **_UNI3D),
    "base": dict(width=768, depth=12, heads=12, hidden=2048, mlp="swiglu_norm", **_UNI3D),
    "large": dict(width=1024, depth=24, heads=16, hidden=2730, mlp="swiglu_norm", **_UNI3D),
    "giant": dict(width=1408, depth=40, heads=16, hidden=6144, mlp="gelu", **_UNI3D),
}  # fmt: skip

NUM_GAUSSIANS = {"debug": 256, "laptop": 2048}  # every other size: 10,000 (Uni3D)


def size(name: str) -> dict:
    """The model fields of one size.

    Raises:
        ValueError: no such size; the message lists the known ones.
    """
    if name not in SIZES:
        raise ValueError(f"model.size: unknown {name!r}; known: {', '.join(SIZES)}")
    return dict(SIZES[name])


def num_gaussians(name: str) -> int:
    """Gaussians an object that the size is meant for."""
    return NUM_GAUSSIANS.get(name, 10_000)
