"""Networks from posed pictures to Gaussians, one per pixel: MVSplat (arXiv 2403.14627) and DepthSplat
(arXiv 2410.13862), and the parts of which they are made.

Conventions of the whole folder: maps are [..., H, W, C]; the axis of views comes after that of
examples, [B, V, ...]; cameras have OpenCV axes, ``c2ws`` [B, V, 4, 4] map camera to world, ``Ks``
[B, V, 3, 3] are normalised (first row over the width, second over the height) unless said to be in
pixels; depth is along the optical axis; ``near`` and ``far`` are [B] (or [B, V]) in world units.
"""
