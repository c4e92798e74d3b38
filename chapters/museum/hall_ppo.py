"""Hall 2: PPO and credit. Bugs that turn a reward into the wrong lesson."""

from chapters.museum import policy_labs
from chapters.museum.exhibits import Exhibit, Symptom

EXHIBITS = (
    Exhibit(
        name="no-brake",
        title="A clip that brakes on one side only",
        target="kittenllm.ppo.ppo_policy_loss",
        changes=(
            ("plain = ratio * advantages", "plain = ratio"),
            ("1 + clip_eps) * advantages", "1 + clip_eps)"),
            (
                "torch.minimum(plain, clipped), mask",
                "torch.minimum(plain, clipped) * advantages, mask",
            ),
        ),
        symptom=Symptom(policy_labs.bad_token_ratio, "small step", "p / p_old", 0.3),
        seen="A bad token should stop falling at 1 - eps. It falls on, for as long as one trains.",
        answer="The minimum is taken of the ratios and not of the products: for a negative"
        " advantage that is the wrong one of the two.",
        story=(
            "`min(ratio, clip(ratio)) * A` looks like the formula and stands in many homework"
            " solutions. For good tokens it is right, so rewards rise until the policy falls over."
        ),
        killed_by=("test_ppo.py::test_the_clip_by_hand", "test_ppo.py"),
    ),
    Exhibit(
        name="two-of-a-kind",
        title="A loss that teaches nothing",
        target="kittenllm.ppo.ppo_policy_loss",
        changes=(("logprobs - old_logprobs.detach()", "logprobs - old_logprobs"),),
        symptom=Symptom(policy_labs.one_forward_pass, "round", "p(the good token)", 0.5),
        seen="Everything runs, the gradient is exactly zero, and nothing is learnt.",
        answer="The old log-probs carry a gradient as well. Where they come from the same forward"
        " pass the two cancel.",
        story=(
            "With one step per batch people take new and old log-probs from one pass, and a single"
            " `detach` decides. The ratio is 1 as expected and the curve merely looks slow."
        ),
        killed_by=(
            "test_ppo.py::test_old_logprobs_and_advantages_get_no_gradient",
            "test_ppo.py",
            "test_contract.py",
        ),
    ),
    Exhibit(
        name="diluted",
        title="A number on the screen",
        target="kittenllm.ppo.ppo_policy_loss",
        changes=(
            ('"clip_fraction": masked_mean(outside, mask)', '"clip_fraction": outside.mean()'),
        ),
        symptom=Symptom(
            policy_labs.clip_fraction_over_padding, "columns of padding", "clip_fraction", 0.3
        ),
        seen="The more padding, the smaller the clip fraction. Training itself is right.",
        answer="The mean runs over all places, and padding is never clipped.",
        story=(
            "Losses are masked with care, numbers for the screen with less. Nobody compares them"
            " with a count by hand, and everybody tunes by them."
        ),
        killed_by=(
            "test_ppo.py::test_policy_loss_is_the_mean_over_all_tokens_and_metrics_count_right",
            "test_ppo.py",
        ),
    ),
    Exhibit(
        name="wrong-leash",
        title="A leash that pulls forward",
        target="kittenllm.ppo.kl_shaped_rewards",
        changes=(("kl_k1(logprobs, ref_logprobs)", "kl_k1(ref_logprobs, logprobs)"),),
        symptom=Symptom(policy_labs.leash, "round", "KL to the reference, nats", 1.0),
        seen="The KL term should hold the policy near the reference. It runs away from it.",
        answer="The log-ratio stands upside down: leaving the reference is paid for.",
        story=(
            "Which of two log-probs comes first is easy to mix up, and a KL of the wrong sign is"
            " still near zero at first. Then the reward climbs fast, and everybody is glad."
        ),
        killed_by=("test_credit.py::test_shaped_rewards_by_hand", "test_credit.py"),
    ),
    Exhibit(
        name="late-prize",
        title="The prize that arrives after the end",
        target="kittenllm.ppo.kl_shaped_rewards",
        changes=(
            (
                "is_last = mask & (trues_from_here == 1)",
                "is_last = trues_from_here == trues_from_here[:, -1:]",
            ),
        ),
        symptom=Symptom(policy_labs.short_is_best, "round", "p(ending at once)", 0.5),
        seen="A short reply is best, and the policy never finds out.",
        answer="The score lands behind the end of shorter replies, on padding, where it is lost.",
        story=(
            "`rewards[:, -1] += score` is right as long as all replies are equally long, as in a"
            " test with one row. In a batch only the longest reply is ever paid."
        ),
        killed_by=("test_credit.py::test_shaped_rewards_by_hand", "test_credit.py"),
    ),
    Exhibit(
        name="life-after-end",
        title="What comes after the last word",
        target="kittenllm.ppo.gae",
        changes=(
            ("values = torch.where(mask, values, 0.0).detach()", "values = values.detach()"),
            (
                "next_value = torch.where(mask[:, t], values[:, t], next_value)",
                "next_value = values[:, t]",
            ),
            (
                "return advantages.to(dtype), (advantages + values).to(dtype)",
                "return advantages, torch.where(mask, advantages + values, 0.0)",
            ),
        ),
        symptom=Symptom(policy_labs.long_is_best, "round", "p(going on)", 0.5),
        seen="Long replies earn more, and yet the policy learns to end at once.",
        answer="The value after the last token is taken from the padding. A finished reply has no"
        " future: its value is 0.",
        story=(
            "Code for games that never end looks one step further, and a value model says anything"
            " about padding. Nobody trains it there, so nobody looks there."
        ),
        killed_by=(
            "test_credit.py::test_gae_equals_the_sum_of_the_paper",
            "test_credit.py",
            "test_contract.py",
        ),
    ),
    Exhibit(
        name="paid-to-ask",
        title="Who deserves the praise?",
        target="kittenllm.ppo.gae",
        changes=(
            (
                "advantages[:, t] = torch.where(mask[:, t], advantage, 0.0)",
                "advantages[:, t] = advantage",
            ),
        ),
        symptom=Symptom(policy_labs.advantage_of_each_place, "place", "advantage", 0.5),
        seen="Places 0 to 3 are the prompt. Somebody gives them credit for the reply.",
        answer="Advantages outside the mask are not set to 0, so tokens of the prompt get some.",
        story=(
            "Prompt and reply are one row, and the recursion runs over all of it. A later mask"
            " often hides it; whitening without a mask does not."
        ),
        killed_by=(
            "test_credit.py::test_prompt_and_padding_have_no_advantage",
            "test_credit.py",
        ),
    ),
)
