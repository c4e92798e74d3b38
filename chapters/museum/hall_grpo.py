"""Hall 3: rewards, sampling, GRPO. Bugs in comparing replies with each other."""

from chapters.museum import policy_labs
from chapters.museum.exhibits import Exhibit, Symptom

GOOD = "p(the good token)"

EXHIBITS = (
    Exhibit(
        name="slack-leash",
        title="A price that nobody pays",
        target="kittenllm.grpo.grpo_loss",
        changes=(
            (
                "kl = kl_k3(torch.where(mask, logprobs, 0.0), ref_logprobs)",
                "kl = torch.where(mask, logprobs, 0.0) - ref_logprobs",
            ),
        ),
        symptom=Symptom(policy_labs.pulled_back, "round", "KL to the reference, nats", 0.15),
        seen="Only the KL term acts, and the policy does not come back to the reference.",
        answer="This is k1. As a number it is right; as a loss its gradient is zero on average.",
        story=(
            "Tang and Munos (2025, arXiv 2506.09477) found KL estimates used as losses in several"
            " open projects. The reported KL is right, so it looks as if the price were too low."
        ),
        killed_by=(
            "test_grpo.py::test_the_kl_term_is_k3_to_the_reference",
            "test_grpo.py",
        ),
    ),
    Exhibit(
        name="upside-down",
        title="Never negative, and never right",
        target="kittenllm.logprobs.kl_k3",
        changes=(("log_r = -kl_k1(", "log_r = kl_k1("),),
        symptom=Symptom(policy_labs.estimated_kl, "true KL, nats", "mean of k3, nats", 0.5),
        seen="The estimate should lie on the diagonal. Near 0 it does.",
        answer="The ratio is upside down, policy / reference. It must be reference / policy.",
        story=(
            "k3 is never negative whichever way round, and near the reference both agree to second"
            " order. Only far away, where the number matters, they part."
        ),
        killed_by=(
            "test_logprobs.py::test_k1_and_k3_are_right_on_average",
            "test_logprobs.py",
        ),
    ),
    Exhibit(
        name="loud-neighbour",
        title="The class with one loud child",
        target="kittenllm.grpo.group_advantages",
        changes=(("groups.std(dim=1, keepdim=True)", "groups.std()"),),
        symptom=Symptom(
            policy_labs.a_loud_prompt_and_a_quiet_one, "round", GOOD + ", quiet prompt", 0.4
        ),
        seen="Two prompts; the rewards of one are 100 times larger. The quiet one learns nothing.",
        answer="The std is that of the whole batch, so the loudest group sets the scale of all.",
        story=(
            "One missing `dim` and shapes still broadcast. With rewards of 0 and 1 everywhere the"
            " difference is small, and nobody sees it before the rewards are mixed."
        ),
        killed_by=("test_rewards.py::test_group_advantages_by_hand", "test_rewards.py"),
    ),
    Exhibit(
        name="strangers",
        title="Compared with the wrong siblings",
        target="kittenllm.grpo.group_advantages",
        changes=(
            (
                "rewards.detach().view(-1, group_size)",
                "rewards.detach().view(group_size, -1).T",
            ),
            (
                "torch.where(all_equal, 0.0, advantages).flatten()",
                "torch.where(all_equal, 0.0, advantages).T.flatten()",
            ),
        ),
        symptom=Symptom(
            policy_labs.a_loud_prompt_and_a_quiet_one, "round", GOOD + ", quiet prompt", 0.4
        ),
        seen="The quiet prompt learns nothing: its replies are measured against the loud ones.",
        answer="The replies to one prompt stand side by side; here every N/G-th is called a group.",
        story=(
            "`repeat` and `repeat_interleave` order a batch differently, and `view` accepts both."
            " Advantages still add up to zero per group, so all sanity checks pass."
        ),
        killed_by=("test_rewards.py::test_group_advantages_by_hand", "test_rewards.py"),
    ),
    Exhibit(
        name="empty-bowl",
        title="One reply in a million",
        target="kittenllm.logprobs.sequence_logprobs",
        changes=(("mask.sum(dim=1).clamp(min=1)", "mask.sum(dim=1)"),),
        symptom=Symptom(policy_labs.an_empty_reply_comes_by, "round", "mean of the losses", 0.5),
        seen="All is well until round 20. Then one reply is empty, and the number is gone.",
        answer="The mean of an empty row is 0 / 0. One NaN spoils every mean that it enters.",
        story=(
            "Empty replies are rare: it happens after hours, and the second time often not at all."
            " Here `where` saves the gradient; code that multiplies by the mask loses its weights."
        ),
        killed_by=(
            "test_logprobs.py::test_empty_masks_give_zero_and_not_nan",
            "test_logprobs.py",
            "test_contract.py",
        ),
    ),
    Exhibit(
        name="thinned-out",
        title="A mean that fades",
        target="kittenllm.logprobs.masked_mean",
        changes=(("total / mask.sum().clamp(min=1)", "total / mask.numel()"),),
        symptom=Symptom(policy_labs.mean_over_padding, "columns of padding", "the mean", 1.0),
        seen="The mean of four numbers depends on how much padding stands beside them.",
        answer="The sum is divided by all places and not by those that count.",
        story=(
            "`(x * mask).mean()` is a classic. The loss falls as it should, its unit just changes"
            " with every batch, and so does the true learning rate."
        ),
        killed_by=("test_logprobs.py::test_masked_mean_by_hand", "test_logprobs.py"),
    ),
    Exhibit(
        name="mild-verdict",
        title="Better to say nothing at all",
        target="kittenllm.rewards.score_by_rule",
        changes=(
            (
                "worth.append(float(reply_reward))",
                "worth.append(float(reply_reward) if ended else 0.0)",
            ),
        ),
        symptom=Symptom(policy_labs.a_hard_question, "round", "share of replies that end", 0.5),
        seen="A wrong reply costs 0.5 and an endless one costs 1. The policy prefers the endless.",
        answer="Replies that were cut off get 0 whatever the rule says, and 0 is more than -0.5.",
        story=(
            "Parsers find no answer in a cut text and return 0, which is kind where wrong answers"
            " cost something. Replies grow longer, and it looks as if the model thought more."
        ),
        killed_by=(
            "test_rewards.py::test_the_rule_sees_prompt_number_reply_and_end",
            "test_rewards.py",
        ),
    ),
    Exhibit(
        name="lucky-number",
        title="A judge in a hurry",
        target="kittenllm.kitten_town.countdown.check_answer",
        changes=(
            (
                "return hits_target and chain == make_chain(chain.numbers, operators)",
                "return hits_target",
            ),
        ),
        symptom=Symptom(policy_labs.answers_to_countdown, "round", "p(the right answer)", 0.5),
        seen="The reward climbs to 1. The right answer does not become likelier.",
        answer="The calculation is never checked: only the last number is compared with the"
        " target, and anybody can write that.",
        story=(
            "Taking the last number of a text is a common way to grade sums. It grades honest"
            " answers well, and RL finds every other text that ends in the number."
        ),
        killed_by=("test_countdown.py::test_wrong_answers", "test_countdown.py"),
    ),
    Exhibit(
        name="narrow-mind",
        title="A word that is never tried",
        target="kittenllm.sampling.draw",
        changes=(
            (
                "right_edge = logprobs.exp().cumsum(dim=-1)",
                "right_edge = logprobs.exp().where(logprobs >= logprobs.topk(5)[0][:, -1:], 0.0)"
                ".cumsum(dim=-1)",
            ),
        ),
        symptom=Symptom(policy_labs.the_best_word_is_rare, "round", "p(the best word)", 0.5),
        seen="The best word is rare at first. RL should find it, and never does.",
        answer="Tokens come from the five likeliest only, while the recorded log-probs are those of"
        " the full distribution: sampled and scored are two policies.",
        story=(
            "Some libraries sample with top_k=50 unless told otherwise. The texts look better than"
            " without it, and the ratio at the first step is 1 all the same."
        ),
        killed_by=("test_sampling.py::test_draw_follows_the_probabilities", "test_sampling.py"),
    ),
)
