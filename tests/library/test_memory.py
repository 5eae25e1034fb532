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


@pytest.mark.parametrize("counts", [(4, 4, 4, 4), (2, 2, 4, 8), (16,), (1,) * 16])
def test_prompts_may_be_kept_together(counts):
    """A prompt's rows follow each other in every pass, in random order among and within prompts."""
    args = RLHFArgs(batch_size=16, num_minibatches=4, batches_per_learning_phase=12, keep_prompts_together=True)
    prompts = torch.tensor([prompt for prompt, count in enumerate(counts) for _ in range(count)])
    prompts = prompts[torch.randperm(16, generator=torch.Generator().manual_seed(1))]
    ids = torch.cat([prompts[:, None], prompts[:, None], torch.arange(16)[:, None].expand(16, 3)], dim=1)
    minibatches = make(args, sample_ids=ids).get_minibatches()
    orders, firsts = set(), set()
    for i in range(12):
        rows = torch.cat([m.sample_ids for m in minibatches[4 * i : 4 * i + 4]])
        assert sorted(rows[:, -1].tolist()) == list(range(16))
        changes = int((rows[1:, 0] != rows[:-1, 0]).sum())
        assert changes == len(counts) - 1
        orders.add(tuple(rows[:, -1].tolist()))
        firsts.add(int(rows[0, 0]))
    assert len(orders) == 12
    assert len(firsts) > 1 or len(counts) == 1


def test_drawn_at_random_they_are_not(args):
    ids = torch.arange(2).repeat_interleave(4)[:, None].expand(8, 5)
    orders = [make(args, sample_ids=ids).random_order() for _ in range(20)]
    assert any(int((ids[order][1:, 0] != ids[order][:-1, 0]).sum()) > 1 for order in orders)
