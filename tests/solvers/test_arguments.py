"""What questions are given: numbers of a wrong type are told in a sentence, and every generator is taken."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch

import hesse

MATRIX = torch.diag(torch.linspace(1, 2, 40, dtype=torch.float64))
RIGHT = torch.ones(40, dtype=torch.float64)
POINT = torch.ones(3)
NETWORK = torch.nn.Linear(3, 1)
DATA = (torch.ones(5, 3), torch.zeros(5, 1))


def quartic(x):
    return (x**4).sum()


# What is asked, the arguments that it needs, and those that are numbers, functions, generators and the like.
QUESTIONS = {
    "trace": (hesse.trace, (MATRIX,)),
    "trace_of": (hesse.trace_of, (torch.exp, MATRIX)),
    "logdet": (hesse.logdet, (MATRIX,)),
    "diagonal": (hesse.diagonal, (MATRIX,)),
    "frobenius_norm": (hesse.frobenius_norm, (MATRIX,)),
    "spectral_density": (hesse.spectral_density, (MATRIX,)),
    "eigsh": (hesse.eigsh, (MATRIX,)),
    "solve": (hesse.solve, (MATRIX, RIGHT)),
    "solve_shifted": (hesse.solve_shifted, (MATRIX, RIGHT, [1.0])),
    "minimize": (hesse.minimize, (quartic, POINT)),
    "nystrom": (hesse.nystrom, (MATRIX, 3)),
    "check": (hesse.check, (quartic, POINT)),
    "Fisher": (hesse.Fisher, (NETWORK, torch.nn.MSELoss(), DATA)),
}
NUMBERS = ("tol", "atol", "confidence", "sigma", "shift")
WHOLE = ("k", "max_products", "num_probes", "num_steps", "rank", "block_size", "basis_size", "samples")
FUNCTIONS = ("f", "callback", "preconditioner")
OTHERS = {
    "rng": ("abc", -1, 1.5, [0.5], object(), int, torch.ones(3)),
    "checkpoint": (5, 1.5, object(), ["a"], torch.ones(2)),
    "basis_device": ("nowhere", 1.5, object()),
    "create_graph": ("yes", None, 2),
    "certify": ("yes", None, torch.ones(2)),
    "progress": ("yes", 2, []),
    "shifts": (1.0, "12", ["a"], None),
}
WRONG = ("1e-3", "many", object(), [1.0, 2.0], {}, int, torch.Generator(), 1j, torch.ones(3), np.ones(2))


def _cases():
    for question, (ask, given) in QUESTIONS.items():
        for place, name in enumerate(inspect.signature(ask).parameters):
            wrong = OTHERS.get(name, ())
            if name in NUMBERS + WHOLE:
                wrong = WRONG if name in NUMBERS else (*WRONG, 1.5, math.nan)
            if name in FUNCTIONS and question != "solve":
                wrong = ("abc", 5, object(), [], torch.ones(3), torch.nn.MSELoss)
            # What operators share is tested below.
            if wrong and (question, name) != ("Fisher", "progress"):
                yield pytest.param(ask, given, place, name, wrong, id=f"{question}({name}=)")


@pytest.mark.parametrize(("ask", "given", "place", "name", "wrong"), list(_cases()))
def test_a_wrong_argument_is_told_by_its_name(ask, given, place, name, wrong):
    for value in wrong:
        arguments = list(given)
        arguments[place : place + 1] = [value] if place < len(given) else []
        named = {} if place < len(given) else {name: value}
        with pytest.raises((TypeError, ValueError)) as told:
            ask(*arguments, **named)
        sentence = str(told.value)
        assert sentence.startswith(f"{name} given to {ask.__name__} should be ")
        assert " but " in sentence
        assert sentence.endswith(".")


@pytest.mark.parametrize("name", ["max_products", "num_steps", "num_probes", "tol", "rng", "callback"])
def test_a_wrong_argument_costs_no_product(name):
    class Untouched(hesse.Operator):
        symmetric, shape, dtype, device = True, (50, 50), torch.float64, torch.device("cpu")

        def matmat(self, V):
            raise AssertionError("a product")

    for ask in (hesse.trace, hesse.logdet, hesse.spectral_density, hesse.eigsh, hesse.diagonal, hesse.frobenius_norm):
        if name in inspect.signature(ask).parameters:
            with pytest.raises((TypeError, ValueError), match=f"^{name} given to {ask.__name__} should be "):
                ask(Untouched(), **{name: "abc"})


DRAWN = [name for name, (ask, _) in QUESTIONS.items() if "rng" in inspect.signature(ask).parameters]


def _digits(question: str, rng) -> list[float]:
    """Something of the answer that depends on the random numbers."""
    if question == "nystrom":
        return (hesse.nystrom(MATRIX, 3, rng=rng) @ RIGHT).tolist()
    if question == "check":
        return [hesse.check(lambda x: x.exp().sum(), POINT, rng=rng).value]
    if question == "Fisher":
        return hesse.Fisher(NETWORK, torch.nn.MSELoss(), DATA, samples=2, rng=rng).to_dense().flatten().tolist()
    random = torch.from_numpy(np.random.default_rng(0).standard_normal((120, 120)))
    matrix = random @ random.mT + torch.eye(120)
    words = {"trace_of": {"f": torch.sqrt}, "eigsh": {"k": 3, "max_products": 30}}.get(question, {})
    words |= {"num_probes": 2, "num_steps": 5} if question == "spectral_density" else {}
    words |= {"tol": 0.5} if question in ("trace", "trace_of", "logdet", "diagonal", "frobenius_norm") else {}
    found = QUESTIONS[question][0](A=matrix, rng=rng, **words)
    value = {"eigsh": "residuals", "spectral_density": "nodes"}.get(question, "estimate")
    return torch.as_tensor(getattr(found, value)).flatten().tolist()


@pytest.mark.filterwarnings("ignore::hesse.ConvergenceWarning")
@pytest.mark.parametrize("question", DRAWN)
@pytest.mark.one_in(4)
def test_a_generator_of_pytorchs_gives_the_seed_and_goes_on(question):
    draws = torch.Generator().manual_seed(0)
    first, second = _digits(question, draws), _digits(question, draws)
    again = _digits(question, torch.Generator().manual_seed(0))
    assert again == first
    seed = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(0)))
    assert _digits(question, seed) == first
    if question != "check":
        assert second != first


def test_vectors_of_an_operator_take_every_generator():
    A = hesse.as_operator(MATRIX)
    for make in (A.randn, A.signs):
        for rng in (torch.Generator().manual_seed(0), np.random.default_rng(0), np.random.SeedSequence(0), 0, None):
            assert make(3, rng).shape == (40, 3)
        draws = torch.Generator().manual_seed(0)
        first, second = make(3, draws), make(3, draws)
        assert torch.equal(first, make(3, torch.Generator().manual_seed(0)))
        assert not torch.equal(first, second)
        with pytest.raises(TypeError, match=r"^rng given to a random vector should be a seed"):
            make(3, "abc")


def test_a_checkpoint_goes_on_with_a_generator_of_pytorchs_and_knows_another(tmp_path):
    path = hesse.Checkpoint(tmp_path / "state", seconds=0)

    def ask(seed, stop=10**9):
        draws = torch.Generator().manual_seed(seed)
        return hesse.trace(
            MATRIX, method="hutchinson", tol=1e-3, rng=draws, checkpoint=path, callback=lambda p: p.num_products >= stop
        )

    ask(0, stop=40)
    with pytest.raises(hesse.CheckpointError, match="was written with rng"):
        ask(1)
    alone = hesse.trace(MATRIX, method="hutchinson", tol=1e-3, rng=torch.Generator().manual_seed(0))
    assert ask(0) == alone


@pytest.mark.parametrize(
    "make",
    [
        lambda func: hesse.Hessian(func, POINT),
        lambda func: hesse.Jacobian(func, POINT),
        lambda func: hesse.GaussNewton(lambda x: x**2, POINT, loss=func),
        lambda func: hesse.check(func, POINT),
        lambda func: hesse.vhp(func, POINT, POINT),
        lambda func: hesse.hvp(func, POINT, POINT),
        lambda func: hesse.func.hvp(func)(POINT, POINT),
        lambda func: hesse.functional.vjp(func, POINT, POINT),
        lambda func: hesse.functional.jvp(func, POINT, POINT),
        lambda func: hesse.functional.hessian(func, POINT),
        lambda func: hesse.functional.jacobian(func, POINT),
        lambda func: hesse.LossHessian(NETWORK, func, DATA),
        lambda func: hesse.GaussNewton(NETWORK, func, DATA),
        lambda func: hesse.Fisher(NETWORK, func, DATA),
        lambda func: hesse.EmpiricalFisher(NETWORK, func, DATA),
    ],
)
def test_what_is_no_function_is_told_and_of_a_loss_an_instance_is_asked_for(make):
    for func, came in (("abc", "<class 'str'>"), (5, "<class 'int'>"), (POINT, "<class 'torch.Tensor'>")):
        with pytest.raises(TypeError, match=rf"^(func|loss) given to \w+ should be callable but has type {came}"):
            make(func)
    with pytest.raises(
        TypeError, match=r"^(func|loss) given to \w+ should be a function but is the class MSELoss\. Give"
    ):
        make(torch.nn.MSELoss)


def test_no_function_at_all_is_told():
    for make in (hesse.Hessian, hesse.Jacobian, hesse.check, hesse.functional.hessian, hesse.functional.jacobian):
        with pytest.raises(TypeError, match=r"^func given to \w+ should be callable but has type <class 'NoneType'>"):
            make(None, POINT)


def test_numbers_of_operators_are_told():
    for words in ({"expect": "many"}, {"expect": 1.5}, {"verify": "yes"}, {"create_graph": "yes"}):
        (name,) = words
        with pytest.raises(TypeError, match=f"^{name} given to an operator should be "):
            hesse.Hessian(quartic, POINT, **words)
    for words in ({"expect": "many"}, {"progress": "yes"}, {"verify": None}):
        (name,) = words
        with pytest.raises(TypeError, match=f"^{name} given to an operator should be "):
            hesse.LossHessian(NETWORK, torch.nn.MSELoss(), DATA, **words)
    for argnums in ("0", 1.5, [0], (0, "1"), True):
        with pytest.raises(TypeError, match=r"^argnums given to Hessian should be a whole number but is "):
            hesse.Hessian(quartic, POINT, argnums=argnums)
