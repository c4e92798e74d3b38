"""What several test files need: the devices of this machine, a tiny kitten, the town's tokens."""

import pytest
import torch

from kittenllm.gpt import GPT, GPTConfig


def devices_present() -> list[str]:
    """The CPU, and the GPU if there is one: numerical tests run on each."""
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


@pytest.fixture(params=devices_present())
def device(request) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def tiny_gpt(device) -> GPT:
    """A kitten with random weights large enough that every token gets another probability."""
    config = GPTConfig(
        vocab_size=61,
        context_length=64,
        layers=2,
        channels=32,
        heads=4,
        kv_heads=2,
        ffn_channels=80,
        stop_ids=(1, 2),
        pad_id=0,
    )
    gpt = GPT(config, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for parameter in gpt.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)  # as after training; fresh weights predict everything alike
    return gpt.to(device)


@pytest.fixture(scope="session")
def town_tokenizer():
    """A small tokenizer trained on Kitten Town's own stories."""
    from itertools import islice

    from kittenllm.kitten_town.stories import documents
    from kittenllm.tokenizer import Tokenizer, train_bpe

    return Tokenizer(train_bpe(islice(documents(seed=0), 300), 600))
