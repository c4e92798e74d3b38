"""KittenLLM: how a GPT becomes ChatGPT and then a reasoner, on a laptop and from random weights."""

__version__ = "0.1.0"
