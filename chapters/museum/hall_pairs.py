"""Hall 4: reward model, DPO, IPO, ORPO. Bugs in learning from "this one is better"."""

from chapters.museum import chat_labs, pair_labs
from chapters.museum.exhibits import Exhibit, Symptom

EXHIBITS = (
    Exhibit(
        name="behind-the-end",
        title="The score that depends on the neighbours",
        target="kittenllm.reward_model.RewardModel.forward",
        changes=(
            (
                "is_last = column == lengths[:, None] - 1",
                "is_last = (column == tokens.shape[1] - 1).expand(len(tokens), -1)",
            ),
        ),
        symptom=Symptom(
            chat_labs.score_over_padding, "columns of padding", "score of the same reply", 1.0
        ),
        seen="One and the same reply gets another score in longer company.",
        answer="The score is read in the last column, on padding, and not at the last real token.",
        story=(
            "A well-known sequence classifier takes the last column when no padding token is set."
            " Accuracy stays above chance, because even padding knows a little."
        ),
        killed_by=(
            "test_reward_model.py::test_what_stands_behind_the_end_never_matters",
            "test_reward_model.py",
        ),
    ),
    Exhibit(
        name="too-sure",
        title="Seven of ten annotators",
        target="kittenllm.reward_model.bradley_terry_loss",
        changes=(("F.logsigmoid(margin).mean()", "F.logsigmoid(margin.mean())"),),
        symptom=Symptom(pair_labs.noisy_annotators, "step", "p(the first is better)", 0.2),
        seen="Seven of ten prefer the first reply. The right answer is 0.7.",
        answer="The mean is taken before the log-sigmoid: pairs are no longer judged one by one.",
        story=(
            "Mean and loss change places in one line of code, and with clean labels both order the"
            " replies alike. Accuracy is the same, only the probabilities are worth nothing."
        ),
        killed_by=("test_reward_model.py::test_bradley_terry_by_hand", "test_reward_model.py"),
    ),
    Exhibit(
        name="per-token",
        title="Long replies, short replies",
        target="kittenllm.dpo.pair_logprobs",
        changes=(('reduce="sum"', 'reduce="mean"'),),
        symptom=Symptom(
            chat_labs.length_is_no_merit, "tokens of the reply", "log p of the reply, nats", 30.0
        ),
        seen="Every further token makes a reply less likely. Here length costs nothing.",
        answer="DPO's formula holds for log p(reply), a sum over tokens. This is the mean.",
        story=(
            "Libraries have a switch `average_log_prob`, which other losses need. With it DPO still"
            " learns to prefer the chosen reply, but beta is another price for every length."
        ),
        killed_by=(
            "test_dpo.py::test_pair_logprobs_are_sums_over_the_reply_with_its_end",
            "test_dpo.py",
        ),
    ),
    Exhibit(
        name="moving-target",
        title="The reference that walks away",
        target="kittenllm.dpo.dpo_loss",
        changes=(
            (
                "(widen(ref_chosen_logprobs) - widen(ref_rejected_logprobs)).detach()",
                "widen(ref_chosen_logprobs) - widen(ref_rejected_logprobs)",
            ),
        ),
        symptom=Symptom(
            pair_labs.the_reference_stands_still, "step", "KL from the old reference, nats", 0.3
        ),
        seen="The reference is by oversight in the optimizer. It should not move even then.",
        answer="A gradient flows into the reference, which learns to prefer the rejected reply.",
        story=(
            "Somebody forgets `no_grad` around the second model. The loss falls twice as fast, "
            " which looks like luck with the learning rate."
        ),
        killed_by=("test_dpo.py::test_the_reference_gets_no_gradient", "test_dpo.py"),
    ),
    Exhibit(
        name="own-goal",
        title="A loss that always reaches its goal",
        target="kittenllm.dpo.ipo_loss",
        changes=(("target = 1 / (2 * beta)", "target = 1 / 2 * beta"),),
        symptom=Symptom(pair_labs.where_ipo_comes_to_rest, "step", "gap, nats", 1.0),
        seen="With beta 0.25 IPO should come to rest at 2 nats.",
        answer="Without the brackets Python reads (1 / 2) * beta.",
        story=(
            "A formula loses its brackets on the way from the paper to the keyboard. The loss falls"
            " to zero all the same: it always reaches its goal, whatever that is."
        ),
        killed_by=("test_dpo.py::test_ipo_by_hand", "test_dpo.py"),
    ),
    Exhibit(
        name="half-a-lesson",
        title="What shall not be said",
        target="kittenllm.orpo.orpo_loss",
        changes=(("log_odds(rejected_logprobs)", "log_odds(rejected_logprobs.detach())"),),
        symptom=Symptom(pair_labs.rejected_goes_down, "step", "p(rejected) per token", 0.2),
        seen="The chosen reply becomes likelier. The rejected one stays where it was.",
        answer="No gradient reaches the rejected reply: half of the lesson is missing.",
        story=(
            "Memory is short, so the rejected replies are read without a gradient. The margin grows"
            " nevertheless, by the chosen side alone."
        ),
        killed_by=(
            "test_orpo.py::test_chosen_goes_up_and_rejected_goes_down",
            "test_orpo.py",
            "test_contract.py",
        ),
    ),
    Exhibit(
        name="kind-examiner",
        title="The test that never fails",
        target="chapters.museum.exhibits.tells_apart",
        changes=(
            (
                "return largest_gap(right, wrong) >= least",
                "return not largest_gap(right, wrong) < least / 1e6",
            ),
        ),
        symptom=Symptom(pair_labs.bugs_that_are_noticed, "size of the bug", "noticed", 0.5),
        seen="The museum's own test of symptoms. Some differences are just noise.",
        answer="The tolerance is a million times off: whatever moves at all counts as a symptom.",
        story=(
            "Course graders were seen that let all-zero answers pass, since the tolerance was"
            " larger than the numbers. A test that is always green is the most silent bug of all."
        ),
        killed_by=("test_museum.py::test_small_differences_are_no_symptom",),
    ),
)
