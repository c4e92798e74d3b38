"""The three hints of each exercise in Chinese; see hints.py.

The code of the third hint is the same in both languages.
"""

HINTS_ZH: dict[str, tuple[str, str, str]] = {
    "gather": (
        """每个位置有 V 个数，只要其中一个。先把 V 个都变成对数概率，再去挑。每一步之后把形状（
        shape）写下来：和张量打交道，一半的工作就是这个。""",
        """F.log_softmax(x, dim=-1) 沿最后一维得到对数概率。gather 用索引来挑，索引的维数要和被
        挑的张量一样：targets.unsqueeze(-1) 是 (..., 1)。结果也是 (..., 1)，再用 squeeze(-1) 去
        掉最后一维。""",
        """如果 logits 是半精度：logits = logits.float()
        all_logprobs = F.log_softmax(logits, dim=-1)
        index = targets.long().unsqueeze(-1)
        picked = all_logprobs.gather(-1, index)
        最后去掉 picked 的最后一维""",
    ),
    "mask": (
        """两个和，一次除法：被计数的值之和，以及它们的个数。相加之前先问：其他位置上放着什么？
        可能是 NaN，而 NaN * 0 还是 NaN。""",
        """torch.where(mask, values, 0.0) 在不计数的位置放 0。mask.sum() 数出其余的个数；
        .clamp(min=1) 使空的掩码不会除以 0。sum(dtype=...) 用另一种浮点类型相加，
        .to(values.dtype) 再变回来。""",
        """wide = torch.promote_types(values.dtype, torch.float32)
        kept = torch.where(mask, values, 0.0)
        total = kept.sum(dtype=wide)
        count = mask.sum().clamp(min=1)
        然后相除，结果用 values 的类型""",
    ),
    "cache": (
        """内存早就分配好了；append 只是写进其中一段，再返回更长的一段。在纸上画出各列：[ 已用 |
        新词元 | 还空着 ]。""",
        """self.keys[layer, : self.rows] 是一层里正在用的行，写进这个切片就改变了缓存本身。新词
        元放到第 2 维的 self.length .. end - 1 列。哪一层是最后一层？len(self.keys) 就是层数。写
        keep 时：x[:, rows] 用行号张量作索引，会按这个顺序复制，所以可以放心地写回前面。别忘了
        valid。""",
        """append:
            keys = self.keys[layer, : self.rows]
            keys[:, :, self.length : end] = k
            ... values 同样处理 ...
            if layer == len(self.keys) - 1:
                self.length = end
            return keys[:, :, :end], values[:, :, :end]
        keep，其中 count = len(rows):
            self.keys[:, :count] = self.keys[:, rows]
            ... values 也一样；valid 没有层这一维 ...
            self.rows = count""",
    ),
    "token_logprobs": (
        """把词元写成一行，下面写 logits：logits[t] 说的是 tokens[t + 1]。所以一个要去掉第一列，
        另一个要去掉最后一列。""",
        """沿最后一维做 log_softmax，logits 就变成对数概率。gather 在每个位置挑一个：索引的维数
        要和被挑的张量一样，所以用 unsqueeze(-1) 加上大小为 1 的最后一维，挑完再去掉。""",
        """半精度先变：logits = logits.float()
        producing = logits[:, :-1]
        produced = tokens[:, 1:].long()
        all_logprobs = producing.log_softmax(dim=-1)
        picked = all_logprobs.gather(-1, produced.unsqueeze(-1))
        最后去掉 picked 的最后一维""",
    ),
    "chat_mask": (
        """一条一条地处理消息。每条有四部分：开始标记、角色和换行、内容、结束标记。对每一部分都
        问：小猫要不要学会“说”这个？""",
        """chat.add(ids, trained=True 或 False) 同时加上词元和掩码。开始标记和角色从不训练，连助
        手的也不训练：提问时它们写在提示里。内容和结束标记，当且仅当角色是 "assistant" 时训练。
        角色加换行和内容要分开编码，否则分词器可能跨越边界合并。""",
        """for message in messages:
            said = message["role"] == "assistant"
            head = tokenizer.encode(message["role"] + "\\n")
            chat.add(tokenizer.im_start_id, trained=False)
            chat.add(head, trained=False)
            ... 然后是内容，再是 tokenizer.im_end_id，
            ... 两个都用 trained=said
        reply_next：再加一次开始标记和 "assistant" 的
        head。返回 chat。""",
    ),
    "sft": (
        """取每个词元的对数概率，只看要训练的，取平均，再变号。掩码说的是词元本身，而词元 t + 1
        的对数概率放在位置 t：其中一个必须移一位。""",
        """from kittenllm.logprobs import token_logprobs, masked_mean 可以帮忙（也可以用你自己的）。
        和 (B, T-1) 相配的掩码是 loss_mask[:, 1:]。NaN 和 -100 这样的编号要在 log_softmax 之前换
        掉：词元用 torch.where(loss_mask, tokens, 0)；位置 t 的 logits 只有在词元 t + 1 要训练时
        才算数。""",
        """trained = loss_mask[:, 1:]
        produced = torch.where(loss_mask, tokens, 0)
        producing = torch.zeros_like(loss_mask)
        producing[:, :-1] = trained
        logits = torch.where(producing[..., None], logits, 0.0)
        logprobs = token_logprobs(logits, produced)
        loss = -masked_mean(logprobs, trained)
        损失的类型和 logits 一样：.to(...)。
        accuracy：logits[:, :-1].argmax(-1) 在哪里等于
        produced[:, 1:]？把它变成数，取带掩码的平均。""",
    ),
    "reward": (
        """只有两个分数的差起作用。sigmoid(差) 是模型和人作出同样选择的概率；损失就是它的意外程
        度。""",
        """log(sigmoid(x)) 在 x = -1000 时会溢出，F.logsigmoid(x) 不会。准确率：margin.sign() 是
        +1、0 或-1，要变成 1、1/2 或 0。""",
        """margin = chosen_rewards - rejected_rewards
        loss = -F.logsigmoid(margin).mean()
        accuracy = (margin.sign() + 1) / 2
        指标是 accuracy 和 margin 的平均，前面加
        .detach()。""",
    ),
    "gae": (
        """从最后一个词元开始，往前走到第一个。每一步需要刚离开的那一步的两样东西：那里的价值和
        那里的优势。结尾之后两者都是 0。""",
        """保存 next_value 和 next_advantage，每行一个数，开始是 0。用 for t in
        reversed(range(mask.shape[1])) 逐列循环，所有行一起算。掩码为 False 的地方，优势是 0，而
        且记住的两个数保持不变：torch.where(mask[:, t], 新, 旧)。""",
        """delta = rewards[:, t] + gamma * next_value - values[:, t]
        advantage = delta + gamma * lam * next_advantage
        here = mask[:, t]
        advantages[:, t] = torch.where(here, advantage, 0.0)
        next_advantage = torch.where(
            here, advantage, next_advantage)
        ... next_value 同样处理 ...
        returns = advantages + values（掩码外为 0）。""",
    ),
    "ppo": (
        """每个词元有两个候选：ratio * A，以及把概率比限制在 1 - eps 和 1 + eps 之间的同一个式子。
        取更差的，也就是更小的那个，不管 A 的符号。最后加负号，因为损失要变小。""",
        """ratio = exp(logprobs - old_logprobs)。在 exp 之前给差值套上 torch.where(mask, ...,
        0.0)。.clamp(1 - clip_eps, 1 + clip_eps) 截断，torch.minimum 比较。kittenllm.logprobs 的
        masked_mean(values, mask) 对计数的词元取平均。不该学的要 .detach()。""",
        """difference = logprobs - old_logprobs.detach()
        log_ratio = torch.where(mask, difference, 0.0)
        A = torch.where(mask, advantages, 0.0).detach()
        ratio = log_ratio.exp()
        worse = torch.minimum(ratio * A, clipped_ratio * A)
        loss = -masked_mean(worse, mask)
        outside = ((ratio - 1).abs() > clip_eps)，变成数
        approx_kl：ratio - 1 - log_ratio 的带掩码平均""",
    ),
    "dpo": (
        """还是 Bradley-Terry 的损失，-log sigmoid(margin)。新的只是奖励从哪里来：每条回复的 beta
        * (log p - log ref)。""",
        """成对相减：策略的差（chosen - rejected）减去参考模型的差。F.logsigmoid 是安全的
        log(sigmoid)。参考模型不训练：.detach()。有标签平滑时，损失是 -logsigmoid(margin) 和
        -logsigmoid(-margin) 的加权平均。""",
        """policy_margin = chosen_logprobs - rejected_logprobs
        reference_margin：两个 ref_... 同样相减，detach
        margin = beta * (policy_margin - reference_margin)
        losses = (1 - label_smoothing) * -F.logsigmoid(margin)
               + label_smoothing * ... 如果标签反了呢？
        return losses.mean(), metrics""",
    ),
    "ipo": (
        """和 DPO 同样的对数比之差，前面没有 beta。它应当变成 1 / (2 beta)；损失是到这个目标的距
        离的平方。""",
        """h = 策略的差 - 参考的差，(P,)。只有策略得到梯度：参考要 .detach()。先平方，最后才对各
        对取平均。""",
        """gap = policy_margin - reference_margin
        target = 1 / (2 * beta)
        losses = (gap - target).square()
        return losses.mean(), metrics""",
    ),
    "orpo": (
        """两部分。第一部分是监督微调：优选回复的平均对数概率，加负号。第二部分又是
        Bradley-Terry，用对数几率（log-odds）代替奖励。""",
        """log(p / (1 - p)) = log p - log(1 - p)，而 log(1 - p) 就是 log1mexp(log p)，已经导入。
        p = 1 时它是负无穷：先用 .clamp(max=-1e-7) 把 log p 压到 0 以下一点（float64 用 -2.2e-16
        就够，半精度用自己的 eps）。""",
        """def log_odds(x):
            eps = torch.finfo(x.dtype).eps
            x = x.clamp(max=-min(1e-7, eps))
            return x - log1mexp(x)
        margin = log_odds(chosen...) - log_odds(rejected...)
        odds_loss = -F.logsigmoid(margin).mean()
        loss = nll + weight * odds_loss
        每个指标：.detach()，再取平均。""",
    ),
    "group_advantages": (
        """同一个提示的回复排在一起：把长长一行奖励折成表格，每组一行。平均和标准差沿着行来算。""",
        """rewards.view(-1, group_size) 得到表格 (N/G, G)。mean 和 std 要 dim=1 和 keepdim=True，
        这样才能从表格中减去。torch 的 std 本来就除以 G - 1。奖励全相等：(groups == groups[:,
        :1]).all(dim=1, keepdim=True)。""",
        """groups = rewards.detach().view(-1, group_size)
        mean = groups.mean(dim=1, keepdim=True)
        advantages = groups - mean
        如果 normalize_std：除以
            groups.std(dim=1, keepdim=True) + eps
        torch.where(all_equal, 0.0, advantages).flatten()""",
    ),
    "grpo": (
        """从你的 PPO 损失开始。有三处变化：每条回复一个优势（它的所有词元共用）、单独的上界、每
        个词元的 KL 项。最后才取平均。""",
        """advantages[:, None] 是 (N, 1)，会扩展到所有词元。设 log r = ref_logprobs - logprobs，
        k3 就是 exp(log r) - 1 - log r；相减之前两个都用 torch.where 加掩码。三种平均可以用
        kittenllm.logprobs 的 average(token_losses, mask, normalize=..., max_tokens=...)，也可以
        自己写：小心没有词元的回复。""",
        """A = advantages.detach()[:, None]
        upper = 1 + clip_eps_high
        clipped = ratio.clamp(1 - clip_eps, upper) * A
        kl = kl_k3(logprobs, ref_logprobs)，来自 logprobs.py，
            掩码为 False 的地方两个都先换成 0
        losses = kl_coef * kl - torch.minimum(ratio * A, clipped)
        loss = average(losses, mask, normalize=normalize,
            max_tokens=max_tokens)
        指标：masked_mean，放在 torch.no_grad() 里。""",
    ),
    "mixed_reward": (
        """要返回的是一个函数，拿到编号的是里面的这个函数。它沿着各类提示走，边走边数：这一类从哪
        个编号开始？要找的提示是不是这一类的？""",
        """写在 def 里面的 def 看得见外面的变量：这里是 kinds。里面的函数一开始让 first = 0。一类提
        示占有编号 first 到 first + count - 1，它自己的编号就是离 first 的距离。不是这一类，first 就
        加上 count。""",
        """def reward(number, reply, ended):
            first = 0
            for count, reward_of_kind in kinds:
                if first <= number < first + count:
                    return reward_of_kind(number - first,
                        reply, ended)
                first += count
            raise ValueError(f"prompt {number} is of no kind")
        return reward

        最后一行在外面的函数里""",
    ),
}
