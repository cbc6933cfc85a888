"""What ``gsjax doctor`` draws: a made-up scene, forward and backward, against the ``reference`` backend."""

import time
from typing import NamedTuple

GAUSSIANS, SIZE = 96, 48
# A Gaussian that one backend just draws and the other just does not, at alpha 1/255, moves a pixel by at
# most 1/255 of a colour; rounding is a thousand times smaller. A wrong kernel is off by far more.
IMAGE_TOLERANCE = 5e-3
GRADIENT_TOLERANCE = 1e-2  # of the gradient's norm


class Rendered(NamedTuple):
    """One backend beside ``reference``."""

    backend: str
    first_seconds: float  # forward and backward, with compiling
    seconds: float  # again
    image_error: float  # largest difference of a pixel
    gradient_error: float  # norm of the difference over norm of the gradient

    @property
    def well(self) -> bool:
        """Whether the two agree; False where a number is not finite."""
        return self.image_error <= IMAGE_TOLERANCE and self.gradient_error <= GRADIENT_TOLERANCE


def scene():
    """Arguments of ``gsjax.rasterize`` but backend: a cloud of coloured Gaussians in front of a camera."""
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    shape = (GAUSSIANS, 3)
    arrays = dict(
        means=rng.uniform(-1, 1, shape),
        quats=rng.normal(size=(GAUSSIANS, 4)),
        scales=rng.uniform(0.05, 0.2, shape),
        opacities=rng.uniform(0.3, 0.9, GAUSSIANS),
        colors=rng.uniform(0, 1, shape),
    )
    arrays = {name: jnp.asarray(x, jnp.float32) for name, x in arrays.items()}
    viewmats = np.eye(4, dtype=np.float32)[None]
    viewmats[0, 2, 3] = 3.0
    K = np.array([[SIZE, 0, SIZE / 2], [0, SIZE, SIZE / 2], [0, 0, 1]], np.float32)
    return arrays, jnp.asarray(viewmats), jnp.asarray(K)[None]


def compare(backend: str) -> Rendered:
    """Renders with a backend, twice, and with ``reference``.

    Raises:
        Exception: what the backend raises.
    """
    import jax
    import numpy as np

    import gsjax

    arrays, viewmats, Ks = scene()

    def both(name):
        def loss(arrays):
            image = gsjax.rasterize(
                **arrays, viewmats=viewmats, Ks=Ks, width=SIZE, height=SIZE, backend=name
            )[0]
            return (image**2).mean(), image

        return jax.jit(jax.value_and_grad(loss, has_aux=True))

    def timed(function):
        began = time.perf_counter()
        (_, image), gradient = jax.block_until_ready(function(arrays))
        elapsed = time.perf_counter() - began
        return elapsed, np.asarray(image), {k: np.asarray(x) for k, x in gradient.items()}

    function = both(backend)
    first_seconds, image, gradient = timed(function)
    seconds = timed(function)[0]
    _, expected_image, expected = timed(both("reference"))
    difference = sum(float(((gradient[k] - expected[k]) ** 2).sum()) for k in expected)
    norm = sum(float((expected[k] ** 2).sum()) for k in expected)
    return Rendered(
        backend, first_seconds, seconds, float(np.abs(image - expected_image).max()),
        (difference / norm) ** 0.5,
    )  # fmt: skip
