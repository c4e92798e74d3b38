"""The chapters: run one with `python -m chapters.ch1_sft`, all of them with `python -m
chapters`."""

import kittenllm  # noqa: F401 (before torch: see there)
