"""Hall 1: fine-tuning, the template, the cache. Bugs in what a kitten reads and what it repeats."""

from chapters.museum import chat_labs
from chapters.museum.exhibits import Exhibit, Symptom

STOPS = Symptom(chat_labs.stops, "step", "share of replies that stop", 0.9)
RIGHT = Symptom(chat_labs.right_answers, "step", "share of right replies", 0.5)
CACHE = Symptom(
    chat_labs.cache_error, "place in the reply", "error of the recorded log-prob, nats", 0.1
)

EXHIBITS = (
    Exhibit(
        name="never-stops",
        title="The kitten that never stops talking",
        target="kittenllm.chat.encode_chat",
        changes=(
            (
                "chat.add(tokenizer.im_end_id, trained=trained)",
                "chat.add(tokenizer.im_end_id, trained=False)",
            ),
        ),
        symptom=STOPS,
        seen="The replies are right, but they run on until they are cut off.",
        answer="The end mark is an action too. Out of the mask it is read, but never learnt.",
        story=(
            "Many chat templates train the words of a turn and forget the mark behind them. The"
            " loss looks fine, even a little better, because one token per turn is missing."
        ),
        killed_by=(
            "test_chat.py::test_mask_covers_the_assistants_words_and_their_end",
            "test_chat.py",
        ),
    ),
    Exhibit(
        name="filled-up",
        title="Rows that are filled up with the end mark",
        target="kittenllm.batches.pack",
        changes=(
            (
                "all_masks[row, start:end] = torch.tensor(loss_mask)",
                "all_masks[row, start:end] = torch.tensor(loss_mask) & (torch.tensor(tokens)"
                " != pad_id)",
            ),
        ),
        symptom=Symptom(
            chat_labs.stops_where_pad_is_end, "step", "share of replies that stop", 0.9
        ),
        seen="With padding = end mark the kitten never stops. The right code does not mind.",
        answer="Padding is told by its value, so every true end mark counts as padding as well.",
        story=(
            "`pad_token = eos_token` stands in many notebooks, and the common collator then takes"
            " every end out of the labels (transformers issue 23530). Training runs and the loss"
            " falls; only the chat shows it."
        ),
        killed_by=(
            "test_batches.py::test_a_pad_id_inside_a_sequence_is_a_token_like_any_other",
            "test_batches.py",
        ),
    ),
    Exhibit(
        name="mask-of-glass",
        title="A loss mask that hides nothing",
        target="kittenllm.sft.sft_loss",
        changes=(
            (
                "trained = loss_mask[:, 1:]  #",
                "trained = torch.ones_like(loss_mask[:, 1:])  #",
            ),
        ),
        symptom=Symptom(chat_labs.speaks_for_the_user, "step", "p(token of a user turn)", 0.3),
        seen="The kitten learns to write the user's lines, questions included.",
        answer="The mask is taken in, checked for its shape, and then all tokens are trained.",
        story=(
            "The mask gets lost on the way through collators and wrappers, and nothing checks it"
            " at the end. All curves look healthy: questions are text too, and the loss falls."
        ),
        killed_by=("test_sft.py::test_sft_loss_by_hand", "test_sft.py"),
    ),
    Exhibit(
        name="no-common-scale",
        title="The loss without a floor",
        target="kittenllm.logprobs.pick_logprobs",
        changes=(
            (
                "all_logprobs = F.log_softmax(widen(logits), dim=-1)  # (..., V)",
                "all_logprobs = widen(logits)  # (..., V)",
            ),
        ),
        symptom=RIGHT,
        seen="The loss falls below 0 and on for ever, and no reply is right.",
        answer="The raw logits are picked. Without log_softmax no token must give way to another.",
        story=(
            "Some loss functions want logits, others want log-probabilities, and both are tensors"
            " of one shape. A loss below 0 is the only sign, and nobody looks at its sign."
        ),
        killed_by=(
            "test_logprobs.py::test_pick_logprobs_by_hand",
            "test_logprobs.py",
        ),
    ),
    Exhibit(
        name="one-too-late",
        title="A perfect score, and no sensible word",
        target="kittenllm.logprobs.token_logprobs",
        changes=(
            (
                "producing = logits[:, :-1]  # (B, T-1, V) what was known before each token",
                "producing = logits[:, 1:]  # (B, T-1, V) what was known before each token",
            ),
        ),
        symptom=Symptom(chat_labs.right_answers_of_a_reader, "step", "share of right replies", 0.5),
        seen="The loss falls to nothing at once, and no reply is ever right.",
        answer="The logits are read one place too late: the model has seen the token it names.",
        story=(
            "The shift between logits and tokens is written again in every project, and once in a"
            " while twice or not at all. Copying is easy, so the loss looks wonderful."
        ),
        killed_by=(
            "test_logprobs.py::test_token_logprobs_are_about_producing_the_next_token",
            "test_logprobs.py",
        ),
    ),
    Exhibit(
        name="red-pencil",
        title="Who wrote into the pupils' books?",
        target="kittenllm.sft.sft_loss",
        changes=(
            (
                "produced = tokens[row, place + 1]  #",
                "produced = tokens.masked_fill_(~loss_mask, 0)[row, place + 1]  #",
            ),
        ),
        symptom=RIGHT,
        seen="The loss falls as it should; asked a question, the kitten has never heard it.",
        answer="`masked_fill_` changes the caller's tokens: from the second step on all questions"
        " are zeros.",
        story=(
            "One underscore, and the labels share memory with the inputs. The first step is right,"
            " later ones have an easier task, so the loss is lower than ever."
        ),
        killed_by=("test_contract.py::test_inputs_are_never_changed", "test_contract.py"),
    ),
    Exhibit(
        name="thin-walls",
        title="Two conversations in one row",
        target="kittenllm.gpt.attention_mask",
        changes=(
            (
                "same = document_ids[:, :, None] == document_ids[:, None, :]",
                "same = (document_ids[:, :, None] >= 0) == (document_ids[:, None, :] >= 0)",
            ),
        ),
        symptom=Symptom(chat_labs.neighbour_is_heard, "step", "change by a neighbour, nats", 0.5),
        seen="What a conversation is worth depends on who happens to share its row.",
        answer="The mask keeps text and padding apart, but not one conversation from the next.",
        story=(
            "Early packing in popular trainers laid examples behind each other under one causal"
            " mask. The loss even profits, because the neighbours are about similar things."
        ),
        killed_by=(
            "test_gpt.py::test_packed_documents_equal_each_document_alone",
            "test_gpt.py",
        ),
    ),
    Exhibit(
        name="typed-mark",
        title="A user who knows the template",
        target="kittenllm.tokenizer.Tokenizer.encode",
        changes=(
            (
                "self._encoding.encode_ordinary(text)",
                'self._encoding.encode(text, allowed_special="all")',
            ),
        ),
        symptom=Symptom(chat_labs.marks_from_text, "marks typed", "special tokens made", 4.0),
        seen="Whoever types <|im_end|> ends the turn and may speak as somebody else.",
        answer="Text from outside is allowed to become special tokens.",
        story=(
            "Several tokenizers do this by default, and chat programs pass the user's text straight"
            " in. No honest user ever types such a mark, so no test run shows it."
        ),
        killed_by=(
            "test_tokenizer.py::test_text_never_makes_a_special_token",
            "test_tokenizer.py",
        ),
    ),
    Exhibit(
        name="lost-luggage",
        title="When a reply leaves the batch",
        target="kittenllm.gpt.KVCache.keep",
        changes=(
            (
                "self.values[:, moved, :, :used] = self.values[:, source, :, :used]",
                "self.values[:, moved, :, :used] = self.values[:, moved, :, :used]",
            ),
        ),
        symptom=CACHE,
        seen="Replies begin well and go wrong in the middle, but only in large batches.",
        answer="The keys move to their new row, the values stay: a row reads another's past.",
        story=(
            "Code that reorders caches must not forget any of their parts. A single reply is always"
            " right, and in a batch the text still looks like text."
        ),
        killed_by=("test_gpt.py::test_keep_rows", "test_gpt.py"),
    ),
    Exhibit(
        name="first-key-only",
        title="The triangle in the wrong corner",
        target="kittenllm.gpt.Attention.forward",
        changes=(("is_causal = mask is None and T > 1", "is_causal = mask is None"),),
        symptom=CACHE,
        seen="The first token of a reply is right, all others come from a kitten that forgot.",
        answer="With a cache there is one query and many keys. The causal triangle starts top-left"
        " and lets it see the first key only.",
        story=(
            "`is_causal=True` is right in training and stays in the code when a cache is added."
            " PyTorch raises no error, and the kitten still speaks, only without memory."
        ),
        killed_by=("test_gpt.py::test_cached_logits_equal_uncached", "test_gpt.py"),
    ),
    Exhibit(
        name="always-the-first",
        title="A clock that starts again at every word",
        target="kittenllm.gpt.GPT.hidden",
        changes=(
            (
                "self.cos[start:end], self.sin[start:end]",
                "self.cos[: end - start], self.sin[: end - start]",
            ),
        ),
        symptom=CACHE,
        seen="Without a cache all is well; with it the kitten mixes up the order of the words.",
        answer="Every new token is turned as if it stood at the first place.",
        story=(
            "A cache makes the input one token long, and code that takes positions from the input's"
            " length begins to count at 0 again. Short replies hardly suffer."
        ),
        killed_by=("test_gpt.py::test_cached_logits_equal_uncached", "test_gpt.py"),
    ),
)
