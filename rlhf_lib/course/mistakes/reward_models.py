"""Named mistakes of chapter 5."""

from rlhf_lib.course.bank import Mistake, mistake

COMPARED = "-torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()"
CENTRED = "(chosen + rejected).square().mean()"
WITH_LOGITS = "torch.nn.functional.binary_cross_entropy_with_logits(scores, correct.to(scores.dtype))"
GATHERED = "values.gather(1, last[:, None]).squeeze(1)"
LAST = "(positions * real).amax(dim=1)"
POOLED = "pool_last_real_token(values, attention_mask)"
PAIRED = "pairs += [(right[i % len(right)], wrong[i % len(wrong)]) for i in range(count)]"
COUNTED = "min(most, max(len(right), len(wrong)))"
ACCURACY = "((chosen > rejected).float() + 0.5 * (chosen == rejected).float()).mean()"
BINNED = "(probabilities * bins).long().clamp(max=bins - 1)"
KEPT = "found.append((float(probabilities[inside].mean()), float(outcomes[inside].float().mean()), count))"
ERROR = "sum(count * abs(predicted - true) for predicted, true, count in parts) / len(probabilities)"
WEIGHTS = "math.comb(i, n - 1) / math.comb(samples, n) for i in range(samples)"
ORDER = "proxy.argsort(stable=True)"
EXPECTED = "(gold[order] * torch.tensor(weights, dtype=gold.dtype, device=gold.device)).sum()"
CHECKED = "if not 1 <= n <= samples:"
KL = "math.log(n) - (n - 1) / n"


def preference(when: str, comparison: str) -> Mistake:
    """A mistake in the comparison's part of the preference loss."""
    return mistake(when, (COMPARED, comparison))


def centring(when: str, squared: str) -> Mistake:
    """A mistake in its other part."""
    return mistake(when, (CENTRED, squared))


