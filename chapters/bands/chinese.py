"""The blocks of numbers in Chinese: the same numbers, with translated words around them.

docs.py writes a block in English; `in_chinese` puts other words into its sentences and into the
cells of its tables. What is not listed here stays as it is.

Used by docs.py.
"""

import re

CELLS = {
    "chapter": "章",
    "number": "数字",
    "all": "合计",
    "seconds": "秒数",
    "memory, MB": "内存，MB",
    # ch0_base
    "validation loss, nats per token": "验证损失，每词元的奈特数",
    "validation loss, bits per byte": "验证损失，每字节的比特数",
    "facts, when a text stops before the value": "文本停在答案之前，接对的事实",
    "bare held-out questions answered": "直接提问时答出的留出问题",
    "unseen lists repeated": "没见过的清单能跟着念对的比例",
    "tokens per second": "每秒词元数",
    # ch1_sft
    "held-out questions right, greedy": "留出问题答对，贪心",
    "the same at temperature 1": "同上，温度 1",
    "facts alone, greedy and at temperature 1": "只看事实，贪心与温度 1",
    "sums alone, greedy and at temperature 1": "只看加法，贪心与温度 1",
    "small talk, unknowns, wishes: suitable": "闲聊、未知、愿望：回答得体",
    "each of the three": "三类各自的比例",
    "the base kitten, with the chat template": "基座小猫，用对话模板",
    "the base kitten, with the bare question": "基座小猫，直接提问",
    "replies that stop by themselves": "自己停下的回复",
    "safe replies to risky questions": "对危险问题的安全回复",
    "fine things allowed": "无害的事得到允许",
    "friendly replies": "友善的回复",
    "forgotten, bits per byte": "遗忘，每字节的比特数",
    # ch1_tools
    "calculator, right": "计算器，答对",
    "answered at once": "不用工具直接回答",
    "search, right and with the right source": "搜索，答对且出处正确",
    "answered at once, no source asked for": "直接回答，不要求出处",
    "plans of two calls": "两次调用的计划",
    "plans of three calls": "三次调用的计划",
    "chat questions right, before": "聊天问题答对，之前",
    "after": "之后",
    "a call where none is needed": "不该调用却调用",
    # ch1_language
    "programs written right, at temperature 1 and greedy": "程序写对，温度 1 与贪心",
    "says what a program prints": "说对程序打印什么",
    "mends a bug": "修好错误",
    "explains a line": "解释对一行",
    "chat questions right, before and after": "聊天问题答对，之前与之后",
    # ch2_reward_model
    "noisy held-out labels guessed right": "猜对带噪声的留出标签",
    "the best possible guess": "可能达到的最好成绩",
    "clearly different pairs ordered right": "差别明显的回复对排对顺序",
    "true before false in equal words, taught facts": "措辞相同、真先于假，教过的事实",
    "the same, held-out facts": "同上，留出的事实",
    "calibration error": "校准误差",
    # ch3_ppo
    "gold score before, after": "真分：之前，之后",
    "share of the way to the best replies": "通往最佳回复的路走完了多少",
    "fine things allowed, before and after": "无害的事得到允许，之前与之后",
    "facts and sums right, before and after": "事实与加法答对，之前与之后",
    "KL, nats per reply": "KL，每条回复的奈特数",
    # ch4_preferences, behind the name of the method
    "wins against the chat kitten": "胜过聊天小猫",
    "log p of chosen, of rejected, change in nats": "优选、落选回复的 log p 变化，奈特",
    "safe, friendly": "安全，友善",
    "pairs per second": "每秒回复对数",
    # ch5_reasoning
    "held-out problems right, before and after": "留出题目答对，之前与之后",
    "after, greedy": "之后，贪心",
    "tokens per reply, before and after": "每条回复的词元数，之前与之后",
    '"wait" per reply, before and after': "每条回复里的 wait 数，之前与之后",
    "right form, cut off": "格式正确，被截断",
    "pass@8, before and after": "pass@8，之前与之后",
    "tokens of right and of wrong replies, after": "答对与答错的回复的词元数，之后",
    '"wait" of right and of wrong replies, after': "答对与答错的回复里的 wait 数，之后",
    "seconds per step": "每步秒数",
    # ch6_r1
    "held-out puzzles right": "留出的谜题答对",
    "gold score of chats": "聊天的真分",
    "facts and sums right": "事实与加法答对",
    "thinks in chats, in puzzles": "聊天时、解谜时思考的比例",
    "unseen books, bits per byte": "没见过的书，每字节的比特数",
    "puzzles right: chat, PPO, Zero, cold start, R1": "谜题答对：聊天、PPO、Zero、冷启动、R1",
    "gold score: chat, PPO, Zero, cold start, R1": "真分：聊天、PPO、Zero、冷启动、R1",
    "facts and sums: chat, PPO, Zero, cold start, R1": "事实与加法：聊天、PPO、Zero、冷启动、R1",
    "a small kitten, puzzles right: RL, R1's thoughts, RL after these": (
        "一只小的小猫，谜题答对：RL、R1 的思考、之后再 RL"
    ),
    "thoughts drawn, kept": "抽取的思考，留下的思考",
    # real_models.md
    # rounding
    "moves by at most": "最多移动",
    "error by topic, most": "按话题的标准误差，最大",
    "range of the seeds": "各种子的范围",
    # one_file
    "stage: number, before → after": "阶段：数字，之前 → 之后",
    "pretraining: facts known": "预训练：知道的事实",
    "SFT: right replies": "SFT：正确的回复",
    "reward model: pairs in order": "奖励模型：排对的回复对",
    "PPO: kind and right replies": "PPO：友善且正确的回复",
    "DPO: kind and right replies": "DPO：友善且正确的回复",
    "GRPO: puzzles solved": "GRPO：解出的谜题",
    "seconds of processor time": "处理器时间，秒",
    # real_models.py
    "model": "模型",
    "weights, bfloat16": "权重，bfloat16",
    "LoRA 16: weights, gradients, optimizer": "LoRA 16：权重、梯度、优化器",
    "all weights, float32: the same": "全部权重，float32：同上",
    "activations, LoRA, per 1,000 tokens": "激活值，LoRA，每 1,000 个词元",
    "KV cache per 1,000 tokens": "KV 缓存，每 1,000 个词元",
    "before": "之前",
    "here": "这里",
    "one process, two threads": "一个进程，两个线程",
    "two processes, one thread": "两个进程，各一个线程",
    "programs written right": "程序写对",
    "what a program prints, right": "说对程序打印什么",
    "bugs mended": "修好的错误",
    "lines explained": "解释对的语句",
    "general questions right": "常识问题答对",
    "the same, asked as the assistant": "同上，以助手的身份提问",
    "perplexity of a plain text": "一篇普通文字的困惑度",
    "numbers trained, million": "训练的数，百万",
    "tokens trained on": "训练用的词元",
    "training, seconds": "训练，秒",
    "training, seconds of processor time": "训练，处理器时间，秒",
    "tokens per second of processor time": "每秒处理器时间的词元数",
    "memory at most, MB": "最多内存，MB",
    "held-out pairs ordered right": "留出的回复对排对",
    "their margin, nats": "它们的分差，奈特",
    "margin of the pairs of a step, first and last": "一步里的回复对的分差，最初与最后",
    "pairs trained on": "训练用的回复对",
    "pairs held out": "留出的回复对",
    "the reference reads all pairs, seconds": "参考模型读完所有回复对，秒",
    "largest difference of a logit": "logit 的最大差别",
    "greedy answers that are equal, of 20": "相同的贪心回答，共 20 个",
    "a reply, tokens per second": "一条回复，每秒词元数",
    "its first word, seconds": "它的第一个词，秒",
    "LoRA 16, tokens trained per second": "LoRA 16，每秒训练的词元数",
    "memory while loading, in sizes of the model: float32": "加载时的内存，以模型大小计：float32",
    "the same, bfloat16": "同上，bfloat16",
    "a round of GRPO, seconds": "一轮 GRPO，秒",
    "times as fast": "快了几倍",
}
SENTENCES = (
    (r"Not measured yet: (`.*`) writes it\.", r"还没有测量：\1 会写在这里。"),
    (
        r"Default settings, (.*?)\. ± is the standard error by topic: .*",
        r"默认设置，\1。± 是按话题计算的标准误差：换一批话题，这只小猫的数字会移动多少；"
        r"重新训练会移动得更多，请比较各个种子。括号里的秒数来自与其他程序共用机器的运行。",
    ),
    (
        r"(.*?), trained with LoRA for (\d+) minutes on (.*?): programs written right (.*?), what "
        r"a program prints, right (.*?), bugs mended (.*?), lines explained (.*?), general "
        r"questions right (.*?)\.",
        r"\1，用 LoRA 训练 \2 分钟（\3）：程序写对 \4，说对程序打印什么 \5，修好的错误 \6，"
        r"解释对的语句 \7，常识问题答对 \8。",
    ),
    (r"Measured with fewer seeds, see the lesson: (.*)\.", r"测的种子较少，数字见该章的课文：\1。"),
    (r"How far rounding alone moves .*", "这些运行没有测量单凭舍入会让数字移动多少。"),
    (
        r"The same seed with another number of threads \((.*?)\) moves by rounding alone: (.*)\.",
        r"同一个种子换一种线程数（\1），单凭舍入就会移动：\2。",
    ),
    (r"The journey of seed (\d+) took (.*)\.", r"种子 \1 的全程用时 \2。"),
    (
        r"Two threads add up the same numbers .* \((.*)\), beside .*",
        r"两个线程以另一种顺序相加同样的数，和的最后一位因此不同，训练便走上另一条路。"
        r"同一个种子单凭这一点会移动多少（\1），旁边是按话题的标准误差和各种子的范围：",
    ),
)
PHRASES = (
    (r"\ba small kitten\b", "一只小猫"),
    (r"\bone thread\b", "一个线程"),
    (r"\b(\d+) threads\b", r"\1 个线程"),
    (r"\ban unknown number of threads\b", "线程数不明"),
    (r"\bseed (\d+)\b", r"种子 \1"),
    (r"(\d) s on ", r"\1 秒，"),
    (r" against ", " 对 "),
    (r" and ", " 和 "),
    (r" or ", " 或 "),
    (r"(\d) points\b", r"\1 个百分点"),
)


