"""An LSTM that reads the Zen of Python letter by letter.

python examples/recurrent.py
hesse spectrum examples/recurrent.py --top 10 --bottom 3 --probes 2 --steps 30 --max-products 100
"""

import codecs
import contextlib
import io

import torch

import hesse

with contextlib.redirect_stdout(io.StringIO()):  # importing it prints it
    import this

LENGTH = 20


class Reader(torch.nn.Module):
    def __init__(self, letters, width=24):
        super().__init__()
        self.letters = torch.nn.Embedding(letters, 8)
        self.recurrent = torch.nn.LSTM(8, width, batch_first=True)
        self.head = torch.nn.Linear(width, letters)

    def forward(self, text):
        # Cross entropy wants the classes second.
        return self.head(self.recurrent(self.letters(text))[0]).transpose(1, 2)


def problem(steps=200):
    """The loss of the next letter, over the whole text, after some training."""
    text = codecs.decode(this.s, "rot13")
    alphabet = sorted(set(text))
    numbers = torch.tensor([alphabet.index(letter) for letter in text])
    windows = numbers[: len(numbers) // (LENGTH + 1) * (LENGTH + 1)].reshape(-1, LENGTH + 1)
    x, y = windows[:, :-1], windows[:, 1:]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Reader(len(alphabet))
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
        for _ in range(steps):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return hesse.Problem(model=model, loss=torch.nn.CrossEntropyLoss(), data=[(x[:24], y[:24]), (x[24:], y[24:])])


if __name__ == "__main__":
    H = problem().operator()
    sharpness = hesse.eigsh(H, k=1, which="LA", rng=0).values[0]
    print(f"{H.shape[0]} parameters, loss {H.value:.4f}; sharpness {sharpness:.3f}")
