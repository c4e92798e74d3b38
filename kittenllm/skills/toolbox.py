"""The two tools of Kitten Town's kitten, a calculator and a search, as functions of text to text.

Used by ch1_tools, which trains a kitten to call them, and by the chat program with --tools.
"""

from kittenllm.kitten_town.tool_chats import ENCYCLOPEDIA
from kittenllm.skills.agent import Tools
from kittenllm.skills.calculator import calculate
from kittenllm.skills.search import BM25

MAX_CALLS = 4  # in one request; the longest plan needs three
REPLY_TOKENS = 54  # of one reply: a plan and its first call


def town_tools(pages: list[str] | None = None) -> Tools:
    """ "calc 237+48" -> "285"; "search star Velvet" -> the page that fits best.

    `pages` are the texts to search, by default those of the encyclopedia.
    """
    texts = [page.text for page in ENCYCLOPEDIA] if pages is None else pages
    index = BM25(texts)

    def search(query: str) -> str:
        found = index.best(query)
        if not found:
            raise ValueError("nothing found")
        return texts[found[0][0]]

    return {"calc": lambda text: str(calculate(text)), "search": search}
