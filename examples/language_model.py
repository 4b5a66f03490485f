"""A small transformer that has learned some of Python's own documentation, letter by letter.

python examples/language_model.py
hesse spectrum examples/language_model.py --top 5 --bottom 2 --probes 2 --steps 30 --max-products 80
The text comes with Python, in pydoc_data.topics. Attention is PyTorch's default, fused one.
"""

from pydoc_data.topics import topics

import torch

import hesse

LENGTH, WIDTH, HEADS, LAYERS = 32, 24, 4, 2


class Model(torch.nn.Module):
    def __init__(self, letters):
        super().__init__()
        self.letters = torch.nn.Embedding(letters, WIDTH)
        self.places = torch.nn.Embedding(LENGTH, WIDTH)
        layer = torch.nn.TransformerEncoderLayer(WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", batch_first=True)
        self.layers = torch.nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.head = torch.nn.Linear(WIDTH, letters)

    def forward(self, text):
        mask = torch.nn.Transformer.generate_square_subsequent_mask(text.shape[1], device=text.device)
        x = self.letters(text) + self.places.weight[: text.shape[1]]
        # Cross entropy wants the classes second.
        return self.head(self.layers(x, mask=mask.to(x.dtype), is_causal=True)).transpose(1, 2)


def sequences():
    """Windows of the text, the letters that follow each of theirs, and the alphabet."""
    text = "".join(topics[name] for name in sorted(topics))[:100_000]
    alphabet = sorted(set(text))
    numbers = torch.tensor([alphabet.index(letter) for letter in text])
    windows = numbers[: len(numbers) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    return windows[:, :-1], windows[:, 1:], alphabet


def problem(steps=300):
    """The loss over 32 windows, in batches of 16, after some training."""
    x, y, alphabet = sequences()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model(len(alphabet))
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for step in range(steps):
            rows = torch.arange(16 * step, 16 * step + 16) % len(x)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x[:32], y[:32]), batch_size=16)
    return hesse.Problem(model=model, loss=torch.nn.CrossEntropyLoss(), data=data)


if __name__ == "__main__":
    H = problem().operator()
    print(f"{H.shape[0]} weights: loss {H.value:.4f}, sharpness {hesse.eigsh(H, 1, which='LA', rng=0).values[0]:.3f}")
