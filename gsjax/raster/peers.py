"""Other rasterizers, for comparison on a GPU: gsplat (torch, CUDA) and splax (JAX, Warp).

Each peer is a factory: scene arrays and sizes -> {"forward": f(), "fwd+bwd": f()}, functions without
arguments that return when the device is done. Nothing here is imported unless it is asked for, and a
peer that cannot run says why.
"""

import importlib.util
from collections.abc import Callable

from gsjax.core import sh

PEERS = ("gsplat", "splax")


def why_not(name: str) -> str | None:
    """Why a peer cannot run here; None where it can."""
    if importlib.util.find_spec(name) is None:
        return f"{name} is not installed"
    if name == "gsplat":
        import torch

        return None if torch.cuda.is_available() else "torch sees no CUDA device"
    return None


def build(name: str) -> Callable:
    """The peer's factory; compiles its kernels on the way, which may take minutes the first time.

    Raises:
      ValueError: unknown name.
      RuntimeError: the peer cannot run here.
    """
    if name not in PEERS:
        raise ValueError(f"peer: found {name!r}, expected one of {', '.join(PEERS)}")
    if reason := why_not(name):
        raise RuntimeError(f"{name}: {reason}")
    return {"gsplat": gsplat, "splax": splax}[name]


def gsplat(scene: dict, width: int, height: int) -> dict[str, Callable]:
    """gsplat.rasterization with gradients by means, quats, scales, opacities and colours."""
    import gsplat
    import torch

    names = ("means", "quats", "scales", "opacities", "colors")
    fixed = {k: torch.as_tensor(scene[k]).cuda() for k in ("viewmats", "Ks")}
    inputs = {k: torch.as_tensor(scene[k]).cuda().requires_grad_() for k in names}

    def render():
        return gsplat.rasterization(**inputs, **fixed, width=width, height=height, packed=False)

    def forward():
        with torch.no_grad():
            render()
        torch.cuda.synchronize()

    def both():
        for value in inputs.values():
            value.grad = None
        image, alpha, _ = render()
        (image.sum() + alpha.sum()).backward()
        torch.cuda.synchronize()

    return {"forward": forward, "fwd+bwd": both}


def splax(scene: dict, width: int, height: int) -> dict[str, Callable]:
    """splax.render: three channels, one view of one scene. Its inputs are raw, hence the logarithms.

    Raises:
      RuntimeError: the scene is something else.
    """
    import jax
    import jax.numpy as jnp
    import splax as peer

    if scene["colors"].shape[-1] != 3 or scene["means"].ndim != 2:
        raise RuntimeError("splax: renders three channels of one scene")
    opacities = jnp.clip(jnp.asarray(scene["opacities"]), 1e-6, 1 - 1e-6)
    inputs = dict(
        means3d=jnp.asarray(scene["means"]),
        log_scales=jnp.log(jnp.asarray(scene["scales"])),
        quats=jnp.asarray(scene["quats"]),
        sh_colors=(jnp.asarray(scene["colors"])[:, None] - 0.5) / sh.SH_C0,
        logit_opacities=jnp.log(opacities) - jnp.log1p(-opacities),
    )
    K = scene["Ks"][0]
    camera = dict(
        viewmat=jnp.asarray(scene["viewmats"][0]),
        background=jnp.zeros(3),
        img_shape=(height, width),
        f=(float(K[0, 0]), float(K[1, 1])),
        c=(float(K[0, 2]), float(K[1, 2])),
    )

    def loss(inputs):
        image, alpha = peer.render(**inputs, **camera)
        return jnp.sum(image) + jnp.sum(alpha)

    step, once = jax.jit(jax.grad(loss)), jax.jit(lambda inputs: peer.render(**inputs, **camera))
    return {
        "forward": lambda: jax.block_until_ready(once(inputs)),
        "fwd+bwd": lambda: jax.block_until_ready(step(inputs)),
    }
