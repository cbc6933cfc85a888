"""What each pixel sees, by loops over Gaussians in numpy: for tests of what is looked up there."""

import numpy as np


def weights(arrays: dict, width: int, height: int, max_alpha: float = 0.99):
    """Weights of all Gaussians at all pixels, and the transmittance behind each, in float64.

    Args:
      arrays: of `suite.splats_of`; images are its leading axis.

    Returns:
      order [I, N] front to back, and by rank in it: weights [I, N, H, W] and left [I, N, H, W].
    """
    orders, all_weights, all_left = [], [], []
    for i in range(len(arrays["depths"])):
        means, conics, opacities, depths, radii = (
            np.float64(arrays[k][i]) for k in ("means2d", "conics", "opacities", "depths", "radii")
        )
        order = np.argsort(np.where(radii[:, 0] > 0, depths, np.inf), kind="stable")
        x, y = np.arange(width) + 0.5, np.arange(height)[:, None] + 0.5
        left, is_open = np.ones((height, width)), np.ones((height, width), bool)
        weights_of_image, left_of_image = [], []
        for g in order:
            dx, dy = means[g, 0] - x, means[g, 1] - y
            a, b, c = conics[g]
            sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            alpha = np.minimum(max_alpha, opacities[g] * np.exp(-sigma))
            alpha = np.where((sigma >= 0) & (alpha >= 1 / 255) & (radii[g, 0] > 0), alpha, 0.0)
            is_open &= left * (1 - alpha) > 1e-4
            weight = np.where(is_open, alpha * left, 0.0)
            left = left - weight
            weights_of_image.append(weight)
            left_of_image.append(left)
        orders.append(order)
        all_weights.append(weights_of_image)
        all_left.append(left_of_image)
    return np.array(orders), np.array(all_weights), np.array(all_left)
