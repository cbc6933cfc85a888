"""Sizes of the published CLIP towers, under OpenCLIP's names. Plain values.

Every name has a twin ``NAME-quickgelu``: the same arrays, read with another activation. Source: the
model configs of OpenCLIP (github.com/mlfoundations/open_clip).
"""

import dataclasses

from gsjax.models import clip


def _pair(dim, image, text, size=224) -> clip.ClipConfig:
    """image: (width, layers, heads, hidden, patch); text: (width, layers, heads)."""
    width, layers, heads, hidden, patch = image
    text_width, text_layers, text_heads = text
    return clip.ClipConfig(
        dim=dim,
        image_size=size,
        patch=patch,
        image_width=width,
        image_layers=layers,
        image_heads=heads,
        image_hidden=hidden,
        text_width=text_width,
        text_layers=text_layers,
        text_heads=text_heads,
        text_hidden=4 * text_width,
    )


_PLAIN = {
    "ViT-B-32": _pair(512, (768, 12, 12, 3072, 32), (512, 12, 8)),
    "ViT-B-16": _pair(512, (768, 12, 12, 3072, 16), (512, 12, 8)),
    "ViT-L-14": _pair(768, (1024, 24, 16, 4096, 14), (768, 12, 12)),
    "ViT-L-14-336": _pair(768, (1024, 24, 16, 4096, 14), (768, 12, 12), size=336),
    "ViT-H-14": _pair(1024, (1280, 32, 16, 5120, 14), (1024, 24, 16)),
    "ViT-g-14": _pair(1024, (1408, 40, 16, 6144, 14), (1024, 24, 16)),
    "ViT-bigG-14": _pair(1280, (1664, 48, 16, 8192, 14), (1280, 32, 20)),
}

PRESETS: dict[str, clip.ClipConfig] = _PLAIN | {
    f"{name}-quickgelu": dataclasses.replace(config, quick_gelu=True)
    for name, config in _PLAIN.items()
}


def preset(name: str) -> clip.ClipConfig:
    """The config of a name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"arch: unknown {name!r}; known: {sorted(PRESETS)}")
    return PRESETS[name]
