"""Sentences around category names for zero-shot classification. Plain text, no towers here.

A class vector is made as in ULIP (arXiv 2212.05171) and Uni3D (arXiv 2310.06773): each sentence is
embedded and normalised, the mean over the set is normalised again.
"""

_ADJECTIVES_FIRST = (
    *("good", "bad", "bright", "dark", "low resolution", "cropped", "close-up"),
    *("jpeg corrupted", "blurry", "pixelated"),
)
_ADJECTIVES_LAST = ("nice", "cool", "weird", "small", "large", "clean", "dirty", "hard to see")


def modelnet40_64() -> tuple[str, ...]:
    """The 64 sentences that ULIP and Uni3D use for every data set; ``{}`` is the class name."""
    result = ["a point cloud model of {}."]
    result += [f"There is {a} {{}} in the scene." for a in ("a", "the")]
    result += [f"a photo of {a} {{}} in the scene." for a in ("a", "the", "one")]
    result += [f"itap of {a} {{}}." for a in ("a", "my", "the")]
    result += [f"a photo of {a} {{}}." for a in ("a", "my", "the", "one", "many")]
    for adjective in _ADJECTIVES_FIRST:
        result += [f"a {adjective} photo of {a} {{}}." for a in ("a", "the")]
    # The one sentence without a full stop in the published list.
    result += ["a black and white photo of a {}", "a black and white photo of the {}."]
    for adjective in _ADJECTIVES_LAST:
        result += [f"a photo of {a} {adjective} {{}}." for a in ("a", "the")]
    for style in ("plastic", "toy", "plushie", "cartoon"):
        result += [f"{a} {style} {{}}." for a in ("a", "the")]
    result += [f"{a} embroidered {{}}." for a in ("an", "the")]
    result += [f"a painting of {a} {{}}." for a in ("a", "the")]
    return tuple(result)


TEMPLATES: dict[str, tuple[str, ...]] = {
    "name": ("{}",),
    "short": ("{}", "a {}", "a 3D model of a {}", "a low-poly 3D model of a {}"),
    "modelnet40_64": modelnet40_64(),
}