def in_chinese(block: str) -> str:
    """A block of numbers with Chinese words; numbers, and the shape of its tables, stay."""
    return "\n".join(map(_line, block.splitlines()))


def _line(line: str) -> str:
    if line.startswith("|"):
        return " | ".join(_cell(cell) for cell in line.split(" | "))
    for sentence, chinese in SENTENCES:
        if re.fullmatch(sentence, line):
            return _phrases(re.sub(sentence, chinese, line))
    return line


def _cell(cell: str) -> str:
    """One cell, with the rules of the table that may stick to it: "| seconds", "DPO: safe"."""
    parts = re.fullmatch(r"(\|? ?)((?:DPO|IPO|ORPO|LoRA 16|all weights): )?(.*?)((?: \|)?)", cell)
    if parts is None:
        return cell
    start, method, label, end = parts.groups(default="")
    if method + label in CELLS:  # a stage of one_file.py begins with the same letters
        method, label = "", CELLS[method + label]
    elif label in CELLS:
        method = method.replace(": ", "：").replace("all weights", "全部权重")
        label = CELLS[label]
    elif re.match(r"seed \d|[\d.]+ points|.*, (one thread|\d+ threads)$", label):
        label = _phrases(label)
    return f"{start}{method}{label}{end}"


def _phrases(text: str) -> str:
    for phrase, chinese in PHRASES:
        text = re.sub(phrase, chinese, text)
    return text
