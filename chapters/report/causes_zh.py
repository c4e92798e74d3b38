"""Why a number may lie outside its band, in Chinese: the phrases of chapters/bands/key_numbers.py.

Flags and keys of summary.json stay as they are. A word in {braces} is a flag.

Used by languages.py.
"""

CAUSES = {
    "good luck, or an easier exam: look at samples.md before you believe it": (
        "运气好，或者考题更容易：先看 samples.md 再相信它"
    ),
    "another kitten before it (a changed ch0_base or ch1_sft)": (
        "之前的小猫不同（ch0_base 或 ch1_sft 改过）"
    ),
    # what is set
    "--size medium": "--size medium",
    "--label-noise": "--label-noise",
    "--annotators exact": "--annotators exact",
    "no --likelihood": "没有 --likelihood",
    "no --chat-kl": "没有 --chat-kl",
    "a larger --puzzle-share": "--puzzle-share 更大",
    "a larger --chat-weight": "--chat-weight 更大",
    "a smaller --twin-share": "--twin-share 更小",
    "a smaller --chat-weight": "--chat-weight 更小",
    "a smaller --sft-replay-fraction": "--sft-replay-fraction 更小",
    "a smaller --vocab-size (shorter tokens are easier)": "--vocab-size 更小（短词元更容易猜）",
    "a lower --format-weight": "--format-weight 更低",
    "a lower --max-new-tokens": "--max-new-tokens 更低",
    "a low --max-new-tokens": "--max-new-tokens 太低",
    "a higher --max-new-tokens": "--max-new-tokens 更高",
    "a higher --allowed-weight": "--allowed-weight 更高",
    "a lower --allowed-weight: it drifts to no": "--allowed-weight 更低：它越来越爱说“不”",
    "more --train-tokens": "--train-tokens 更多",
    "more --echo-tokens": "--echo-tokens 更多",
    "more --epochs": "--epochs 更多",
    "more --epochs: the kitten gets surer": "--epochs 更多：小猫更有把握",
    "more --pairs": "--pairs 更多",
    "more --pairs or --epochs": "--pairs 或 --epochs 更多",
    "more --steps": "--steps 更多",
    "more --sft-steps": "--sft-steps 更多",
    "more --grpo-steps": "--grpo-steps 更多",
    "fewer --train-tokens": "--train-tokens 更少",
    "fewer --train-tokens (recall clicks late, then all at once)": (
        "--train-tokens 更少（记住来得晚，一来就全来）"
    ),
    "fewer --echo-tokens": "--echo-tokens 更少",
    "fewer --pairs": "--pairs 更少",
    "fewer --steps": "--steps 更少",
    "fewer --grpo-steps": "--grpo-steps 更少",
    "fewer --questions": "--questions 更少",
    "fewer --problems": "--problems 更少",
    "fewer --problems, --sft-steps or --grpo-steps": "--problems、--sft-steps 或 --grpo-steps 更少",
    "--epochs too many: it learns single labels by heart": "--epochs 太多：它把单个标签背了下来",
    "--epochs too many (it becomes too sure)": "--epochs 太多（它过于自信）",
    "--kl-coef too high, or so low that it fools its judge": (
        "--kl-coef 太高，或者低到让它骗过评判"
    ),
    "--kl-coef too low: look whether gold_after rises as well": (
        "--kl-coef 太低：看看 gold_after 是否也上升"
    ),
    "--normalize reply lets long wrong replies grow": "--normalize reply 让又长又错的回复变多",
    "more replay (--replay-fraction)": "重放更多（--replay-fraction）",
    "less replay (--replay-fraction)": "重放更少（--replay-fraction）",
    "a filter left out (--data-steps)": "少了一道过滤（--data-steps）",
    # learning rates and steps
    "a learning rate too low": "学习率太低",
    "a learning rate too high": "学习率太高",
    "a learning rate too low or too high": "学习率太低或太高",
    "a learning rate too low, or so high that facts are forgotten": "学习率太低，或者高到忘了事实",
    "a learning rate too low, or so high that it fell apart": "学习率太低，或者高到训练散了架",
    "a lower learning rate": "学习率更低",
    "a higher learning rate": "学习率更高",
    "a rate too high": "学习率太高",
    "larger steps": "步子更大",
    "larger steps (--rows-per-step)": "步子更大（--rows-per-step）",
    "fewer steps": "步数更少",
    "more steps": "步数更多",
    "too little training": "训练太少",
    "it lost its variety: a learning rate too high": "它失去了多样性：学习率太高",
    "too far from the chat kitten: --kl-coef lower, --policy-lr higher": (
        "离聊天小猫太远：--kl-coef 更低，--policy-lr 更高"
    ),
    # data
    "another pretraining text: fewer exam sheets, more dialogues that answer": (
        "预训练文本不同：考卷更少，有回答的对话更多"
    ),
    "fewer chats": "对话更少",
    "fewer chats (--most-chats)": "对话更少（--most-chats）",
    "other chats": "对话不同",
    "other chats: it copies its demonstrators": "对话不同：它照抄示范的人",
    "other chats: demonstrators who make things up or help with mean tricks": (
        "对话不同：示范的人会编造，或者帮人使坏"
    ),
    "other chats: better demonstrators": "对话不同：示范的人更好",
    "other chats: grumpier demonstrators": "对话不同：示范的人更暴躁",
    "other chats: friendlier demonstrators": "对话不同：示范的人更友善",
    "fewer risky questions among them": "其中危险的问题更少",
    "chats in which harmless things are refused": "对话里无害的事被拒绝",
    "chats in which everything is allowed": "对话里什么都允许",
    "chats in which long replies are the worse ones": "对话里长回复往往更差",
    "a mask without the end-of-turn token": "掩码漏掉了一轮结束的词元",
    "noisier labels": "标签噪声更大",
    "cleaner labels": "标签更干净",
    "replies that are more alike than usual": "回复比平常更相像",
    "replies that differ more than usual": "回复比平常差别更大",
    "it pays for length: fewer --pairs": "它按长度给分：--pairs 更少",
    # kittens and judges
    "a better base": "更好的基座",
    "a weaker base": "更弱的基座",
    "a stronger base": "更强的基座",
    "a base that does not know the facts": "不知道那些事实的基座",
    "a base that does not know the facts (see its fact_recall)": (
        "不知道那些事实的基座（看它的 fact_recall）"
    ),
    "a weaker base: GRPO will find few right replies to copy": (
        "更弱的基座：GRPO 找不到多少对的回复可学"
    ),
    "a kitten that does not know the facts it judges": "小猫不知道它要评判的事实",
    "a chat kitten that does not know the facts it judges": "聊天小猫不知道它要评判的事实",
    "a chat kitten that knows them better": "聊天小猫更清楚这些事实",
    "a chat kitten that does not know what its books told": "聊天小猫不知道书里讲过什么",
    "a worse reward model (see its gold_accuracy)": "更差的奖励模型（看它的 gold_accuracy）",
    "a better reward model": "更好的奖励模型",
    "a reward model that does not see the danger": "奖励模型看不出危险",
    "a reward model that does not see what suits a wish": "奖励模型看不出什么适合一个愿望",
    "it says no to everything: a reward model that likes no too well": (
        "它对什么都说“不”：奖励模型太喜欢“不”"
    ),
    "a shorter warm-up": "预热更短",
    "a shorter warm-up (--warm-up-steps)": "预热更短（--warm-up-steps）",
    "a longer warm-up": "预热更长",
    "a weak start (see accuracy_before)": "起点弱（看 accuracy_before）",
    "a stronger start": "起点更强",
    "replies cut off (see truncated_after)": "回复被截断（看 truncated_after）",
    "shorter replies": "回复更短",
    "shorter replies: fewer are cut off": "回复更短：被截断的更少",
    "longer replies": "回复更长",
    "comparisons not learnt, so that looking on does not pay": "没学会比较，所以继续找也没有好处",
    "a weaker Zero": "更弱的 Zero",
    "a stronger Zero": "更强的 Zero",
    "a weaker PPO kitten": "更弱的 PPO 小猫",
    "a stronger PPO kitten": "更强的 PPO 小猫",
    "a weaker PPO kitten or reward model": "更弱的 PPO 小猫或奖励模型",
    # see another number
    "as accuracy_after": "同 accuracy_after",
    "as tokens_after": "同 tokens_after",
    "as gold": "同 gold",
    "look at allowed_rate": "看 allowed_rate",
    "look at safe_rate": "看 safe_rate",
}
CAUSES_OF_A_FLAG = {  # tried in this order
    "{flag} too low or far too high": "{flag} 太低或过高",
    "{flag} too high: facts get damaged": "{flag} 太高：事实受损",
    "{flag} too low": "{flag} 太低",
    "{flag} too high": "{flag} 太高",
    "{flag} lower": "{flag} 更低",
    "{flag} higher": "{flag} 更高",
    "a looser {flag}": "{flag} 更松",
    "changed settings ({flag})": "设置有改动（{flag}）",
}
