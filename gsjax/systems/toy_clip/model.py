"""The trainable pair: the towers of ``models.toy_towers`` and a learnable temperature."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gsjax.models import toy_towers

INIT_LOGIT_SCALE = math.log(20)  # CLIP starts at 1 / 0.07; higher learns faster here


class Pair(nn.Module):
    """Towers under ``towers/image`` and ``towers/text``, and the scalar ``logit_scale``."""

    config: toy_towers.TowerConfig

    def setup(self):
        self.towers = toy_towers.ToyTowers(self.config)
        self.logit_scale = self.param(
            "logit_scale", nn.initializers.constant(INIT_LOGIT_SCALE), (), jnp.float32
        )

    def __call__(
        self, pixels: jax.Array, tokens: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Pixels [B, S, S, 3] in [-1, 1], ids [B, W, 1 + G] -> unit vectors [B, D] twice, and the
        log of the inverse temperature."""
        images, texts = self.towers(pixels, tokens)
        return images, texts, self.logit_scale

    def encode_images(self, pixels: jax.Array) -> jax.Array:
        """Pixels [B, S, S, 3] in [-1, 1] to unit vectors [B, D]."""
        return self.towers.encode_images(pixels)

    def encode_texts(self, tokens: jax.Array) -> jax.Array:
        """Ids [B, W, 1 + G] to unit vectors [B, D]."""
        return self.towers.encode_texts(tokens)
