"""Numbers that fix what the image is. Every blending backend uses these and no others."""

ALPHA_MIN = 1.0 / 255.0
"""A Gaussian whose alpha at a pixel is below this is skipped there (3DGS, arXiv 2308.04079)."""

T_MIN = 1e-4
"""A pixel closes, for good, before the Gaussian that would take its transmittance to this or less."""

EXTENT = 3.33
"""Upper bound of the extent in standard deviations; sqrt(2 ln 255) < 3.33, so it cuts nothing off
while opacities are at most 1."""

COMPENSATION_MIN = 0.005
"""Floor of the antialiasing factor: a Gaussian far below a pixel keeps some gradient."""
