"""A GPT-2 of Hugging Face with labels in the batch, as its tokenizers and collators make them.

python examples/hugging_face.py
hesse spectrum examples/hugging_face.py --top 3 --bottom 1 --probes 2 --steps 30 --max-products 60

Weights are random, so nothing is downloaded; padding is masked by labels of −100, and counts for nothing.
"""

from pydoc_data.topics import topics

import torch
import transformers

import hesse

LETTERS = 128


def batch(lines):
    """Lines of ASCII text, padded to the longest."""
    length = max(map(len, lines))
    ids = torch.zeros(len(lines), length, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, line in enumerate(lines):
        ids[row, : len(line)] = torch.tensor([min(ord(letter), LETTERS - 1) for letter in line])
        mask[row, : len(line)] = 1
    return transformers.BatchEncoding(
        {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    )


def problem():
    """The loss that the model works out itself, over lines of Python's documentation."""
    lines = [line[:32] for line in topics["class"].splitlines() if len(line) > 20][:16]
    config = transformers.GPT2Config(
        n_layer=2, n_embd=32, n_head=4, vocab_size=LETTERS, n_positions=64, bos_token_id=0, eos_token_id=0
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config).eval()
    return hesse.Problem(model=model, data=[batch(lines[start : start + 8]) for start in range(0, len(lines), 8)])


if __name__ == "__main__":
    H = problem().operator()
    top = hesse.eigsh(H, k=1, which="LA", tol=1e-2, rng=0).values[0]
    print(f"{H.shape[0]} parameters, loss {H.value:.4f}; sharpness {top:.2f}")
