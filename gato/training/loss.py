"""The masked loss (Gato equation 2), as sums that are divided once.

Two heads give the same numbers. `sparse_loss` takes the hidden states of the tokens that predict a weighted target
(most tokens of control data are observations and carry no loss) and computes logits for these only. `dense_loss`
computes them for all positions and masks afterwards: the reference that tests and the benchmark compare with.

Table rows from `vocabulary_size` up to the rounded table size are masked out of the softmax. So the loss does not
depend on the rounding, the rounded rows get no gradient, and a perplexity means what it says. The mask fuses into the
passes that logsumexp makes anyway.

Shapes: B rows, L tokens a row, G groups of rows, N targets of a group (padded with weight 0), D width, V table rows,
K kinds, S sources.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from gato.tokenizers.layout import KINDS

# float32 bytes of a group's logits that are alive at once; above, the targets go through the head in chunks that the
# backward pass computes again.
LOGITS_BYTES = 1 << 30

Head = Callable[[jax.Array], jax.Array]  # hidden [N, D] -> logits [N, V], float32


@struct.dataclass
class LossSums:
    """Weighted sums of the negative log-likelihood (nats) and of the weights; sums over batches add."""

    loss: jax.Array  # []
    weight: jax.Array  # []
    kind_loss: jax.Array  # [K], K = len(KINDS)
    kind_weight: jax.Array  # [K]
    source_loss: jax.Array  # [S]
    source_weight: jax.Array  # [S]

    def mean(self) -> jax.Array:
        """Loss per unit of weight; 0 where a batch has no target."""
        return self.loss / jnp.where(self.weight > 0, self.weight, 1.0)


@jax.custom_vjp
def negative_log_likelihood(logits_NV: jax.Array, target_N: jax.Array) -> jax.Array:
    """logsumexp minus the target's logit: float32 [N, V], int32 [N] -> float32 [N].

    Its own backward pass: softmax minus an indicator that is compared in place. Differentiating the plain expression
    scatters into a zero array as large as the logits.
    """
    return _nll_forward(logits_NV, target_N)[0]


def _nll_forward(logits_NV, target_N):
    log_normaliser_N = jax.nn.logsumexp(logits_NV, axis=-1)
    picked_N = jnp.take_along_axis(logits_NV, target_N[:, None], axis=-1)[:, 0]
    return log_normaliser_N - picked_N, (logits_NV, log_normaliser_N, target_N)


def _nll_backward(residuals, gradient_N):
    logits_NV, log_normaliser_N, target_N = residuals
    softmax_NV = jnp.exp(logits_NV - log_normaliser_N[:, None])
    is_target_NV = jax.lax.broadcasted_iota(jnp.int32, logits_NV.shape, 1) == target_N[:, None]
    return gradient_N[:, None] * jnp.where(is_target_NV, softmax_NV - 1.0, softmax_NV), None


negative_log_likelihood.defvjp(_nll_forward, _nll_backward)


def _nll_of_hidden(head: Head, hidden_ND: jax.Array, target_N: jax.Array, vocabulary_size: int) -> jax.Array:
    logits_NV = head(hidden_ND)
    assert logits_NV.dtype == jnp.float32, f"the head must accumulate in float32, got {logits_NV.dtype}"
    if vocabulary_size < logits_NV.shape[-1]:
        beyond_V = jnp.arange(logits_NV.shape[-1]) >= vocabulary_size
        logits_NV = jnp.where(beyond_V, -jnp.inf, logits_NV)
    return negative_log_likelihood(logits_NV, target_N)


def _sums(nll_N: jax.Array, weight_N: jax.Array, kind_N: jax.Array, source_N: jax.Array, sources: int) -> LossSums:
    # where, not a product: a padded target may point anywhere, and 0 * nan would poison the sum.
    weighted_N = jnp.where(weight_N > 0, nll_N * weight_N, 0.0)
    both_N2 = jnp.stack([weighted_N, weight_N], axis=-1)
    by_kind_K2 = jax.ops.segment_sum(both_N2, kind_N.astype(jnp.int32), len(KINDS))
    by_source_S2 = jax.ops.segment_sum(both_N2, source_N.astype(jnp.int32), sources)
    return LossSums(
        loss=weighted_N.sum(),
        weight=weight_N.sum(),
        kind_loss=by_kind_K2[:, 0],
        kind_weight=by_kind_K2[:, 1],
        source_loss=by_source_S2[:, 0],
        source_weight=by_source_S2[:, 1],
    )


def sparse_loss(
    head: Head,
    hidden_GND: jax.Array,
    batch: Mapping[str, Any],
    *,
    vocabulary_size: int,
    table_size: int,
    sources: int,
    logits_bytes: int = LOGITS_BYTES,
) -> LossSums:
    """The loss over the batch's target index.

    Args:
      head: hidden [n, D] -> float32 logits [n, table_size].
      hidden_GND: hidden states of the predicting tokens, ``target_index`` of the batch.
      batch: has target_ids, target_weight, target_kind and target_source, each [G, N].
      vocabulary_size: ids from here on are masked out of the softmax.
      table_size: V, decides the size of a chunk.
      sources: S.
      logits_bytes: logits alive at once; see `LOGITS_BYTES`.
    """
    (_, count, width), target_GN = hidden_GND.shape, batch["target_ids"]
    chunks = -(-count * table_size * 4 // logits_bytes)
    if chunks <= 1:
        nll_N = _nll_of_hidden(head, hidden_GND.reshape(-1, width), target_GN.reshape(-1), vocabulary_size)
    else:
        size = -(-count // chunks)
        padding = chunks * size - count
        # A chunk holds a part of every group, so that each device works on each chunk.
        hidden_GCnD = jnp.pad(hidden_GND, ((0, 0), (0, padding), (0, 0))).reshape(-1, chunks, size, width)
        hidden_CnD = hidden_GCnD.swapaxes(0, 1).reshape(chunks, -1, width)
        target_Cn = jnp.pad(target_GN, ((0, 0), (0, padding))).reshape(-1, chunks, size).swapaxes(0, 1)

        @jax.checkpoint
        def chunk(hidden_nD: jax.Array, target_n: jax.Array) -> jax.Array:
            return _nll_of_hidden(head, hidden_nD, target_n, vocabulary_size)

        nll_Cn = jax.lax.map(lambda pair: chunk(*pair), (hidden_CnD, target_Cn.reshape(chunks, -1)))
        nll_N = nll_Cn.reshape(chunks, -1, size).swapaxes(0, 1).reshape(-1, chunks * size)[:, :count].reshape(-1)
    weight_N, kind_N, source_N = (batch[f"target_{name}"].reshape(-1) for name in ("weight", "kind", "source"))
    return _sums(nll_N, weight_N, kind_N, source_N, sources)


def dense_loss(
    head: Head, hidden_BLD: jax.Array, batch: Mapping[str, Any], *, vocabulary_size: int, sources: int
) -> LossSums:
    """The same loss from logits at every position, masked afterwards. Reads no target index, so it also checks that
    one: position l predicts token l + 1 of the same segment, with that token's weight, kind and source."""
    rows, length, width = hidden_BLD.shape
    ids, segments = batch["ids"], batch["segment_ids"]
    same_segment = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    weight_BL = jnp.where(same_segment, batch["loss_weight"][:, 1:], 0.0)
    shifted = {
        "weight": weight_BL,
        "target": ids[:, 1:],
        "kind": batch["kinds"][:, 1:],
        "source": batch["source"][:, 1:],
    }
    flat = {name: jnp.pad(value, ((0, 0), (0, 1))).reshape(rows * length) for name, value in shifted.items()}
    nll_N = _nll_of_hidden(head, hidden_BLD.reshape(-1, width), flat["target"], vocabulary_size)
    return _sums(nll_N, flat["weight"], flat["kind"], jnp.maximum(flat["source"], 0), sources)
