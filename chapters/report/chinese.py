"""The labels of the page in Chinese, found by the English text: headings, names of numbers, hints.

Words in {braces} are filled in. Labels of a chapter are in chapters_zh.py, longer sentences in
sentences_zh.py.

Used by languages.py.
"""

from chapters.report.causes_zh import CAUSES
from chapters.report.chapters_zh import OF_CHAPTERS

LABELS = {
    # the top
    "of held-out questions answered right": "留出问题答对",
    "safe answers to risky questions": "对危险问题的安全回答",
    "friendly replies": "友善的回复",
    "of new puzzles solved": "没见过的谜题解出",
    "tokens per reply to a puzzle": "每条谜题回复的词元数",
    "for {n} stages, from random weights": "从随机权重开始，共 {n} 个阶段",
    "at most {n} MB of memory": "内存最多 {n} MB",
    "size": "大小",
    "device": "设备",
    "version": "版本",
    "seed": "种子",
    "No stage has finished yet.": "还没有一个阶段完成。",
    "parts of the report": "报告的各部分",
    "start": "开始",
    "talk": "聊天",
    "same questions": "同样的问题",
    "tokens": "词元",
    "time": "时间",
    "words": "术语",
    "{n} {name}": "{n} {name}",
    "{name} {value}": "{name} {value}",
    "What you see here": "这里能看到什么",
    "The words you need first": "先要认识的词",
    "Words": "术语",
    # the path and the loop
    "{name} ({value})": "{name}（{value}）",
    "the path: {boxes}": "成长之路：{boxes}",
    "random weights": "随机权重",
    "knows nothing": "什么也不会",
    "base": "基座",
    "reads all books": "读完所有的书",
    "copies people": "模仿人",
    "reward model": "奖励模型",
    "learns their taste": "学人的口味",
    "from choices alone": "只看人的选择",
    "learns from scores": "从分数学习",
    "thinks; rules judge": "会思考；规则来评",
    "is kind and thinks": "友善，会思考",
    "policy": "策略",
    "the kitten that learns": "正在学习的小猫",
    "one score per reply": "每条回复一个分数",
    "reference": "参考模型",
    "the kitten it was": "它原来的样子",
    "value model": "价值模型",
    "what is still to come?": "还会有多少奖励？",
    "advantages": "优势",
    "a credit per token": "每个词元的功劳",
    "1 a reply": "1 回复",
    "2 score": "2 分数",
    "KL price": "KL 价格",
    "guesses": "猜测",
    "3 update": "3 更新",
    "the policy writes a reply; the reward model gives one score, the reference a price for "
    "leaving it, the value model its guesses; together they are the advantage of every token, and "
    "the policy is updated": (
        "策略写一条回复；奖励模型给一个分数，参考模型给离开它的价格，价值模型给它的猜测；"
        "合在一起就是每个词元的优势，策略随之更新"
    ),
    # talk, tokens, the same questions
    "Talk to them": "和它们聊聊",
    "chat": "聊天",
    "How text becomes tokens": "文本怎样变成词元",
    "The same thirteen questions after every stage": "每个阶段之后，问同样的十三个问题",
    "Nothing is picked: the questions were fixed before any kitten was born.": (
        "没有挑选过：小猫出生之前，这些问题就定下来了。"
    ),
    "Two number puzzles: use each number once and reach the target": (
        "两道数字谜题：每个数恰好用一次，凑出目标"
    ),
    "asked": "问题",
    "(nothing)": "（什么也没说）",
    "right": "对",
    "wrong": "错",
    "friendly": "友善",
    "grumpy": "暴躁",
    "and runs on": "说个不停",
    "gold {n}": "真分 {n}",
    "{n} more letters": "还有 {n} 个字符",
    "The chapter's own samples: {before} and {after}, with dice (temperature 1)": (
        "这一章自己的样例：{before} → {after}，掷骰子（温度 1）"
    ),
    "random": "随机权重",
    "best of 16": "16 选一",
    "with tools": "用工具",
    "model": "模型",
    "assistant": "助手",
    "after SFT": "SFT 之后",
    "after DPO": "DPO 之后",
    "warm-up": "预热",
    "after GRPO": "GRPO 之后",
    "cold start": "冷启动",
    "the {name} kitten could not be asked: {error}": "没能问到 {name} 小猫：{error}",
    "the {name} kitten cannot talk here: {cause}": "{name} 小猫不能在这里说话：{cause}",
    "its tokenizer is not one of ours": "它的分词器不是我们的",
    "its attention has biases": "它的注意力带有偏置",
    "it is too large for a page": "它对一个网页来说太大了",
    # a chapter
    "A base GPT: it only continues text": "基座 GPT：只会接着往下写",
    "Supervised fine-tuning: it answers": "监督微调：它会回答了",
    "Tools, search and plans": "工具、搜索和计划",
    "An assistant for a language of our own": "我们自己的语言的助手",
    "A reward model: what people prefer": "奖励模型：人更喜欢什么",
    "PPO: reinforcement learning from feedback": "PPO：从反馈中强化学习",
    "DPO, IPO, ORPO: preferences without RL": "DPO、IPO、ORPO：不用强化学习的偏好学习",
    "GRPO: it learns to think before it answers": "GRPO：它学会先想再答",
    "R1: one kitten that chats, is kind, and thinks": "R1：一只会聊天、友善、又会思考的小猫",
    "This stage has not run yet. {command} runs it.": "这个阶段还没有运行。用 {command} 运行它。",
    "This stage was started and has not finished. {command} goes on with it.": (
        "这个阶段开始了，但没有完成。用 {command} 接着运行。"
    ),
    "summary.json of this stage cannot be read. {command} runs it again.": (
        "这个阶段的 summary.json 读不出来。用 {command} 重新运行。"
    ),
    "{name}: this part could not be drawn ({error})": "{name}：这一部分画不出来（{error}）",
    "samples.json cannot be read, so its replies are left out": (
        "samples.json 读不出来，所以略去其中的回复"
    ),
    "Read on in chapters/{name}/lesson.md; its files are in {folder}/.": (
        "接着读 chapters/{name}/lesson.zh.md；它的文件在 {folder}/ 里。"
    ),
    "The settings of this run": "这次运行的设置",
    "{time} in all": "共 {time}",
    "{time} training": "训练 {time}",
    "{time} being examined": "考试 {time}",
    "{costs}. ": "{costs}。",
    "{n} s": "{n} 秒",
    "{n} min": "{n} 分钟",
    "Time and memory": "时间与内存",
    "stage": "阶段",
    "memory": "内存",
    "all": "合计",
    "before": "之前",
    "after": "之后",
    "0 to 100 %": "0 到 100 %",
    "Beside the reference runs: {inside} of {all} numbers inside their band": (
        "与参考运行相比：{all} 个数里有 {inside} 个在范围之内"
    ),
    "this run": "这次运行",
    "band": "范围",
    "reference runs": "参考运行",
    "{place} Likely: {causes}.": "{place}可能的原因：{causes}。",
    "summary.json lacks what the reference bands are compared with": (
        "summary.json 里缺少与参考范围比较所需的数"
    ),
    "Made by python -m chapters.report. Every number was measured in this run.": (
        "由 python -m chapters.report 写成。每个数都是在这次运行里测得的。"
    ),
    # charts
    "nothing was measured here": "这里什么也没有测",
    "at the end: {values}": "最后：{values}",
    "{place}: {values}": "{place}：{values}",
    "{y} against {x}": "{y}，相对于{x}",
    "point at a dot, or tap it, to see whose it is": "指着或点一下圆点，看看它是谁的",
    "step": "步",
    "share": "比例",
    "share of tokens": "词元的比例",
    "share of replies": "回复的比例",
    "share of problems": "题目的比例",
    "share of the full one": "占全量的比例",
    "nats": "奈特",
    "nats per token": "每词元奈特",
    "nats per reply": "每条回复的奈特",
    "nats per pair": "每对奈特",
    "bits per byte": "每字节比特",
    "change, nats": "变化，奈特",
    "reward": "奖励",
    "gold": "真分",
    "per reply": "每条回复",
    "tokens per reply": "每条回复的词元数",
    "taught": "教过的",
    "held-out": "留出的",
    "loss": "损失",
    "Loss": "损失",
    "Score": "分数",
    "Entropy": "熵",
    "Length": "长度",
    "pairs": "回复对",
    "practice": "练习",
    "groups": "组",
    "waits": "次数",
}
LABELS |= OF_CHAPTERS | CAUSES
