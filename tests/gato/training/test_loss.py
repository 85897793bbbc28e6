"""The sparse head against the dense one, and both against a plain softmax."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gato.tokenizers.layout import KINDS
from gato.tokenizers.vocabulary import Vocabulary
from gato.training.loss import dense_loss, negative_log_likelihood, sparse_loss

VOCABULARY = Vocabulary(2048)
SOURCES = 3
WIDTH = 8
TABLE = jnp.asarray(np.random.default_rng(1).normal(size=(VOCABULARY.table_size, WIDTH)), jnp.float32)
SIZES = {"vocabulary_size": VOCABULARY.size, "sources": SOURCES}


def hidden_states(batch):
    return jnp.asarray(np.random.default_rng(2).normal(size=(*batch["ids"].shape, WIDTH)), jnp.float32)


def sparse(hidden_BLD, table, batch, **options):
    hidden_GND = hidden_BLD.reshape(-1, WIDTH)[batch["target_index"]]
    return sparse_loss(lambda h: h @ table.T, hidden_GND, batch, table_size=len(table), **SIZES, **options)


def dense(hidden_BLD, table, batch):
    return dense_loss(lambda h: h @ table.T, hidden_BLD, batch, **SIZES)


def assert_close(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6), left, right)


@pytest.mark.parametrize("logits_bytes", [1 << 30, VOCABULARY.table_size * 4 * 7])
def test_sparse_equals_dense_with_gradients(make_batch, logits_bytes):
    batch = make_batch()
    hidden = hidden_states(batch)

    def both(head, **options):
        def mean(h, t):
            sums = head(h, t, batch, **options)
            return sums.mean(), sums

        return jax.value_and_grad(mean, (0, 1), has_aux=True)(hidden, TABLE)

    assert_close(both(sparse, logits_bytes=logits_bytes), both(dense))


@pytest.mark.parametrize("logits_bytes", [1 << 30, VOCABULARY.table_size * 4 * 7])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_have_the_loss_of_one(make_batch, group_batch, groups, logits_bytes):
    batch = make_batch(rows=4)
    hidden = hidden_states(batch)
    many = group_batch(batch, groups)
    hidden_GND = jnp.take_along_axis(hidden.reshape(groups, -1, WIDTH), many["target_index"][..., None], axis=1)
    head = lambda h: h @ TABLE.T  # noqa: E731
    assert_close(
        sparse_loss(head, hidden_GND, many, table_size=len(TABLE), logits_bytes=logits_bytes, **SIZES),
        sparse(hidden, TABLE, batch),
    )


def test_loss_is_the_weighted_softmax_cross_entropy(make_batch):
    batch = make_batch()
    hidden = hidden_states(batch)
    logits = np.asarray(hidden.reshape(-1, WIDTH) @ TABLE[: VOCABULARY.size].T, np.float64)[batch["target_index"][0]]
    nll = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), batch["target_ids"][0]]
    weight = batch["target_weight"][0].astype(np.float64)
    sums = sparse(hidden, TABLE, batch)
    np.testing.assert_allclose(sums.mean(), (nll * weight).sum() / weight.sum(), rtol=1e-5)
    for kind in ("text", "action", "patch"):
        chosen = batch["target_kind"][0] == KINDS.index(kind)
        np.testing.assert_allclose(sums.kind_loss[KINDS.index(kind)], (nll * weight)[chosen].sum(), rtol=1e-5)
    for source in range(SOURCES):
        chosen = batch["target_source"][0] == source
        np.testing.assert_allclose(sums.source_weight[source], weight[chosen].sum(), rtol=1e-5)


def test_rounded_rows_take_no_part(make_batch):
    batch = make_batch()
    hidden = hidden_states(batch)
    assert VOCABULARY.table_size > VOCABULARY.size
    loud = TABLE.at[VOCABULARY.size :].set(100.0)
    assert float(sparse(hidden, loud, batch).loss) == float(sparse(hidden, TABLE, batch).loss)
    gradient = jax.grad(lambda t: sparse(hidden, t, batch).mean())(loud)
    assert np.all(np.asarray(gradient[VOCABULARY.size :]) == 0)
    assert np.any(np.asarray(gradient[: VOCABULARY.size]) != 0)


def test_padding_targets_change_nothing_even_where_hidden_is_nan(make_batch):
    few, many = make_batch(padded_targets=0), make_batch(padded_targets=50)
    hidden = hidden_states(few)
    assert_close(sparse(hidden, TABLE, few), sparse(hidden, TABLE, many))
    many["target_index"][0, -50:] = few["ids"].size - 1
    assert_close(sparse(hidden, TABLE, few), sparse(hidden.at[-1, -1].set(jnp.nan), TABLE, many))


def test_batch_without_targets_has_loss_zero(make_batch):
    batch = make_batch()
    batch["target_weight"] = np.zeros_like(batch["target_weight"])
    assert float(sparse(hidden_states(batch), TABLE, batch).mean()) == 0


def test_own_backward_pass_is_the_derivative():
    rng = np.random.default_rng(3)
    logits, target = jnp.asarray(rng.normal(size=(5, 7)), jnp.float32), jnp.asarray(rng.integers(0, 7, 5))
    weight = jnp.asarray(rng.normal(size=5), jnp.float32)

    def plain(x):
        return (weight * -jax.nn.log_softmax(x)[jnp.arange(5), target]).sum()

    ours = jax.grad(lambda x: (weight * negative_log_likelihood(x, target)).sum())(logits)
    np.testing.assert_allclose(ours, jax.grad(plain)(logits), atol=1e-6)
