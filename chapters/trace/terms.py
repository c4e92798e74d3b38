"""Which term of the equation each named intermediate is: the words beside its numbers.

A test runs every function and compares: each of its local tensors must stand here, and nothing else
may.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Term:
    """One named intermediate: the term of the equation, and what it means."""

    term: str
    meaning: str
    dots: str = ""  # name of the mask that hides places of it; "": the function's own mask
    hidden: bool = False  # True: not printed, it only checks arguments or counts


@dataclass(frozen=True)
class Function:
    """One function of the package."""

    equation: str
    source: str  # paper and equation
    terms: dict[str, Term]
    results: tuple[str, ...] = ()  # names of what it returns, if these are tensors


ONLY_CHECKS = Term("", "the loop that checks the arguments", hidden=True)

LOG_P = Term("log p_t", "log-prob of each produced token, by the model that learns now, nats")
LOG_OLD = Term("log p_old_t", "the same by the model that sampled the reply; a fixed number")
LOG_REF = Term("log ref_t", "the same by the frozen reference; a fixed number")
MASK = Term("which t count", "1 where a token of the reply is produced, its end included")
CLIP_EPS = Term("eps", "how far a ratio may move from 1 before the pay stops")
LOG_RATIO = Term("log p_t - log p_old_t", "how far the update has moved this token already; nats")
RATIO = Term("ratio_t = p_t / p_old_t", "how many times likelier the token is than when sampled")
HELD = Term("log ratio_t, at most 1 + log(1+eps)", "so that e^1000 need not be computed: no pay")
PLAIN = Term("ratio_t * A_t", "what the step would be paid without the clip")
CLIPPED = Term("clip(ratio_t, 1-eps, 1+eps) * A_t", "the pay with the ratio held near 1")
LOSS = Term("the loss", "minus the mean of the smaller of the two over all counted tokens")
OUTSIDE = Term("|ratio_t - 1| > eps", "1 where the ratio has left the interval, 0 elsewhere")

SUMMED = "sum_t log p_t"
PREFERENCES = {
    "chosen_logprobs": Term("log p(chosen)", "summed over the reply, by the policy, nats"),
    "rejected_logprobs": Term("log p(rejected)", "the same for the rejected reply"),
    "ref_chosen_logprobs": Term("log ref(chosen)", "by the frozen reference"),
    "ref_rejected_logprobs": Term("log ref(rejected)", "by the frozen reference"),
    "beta": Term("beta", "price of one nat away from the reference"),
}
POLICY_MARGIN = Term("log p(chosen) - log p(rejected)", "how much the policy prefers the chosen")
REFERENCE_MARGIN = Term("log ref(chosen) - log ref(rejected)", "how much the reference did")

TERMS: dict[str, Function] = {
    "token_logprobs": Function(
        "log p_t = log softmax(logits_t)[token_{t+1}]",
        "the alignment rule",
        {
            "logits": Term("logits_t", "one number per word: the model's opinion at place t"),
            "tokens": Term("token_t", "the row of text as numbers; 1 ends a reply, 0 is padding"),
            "producing": Term("logits_t, t < T-1", "the last place has nothing to produce"),
            "produced": Term("token_{t+1}", "what came: everything moves one place to the left"),
        },
        results=("log p_t",),
    ),
    "sft_loss": Function(
        "loss = -(1 / n) sum over trained t of log p_t",
        "Ouyang et al. 2022, arXiv 2203.02155, section 3.5",
        {
            "logits": Term("logits_t", "one number per word: the model's opinion at place t"),
            "tokens": Term("token_t", "the row of text as numbers"),
            "loss_mask": Term("trained tokens", "1 on the assistant's words and its end of turn"),
            "trained": Term("which t count", "the mask moved one place: t is about token t + 1"),
            "row": Term("the row of each trained t", "one number per trained token"),
            "place": Term("each trained t", "its place in the row, one before the token"),
            "producing": Term("logits_t, t trained", "only the places whose logits count"),
            "produced": Term("token_{t+1}, t trained", "what came at these places"),
            "logprobs": Term("log p_t", "log-prob of each trained token, nats"),
            "count": Term("n", "trained tokens of all rows; at least 1, to divide by"),
            "loss": Term("the loss", "minus the mean over the trained tokens, nats per token"),
            "hits": Term("argmax logits_t == token_{t+1}", "1 where it was the likeliest token"),
        },
    ),
    "RewardModel.forward": Function(
        "r(x, y) = hidden state at the last real token, times the head, + weight * log p(y | x)",
        "Ouyang et al. 2022, arXiv 2203.02155, section 3.5",
        {
            "tokens": Term("x, y", "prompt and reply; first all chosen rows, then all rejected"),
            "lengths": Term("lengths", "real tokens of each row; the rest is padding"),
            "length": ONLY_CHECKS,
            "column": Term("t", "the places of a row"),
            "is_last": Term("t = length - 1", "the place where the score is read"),
            "in_reply": Term("t in y", "True where a token of the reply is produced"),
            "producing": Term("t in y", "the same places among all tokens"),
            "wanted": Term("t in y or t = length - 1", "where hidden states are needed"),
            "hidden": Term("h_t", "the hidden states there, row after row"),
            "last_hidden": Term("h_last", "what the model knows when it has read everything"),
            "logits": Term("z_t", "what the model expected before each token of the reply"),
            "logprobs": Term("log p(y_t | x, y_<t)", "how likely it found that token, nats"),
            "likelihood": Term("log p(y | x)", "their sum: how likely it finds the reply"),
        },
        results=("r(x, y)",),
    ),
    "bradley_terry_loss": Function(
        "loss = -mean log sigmoid(r_chosen - r_rejected)",
        "Ouyang et al. 2022, arXiv 2203.02155, eq. 1",
        {
            "chosen_rewards": Term("r_chosen", "scores of the replies that people preferred"),
            "rejected_rewards": Term("r_rejected", "scores of the others"),
            "margin": Term("r_chosen - r_rejected", "only this difference counts"),
            "loss": Term("the loss", "surprise at what people chose; log 2 = 0.693: no idea"),
            "accuracy": Term("sign(margin)", "1 right, 0 wrong, 0.5 a tie"),
        },
    ),
    "kl_shaped_rewards": Function(
        "r_t = [t is last] * score - kl_coef * (log p_t - log ref_t)",
        "Ziegler et al. 2019, arXiv 1909.08593, eq. 2",
        {
            "scores": Term("score", "the reward model's one number for the whole reply"),
            "logprobs": Term("log p_t", "by the policy that sampled the reply, nats"),
            "ref_logprobs": LOG_REF,
            "mask": MASK,
            "kl_coef": Term("kl_coef", "price of one nat away from the reference"),
            "kl": Term("log p_t - log ref_t", "k1: how far this token is from the reference"),
            "trues_from_here": Term("how many t' >= t count", "to find the last one"),
            "is_last": Term("[t is last]", "1 on the last token of the reply"),
            "score_at_end": Term("[t is last] * score", "the score lands on the last token alone"),
        },
        results=("r_t",),
    ),
    "gae": Function(
        "delta_t = r_t + gamma * V_{t+1} - V_t;  A_t = delta_t + gamma * lam * A_{t+1}",
        "Schulman et al. 2015, arXiv 1506.02438, eq. 16",
        {
            "rewards": Term("r_t", "the reward of each token, from the step before"),
            "values": Term("V_t", "what the value model guessed before the token: score to come"),
            "mask": MASK,
            "gamma": Term("gamma", "what a reward one token later is worth; 1: the same"),
            "lam": Term("lam", "0: trust the next guess, 1: trust the score at the end"),
            "t": Term("t", "the loop runs from the end", hidden=True),
            "next_value": Term("V_{t+1}", "the guess after the token; 0 behind the end"),
            "next_advantage": Term("A_{t+1}", "the advantage of the token after; 0 at the end"),
            "delta": Term("delta_t", "TD error: how much better than guessed", dots="mask"),
            "advantage": Term("A_t", "this surprise and, ever less, all later ones", dots="mask"),
            "advantages": Term("A_t, all t", "filled from the end to the start"),
        },
        results=("A_t", "return_t = A_t + V_t"),
    ),
    "ppo_policy_loss": Function(
        "loss = -mean min(ratio_t * A_t, clip(ratio_t, 1 - eps, 1 + eps) * A_t)",
        "Schulman et al. 2017, arXiv 1707.06347, eq. 7",
        {
            "logprobs": LOG_P,
            "old_logprobs": LOG_OLD,
            "advantages": Term("A_t", "above 0: make the token likelier, below 0: rarer"),
            "mask": MASK,
            "clip_eps": CLIP_EPS,
            "log_ratio": LOG_RATIO,
            "held": HELD,
            "ratio": RATIO,
            "plain": PLAIN,
            "clipped": CLIPPED,
            "loss": LOSS,
            "outside": OUTSIDE,
        },
    ),
    "ppo_value_loss": Function(
        "loss = mean max((V - R)^2, (V_clipped - R)^2) / 2",
        "OpenAI baselines; not in the PPO paper",
        {
            "values": Term("V_t", "what the value model guesses now"),
            "old_values": Term("V_old_t", "what it guessed when the reply was scored"),
            "returns": Term("R_t = A_t + V_old_t", "what came out: the target"),
            "mask": MASK,
            "clip_eps": Term("eps", "how far a guess may move in one round"),
            "change": Term("V_t - V_old_t", "how far it has moved"),
            "clipped_values": Term("V_clipped", "the guess, held within eps of the old one"),
            "worse": Term("max of the two squares", "the larger error counts"),
            "outside": Term("|V_t - V_old_t| > eps", "1 where the guess moved too far"),
        },
        results=("the loss",),
    ),
    "sequence_logprobs": Function(
        "log p(reply) = sum_t log p_t, or its mean per token",
        "DPO and IPO need the sum, ORPO the mean",
        {
            "logprobs": Term("log p_t", "of chosen rows first, then of rejected rows, nats"),
            "mask": MASK,
            "totals": Term(SUMMED, "one number per reply; divided by its length for the mean"),
        },
        results=("log p(reply)",),
    ),
    "preference_metrics": Function(
        "reward(y) = beta * log(p(y) / ref(y)), up to a constant",
        "Rafailov et al. 2023, arXiv 2305.18290, eq. 5",
        {
            **PREFERENCES,
            "chosen_rewards": Term("reward(chosen)", "the reward hidden in the policy"),
            "rejected_rewards": Term("reward(rejected)", "the same for the rejected reply"),
            "margin": Term("reward(chosen) - reward(rejected)", "above 0: it orders them right"),
        },
    ),
    "dpo_loss": Function(
        "loss = -mean log sigmoid(beta * (log p/ref (chosen) - log p/ref (rejected)))",
        "Rafailov et al. 2023, arXiv 2305.18290, eq. 7",
        {
            **PREFERENCES,
            "label_smoothing": Term("share of wrong labels", "cDPO; 0 believes every label"),
            "policy_margin": POLICY_MARGIN,
            "reference_margin": REFERENCE_MARGIN,
            "margin": Term("beta * (difference of the two)", "what goes into the sigmoid"),
            "label_right": Term("-log sigmoid(margin)", "the surprise if the label is right"),
            "label_wrong": Term("-log sigmoid(-margin)", "the surprise if it was flipped"),
            "losses": Term("loss of each pair", "0.693 = log 2 where policy = reference"),
        },
        results=("the loss",),
    ),
    "ipo_loss": Function(
        "loss = mean (h - 1 / (2 beta))^2",
        "Azar et al. 2023, arXiv 2310.12036, eq. 17",
        {
            **PREFERENCES,
            "policy_margin": POLICY_MARGIN,
            "reference_margin": REFERENCE_MARGIN,
            "gap": Term("h", "how much more the policy prefers the chosen than the reference"),
            "target": Term("1 / (2 beta)", "the distance that IPO wants: then nothing pulls"),
            "losses": Term("(h - 1 / (2 beta))^2", "the loss of each pair"),
        },
        results=("the loss",),
    ),
    "log_odds": Function(
        "log odds(y) = log p - log(1 - p)",
        "Hong et al. 2024, arXiv 2403.07691, eq. 4; here for the chosen replies",
        {
            "logprobs": Term("log p", "mean log-prob per token, kept a hair below 0"),
            "ceiling": Term("the hair", "p = 1 would have infinite odds"),
        },
        results=("log odds",),
    ),
    "orpo_loss": Function(
        "loss = NLL(chosen) - weight * mean log sigmoid(log odds(chosen) - log odds(rejected))",
        "Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7",
        {
            "chosen_logprobs": Term("log p(chosen)", "mean per token, by the policy, nats"),
            "rejected_logprobs": Term("log p(rejected)", "the same for the rejected reply"),
            "weight": Term("lambda", "weight of the preference beside plain fine-tuning"),
            "logprobs": ONLY_CHECKS,
            "highest": ONLY_CHECKS,
            "margin": Term("log odds(chosen) - log odds(rejected)", "log of the odds ratio"),
            "odds_loss": Term("-mean log sigmoid(margin)", "pushes the rejected reply down"),
            "nll": Term("-mean log p(chosen)", "plain fine-tuning on the chosen reply"),
            "loss": Term("the loss", "the sum of the two, with its weight"),
        },
    ),
    "group_advantages": Function(
        "A_i = (reward_i - mean of the group) / std of the group",
        "Shao et al. 2024, arXiv 2402.03300, section 4.1.2",
        {
            "rewards": Term("reward_i", "1 for a right answer, 0.1 for the right form"),
            "group_size": Term("G", "replies to one prompt"),
            "eps": Term("eps", "so that nothing is divided by 0"),
            "groups": Term("reward_i by group", "a row per prompt, siblings side by side"),
            "advantages": Term("A_i", "first without, then with the division by the std"),
            "all_equal": Term("all rewards equal", "such a group teaches nothing: exactly 0"),
        },
        results=("A_i",),
    ),
    "grpo_loss": Function(
        "loss = -mean [min(ratio * A, clip(ratio, 1 - eps, 1 + eps) * A) - kl_coef * k3]",
        "Shao et al. 2024, arXiv 2402.03300, eq. 3 and 4",
        {
            "logprobs": LOG_P,
            "old_logprobs": LOG_OLD,
            "advantages": Term("A_i", "one number per reply, from the step before"),
            "mask": MASK,
            "clip_eps": CLIP_EPS,
            "clip_eps_high": Term("eps above 1", "DAPO lets a good token grow further"),
            "ref_logprobs": LOG_REF,
            "kl_coef": Term("kl_coef", "price of one nat away from the reference"),
            "log_ratio": LOG_RATIO,
            "held": HELD,
            "ratio": RATIO,
            "reply_advantages": Term("A_i as a column", "the same for all tokens of a reply"),
            "plain": PLAIN,
            "clipped": CLIPPED,
            "kl": Term("k3 = ref/p - log(ref/p) - 1", "distance to the reference, never below 0"),
            "token_losses": Term("kl_coef * k3 - min(...)", "the loss of each token"),
            "loss": Term("the loss", "mean of each reply, then of the replies"),
            "outside": OUTSIDE,
        },
    ),
}
