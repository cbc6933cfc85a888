"""Sizes of the published EVA-CLIP pairs, under OpenCLIP's names. Plain values.

Source: the model configs of OpenCLIP (github.com/mlfoundations/open_clip) and of timm's EVA towers
that they name. The text towers are CLIP's.
"""

import dataclasses

from gsjax.models import clip, eva


@dataclasses.dataclass(frozen=True)
class EvaClipConfig:
    """A pair of towers.

    Attributes:
        image: the EVA tower.
        text: the text tower; its image fields are unused.
    """

    image: eva.EvaConfig
    text: clip.ClipConfig


def pair(image: eva.EvaConfig, width: int, layers: int, heads: int, **text: int) -> EvaClipConfig:
    """An EVA tower with a CLIP text tower of the given size; ``text``: vocabulary, context."""
    config = clip.ClipConfig(
        dim=image.dim,
        image_size=image.image_size,
        patch=image.patch,
        image_width=image.width,
        image_layers=image.depth,
        image_heads=image.heads,
        image_hidden=image.hidden,
        text_width=width,
        text_layers=layers,
        text_heads=heads,
        text_hidden=4 * width,
        **text,
    )
    return EvaClipConfig(image, config)


_B = eva.EvaConfig(512, 224, 16, 768, 12, 12, 2048)
_L = eva.EvaConfig(768, 224, 14, 1024, 24, 16, 2730)
_PLAIN = dict(mlp="gelu", rotary=False, inner_norm=False)
_G = eva.EvaConfig(1024, 224, 14, 1408, 40, 16, 6144, **_PLAIN)
_E = eva.EvaConfig(1024, 224, 14, 1792, 64, 16, 15360, post_norm=True, **_PLAIN)

PRESETS: dict[str, EvaClipConfig] = {
    "EVA01-g-14": pair(_G, 768, 12, 12),
    "EVA01-g-14-plus": pair(_G, 1024, 24, 16),
    "EVA02-B-16": pair(_B, 512, 12, 8),
    "EVA02-L-14": pair(_L, 768, 12, 12),
    "EVA02-L-14-336": pair(dataclasses.replace(_L, image_size=336), 768, 12, 12),
    "EVA02-E-14": pair(_E, 1024, 24, 16),
    "EVA02-E-14-plus": pair(_E, 1280, 32, 20),
}


def preset(name: str) -> EvaClipConfig:
    """The config of a name.

    Raises:
        ValueError: unknown name; the message lists the known ones.
    """
    if name not in PRESETS:
        raise ValueError(f"arch: unknown {name!r}; known: {sorted(PRESETS)}")
    return PRESETS[name]
