"""What the page says about each chapter in Chinese, and sentences of the chapters' own programs.

OF_CHAPTERS is found by the English text. FILLED are sentences that other programs have written,
with their numbers in them: words in {braces} stand where those are.

Used by chinese.py and languages.py.
"""

from chapters.report.causes_zh import CAUSES_OF_A_FLAG

OF_CHAPTERS = {
    # chapter 0
    "nats per token on unseen text": "没见过的文本，每词元奈特",
    "facts told when a text stops before them": "文本停在事实前面时说对",
    "bare questions answered": "直接提问就回答",
    "lists said after": "照着念出清单",
    "tokens read": "读过的词元",
    "weights": "权重",
    "tokens per second": "每秒词元数",
    "Loss: how surprised it is": "损失：它有多意外",
    "training rows": "训练文本",
    "unseen text": "没见过的文本",
    "Gradient norm": "梯度的范数",
    "gradient": "梯度",
    "Learning rate": "学习率",
    "scale": "倍数",
    "Where one head looks": "一个注意力头在看哪里",
    "attention": "注意力",
    # chapter 1
    "held-out questions right, greedy": "留出问题答对，贪心",
    "questions right with dice": "掷骰子时答对",
    "small talk, unknowns, wishes": "闲聊、不知道的事、愿望",
    "replies that stop": "自己停下的回复",
    "fine things allowed": "无害的事得到允许",
    "bits per byte forgotten": "遗忘，每字节比特",
    "What is trained, and what is only read": "哪些参加训练，哪些只是读到",
    "the conversation is shown once the kitten was asked": "问过这只小猫之后，这里会显示那段对话",
    "the conversation in report_replies.json cannot be read": (
        "report_replies.json 里的对话读不出来"
    ),
    "the conversation with its mask cannot be shown: {error}": "带掩码的对话无法显示：{error}",
    "trained": "参加训练",
    " the assistant's words and the mark that ends its turn. ": "：助手的话和结束它那一轮的标记。",
    "only read": "只是读到",
    " everything else. Here {said}.": "：其余的一切。这里 {said}。",
    "{n} of {all} tokens are trained": "{all} 个词元里有 {n} 个参加训练",
    "Learned: the chats": "学会：对话",
    "Forgotten: reading": "遗忘：阅读",
    "chats": "对话",
    "pretraining text": "预训练文本",
    "The data work: what was kept and what was taken out": "数据工作：留下了什么，拿掉了什么",
    "conversations": "对话",
    "kept": "留下",
    "broken": "破损",
    "duplicate": "重复",
    "near duplicate": "近似重复",
    "secret": "秘密",
    "forbidden": "违禁",
    "surplus": "过多",
    "empty": "空的",
    "What each step of the data work is worth": "数据工作的每一步值多少",
    "data effects": "数据的作用",
    "forgetting": "遗忘",
    # chapter 2
    "agrees with the noisy annotators": "和有噪声的标注者一致",
    "best that anybody could": "谁都超不过的成绩",
    "finds the truly better reply": "找出真正更好的回复",
    "true before false, in equal words": "措辞相同，真先于假",
    "the same, held-out facts": "同上，留出的事实",
    "calibration error": "校准误差",
    "correlation with length": "与长度的相关",
    "pairs learnt from": "学过的回复对",
    "best possible, on average": "可能的最好成绩（平均）",
    "kind of question": "问题的种类",
    "finds the better reply": "找出更好的回复",
    "By kind of question": "按问题的种类",
    "fact": "事实",
    "risky": "危险",
    "allowed": "无害",
    "sum": "加法",
    "greeting": "问候",
    "story": "故事",
    "outside": "镇外的事",
    "wish": "愿望",
    "unknown": "不知道的事",
    "Agrees with the annotators": "与标注者一致",
    "Margin": "分差",
    "chosen - rejected": "优选 − 落选",
    "Calibration, and how scores are spread": "校准，以及分数的分布",
    "calibration": "校准",
    "scores": "分数",
    # chapter 3
    "safe": "安全",
    "facts and sums right": "事实与加法答对",
    "gold score": "真分",
    "reward model's score": "奖励模型的分数",
    "of the way to the best replies": "走完到最佳回复之路的比例",
    "nats per reply from the start": "离起点，每条回复的奈特",
    "best possible gold score": "可能的最高真分",
    "best possible": "可能的最好",
    "Gold score: the truth": "真分：真相",
    "How far from the start": "离起点多远",
    "Clip fraction": "截断比例",
    "Explained variance": "解释方差",
    "One score for a sentence, a credit for every token": "一句话一个分数，每个词元一份功劳",
    "What the numbers say": "这些数说的是什么",
    "token_credit.json, which holds the numbers behind this picture, cannot be read": (
        "token_credit.json 里有这张图背后的数，但它读不出来"
    ),
    "the token credit was not drawn": "词元的功劳没有画出来",
    "token credit": "词元的功劳",
    "A judge that saw too little, and no leash: {what}": "一个见识太少的评判，又没有绳子：{what}",
    "the score rises, the kitten gets worse": "分数上升，小猫却变差",
    "not clearly worse this time": "这一次没有明显变差",
    "gold at its best": "真分最高时",
    "gold at the end": "真分，最后",
    "reward model then": "那时的奖励模型分数",
    "reward model at the end": "奖励模型分数，最后",
    "overoptimisation": "过度优化",
    "More replies of the same moment": "同一时刻的更多回复",
    "Drawn with {settings}.": "画图时的设置：{settings}。",
    "unknown settings": "未知的设置",
    "score {n}": "分数 {n}",
    "point at a token, or tap it": "指着或点一下词元",
    "All numbers as a table": "全部的数，列成表",
    "token": "词元",
    "TD error": "TD 误差",
    "advantage": "优势",
    "log p change": "log p 的变化",
    "the reward model's score; it comes with the last token only": (
        "奖励模型的分数；只在最后一个词元到来"
    ),
    "the price of leaving the chat kitten: -kl_coef times log p - log p_ref": (
        "离开聊天小猫的价格：-kl_coef 乘以 log p - log p_ref"
    ),
    "the surprise: how much better things look after this token": (
        "意外：这个词元之后，情况看起来好了多少"
    ),
    "this surprise and the discounted later ones: what PPO uses": (
        "这份意外，加上打了折扣的后来的意外：PPO 用的就是它"
    ),
    "what one real update then did to the token": "一次真正的更新之后，这个词元变了多少",
    # chapter 4
    "held-out questions": "留出的问题",
    "gold score before": "真分，之前",
    "gold score after": "真分，之后",
    "of the way to the best": "走完到最佳之路的比例",
    "wins against the chat kitten": "胜过聊天小猫",
    "log p(chosen) changed by": "log p（优选）的变化",
    "log p(rejected) changed by": "log p（落选）的变化",
    "pairs per second": "每秒回复对数",
    "seconds": "秒数",
    "chosen": "优选",
    "rejected": "落选",
    "{method}: log p of a reply": "{method}：一条回复的 log p",
    "Margin: chosen - rejected": "分差：优选 − 落选",
    "Accuracy on unseen pairs": "没见过的回复对，正确率",
    "The best possible replies have a gold score of {n}.": "可能的最好回复，真分是 {n}。",
    "The frontier: gain against distance": "前沿：收益与距离",
    "KL, nats per reply": "KL，每条回复的奈特",
    "method": "方法",
    "setting": "设置",
    "All points as a table": "所有的点，列成表",
    # chapter 5
    "right answers": "答案对",
    "right within 8 tries": "8 次之内答对",
    "right form": "格式对",
    "cut off": "被截断",
    '"wait" per reply': "每条回复里的“wait”",
    "right without dice, at the end": "不掷骰子时答对，最后",
    "tokens of right replies, at the end": "答对的回复的词元数，最后",
    "tokens of wrong replies, at the end": "答错的回复的词元数，最后",
    "seconds per round": "每轮秒数",
    "The growth of thinking": "思考怎样变长",
    "Right answers": "答案对",
    'How often it says "wait"': "说“wait”的次数",
    "Right form": "格式对",
    "Cut off": "被截断",
    "All siblings alike: no signal": "同组都一样：没有信号",
    "Warm-up: loss": "预热：损失",
    "One of k replies is right": "k 条回复里有一条对",
    "Replies judge their siblings": "回复互相评判",
    "Two problems, all that was thought about them": "两道题，以及想过的一切",
    "no problems were kept": "没有题目留下来",
    "Warnings while it trained": "训练时的警告",
    "How long right and wrong replies are": "对的和错的回复有多长",
    "The experiments": "实验",
    "lengths": "长度",
    "provenance": "来历",
    "normalisations": "归一方式",
    "budget": "思考的余地",
    "votes": "投票",
    " ({why})": "（{why}）",
    "right before and after": "之前对，之后也对",
    "wrong before and after": "之前错，之后也错",
    "wrong before, right after": "之前错，之后对",
    "right before, wrong after": "之前对，之后错",
    "{n} attempt": "试了 {n} 次",
    "{n} attempts": "试了 {n} 次",
    "answer ": "答案 ",
    "cut off, no answer": "被截断，没有答案",
    # chapter 6
    "puzzles solved": "解出的谜题",
    "thinks about puzzles": "做谜题时思考",
    "thinks in chats, needlessly": "聊天时多余地思考",
    "bits per byte of unseen books": "没见过的书，每字节比特",
    "Every kitten on the way, the same exam": "一路上的每只小猫，同样的考试",
    "the exam of the kittens on the way was not kept": "一路上各只小猫的考试没有留下来",
    "What was collected for the cold start": "为冷启动收集了什么",
    "thoughts drawn": "抽取的思考",
    "thoughts kept": "留下的思考",
    "replies drawn": "抽取的回复",
    "replies kept": "留下的回复",
    "Puzzles: right answers": "谜题：答案对",
    "Chats: score": "聊天：分数",
    "Pictures": "图",
    "steps": "各步骤",
    "distil": "蒸馏",
    "ways": "几条路",
    # tools and language, in their own words
    "calculator accuracy": "用计算器答对",
    "calculator without tool": "不用计算器答对",
    "search accuracy": "用搜索答对",
    "search without tool": "不用搜索答对",
    "plan accuracy": "计划答对",
    "long plan accuracy": "三步计划答对",
    "chat accuracy": "聊天答对",
    "chat accuracy before": "聊天答对，之前",
    "chat accuracy after": "聊天答对，之后",
    "needless call rate": "不必要的调用",
    "forgetting bits per byte": "遗忘，每字节比特",
    "skills": "技能",
    "program accuracy": "程序写对",
    "output accuracy": "输出说对",
    "repair accuracy": "错误修好",
    "explain accuracy": "语句解释对",
    "bits per byte": "每字节比特",
    "exam seconds": "考试秒数",
    "trained parameters": "训练的参数",
    "trained share": "训练的占比",
    "memory mb": "内存（MB）",
    "train seconds": "训练秒数",
    "merge difference": "合并带来的差别",
    "full": "全部权重",
    "lora 16": "秩为 16 的 LoRA",
}
FILLED = {
    "{n} lines of {file} cannot be read and are left out; the file stays as it is": (
        "{file} 里有 {n} 行读不出来，略去了；文件保持原样"
    ),
    "1 line of {file} cannot be read and are left out; the file stays as it is": (
        "{file} 里有 1 行读不出来，略去了；文件保持原样"
    ),
    "inside the band, {low} to {high}": "在范围之内，{low} 到 {high}",
    "below the band, {low} to {high}.": "低于范围 {low} 到 {high}。",
    "above the band, {low} to {high}.": "高于范围 {low} 到 {high}。",
    "Each reply is the typical one of {n}: they are drawn at temperature 1, and the one in the "
    "middle of their gold scores is shown.": (
        "每条回复是 {n} 条里典型的一条：它们在温度 1 下抽取，显示真分居中的那一条。"
    ),
    "Each reply is the typical one of {n}: they are drawn at temperature 1, and the one in the "
    "middle of their gold scores is shown. Beside it the one that the reward model likes best.": (
        "每条回复是 {n} 条里典型的一条：它们在温度 1 下抽取，显示真分居中的那一条。"
        "旁边是奖励模型最喜欢的那一条。"
    ),
    "gamma {gamma}, lam {lam}, kl_coef {kl}; after {n} steps of PPO; each row has its own colour "
    "scale": "gamma {gamma}，lam {lam}，kl_coef {kl}；PPO {n} 步之后；每一行有自己的颜色刻度",
    "chosen of {n} replies at lam {lam}: in it one word ({word})\nsurprised the value model most "
    "and has the largest advantage": (
        "在 lam {lam} 下从 {n} 条回复里选出：其中有一个词（{word}）最让价值模型意外，优势也最大"
    ),
    "warning at step {step}: in {share} of the groups all replies earned the same, so they teach "
    "nothing. The problems are too hard or too easy, or the groups are too small (--group-size).": (
        "第 {step} 步的警告：{share} 的组里所有回复得分都一样，什么也教不了。"
        "题目太难或太容易，或者组太小（--group-size）。"
    ),
    "warning at step {step}: {share} of the replies were cut off and earned nothing. Allow longer "
    "ones (--max-new-tokens), or the kitten learns to be brief for the wrong reason.": (
        "第 {step} 步的警告：{share} 的回复被截断，一分没得。请允许更长的回复"
        "（--max-new-tokens），否则小猫会因为错误的理由学会说短话。"
    ),
    "warning at step {step}: entropy fell to {entropy} nats per token: all replies are nearly the "
    "same, and there is nothing left to compare. A smaller learning rate keeps more variety; so "
    "does --clip-eps-high 0.28, which lets rare tokens grow faster.": (
        "第 {step} 步的警告：熵降到了每词元 {entropy} 奈特：所有回复几乎一样，没什么可比较的了。"
        "更小的学习率能多留一些变化；--clip-eps-high 0.28 也能，它让少见的词元长得更快。"
    ),
    "warning at step {step}: only {share} of the replies have the right form, fewer than at first. "
    "Lower the learning rate, or pay more for the form (--format-weight).": (
        "第 {step} 步的警告：只有 {share} 的回复格式正确，比一开始还少。"
        "请降低学习率，或者为格式多给些分（--format-weight）。"
    ),
    **CAUSES_OF_A_FLAG,
}
