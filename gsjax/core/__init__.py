"""Pure maths on arrays: no networks, no files, no devices.

Modules are imported on first use (PEP 562): ``import gsjax; gsjax.core.objects`` needs no other import.
"""

from gsjax import lazy

__getattr__, __dir__ = lazy.submodules(__name__, __path__)
