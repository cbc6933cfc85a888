"""Which device a program is made for."""

import jax


def abstract():
    """The device one compiles for ahead of time (`jax.sharding.use_abstract_mesh`), or None."""
    return getattr(jax.sharding.get_abstract_mesh(), "abstract_device", None)


def default() -> jax.Device:
    """JAX's default device."""
    device = jax.config.jax_default_device
    if device is None or isinstance(device, str):
        device = jax.devices(device)[0]
    return device


def platform() -> str:
    """'cpu', 'gpu' or 'tpu': of what one compiles for ahead of time, or of `jax.default_device`, else JAX's default."""
    device = abstract()
    if device is None:
        device = jax.config.jax_default_device
    if device is None:
        return jax.default_backend()
    name = device if isinstance(device, str) else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def why_not(platforms: tuple[str, ...], called: str) -> str | None:
    """Why the device that JAX would use is none of these platforms; None where it is.

    An abstract device goes before the default one.

    Args:
      platforms: names that JAX has for it.
      called: what people call it.
    """
    device = abstract()
    if device is not None:
        ok = getattr(device, "platform", None) in platforms
        return None if ok else f"compiling for {device}, which is no {called}"
    device = default()
    if device.platform in platforms:
        return None
    return f"JAX's device is {device.device_kind!r} ({device.platform}), not a {called}"
