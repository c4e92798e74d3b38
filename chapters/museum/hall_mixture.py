"""Hall 5: prompts of two kinds in one batch. Bugs that only a mixture shows."""

from chapters.museum import mixture_labs
from chapters.museum.exhibits import Exhibit, Symptom

EXHIBITS = (
    Exhibit(
        name="next-door",
        title="Fed at the wrong house",
        target="kittenllm.rewards.mixed_reward",
        changes=(
            (
                "return reward_of_kind(number - first, reply, ended)",
                "return reward_of_kind(number - count, reply, ended)",
            ),
        ),
        symptom=Symptom(mixture_labs.what_chats_want, "round", "p(what the chat wants)", 0.5),
        seen="Two puzzles and four chats learn. The puzzles get better, the chats get worse.",
        answer="The prompts of earlier kinds must be subtracted, not how many there are of this"
        " kind. Here each chat gets the reward of the chat two doors away.",
        story=(
            "Python takes a negative index without complaint and counts it from the end, so nothing"
            " crashes. As long as a batch holds as many chats as puzzles, the code is even right."
        ),
        killed_by=(
            "test_rewards.py::test_mixed_reward_by_hand",
            "test_rewards.py",
            "test_ch6.py::test_the_mixed_reward_by_hand",
        ),
    ),
    Exhibit(
        name="loud-judge",
        title="The judge who shouts",
        target="kittenllm.scorer.Scorer.of_tokens",
        changes=(("return (rewards - self.mean) / self.std", "return rewards - self.mean"),),
        symptom=Symptom(mixture_labs.a_sum_or_praise, "round", "p(a sum)", 0.5),
        seen="A small kitten learns from a puzzle and a chat. Soon it answers sums with praise.",
        answer="The reward model's score keeps the unit that it happens to have, here 5 times too"
        " large, and drowns the point that rules give for a right sum.",
        story=(
            "With this judge alone nobody notices: Adam does not feel the scale of a loss, and"
            " dividing by the std of each group takes it away. It shows when two judges share one"
            " batch, or when a KL price is weighed against the score."
        ),
        killed_by=(
            "test_ch2.py::test_the_scorer_gives_the_scores_zero_and_unit",
            "test_ch6.py::test_the_mixed_reward_by_hand",
        ),
    ),
    Exhibit(
        name="thin-report",
        title="A kitten that seems to forget",
        target="kittenllm.rewards.score_by_rule",
        changes=(("sum(values) / len(values)", "sum(values) / len(parts)"),),
        symptom=Symptom(
            mixture_labs.report_of_a_mixed_batch, "chats in the batch", "right puzzles", 0.3
        ),
        seen="The kitten solves three of four puzzles. With more chats beside them the report says"
        " less.",
        answer="What only puzzles have is divided by all replies, as if chats were wrong puzzles.",
        story=(
            "The training itself is right; only its curve is not, and it falls when the mixture"
            " changes. Somebody will then turn up the weight of the puzzles, which need nothing."
        ),
        killed_by=(
            "test_rewards.py::test_parts_are_averaged_over_the_replies_that_have_them",
            "test_rewards.py",
            "test_ch6.py::test_parts_of_each_kind_are_averaged_over_their_own_replies",
        ),
    ),
)
