"""Three hints for each exercise: the idea, the tools, and almost the code.

Spoilers! `python -m chapters.check gae --hint` shows them one at a time. The third keeps its lines.
"""

HINTS: dict[str, tuple[str, str, str]] = {
    "gather": (
        """At each place there are V numbers, and one of them is wanted. First make
        log-probabilities of all V, then pick. Write down the shape after every step: that is half
        of all work with tensors.""",
        """F.log_softmax(x, dim=-1) makes log-probabilities along the last dimension. `gather`
        picks with an index that has as many dimensions as the tensor: targets.unsqueeze(-1) is
        (..., 1). The result is (..., 1) as well, and squeeze(-1) takes the last dimension away.""",
        """if logits.dtype is a half float: logits = logits.float()
        all_logprobs = F.log_softmax(logits, dim=-1)
        index = targets.long().unsqueeze(-1)
        picked = all_logprobs.gather(-1, index)
        and take the last dimension of picked away again""",
    ),
    "mask": (
        """Two sums and a division: the sum of what counts, and how many there are. Before you add
        up, ask what stands at the other places: it may be NaN, and NaN * 0 is NaN.""",
        """torch.where(mask, values, 0.0) puts 0 at the places that do not count. mask.sum() counts
        the others; .clamp(min=1) keeps an empty mask from dividing by 0. sum(dtype=...) adds up
        in another float type, and .to(values.dtype) goes back.""",
        """wide = torch.promote_types(values.dtype, torch.float32)
        kept = torch.where(mask, values, 0.0)
        total = kept.sum(dtype=wide)
        count = mask.sum().clamp(min=1)
        and divide, in the dtype of the values""",
    ),
    "cache": (
        """The memory is there already; `append` only writes into a slice of it and returns a
        larger slice. Draw the columns on paper: [ used so far | new tokens | still free ].""",
        """`self.keys[layer, : self.rows]` are the rows in use of one layer, and writing into
        such a slice changes the cache itself. The new tokens go to columns self.length .. end
        - 1 of dimension 2. Which layer is the last one? len(self.keys) counts them. For
        `keep`: indexing with a tensor of row numbers, x[:, rows], copies the rows in that
        order, so assigning the copy to the front is safe. Do not forget `valid`.""",
        """append:
            keys = self.keys[layer, : self.rows]
            keys[:, :, self.length : end] = k
            ... the values in the same way ...
            if layer == len(self.keys) - 1:
                self.length = end
            return keys[:, :, :end], values[:, :, :end]
        keep, with count = len(rows):
            self.keys[:, :count] = self.keys[:, rows]
            ... the values, and valid, which has no layers ...
            self.rows = count""",
    ),
    "token_logprobs": (
        """Write the tokens on one line and the logits under them: logits[t] speaks about
        tokens[t + 1]. So one of the two must lose its first column and the other its last.""",
        """log_softmax over the last dimension turns logits into log-probabilities. `gather`
        picks one entry per position: its index needs as many dimensions as the tensor it picks
        from, so give it a last dimension of size 1 with unsqueeze(-1), and take it away again.""",
        """half floats first: logits = logits.float()
        producing = logits[:, :-1]
        produced = tokens[:, 1:].long()
        all_logprobs = producing.log_softmax(dim=-1)
        picked = all_logprobs.gather(-1, produced.unsqueeze(-1))
        and take the last dimension of picked away again""",
    ),
    "chat_mask": (
        """Go through the messages one by one. Each has four parts: the start mark, the role
        with a line break, the content, the end mark. Ask of each part: shall the kitten learn
        to *say* this?""",
        """`chat.add(ids, trained=True or False)` appends tokens and mask together. The start
        mark and the role are never trained, even for the assistant: they stand in the prompt
        when the kitten is asked. Content and end mark are trained exactly if the role is
        "assistant". Encode role + "\\n" and the content apart, or the tokenizer may merge
        across the border.""",
        """for message in messages:
            said = message["role"] == "assistant"
            head = tokenizer.encode(message["role"] + "\\n")
            chat.add(tokenizer.im_start_id, trained=False)
            chat.add(head, trained=False)
            ... then the content, then tokenizer.im_end_id,
            ... both with trained=said
        reply_next: start mark and head once more, for
        "assistant". Return chat.""",
    ),
    "sft": (
        """Take the log-probability of every token, look only at the trained ones, take the
        mean and turn the sign round. The mask speaks about the token itself, the
        log-probability of token t + 1 stands at index t: one of them has to be shifted.""",
        """`from kittenllm.logprobs import token_logprobs, masked_mean` may help (or use your
        own). The mask that fits to (B, T-1) is loss_mask[:, 1:]. NaN and ids such as -100 must
        be replaced *before* log_softmax: torch.where(loss_mask, tokens, 0) for the tokens; a
        logit position t counts only if token t + 1 is trained.""",
        """trained = loss_mask[:, 1:]
        produced = torch.where(loss_mask, tokens, 0)
        producing = torch.zeros_like(loss_mask)
        producing[:, :-1] = trained
        logits = torch.where(producing[..., None], logits, 0.0)
        logprobs = token_logprobs(logits, produced)
        loss = -masked_mean(logprobs, trained)
        The loss gets the dtype of the logits: .to(...).
        accuracy: where is logits[:, :-1].argmax(-1) equal to
        produced[:, 1:]? The masked mean of that as numbers.""",
    ),
    "reward": (
        """Only the difference of the two scores counts. sigmoid(difference) is the probability
        with which the model would have chosen as the people did; the loss is its surprise.""",
        """log(sigmoid(x)) overflows for x = -1000. F.logsigmoid(x) does not. For the accuracy:
        margin.sign() is +1, 0 or -1, and it shall become 1, 1/2 or 0.""",
        """margin = chosen_rewards - rejected_rewards
        loss = -F.logsigmoid(margin).mean()
        accuracy = (margin.sign() + 1) / 2
        The metrics are means of accuracy and margin, with
        .detach() in front.""",
    ),
    "gae": (
        """Begin at the last token and walk to the first. At each step you need two things from
        the step you just left: the value there and the advantage there. Behind the end both
        are 0.""",
        """Keep next_value and next_advantage, one number per row, zeros at first. Loop with
        `for t in reversed(range(mask.shape[1]))` over columns; all rows at once. Where the
        mask is False, the advantage is 0 *and the two remembered numbers stay as they were*:
        torch.where(mask[:, t], new, old).""",
        """delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        here = mask[:, t]
        advantages[:, t] = torch.where(here, advantage, 0.0)
        next_advantage = torch.where(
            here, advantage, next_advantage)
        ... next_value in the same way ...
        returns = advantages + values (0 outside the mask).""",
    ),
    "ppo": (
        """Two candidates for each token: ratio * A, and the same with the ratio held between 1
        - eps and 1 + eps. The *worse* of the two counts, the smaller one, whatever the sign of
        A is. Then a minus, because losses are made small.""",
        """ratio = exp(logprobs - old_logprobs). Put torch.where(mask, ..., 0.0) round the
        difference before exp. .clamp(1 - clip_eps, 1 + clip_eps) clips, torch.minimum
        compares. `masked_mean(values, mask)` from kittenllm.logprobs takes the mean over
        counted tokens. .detach() what must not be learnt.""",
        """difference = logprobs - old_logprobs.detach()
        log_ratio = torch.where(mask, difference, 0.0)
        A = torch.where(mask, advantages, 0.0).detach()
        ratio = log_ratio.exp()
        worse = torch.minimum(ratio * A, clipped_ratio * A)
        loss = -masked_mean(worse, mask)
        outside = ((ratio - 1).abs() > clip_eps), as numbers
        approx_kl: masked mean of ratio - 1 - log_ratio""",
    ),
    "dpo": (
        """It is Bradley and Terry's loss again, -log sigmoid(margin). What is new is only
        where the rewards come from: beta * (log p - log ref) of each reply.""",
        """Subtract in pairs: the policy's margin (chosen - rejected) minus the reference's
        margin. F.logsigmoid is the safe log(sigmoid). The reference is not trained: .detach().
        With label smoothing the loss is a weighted mean of -logsigmoid(margin) and
        -logsigmoid(-margin).""",
        """policy_margin = chosen_logprobs - rejected_logprobs
        reference_margin: the same of the two ref_..., detached
        margin = beta * (policy_margin - reference_margin)
        losses = (1 - label_smoothing) * -F.logsigmoid(margin)
               + label_smoothing * ... what if it was flipped?
        return losses.mean(), metrics""",
    ),
    "ipo": (
        """The same difference of log-ratios as in DPO, without beta in front. It shall become
        1 / (2 beta); the loss is the squared distance from that goal.""",
        """h = policy margin - reference margin, (P,). Only the policy gets a gradient:
        .detach() the reference. The mean over pairs comes last, after the square.""",
        """gap = policy_margin - reference_margin
        target = 1 / (2 * beta)
        losses = (gap - target).square()
        return losses.mean(), metrics""",
    ),
    "orpo": (
        """Two parts. The first is SFT: minus the mean log-probability of the chosen replies.
        The second is Bradley and Terry once more, with log-odds in the place of rewards.""",
        """log(p / (1 - p)) = log p - log(1 - p), and log(1 - p) is log1mexp(log p), which is
        imported for you. At p = 1 it is minus infinity: hold log p a hair below 0 first, with
        .clamp(max=-1e-7) (-2.2e-16 is enough for float64, half floats need their own eps).""",
        """def log_odds(x):
            eps = torch.finfo(x.dtype).eps
            x = x.clamp(max=-min(1e-7, eps))
            return x - log1mexp(x)
        margin = log_odds(chosen...) - log_odds(rejected...)
        odds_loss = -F.logsigmoid(margin).mean()
        loss = nll + weight * odds_loss
        Every metric: .detach(), and a mean.""",
    ),
    "group_advantages": (
        """Siblings stand side by side: fold the long row of rewards into a table with one line
        per group. Then mean and std go along the lines.""",
        """rewards.view(-1, group_size) makes the table (N/G, G). mean and std want dim=1 and
        keepdim=True, so that they can be subtracted from the table. torch's std divides by G -
        1 by itself. Equal rewards: (groups == groups[:, :1]).all(dim=1, keepdim=True).""",
        """groups = rewards.detach().view(-1, group_size)
        mean = groups.mean(dim=1, keepdim=True)
        advantages = groups - mean
        if normalize_std: divide by
            groups.std(dim=1, keepdim=True) + eps
        torch.where(all_equal, 0.0, advantages).flatten()""",
    ),
    "grpo": (
        """Begin with your PPO loss. Three things change: one advantage per reply (the same for
        all its tokens), an upper clip of its own, and a KL term per token. Only then comes the
        mean.""",
        """advantages[:, None] is (N, 1) and spreads over the tokens. k3 with log r =
        ref_logprobs - logprobs is exp(log r) - 1 - log r; mask both with torch.where before
        you subtract. For the three means `average(token_losses, mask, normalize=...,
        max_tokens=...)` from kittenllm.logprobs may help, or write them yourself: mind replies
        without tokens.""",
        """A = advantages.detach()[:, None]
        upper = 1 + clip_eps_high
        clipped = ratio.clamp(1 - clip_eps, upper) * A
        kl = kl_k3(logprobs, ref_logprobs), from logprobs.py,
            both with zeros where the mask is False
        losses = kl_coef * kl - torch.minimum(ratio * A, clipped)
        loss = average(losses, mask, normalize=normalize,
            max_tokens=max_tokens)
        The metrics: masked_mean, inside torch.no_grad().""",
    ),
    "mixed_reward": (
        """You return a function, and it is this inner function that gets a number. It walks along
        the kinds and keeps count: at which number does this kind begin, and is the wanted prompt
        one of its own?""",
        """A `def` inside a `def` sees the variables of the outer one: here `kinds`. The inner one
        begins with first = 0. A kind owns the numbers first .. first + count - 1, and its own
        number is the distance from first. If it is not this kind, first grows by count.""",
        """def reward(number, reply, ended):
            first = 0
            for count, reward_of_kind in kinds:
                if first <= number < first + count:
                    return reward_of_kind(number - first,
                        reply, ended)
                first += count
            raise ValueError(f"prompt {number} is of no kind")
        return reward""",
    ),
}
