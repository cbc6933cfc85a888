"""Embeddings of splats by a trained encoder, without the data set that it was trained on.

Also finds the frozen towers that queries go through, and refuses any but those of the training.
"""

import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from gsjax.data import embed, splats
from gsjax.losses import contrastive
from gsjax.models import towers as towers_lib
from gsjax.systems.clip_gs import model

_LAST = ("params", "encoder", "trans2embed", "bias")
_FIELDS = ("means", "quats", "log_scales", "logit_opacities", "sh0", "mask")


class Embedder:
    """A trained encoder, compiled for one batch size.

    Attributes:
        dim: D.
    """

    def __init__(self, config, variables: Mapping, *, batch_size: int = 16):
        """Builds the encoder.

        Args:
            config: of the run; ``data``, ``model`` and ``loss`` are read.
            variables: {'params': ..., 'batch_stats': ...}.
            batch_size: objects a call.

        Raises:
            ValueError: the weights are not those of this architecture.
        """
        self._config = config.copy_and_resolve_references()  # the run keeps its own
        try:
            bias = functools.reduce(lambda node, name: node[name], _LAST, variables)
        except KeyError:
            raise ValueError(f"run: its weights lack {'/'.join(_LAST)}; it is no CLIP-GS") from None
        self.dim = len(bias)
        with self._config.unlocked():
            self._config.model.embed_dim = self.dim  # 0 in a config: whatever the towers have
            if not self._config.model.skip_near_origin:  # else centres are other points
                self._config.model.grouping = "presorted"  # examples come in farthest-point order
            self._config.model.remat = False
        self._batch = batch_size
        self._module = model.build(self._config)
        self._check(variables)
        self._variables = jax.tree.map(jnp.asarray, dict(variables))
        self._embed = jax.jit(self._apply)

    def _check(self, variables):
        blank = {name: np.zeros((1, *x.shape), x.dtype) for name, x in self._blank().items()}
        wanted = jax.eval_shape(
            lambda b: self._module.init(jax.random.key(0), model.patchify(b, self._config)), blank
        )
        shapes = [
            {jax.tree_util.keystr(k): tuple(v.shape) for k, v in leaves}
            for leaves in map(jax.tree_util.tree_leaves_with_path, (wanted, dict(variables)))
        ]
        wrong = sorted(n for n in {*shapes[0], *shapes[1]} if shapes[0].get(n) != shapes[1].get(n))
        if wrong:
            lines = [f"{n}: {shapes[1].get(n)}, expected {shapes[0].get(n)}" for n in wrong[:5]]
            raise ValueError(
                f"run: {len(wrong)} of its arrays do not fit its config: {'; '.join(lines)}"
            )

    def _blank(self):
        num = self._config.data.num_gaussians
        rng = np.random.default_rng(0)
        return splats.example(
            dict(
                means=rng.normal(size=(num, 3)),
                quats=np.ones((num, 4)),
                log_scales=np.zeros((num, 3)),
                logit_opacities=np.zeros(num),
                sh=np.zeros((num, 1, 3)),
            ),
            num_points=num,
            anchors=1,
        )

    def _apply(self, variables, batch):
        return contrastive.unit(
            self._module.apply(variables, model.patchify(batch, self._config))[0]
        )

    def example(self, gaussians: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """One object of :func:`gsjax.data.splats.load` as the encoder takes it."""
        return splats.example(
            gaussians,
            num_points=self._config.data.num_gaussians,
            anchors=self._config.model.num_group,
            prune_alpha=self._config.data.prune_alpha,
        )

    def __call__(self, examples: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
        """Unit vectors float32 [n, D] of examples of :meth:`example`.

        Raises:
            FloatingPointError: an embedding is not finite.
        """
        parts = []
        for start in range(0, len(examples), self._batch):
            part = list(examples[start : start + self._batch])
            filled = part + part[-1:] * (self._batch - len(part))
            batch = {name: np.stack([e[name] for e in filled]) for name in _FIELDS}
            found = np.asarray(self._embed(self._variables, batch), np.float32)[: len(part)]
            parts.append(found / np.linalg.norm(found, axis=-1, keepdims=True))
        result = np.concatenate(parts) if parts else np.zeros((0, self.dim), np.float32)
        if not np.isfinite(result).all():
            raise FloatingPointError("the encoder gave numbers that are not finite")
        return result


def describe_towers(towers: towers_lib.Towers) -> dict:
    """What a run or a file of embeddings records of its towers."""
    return dict(
        name=towers.name,
        digest=towers.digest,
        dim=towers.dim,
        preprocessing=towers.preprocessing,
    )


def find_towers(
    data_config: Mapping, recorded: Mapping | None, *, dim: int, towers: str = ""
) -> towers_lib.Towers:
    """The frozen towers of a run.

    Args:
        data_config: ``name``, ``towers`` and ``source`` of the run's data config.
        recorded: ``describe_towers`` of the training, or None if it is not known.
        dim: D, width of the run's embeddings.
        towers: a file or ``KIND:PATH`` to take instead of the config's; it must be the same towers.

    Raises:
        ValueError: they are not found, or are not the recorded ones.
    """
    known = {name: data_config.get(name, "") for name in ("name", "towers", "source")}
    chosen = ml_collections.ConfigDict({**known, **({"towers": towers} if towers else {})})
    try:
        found = embed.resolve_towers(chosen)
    except ValueError as error:
        raise ValueError(f"{error}; or name the towers of the training with --towers") from None
    wanted = recorded or {"dim": dim}
    wrong = [k for k, v in describe_towers(found).items() if k in wanted and wanted[k] != v]
    if found.dim != dim or wrong:
        parts = ", ".join(f"{k} {str(wanted[k])[:60]!r}" for k in wrong) or f"dim {dim}"
        raise ValueError(
            f"towers: the run was trained with {parts}; found {found.name} of digest "
            f"{found.digest[:12]} and dimension {found.dim}. Queries must go through the same "
            "towers; name them with --towers"
        )
    return found
