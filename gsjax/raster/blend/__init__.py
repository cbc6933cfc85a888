"""Blending backends behind one contract, `reference.blend`: one file each, kernels in gpu/ and tpu/."""
