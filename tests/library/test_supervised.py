"""Fine-tuning examples: what is learned, what is masked, and the loss against torch's own."""

import pytest
import torch

from rlhf_lib.args import InputError
from rlhf_lib.supervised import calc_sft_loss, collate_examples, encode_example


def test_an_example_ends_and_only_the_solution_is_learned(tokenizer):
    ids, mask = encode_example(tokenizer, "Question: a\nAnswer:\n", "<answer>\n7\n</answer>\n", tokenizer.eos_token_id)
    assert ids[0] == tokenizer.bos_token_id
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids) == "<s>Question: a\nAnswer:\n<answer>\n7\n</answer>\n</s>"
    learned = [i for i, m in zip(ids, mask, strict=True) if m]
    assert tokenizer.decode(learned) == "<answer>\n7\n</answer>\n</s>"
    assert encode_example(tokenizer, "<s>a", "b", None)[0].count(tokenizer.bos_token_id) == 1
    assert encode_example(tokenizer, "a", "b", None, prepend_bos=False)[0][0] != tokenizer.bos_token_id
    with pytest.raises(InputError, match="is empty"):
        encode_example(tokenizer, "a", "", None)


def test_the_loss_is_torchs_cross_entropy_over_learned_tokens():
    torch.manual_seed(0)
    batch = collate_examples([([5, 6, 7, 8], [0, 0, 1, 1]), ([9, 3], [0, 1])], pad_id=0)
    assert batch.ids.tolist() == [[5, 6, 7, 8], [0, 0, 9, 3]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    logits = torch.randn(2, 4, 11, requires_grad=True)
    labels = batch.ids.masked_fill(batch.loss_mask == 0, -100)
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    got = calc_sft_loss(logits, batch.ids, batch.loss_mask)
    torch.testing.assert_close(got, expected)
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (got, expected)]
    torch.testing.assert_close(*gradients)


def test_nothing_to_learn_is_zero():
    assert float(calc_sft_loss(torch.randn(1, 3, 5), torch.tensor([[1, 2, 3]]), torch.zeros(1, 3))) == 0
