"""KittenLLM: how a GPT becomes ChatGPT and then a reasoner, small enough to run and to read on a laptop."""

__version__ = "0.1.0"
