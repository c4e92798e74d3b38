"""The frontier: what was gained (gold score) against how far the kitten went (KL), for all methods.

One idea: a gold score alone says little about a method, since more can always be had by going
further. So each method is drawn as a path: DPO and IPO at several beta, ORPO at several weights,
PPO round after round, and best-of-n, which trains nothing: draw n replies and keep the one that the
reward model likes best. The higher path at the same KL is the better bargain.

The KL of best-of-n needs no measuring: log n - (n - 1) / n nats, if no two replies get the same
score; it is never more (Beirami et al. 2024, arXiv 2401.01879).

Used by ch4_preferences --frontier.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from chapters.common.kitten import Kitten
from chapters.common.measuring import counts_of, measure, reply_rows
from kittenllm import plots
from kittenllm.config import check_options, option
from kittenllm.dpo import DPOConfig
from kittenllm.evaluation import Reply, evaluation_questions, sample_replies, weighted_rate
from kittenllm.gpt import GPT
from kittenllm.kitten_town.facts import build_town
from kittenllm.orpo import ORPOConfig
from kittenllm.runs.json_files import damaged, is_number, read_json, read_metrics, unread_lines
from kittenllm.runs.run import Run, fingerprint_of, read_summary
from kittenllm.scorer import Scorer, load_reward_model
from kittenllm.settings import Common, new_generator
from kittenllm.tokenizer import Tokenizer

REPLIES_EACH = 2  # per held-out question and point of a path


@dataclass(frozen=True)
class Variant:
    """One training of the frontier: a method and the setting that makes it go further or less."""

    method: str  # "DPO", "IPO" or "ORPO"
    label: str  # "beta 0.1"
    config: DPOConfig | ORPOConfig

    @property
    def stage(self) -> str:
        """A name for files: dpo_beta_0_1."""
        name = f"{self.method}_{self.label}".lower()
        return "".join(letter if letter.isalnum() else "_" for letter in name)


@dataclass(frozen=True)
class FrontierSettings:
    """How far each method is sent."""

    frontier_betas: tuple[float, ...] = option(
        (0.03, 0.1, 0.3, 1.0), "--frontier: DPO and IPO at each beta", above=0
    )
    frontier_weights: tuple[float, ...] = option(
        (0.5, 1.0, 2.0, 4.0), "--frontier: ORPO at each weight", low=0
    )

    def __post_init__(self):
        check_options(self)

    def variants(self, methods: dict[str, DPOConfig | ORPOConfig]) -> list[Variant]:
        """The trainings of the frontier, in the order of their paths. `methods`: the main ones."""
        variants = []
        for name in ("dpo", "ipo"):
            for beta in sorted(self.frontier_betas, reverse=True):
                config = replace(methods[name], beta=beta)
                variants.append(Variant(name.upper(), f"beta {beta:g}", config))
        for weight in sorted(self.frontier_weights):
            config = replace(methods["orpo"], weight=weight)
            variants.append(Variant("ORPO", f"weight {weight:g}", config))
        return variants


def counts_for_points(counts: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """As many questions, fewer replies to each: a picture needs no third digit."""
    return {kind: (many, min(each, REPLIES_EACH)) for kind, (many, each) in counts.items()}


def trained_paths(
    chapter: Run,
    start: Kitten,
    variants: list[Variant],
    train: Callable[[str, DPOConfig | ORPOConfig], GPT],
) -> dict[str, list[dict]]:
    """Train and measure every variant -> method -> [{"label", "kl", "gold", ...}].

    `train` is the chapter's own loop: from the name of a stage and its config to a policy.
    """
    counts = counts_for_points(counts_of(start.common))
    paths: dict[str, list[dict]] = {}
    for variant in variants:
        policy = train(variant.stage, variant.config)

        def look(policy=policy, variant=variant) -> dict:
            seen = measure(policy, start, "ch4_preferences", variant.stage, counts=counts)
            return {key: seen[key] for key in ("kl", "kl_stderr", "gold", "gold_stderr")}

        with chapter.timing("eval"):
            point = chapter.once(f"look_{variant.stage}", look)
        paths.setdefault(variant.method, []).append({"label": variant.label, **point})
        print(f"{variant.method} {variant.label}: gold {point['gold']:.2f}, KL {point['kl']:.2f}")
    return paths


# --------------------------------------------------------------------------------------- best-of-n


@dataclass(frozen=True)
class BestOf:
    """How many replies are drawn for one that is kept."""

    sizes: tuple[int, ...] = (1, 2, 4, 8, 16)


def best_of_n(
    common: Common, reference: GPT, tokenizer: Tokenizer, scorer: Scorer, sizes: tuple[int, ...]
) -> list[dict]:
    """Keep the best of n replies by the reward model's score, for several n: a point for each."""
    generator = new_generator(common.device, common.seed, "ch4_preferences", "best of n")
    town = build_town()
    replies: dict[str, list[Reply]] = {}
    score_of: dict[int, float] = {}
    for kind, questions in evaluation_questions(town, counts_of(common)).items():
        replies[kind] = sample_replies(
            reference,
            tokenizer,
            town,
            questions[: (len(questions) + 1) // 2],  # half of them: each is answered so often
            replies_each=max(sizes),
            temperature=1.0,
            generator=generator,
        )
        tokens, lengths, _ = reply_rows(tokenizer, replies[kind])  # (N, T), (N,)
        scores = scorer.of_tokens(tokens.to(common.device), lengths.to(common.device)).tolist()
        score_of |= {id(r): score for r, score in zip(replies[kind], scores, strict=True)}
    points = []
    for n in sizes:
        kept = {kind: picks(of_kind, score_of, n) for kind, of_kind in replies.items()}
        gold, error = weighted_rate(kept, lambda reply: reply.verdict.score)
        kl = math.log(n) - (n - 1) / n
        points.append({"label": f"n {n}", "kl": kl, "gold": gold, "gold_stderr": error})
    return points


def picks(replies: list[Reply], score_of: dict[int, float], n: int) -> list[Reply]:
    """The replies in blocks of n (neighbours answer one question): the best-scored of each."""
    blocks = [replies[first : first + n] for first in range(0, len(replies), n)]
    return [max(block, key=lambda reply: score_of[id(reply)]) for block in blocks]


# ----------------------------------------------------------- what other chapters have left behind


def built_on(common: Common, chapter: str, sft_fingerprint: str) -> dict | None:
    """The summary of a finished chapter that started from the same chat kitten, else None."""
    folder = common.folder(chapter)
    summary, run = read_summary(folder / "summary.json"), read_json(folder / "run.json") or {}
    fingerprint = run.get("fingerprint")
    inputs = fingerprint.get("inputs") if isinstance(fingerprint, dict) else None
    same = isinstance(inputs, dict) and inputs.get("sft") == sft_fingerprint
    return summary if same else None


def best_of_n_path(
    common: Common, reference: GPT, tokenizer: Tokenizer, inputs: dict
) -> list[dict]:
    """Best-of-n with the reward model of chapter 2; empty without one, and that is said.

    It is a run of its own, so that it can be added to trainings that are already there.
    """
    if (summary := built_on(common, "ch2_reward_model", inputs["sft"])) is None:
        print("no best-of-n: run python -m chapters.ch2_reward_model first")
        return []
    fingerprint = fingerprint_of(common, "ch2_reward_model")
    inputs = {"sft": inputs["sft"], "reward_model": fingerprint}
    chapter = Run(common, "ch4_best_of_n", BestOf(), inputs=inputs)
    if not chapter.finished:
        path = common.folder("ch2_reward_model") / str(summary.get("model"))
        reward_model = load_reward_model(path, tokenizer, device=common.device)
        with chapter.timing("eval"):
            points = best_of_n(common, reference, tokenizer, Scorer(reward_model), BestOf().sizes)
        chapter.finish({"points": points})
    return checked_points(chapter.folder / "summary.json", chapter.summary.get("points"))


def checked_paths(path: Path, paths: object) -> dict[str, list[dict]]:
    """The points of every method.  Raises: DamagedFile for anything else."""
    if not isinstance(paths, dict):
        raise damaged(path, "no paths of the frontier")
    return {method: checked_points(path, points) for method, points in paths.items()}


def checked_points(path: Path, points: object) -> list[dict]:
    """The points of one path.  Raises: DamagedFile for anything else."""
    for point in points if isinstance(points, list) else [None]:
        if not isinstance(point, dict) or not isinstance(point.get("label"), str):
            raise damaged(path, "its points are not those of the frontier")
        if not is_number(point.get("kl")) or not is_number(point.get("gold")):
            raise damaged(path, "a point of the frontier without numbers")
    return points


def ppo_path(common: Common, sft_fingerprint: str) -> list[dict]:
    """Every look of chapter 3 at its held-out questions; empty without one, and that is said."""
    if built_on(common, "ch3_ppo", sft_fingerprint) is None:
        print("no path of PPO: run python -m chapters.ch3_ppo first")
        return []
    return looks_of(common.folder("ch3_ppo") / "metrics.jsonl")


def looks_of(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl that hold a gold score and a KL on held-out questions."""
    entries, bad = read_metrics(path)
    if bad:
        print(f"note: {unread_lines(path, bad)}")
    points = []
    for entry in entries:
        gold, kl = entry.get("gold"), entry.get("kl_held_out")
        if gold is not None and kl is not None:
            round_number = entry["step"] + 1
            error = entry.get("gold_stderr")
            points.append(
                {"label": f"round {round_number}", "kl": kl, "gold": gold, "gold_stderr": error}
            )
    return points


# ------------------------------------------------------------------------------------- the picture


def draw_frontier(
    path: Path, paths: dict[str, list[dict]], gold_before: float, gold_best: float
) -> None:
    """frontier.png: a path for every method; of PPO's many rounds only some carry their number."""
    groups = {}
    for method, points in paths.items():
        every = max(1, len(points) // 4)
        groups[method] = [
            (point["kl"], point["gold"], point["label"] if number % every == 0 else "")
            for number, point in enumerate(points)
        ]
    plots.frontier(
        path,
        {method: points for method, points in groups.items() if points},
        title="The frontier: what each method gets for its way",
        reference_lines={"chat kitten": gold_before, "best possible": gold_best},
        note="same held-out questions for all; best-of-n needs n replies for every answer",
    )
