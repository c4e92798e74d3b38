"""The exercises: what there is to write, in which file, and which tests guard it.

Each exercise is a function or class of the package, taken out of it and left to the reader. The
package's own tests grade it; nothing is written twice.

Read before: nothing. Left out: the hints, see hints.py.
"""

import ast
import difflib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "chapters" / "exercises"


@dataclass(frozen=True)
class Exercise:
    """One thing to write."""

    name: str  # what is typed after `python -m chapters.check`
    function: str  # its name in the stub and in the package
    module: str  # where the package has it
    file: str  # the stub, in chapters/exercises/
    chapter: str  # where it is used
    title: str  # what it is, in a few words
    tests: tuple[tuple[str, str], ...]  # a file in tests/, and the tests there, as a pattern

    @property
    def qualified(self) -> str:
        """kittenllm.ppo.gae"""
        return f"kittenllm.{self.module}.{self.function}"

    @property
    def stub(self) -> Path:
        return FOLDER / self.file

    @property
    def solution(self) -> Path:
        """The package's own file."""
        return ROOT / "kittenllm" / f"{self.module}.py"


def _contract(case: str) -> tuple[str, str]:
    """The tests of one row in tests/test_contract.py: padding, NaN, dtypes, gradients, refusals."""
    return ("test_contract.py", rf"\[(.*-)?({case})(-.*)?\]$")


EXERCISES = {
    exercise.name: exercise
    for exercise in (
        Exercise(
            name="gather",
            function="pick_logprobs",
            module="logprobs",
            file="tensors.py",
            chapter="ch0_base",
            title="tensors, first: pick one log-probability at each place",
            tests=(("test_logprobs.py", "pick_logprobs|token_logprobs|last_logits|huge_logits"),),
        ),
        Exercise(
            name="mask",
            function="masked_mean",
            module="logprobs",
            file="tensors.py",
            chapter="ch3_ppo",
            title="tensors, second: a mean over the places that count",
            tests=(
                ("test_logprobs.py", "masked_mean|empty_masks"),
                ("test_contract.py", "test_helpers_ignore_what_is_masked_out|name_what_is_wrong"),
            ),
        ),
        Exercise(
            name="cache",
            function="KVCache",
            module="gpt",
            file="cache.py",
            chapter="ch0_base",
            title="the key-value cache: append new tokens, keep the rows that still grow",
            tests=(
                ("test_gpt.py", "cache|left_padding|keep_rows|impossible_combinations"),
                ("test_sampling.py", "replies|logprobs|layout|leave|cost|context|stream|one_new"),
            ),
        ),
        Exercise(
            name="token_logprobs",
            function="token_logprobs",
            module="logprobs",
            file="sft.py",
            chapter="ch1_sft",
            title="from logits to the log-probability of each token",
            tests=(
                ("test_logprobs.py", "token_logprobs|last_logits|huge_logits"),
                ("test_dpo.py", "test_pair_logprobs_are_sums"),
            ),
        ),
        Exercise(
            name="chat_mask",
            function="encode_chat",
            module="chat",
            file="sft.py",
            chapter="ch1_sft",
            title="a conversation as tokens, and which of them are trained",
            tests=(
                (
                    "test_chat.py",
                    "template|prompt_ends|tool_turns|typed_marks|mask_covers|bad_conv|reply_needs",
                ),
            ),
        ),
        Exercise(
            name="sft",
            function="sft_loss",
            module="sft",
            file="sft.py",
            chapter="ch1_sft",
            title="the loss of fine-tuning: only what the assistant says",
            tests=(
                (
                    "test_sft.py",
                    "loss_by_hand|cross_entropy|only_logits|end_token|nothing|packed|full_logits",
                ),
                _contract("sft"),
                ("test_contract.py", "trained_token_ids"),
            ),
        ),
        Exercise(
            name="reward",
            function="bradley_terry_loss",
            module="reward_model",
            file="reward_model.py",
            chapter="ch2_reward_model",
            title="the loss of the reward model: which reply is better?",
            tests=(
                ("test_reward_model.py", "bradley|log_2|gradient_pushes|only_differences"),
                _contract("bradley-terry"),
            ),
        ),
        Exercise(
            name="gae",
            function="gae",
            module="ppo",
            file="ppo.py",
            chapter="ch3_ppo",
            title="from one score to an advantage for every token",
            tests=(
                (
                    "test_credit.py",
                    "without_gradient|test_gae|lam_1|perfect_value|no_advantage",
                ),
                ("test_contract.py", "advantages_and_returns|test_helpers_name_what_is_wrong"),
            ),
        ),
        Exercise(
            name="ppo",
            function="ppo_policy_loss",
            module="ppo",
            file="ppo.py",
            chapter="ch3_ppo",
            title="PPO's clipped loss",
            tests=(
                ("test_ppo.py", "test_the_clip|policy_loss|old_policy_the_gradient|old_logprobs"),
                ("test_grpo.py", "is_ppo_with"),
                _contract("ppo policy"),
            ),
        ),
        Exercise(
            name="dpo",
            function="dpo_loss",
            module="dpo",
            file="dpo.py",
            chapter="ch4_preferences",
            title="DPO: learn from pairs without a reward model",
            tests=(
                ("test_dpo.py", r"test_dpo|smoothing|test_at_the_ref|extreme|best_policy|\[dpo\]"),
                _contract("dpo"),
            ),
        ),
        Exercise(
            name="ipo",
            function="ipo_loss",
            module="dpo",
            file="dpo.py",
            chapter="ch4_preferences",
            title="IPO: the same pairs, but with a goal",
            tests=(
                ("test_dpo.py", r"test_ipo|test_at_the_ref|\[ipo\]"),
                _contract("ipo"),
            ),
        ),
        Exercise(
            name="orpo",
            function="orpo_loss",
            module="orpo",
            file="orpo.py",
            chapter="ch4_preferences",
            title="ORPO: fine-tuning and preference in one loss",
            tests=(
                (
                    "test_orpo.py",
                    "orpo_by_hand|metrics|weight_0|goes_up|certain|finite|wrong_values",
                ),
                _contract("orpo"),
            ),
        ),
        Exercise(
            name="group_advantages",
            function="group_advantages",
            module="grpo",
            file="grpo.py",
            chapter="ch5_reasoning",
            title="compare each reply with its siblings",
            tests=(
                (
                    "test_rewards.py",
                    "by_hand|exactly_zero|add_up|format_reward|group_sizes",
                ),
                ("test_grpo.py", "dr_grpo|expected_gradient"),
            ),
        ),
        Exercise(
            name="grpo",
            function="grpo_loss",
            module="grpo",
            file="grpo.py",
            chapter="ch5_reasoning",
            title="GRPO's loss: clip, KL, and three ways to take the mean",
            tests=(
                (
                    "test_grpo.py",
                    "asymmetric|three_averages|is_ppo_with|dr_grpo|the_kl_term|only_the_policy"
                    "|wrong_settings|one_advantage|expected_gradient|add_up_to_grpo_loss",
                ),
                _contract("grpo (reply|token|constant)"),
                ("test_contract.py", "one_empty_row"),
            ),
        ),
        Exercise(
            name="mixed_reward",
            function="mixed_reward",
            module="rewards",
            file="r1.py",
            chapter="ch6_r1",
            title="R1: one reward for prompts of several kinds",
            tests=(("test_rewards.py", "mixed_reward"),),
        ),
    )
}


