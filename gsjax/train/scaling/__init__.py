"""What a training step costs on hardware that is not here: compiled ahead of time, counted, estimated.

``targets`` describes the devices, ``steps`` lowers a system's real step for them, ``flops`` counts a traced
program, ``hlo`` and ``traffic`` read a compiled one, ``estimate`` turns both into seconds, ``rows`` keeps what
was found. ``python -m gsjax.train.scaling`` runs it all.
"""