BANK: dict[str, list[Mistake]] = {
    "calc_preference_loss": [
        preference(
            "the difference is taken the other way round: rejected minus chosen",
            "-torch.nn.functional.logsigmoid(rejected - chosen - margin).mean()",
        ),
        preference(
            "the minus sign is missing, so that minimising drives the scores the wrong way",
            "torch.nn.functional.logsigmoid(chosen - rejected - margin).mean()",
        ),
        preference("pairs are summed, not averaged", "-torch.nn.functional.logsigmoid(chosen - rejected - margin).sum()"),
        preference(
            "the logarithm is taken of a computed sigmoid (or of 1 + exp), which is infinite where scores are far apart",
            "-(chosen - rejected - margin).sigmoid().log().mean()",
        ),
        preference(
            "the probability is clamped before its logarithm: finite, but the worst pairs then have no gradient",
            "-(chosen - rejected - margin).sigmoid().clamp(min=1e-8).log().mean()",
        ),
        preference(
            "the chance of being wrong is returned in place of the negative logarithm of being right",
            "(rejected - chosen + margin).sigmoid().mean()",
        ),
        preference(
            "the loss is in bits, not in nats",
            "-torch.nn.functional.logsigmoid(chosen - rejected - margin).mean() / 0.6931472",
        ),
        preference(
            "it is a hinge loss: pairs that are apart by more than 1 teach nothing",
            "(1 + margin - chosen + rejected).clamp(min=0).mean()",
        ),
        preference(
            "the logarithm is taken of the mean probability, not of each pair's",
            "-torch.nn.functional.logsigmoid((chosen - rejected - margin).mean())",
        ),
        preference(
            "the rejected scores are detached, so that only the chosen ones are moved",
            "-torch.nn.functional.logsigmoid(chosen - rejected.detach() - margin).mean()",
        ),
        preference(
            "the margin is added to the difference, which asks for less, not for more",
            "-torch.nn.functional.logsigmoid(chosen - rejected + margin).mean()",
        ),
        preference("the margin is ignored", "-torch.nn.functional.logsigmoid(chosen - rejected).mean()"),
        preference(
            "the margin is subtracted outside of the sigmoid, from its logarithm",
            "(-torch.nn.functional.logsigmoid(chosen - rejected) + margin).mean()",
        ),
        mistake(
            "the centring term is left out",
            ("return comparison + centring_coef * (chosen + rejected).square().mean()", "return comparison"),
        ),
        centring(
            "centring squares the difference, which pulls the scores of a pair together and fixes no zero",
            "(chosen - rejected).square().mean()",
        ),
        centring(
            "centring squares each score by itself, not their sum: differences are punished, too",
            "(chosen.square() + rejected.square()).mean()",
        ),
        centring("centring squares the mean over all pairs, not the sum of each", "(chosen + rejected).mean().square()"),
        centring(
            "centring squares the mean of the two scores, a quarter of what is asked for",
            "((chosen + rejected) / 2).square().mean()",
        ),
        centring("the sum is not squared", "(chosen + rejected).mean()"),
        centring("the margin is subtracted in the centring term as well", "(chosen + rejected - margin).square().mean()"),
        mistake(
            "the rejected text's score enters the loss by itself, not by its distance from the chosen one's",
            (COMPARED, "-(torch.nn.functional.logsigmoid(chosen - margin) + torch.nn.functional.logsigmoid(-rejected)).mean()"),
        ),
        mistake("the loss is computed and never returned", ("return comparison + centring_coef", "comparison + centring_coef")),
        mistake(
            "the centring term is subtracted, which drives the scores away from zero",
            ("return comparison + centring_coef", "return comparison - centring_coef"),
        ),
    ],
    "other_losses": [
        mistake(
            "the regression loss is halved",
            ("(scores - targets.detach()).square().mean()", "(scores - targets.detach()).square().mean() / 2"),
        ),
        mistake(
            "the regression loss is the absolute difference",
            ("(scores - targets.detach()).square()", "(scores - targets.detach()).abs()"),
        ),
        mistake(
            "the squared differences are summed",
            ("(scores - targets.detach()).square().mean()", "(scores - targets.detach()).square().sum()"),
        ),
        mistake(
            "the root of the mean squared difference is returned",
            ("(scores - targets.detach()).square().mean()", "(scores - targets.detach()).square().mean().sqrt()"),
        ),
        mistake("gradient flows into the targets", ("targets.detach()", "targets")),
        mistake(
            "the regression's scores are squashed by a sigmoid, which no target outside of 0 and 1 can be met by",
            ("(scores - targets.detach())", "(scores.sigmoid() - targets.detach())"),
        ),
        mistake(
            "the differences are averaged before they are squared",
            ("(scores - targets.detach()).square().mean()", "(scores - targets.detach()).mean().square()"),
        ),
        mistake(
            "right and wrong are swapped in the verifier's loss",
            (WITH_LOGITS, "torch.nn.functional.binary_cross_entropy_with_logits(scores, (~correct).to(scores.dtype))"),
        ),
        mistake(
            "the verifier's loss is summed, not averaged",
            (
                WITH_LOGITS,
                "torch.nn.functional.binary_cross_entropy_with_logits(scores, correct.to(scores.dtype), reduction='sum')",
            ),
        ),
        mistake(
            "probabilities are computed first and their logarithms then, which fails where one has become 0 or 1",
            (WITH_LOGITS, "torch.nn.functional.binary_cross_entropy(scores.sigmoid(), correct.to(scores.dtype))"),
        ),
        mistake(
            "only right solutions count: a wrong one with a high score costs nothing",
            (WITH_LOGITS, "-(torch.nn.functional.logsigmoid(scores) * correct).mean()"),
        ),
        mistake(
            "labels 0 and 1 stand where +1 and -1 belong, so that a wrong solution always costs log 2",
            (WITH_LOGITS, "-torch.nn.functional.logsigmoid(scores * correct).mean()"),
        ),
        mistake(
            "the verifier's loss is the squared difference of probability and outcome",
            (WITH_LOGITS, "(scores.sigmoid() - correct.to(scores.dtype)).square().mean()"),
        ),
        mistake(
            "a sigmoid is put before a loss that has one inside",
            (WITH_LOGITS, "torch.nn.functional.binary_cross_entropy_with_logits(scores.sigmoid(), correct.to(scores.dtype))"),
        ),
        mistake(
            "right and wrong solutions are averaged separately, so that the rarer kind weighs more",
            (
                WITH_LOGITS,
                "sum(torch.nn.functional.softplus(-sign * part).mean() / 2 for sign, part in "
                "((1, scores[correct]), (-1, scores[~correct])))",
            ),
        ),
        mistake("the verifier's loss is in bits, not in nats", (WITH_LOGITS, f"{WITH_LOGITS} / 0.6931472")),
    ],
    "pool_last_real_token": [
        mistake("the last column is read, which is padding in shorter rows", (GATHERED, "values[:, -1]")),
        mistake(
            "the number of real tokens is taken for the last one's place, which padding on the left moves",
            (LAST, "real.sum(dim=1) - 1"),
        ),
        mistake(
            "the value one place before the last real token is read",
            (LAST, "((positions * real).amax(dim=1) - 1).clamp(min=0)"),
        ),
        mistake(
            "the value one place after the last real token is read",
            (LAST, "((positions * real).amax(dim=1) + 1).clamp(max=values.shape[1] - 1)"),
        ),
        mistake("the first real token is read, not the last", (LAST, "real.long().argmax(dim=1)")),
        mistake("the first column is read, as encoders are", (GATHERED, "values[:, 0]")),
        mistake("the values of all real tokens are averaged", (GATHERED, "(values * real).sum(dim=1) / real.sum(dim=1)")),
        mistake("the values of all real tokens are added up", (GATHERED, "(values * real).sum(dim=1)")),
        mistake("the largest value of each row is taken", (GATHERED, "values.masked_fill(~real, -1e9).amax(dim=1)")),
        mistake("padding and text are exchanged: the last masked column is read", (LAST, "(positions * ~real).amax(dim=1)")),
        mistake(
            "the place before the first 0 of the mask is read, which fails where padding comes first and last",
            (LAST, "(real.long().argmin(dim=1) - 1) % values.shape[1]"),
        ),
        mistake(
            "every row is read where the first row ends",
            (LAST, "(positions * real).amax(dim=1)[:1].expand(len(values))"),
        ),
        mistake("every row is read where the longest one ends", (LAST, "(positions * real).amax().expand(len(values))")),
        mistake(
            "the result is cut off from the values, so that no gradient comes back",
            (GATHERED, "values.detach().gather(1, last[:, None]).squeeze(1)"),
        ),
        mistake(
            "a row without a real token is not refused and gets the value of its first column",
            ("if not real.any(dim=1).all():", "if False:"),
        ),
        mistake(
            "only a mask that is all padding is refused, not one with a single empty row",
            ("if not real.any(dim=1).all():", "if not real.any():"),
        ),
    ],
    "reward_model_forward": [
        mistake(
            "a causal model is left to transformers, which looks for the padding's id and takes the text's end for it",
            (f"return {POOLED}", "return self.model(input_ids=ids, attention_mask=attention_mask).logits[:, 0].float()"),
        ),
        mistake(
            "every score is read where the first row of the batch ends",
            (POOLED, "values[:, int(attention_mask[0].sum()) - 1]"),
        ),
        mistake(
            "the axis of length one is squeezed away together with a batch of one",
            (f"return {POOLED}", f"return {POOLED}.squeeze()"),
        ),
        mistake("a causal model is read at the last column, padding or not", (POOLED, "values[:, -1]")),
        mistake(
            "a causal model is read at its first token, where it has read nothing yet",
            (POOLED, "values[:, 0]"),
        ),
        mistake(
            "a causal model is read one token before the last real one",
            (POOLED, "pool_last_real_token(values[:, :-1], attention_mask[:, 1:])"),
        ),
        mistake(
            "a causal model is read at the first end-of-sequence token of the row",
            (POOLED, "values.gather(1, (ids == self.model.config.eos_token_id).long().argmax(dim=1)[:, None]).squeeze(1)"),
        ),
        mistake(
            "a causal model's numbers are averaged over all real tokens",
            (POOLED, "(values * attention_mask).sum(dim=1) / attention_mask.sum(dim=1)"),
        ),
        mistake("a causal model's numbers are added up over all real tokens", (POOLED, "(values * attention_mask).sum(dim=1)")),
        mistake(
            "the head is put on the states before the last block, not on the last ones",
            (
                "attention_mask=attention_mask).last_hidden_state",
                "attention_mask=attention_mask, output_hidden_states=True).hidden_states[-2]",
            ),
        ),
        mistake(
            "the trunk is called by the name that Llama has for it, which other models lack",
            ("self.model.base_model(input_ids", "self.model.model(input_ids"),
        ),
        mistake(
            "the attention mask does not reach the encoder, which then reads the padding",
            (
                "self.model(input_ids=ids, attention_mask=attention_mask).logits",
                "self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits",
            ),
        ),
        mistake(
            "a causal model's scores are squashed by a sigmoid",
            (f"return {POOLED}", f"return {POOLED}.sigmoid()"),
        ),
        mistake(
            "an encoder's scores are squashed by a sigmoid",
            (".logits.squeeze(-1).float()", ".logits.squeeze(-1).float().sigmoid()"),
        ),
        mistake(
            "a causal model's scores stay in the weights' number format",
            ("self.model.score(hidden).squeeze(-1).float()", "self.model.score(hidden).squeeze(-1)"),
        ),
        mistake(
            "an encoder's scores stay in the weights' number format", (".logits.squeeze(-1).float()", ".logits.squeeze(-1)")
        ),
        mistake(
            "a causal model's scores are detached, so that nothing is trained",
            (f"return {POOLED}", f"return {POOLED}.detach()"),
        ),
        mistake(
            "only the head of a causal model is trained: the trunk's states are detached",
            ("self.model.score(hidden)", "self.model.score(hidden.detach())"),
        ),
        mistake(
            "an encoder's scores are detached, so that nothing is trained",
            (".logits.squeeze(-1).float()", ".logits.squeeze(-1).float().detach()"),
        ),
    ],
    "make_comparisons": [
        mistake(
            "the wrong completion comes first in each pair",
            ("(right[i % len(right)], wrong[i % len(wrong)])", "(wrong[i % len(wrong)], right[i % len(right)])"),
        ),
        mistake(
            "completions of different prompts are compared: the whole batch is one group",
            ("range(0, len(correct), group_size)", "(0,)"),
            ("range(start, start + group_size)", "range(len(correct))"),
        ),
        mistake(
            "indices count from the start of each group, not of the batch",
            (PAIRED, "pairs += [(right[i % len(right)] - start, wrong[i % len(wrong)] - start) for i in range(count)]"),
        ),
        mistake(
            "every right completion is paired with every wrong one, and the first `most` pairs are kept",
            (PAIRED, "pairs += [(a, b) for a in right for b in wrong][:most]"),
        ),
        mistake(
            "every right completion is paired with every wrong one, without a limit",
            (PAIRED, "pairs += [(a, b) for a in right for b in wrong]"),
        ),
        mistake("pairing stops when the shorter list ends", (COUNTED, "min(most, len(right), len(wrong))")),
        mistake("only the right completions are used up, not the longer list", (COUNTED, "min(most, len(right))")),
        mistake("only the wrong completions are used up, not the longer list", (COUNTED, "min(most, len(wrong))")),
        mistake(
            "as many pairs are made as there are combinations, so that pairing in turn repeats itself",
            (COUNTED, "min(most, len(right) * len(wrong))"),
        ),
        mistake("`most` is ignored", (COUNTED, "max(len(right), len(wrong))")),
        mistake(
            "`most` limits the whole batch, not each prompt",
            ("return pairs", "return pairs[:most]"),
            (COUNTED, "max(len(right), len(wrong))"),
        ),
        mistake("groups of one are not refused", ("if group_size < 2 or len(correct)", "if len(correct)")),
        mistake("each prompt gets one pair more than `most`", (COUNTED, "min(most + 1, max(len(right), len(wrong)))")),
        mistake(
            "when the shorter list ends its last completion is repeated, where it should begin anew",
            (PAIRED, "pairs += [(right[min(i, len(right) - 1)], wrong[min(i, len(wrong) - 1)]) for i in range(count)]"),
        ),
        mistake(
            "wrong completions are taken from the end of their list",
            ("wrong[i % len(wrong)]", "wrong[-1 - i % len(wrong)]"),
        ),
        mistake(
            "consecutive completions are dealt out to different groups",
            ("range(start, start + group_size)", "range(start // group_size, len(correct), len(correct) // group_size)"),
        ),
        mistake(
            "prompts whose completions are all right or all wrong are not left out, and a list without entries is divided by",
            ("if right and wrong:", "if right or wrong:"),
        ),
        mistake(
            "completions that are left over after the last whole group are dropped in silence",
            ("if group_size < 2 or len(correct) % group_size:", "if group_size < 2:"),
            ("range(0, len(correct), group_size)", "range(0, len(correct) - group_size + 1, group_size)"),
        ),
    ],
    "calibration": [
        mistake("a tie counts as wrong", (" + 0.5 * (chosen == rejected).float()", "")),
        mistake("a tie counts as right", ("0.5 * (chosen == rejected)", "(chosen == rejected)")),
        mistake(
            "the share of pairs in the wrong order is returned", ("(chosen > rejected).float()", "(chosen < rejected).float()")
        ),
        mistake(
            "the mean chance that the model gives to the chosen text is returned, not how often it is preferred",
            (ACCURACY, "(chosen - rejected).sigmoid().mean()"),
        ),
        mistake("pairs are counted, not their share", (ACCURACY, ACCURACY.replace(".mean()", ".sum()"))),
        mistake("accuracy is in percent", (f"float({ACCURACY})", f"100 * float({ACCURACY})")),
        mistake(
            "ties are left out of the count",
            (ACCURACY, "(chosen > rejected)[chosen != rejected].float().mean()"),
        ),
        mistake(
            "the middle of each bin stands for what was predicted in it",
            (KEPT, "found.append(((i + 0.5) / bins, float(outcomes[inside].float().mean()), count))"),
        ),
        mistake(
            "the share that came true and the prediction are exchanged",
            (KEPT, "found.append((float(outcomes[inside].float().mean()), float(probabilities[inside].mean()), count))"),
        ),
        mistake(
            "what came true is counted, where the number of predictions in the bin is asked for",
            ("count = int(inside.sum())", "count = int(outcomes[inside].sum())"),
        ),
        mistake(
            "the count is a share of all predictions", ("count = int(inside.sum())", "count = float(inside.float().mean())")
        ),
        mistake(
            "what came true is divided by the number of all predictions, not of those in the bin",
            ("float(outcomes[inside].float().mean())", "float((outcomes & inside).float().mean())"),
        ),
        mistake(
            "`bins` is ignored and there are always ten",
            (BINNED, "(probabilities * 10).long().clamp(max=9)"),
            ("for i in range(bins):", "for i in range(10):"),
        ),
        mistake("a probability of exactly 1 falls out of the last bin", (BINNED, "(probabilities * bins).long()")),
        mistake(
            "bins are closed on the right only, so that a probability of 0 belongs to none",
            (BINNED, "(probabilities * bins).ceil().long() - 1"),
        ),
        mistake(
            "probabilities are rounded to a bin, not cut down to it",
            (BINNED, "(probabilities * bins).round().long().clamp(max=bins - 1)"),
        ),
        mistake(
            "bins hold equally many predictions, where equal width is asked for",
            (BINNED, "probabilities.argsort().argsort() * bins // len(probabilities)"),
        ),
        mistake(
            "empty bins are listed as well",
            ("if inside.any():", "if not inside.any():\n            found.append((0.0, 0.0, 0))\n        else:"),
        ),
        mistake("bins are listed from the highest down", ("for i in range(bins):", "for i in reversed(range(bins)):")),
        mistake(
            "every bin counts the same in the error, however few predictions are in it",
            (ERROR, "sum(abs(predicted - true) for predicted, true, count in parts) / len(parts)"),
        ),
        mistake(
            "the worst bin's error is returned, not the weighted mean",
            (ERROR, "max(abs(predicted - true) for predicted, true, count in parts)"),
        ),
        mistake(
            "errors keep their sign, so that too sure and too timid cancel",
            (ERROR, "abs(sum(count * (predicted - true) for predicted, true, count in parts)) / len(probabilities)"),
        ),
        mistake("the bins' errors are squared", ("count * abs(predicted - true)", "count * (predicted - true) ** 2")),
        mistake(
            "the weighted errors are not divided by the number of predictions",
            (ERROR, ERROR.replace(" / len(probabilities)", "")),
        ),
        mistake("the weighted errors are divided by the number of bins", (ERROR, ERROR.replace("len(probabilities)", "bins"))),
        mistake(
            "bins include their upper edge, not their lower one",
            (BINNED, "((probabilities * bins).ceil().long() - 1).clamp(min=0)"),
        ),
        mistake(
            "shares and means are left as tensors, where plain floats are asked for",
            (KEPT, "found.append((probabilities[inside].mean(), outcomes[inside].float().mean(), count))"),
        ),
        mistake("accuracy is a tensor, where a plain float is asked for", (f"float({ACCURACY})", ACCURACY)),
        mistake(
            "`bins` is not passed on to calibration_bins",
            ("calibration_bins(probabilities, outcomes, bins)", "calibration_bins(probabilities, outcomes)"),
        ),
    ],
    "best_of_n_value": [
        mistake(
            "only the first n samples are looked at, and all others wasted",
            (f"return {EXPECTED}", "return gold[proxy[:n].argmax()]"),
        ),
        mistake(
            "the samples are cut into consecutive groups of n, in place of all ways to pick n",
            (
                f"return {EXPECTED}",
                "starts = range(0, samples - n + 1, n)\n"
                "    return torch.stack([gold[s + proxy[s : s + n].argmax()] for s in starts]).mean()",
            ),
        ),
        mistake("the best of all samples is returned, whatever n is", (f"return {EXPECTED}", "return gold[proxy.argmax()]")),
        mistake("the n samples with the highest proxy are averaged", (f"return {EXPECTED}", "return gold[order[-n:]].mean()")),
        mistake(
            "the proxy's own value is averaged, not the gold reward",
            (EXPECTED, EXPECTED.replace("gold[order]", "proxy[order]")),
        ),
        mistake(
            "gold is sorted by itself: the best of n by gold, which nobody can choose by",
            (ORDER, "gold.argsort(stable=True)"),
        ),
        mistake("gold is not brought into the proxy's order", (EXPECTED, EXPECTED.replace("gold[order]", "gold"))),
        mistake(
            "the order is descending, so that the worst of n is chosen", (ORDER, "proxy.argsort(stable=True, descending=True)")
        ),
        mistake(
            "gold is indexed by each sample's rank, where it should be read in the order of the ranks",
            (ORDER, "proxy.argsort(stable=True).argsort()"),
        ),
        mistake(
            "samples are picked with replacement, so that one may be compared with itself",
            (WEIGHTS, "((i + 1) / samples) ** n - (i / samples) ** n for i in range(samples)"),
        ),
        mistake(
            "the rank is off by one: the i-th smallest is given C(i, n - 1) picks, counted from 1",
            (WEIGHTS, "math.comb(i + 1, n - 1) / math.comb(samples, n) for i in range(samples)"),
        ),
        mistake(
            "n others are picked beside the best one, not n - 1",
            (WEIGHTS, "math.comb(i, n) / math.comb(samples, n) for i in range(samples)"),
        ),
        mistake(
            "the number of picks is divided by C(samples - 1, n - 1), so that the weights add up to more than 1",
            (WEIGHTS, "math.comb(i, n - 1) / math.comb(samples - 1, n - 1) for i in range(samples)"),
        ),
        mistake(
            "the weighted rewards are averaged over the samples once more", (EXPECTED, EXPECTED.replace(").sum()", ").mean()"))
        ),
        mistake(
            "of samples with equal proxy the earlier one counts as the better",
            (ORDER, "(samples - 1 - proxy.flip(0).argsort(stable=True))"),
        ),
        mistake(
            "samples with equal proxy are left in whatever order the sorting happens to give: stable=True is missing",
            (ORDER, "proxy.argsort()"),
        ),
        mistake("n above the number of samples is not refused as it should be", (CHECKED, "if n < 1:")),
        mistake("n below 1 is not refused as it should be", (CHECKED, "if n > samples:")),
        mistake("n equal to the number of samples is refused", (CHECKED, "if not 1 <= n < samples:")),
    ],
    "best_of_n_kl": [
        mistake("only log n is returned, which is too much by nearly 1 for large n", (KL, "math.log(n)")),
        mistake("(n - 1) / n is added, not subtracted", (KL, "math.log(n) + (n - 1) / n")),
        mistake(
            "the logarithm is that of base 2, so that the two terms have different units", (KL, "math.log2(n) - (n - 1) / n")
        ),
        mistake("n is subtracted, where (n - 1) / n is meant", (KL, "math.log(n) - n")),
        mistake(
            "the first samples are not counted: log(n - 1) stands for log n", (KL, "math.log(max(n - 1, 1)) - (n - 1) / n")
        ),
        mistake("the result is a tensor, where a plain float is asked for", (KL, f"torch.tensor({KL})")),
        mistake("1 / n is subtracted in place of (n - 1) / n", (KL, "math.log(n) - 1 / n")),
        mistake("the brackets are missing: n - 1 / n is subtracted", (KL, "math.log(n) - n - 1 / n")),
        mistake(
            "the divergence is taken the other way round, from the sampling policy to best-of-n", (KL, "n - 1 - math.log(n)")
        ),
    ],
}
