"""How XLA compiles what tests run: most of the suite's time is compiling, of programs that run once or twice.

Without optimisation the older emitters of loops compile quickest; jaxlib has lost them since 0.10. What rounds or
breaks there is compiled carefully: tests that stand close to float32's rounding, and those that train with
convolutions (at level 0 XLA of JAX 0.10.2 gives NaN gradients of some that are finite at all other levels).
"""

import importlib.metadata

_OLDER = importlib.metadata.version("jaxlib").startswith("0.10.")

EMITTERS = "--xla_cpu_use_fusion_emitters=false" if _OLDER else ""
FLAGS = f"--xla_backend_optimization_level={0 if _OLDER else 1} {EMITTERS}"  # of the whole suite

# Options of jax.jit.
CAREFUL = {"xla_backend_optimization_level": 1}
if _OLDER:
    CAREFUL |= {"xla_cpu_use_fusion_emitters": True}