def is_stub(file: Path, function: str) -> bool:
    """Is there still a `raise NotImplementedError` in the function, or in a method of the class?

    The file is read and not run. Raises: ValueError for a file that is not there, is no Python, or
    does not hold the function.
    """
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is not a file")
    try:
        top = ast.parse(file.read_bytes()).body
    except SyntaxError as error:
        line = f", line {error.lineno}" if error.lineno else ""
        raise ValueError(f"{file.name}{line}: {error.msg}") from error
    except (RecursionError, MemoryError) as error:  # 100,000 minus signs, or a.b.b.b...
        raise ValueError(f"{file.name}: something in it is nested too deeply") from error
    except ValueError as error:  # a null byte, in older versions of Python
        raise ValueError(f"{file.name}: {error}") from error
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from error
    if not any(function in _names(statement) for statement in top):
        raise ValueError(f"{file.name} does not define {function}")
    named = (ast.FunctionDef, ast.ClassDef)
    for definition in [node for node in top if isinstance(node, named) and node.name == function]:
        bodies = [definition.body]
        bodies += [node.body for node in definition.body if isinstance(node, ast.FunctionDef)]
        if any(_is_unwritten(statement) for body in bodies for statement in body):
            return True
    return False


def _names(statement: ast.stmt) -> set[str]:
    """What a top-level statement may define: by def, class, import or =, inside an `if` too."""
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return found


def _is_unwritten(statement: ast.stmt) -> bool:
    if not isinstance(statement, ast.Raise):
        return False
    raised = statement.exc.func if isinstance(statement.exc, ast.Call) else statement.exc
    return isinstance(raised, ast.Name) and raised.id == "NotImplementedError"


def exercise_called(name: str) -> Exercise:
    """By its name or by the function's. Raises: ValueError with what may have been meant."""
    by_function = {exercise.function: exercise for exercise in EXERCISES.values()}
    known = by_function | EXERCISES
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, 3)
    meant = f"did you mean {' or '.join(close)}?" if close else "--list shows them all"
    raise ValueError(f"there is no exercise {name!r}: {meant}")
