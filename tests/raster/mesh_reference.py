"""Mesh renderer written from the definition, for tests: every sample x every face, float64, NumPy.

Rays through the samples are met with the planes of the faces. A sample nearer than ``EDGE`` of the
face's own size to an edge may fall on either side in float32; ``doubtful`` marks those pixels.
"""

import numpy as np

EDGE = 1e-4


def texel_mean(picture, uv):
    """Bilinear sample of a repeating uint8 picture [h, w, 3]; origin of uv [2] bottom-left."""
    height, width = picture.shape[:2]
    x, y = uv[0] * width - 0.5, (1 - uv[1]) * height - 0.5
    total = np.zeros(3)
    for row in (int(np.floor(y)), int(np.floor(y)) + 1):
        for column in (int(np.floor(x)), int(np.floor(x)) + 1):
            weight = (1 - abs(y - row)) * (1 - abs(x - column))
            total += weight * picture[row % height, column % width] / 255.0
    return total


def render(
    vertices, faces, viewmat, K, width, height, *, face_rgb=None, vertex_rgb=None, uv=None,
    face_texture=None, textures=(), supersample=1, near=1e-2, ambient=0.3, diffuse=0.7,
    albedo=0.7, light=None,
):  # fmt: skip
    """rgba [H, W, 4], depth [H, W], face of the first sample [H, W] and doubtful [H, W]."""
    viewmat, K = np.asarray(viewmat, float), np.asarray(K, float)
    camera = np.asarray(vertices, float) @ viewmat[:3, :3].T + viewmat[:3, 3]
    s, rgba, depths = supersample, np.zeros((height, width, 4)), np.zeros((height, width))
    doubtful, first = np.zeros((height, width), bool), np.full((height, width), -1)
    for row in range(height):
        for column in range(width):
            hits = []
            for i in range(s):
                for j in range(s):
                    pixel = (column + (j + 0.5) / s, row + (i + 0.5) / s, 1.0)
                    ray = np.linalg.solve(K, pixel)
                    best, doubt = _nearest(camera, faces, ray, near)
                    doubtful[row, column] |= doubt
                    if best is not None:
                        hits.append((*best, ray))
            if not hits:
                continue
            first[row, column] = hits[0][1]
            colour = np.zeros(3)
            for _, f, weights, ray in hits:
                corners = camera[faces[f]]
                normal = np.cross(corners[1] - corners[0], corners[2] - corners[0])
                toward = -ray if light is None else viewmat[:3, :3] @ np.asarray(light, float)
                cosine = abs(normal @ toward)
                cosine /= np.linalg.norm(normal) * np.linalg.norm(toward)
                if face_texture is not None and face_texture[f] >= 0:
                    base = texel_mean(textures[face_texture[f]], weights @ uv[faces[f]])
                elif face_rgb is not None:
                    base = face_rgb[f] / 255.0
                elif vertex_rgb is not None:
                    base = weights @ (vertex_rgb[faces[f]] / 255.0)
                else:
                    base = np.full(3, albedo)
                colour += np.minimum(base * (ambient + diffuse * cosine), 1)
            rgba[row, column] = (*colour / len(hits), len(hits) / s**2)
            nearest, front = min(hits, key=lambda hit: hit[0])[:2]
            a, b, c = camera[faces[front]]
            ray = np.linalg.solve(K, (column + 0.5, row + 0.5, 1.0))
            depth = np.linalg.solve(np.stack((b - a, c - a, -ray), -1), -a)[2]
            depth = depth if depth > 0 else nearest
            ends = min(a[2], b[2], c[2]), max(a[2], b[2], c[2])
            depths[row, column] = np.clip(depth, max(ends[0], nearest / 2), ends[1])
    return rgba, depths, first, doubtful


def _nearest(camera, faces, ray, near):
    """Nearest hit (depth, face, weights) of a ray with z = 1, or None; and whether it is doubtful."""
    best, doubt, depths = None, False, []
    for f, face in enumerate(faces):
        a, b, c = camera[face]
        matrix = np.stack((b - a, c - a, -ray), -1)
        if abs(np.linalg.det(matrix)) < 1e-9:
            continue
        v, w, depth = np.linalg.solve(matrix, -a)
        weights = np.array((1 - v - w, v, w))
        if depth < near - 1e-6 or weights.min() < -EDGE:
            continue
        doubt |= weights.min() < EDGE or depth < near + 1e-6
        if weights.min() < 0 or depth < near:
            continue
        depths.append(depth)
        if best is None or depth < best[0]:
            best = (depth, f, weights)
    depths.sort()
    # Faces that meet or pierce one another within rounding: either may be in front.
    doubt |= len(depths) > 1 and depths[1] - depths[0] < 1e-4 * depths[0]
    return best, doubt
