"""The replay memory."""

import pytest
import torch

from rlhf_lib.args import InputError, RLHFArgs
from rlhf_lib.memory import ReplayMemory


def make(args, **changes):
    batch, gen, seq = args.batch_size, 3, 5
    row = torch.arange(batch, dtype=torch.float32)[:, None]
    given = {
        "sample_ids": torch.arange(batch)[:, None].expand(batch, seq),
        "logprobs": row.expand(batch, gen),
        "advantages": 10 * row.expand(batch, gen),
        "values": 100 * row.expand(batch, seq) + torch.arange(seq),
        "ref_logits": row[..., None].expand(batch, seq, 4),
        **changes,
    }
    keywords = {k: given.pop(k) for k in ("mask", "attention_mask", "ref_logprobs") if k in given}
    return ReplayMemory(args, *given.values(), **keywords)


@pytest.fixture
def args():
    return RLHFArgs(batch_size=8, num_minibatches=4, batches_per_learning_phase=3)


def test_every_row_once_a_pass_and_rows_stay_together(args):
    minibatches = make(args, mask=torch.ones(8, 3)).get_minibatches()
    assert len(minibatches) == 12
    for i in range(3):
        rows = torch.cat([m.sample_ids[:, 0] for m in minibatches[4 * i : 4 * i + 4]])
        assert sorted(rows.tolist()) == list(range(8))
    for m in minibatches:
        row = m.sample_ids[:, :1].float()
        assert m.sample_ids.shape == (2, 5)
        assert torch.equal(m.logprobs, row.expand(2, 3))
        assert torch.equal(m.advantages, 10 * row.expand(2, 3))
        assert torch.equal(m.returns, 10 * row + 100 * row + torch.tensor([1.0, 2.0, 3.0]))
        assert torch.equal(m.ref_logits[..., 0], row.expand(2, 5))
        assert m.mask.shape == (2, 3)
        assert m.attention_mask is None


def test_passes_differ_and_seeds_reproduce(args):
    memory = make(args)
    torch.manual_seed(1)
    first = torch.stack([m.sample_ids[:, 0] for m in memory.get_minibatches()])
    torch.manual_seed(1)
    again = torch.stack([m.sample_ids[:, 0] for m in memory.get_minibatches()])
    assert torch.equal(first, again)
    assert not torch.equal(first[:4], first[4:8])


def test_no_critic_and_no_reference_logits(args):
    minibatch = make(args, values=None, ref_logits=None, ref_logprobs=torch.zeros(8, 3)).get_minibatches()[0]
    assert minibatch.returns is None
    assert minibatch.ref_logits is None
    assert minibatch.ref_logprobs.shape == (2, 3)


def test_inference_mode_tensors_can_enter_autograd(args):
    with torch.inference_mode():
        logprobs = torch.zeros(8, 3)
    minibatch = make(args, logprobs=logprobs).get_minibatches()[0]
    current = torch.zeros(2, 3, requires_grad=True)
    ((current - minibatch.logprobs).exp()).sum().backward()
    assert current.grad.abs().sum() > 0


def test_rows_must_be_the_batch(args):
    eight = make(args)
    nine = RLHFArgs(batch_size=9, num_minibatches=3)
    with pytest.raises(InputError, match="sample_ids has 8 rows but batch_size=9"):
        ReplayMemory(nine, eight.sample_ids, eight.logprobs, eight.advantages, None, None)
