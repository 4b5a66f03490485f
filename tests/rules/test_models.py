"""Models as people build them, whose default attention PyTorch cannot differentiate twice, with random weights.

Each against itself with attention in plain operations (PyTorch's MATH backend), and against differences of gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

import hesse
from tests.functional.references import assert_values
from tests.linearize import programs

from .judge import refusal

Function = Callable[[dict[str, Tensor]], Tensor]

STEPS = (1e-3, 1e-4, 1e-5)
"""Steps of differences; the best counts, since some models round to float32 inside, in norms and losses."""


def tokens(*shape: int) -> Tensor:
    # Not 0, the padding, whose embedding PyTorch gives no gradient by decree.
    return torch.randint(1, 11, shape)


def gpt2() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=8, vocab_size=11, n_positions=8, bos_token_id=1, eos_token_id=2
    )
    return transformers.GPT2LMHeadModel(config), {"input_ids": tokens(2, 6), "labels": tokens(2, 6)}


def llama() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.LlamaConfig(
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, hidden_size=16, intermediate_size=20,
        vocab_size=11, max_position_embeddings=8,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config), {"input_ids": tokens(2, 6), "labels": tokens(2, 6)}


def bert() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.BertConfig(
        num_hidden_layers=2, num_attention_heads=2, hidden_size=8, intermediate_size=12, vocab_size=11,
        max_position_embeddings=8,
    )  # fmt: skip
    padding = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    data = {"input_ids": tokens(2, 6), "attention_mask": padding, "labels": torch.tensor([0, 1])}
    return transformers.BertForSequenceClassification(config), data


def vit() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.ViTConfig(
        num_hidden_layers=2, num_attention_heads=2, hidden_size=8, intermediate_size=12, image_size=8, patch_size=4,
        num_channels=1, num_labels=3,
    )  # fmt: skip
    data = {"pixel_values": torch.randn(2, 1, 8, 8, dtype=torch.float64), "labels": torch.tensor([0, 2])}
    return transformers.ViTForImageClassification(config), data


def t5() -> tuple[nn.Module, dict[str, Tensor]]:
    config = transformers.T5Config(
        num_layers=2, num_decoder_layers=2, num_heads=2, d_model=8, d_kv=4, d_ff=12, vocab_size=11,
        decoder_start_token_id=0,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config), {"input_ids": tokens(2, 6), "labels": tokens(2, 5)}


TRANSFORMERS = {make.__name__: make for make in (gpt2, llama, bert, vit, t5)}


def assert_product_is_right(func: Function, parameters: dict[str, Tensor]) -> None:
    """Products by the default kernels agree with those by plain operations, and with differences of the gradient."""
    torch.manual_seed(1)
    v = {name: torch.randn_like(leaf) for name, leaf in parameters.items()}

    def seeded(parameters: dict[str, Tensor]) -> Tensor:
        torch.manual_seed(2)
        return func(parameters)

    product = hesse.vhp(seeded, parameters, v)[1]
    replayed = hesse.Hessian(seeded, parameters) @ v
    with sdpa_kernel(SDPBackend.MATH):
        expected = hesse.vhp(seeded, parameters, v)[1]
    for name, entry in expected.items():
        assert_values(product[name], entry, rtol=1e-10, atol=1e-12)
        assert_values(replayed[name], entry, rtol=1e-10, atol=1e-12)

    def gradient_at(shift: float) -> tuple[Tensor, ...]:
        leaves = {name: (leaf + shift * v[name]).requires_grad_() for name, leaf in parameters.items()}
        return torch.autograd.grad(seeded(leaves), list(leaves.values()), allow_unused=True, materialize_grads=True)

    size = max(float(entry.abs().max()) for entry in expected.values())
    distances = []
    for step in STEPS:
        pairs = [zip(gradient_at(h), gradient_at(-h), strict=True) for h in (step, step / 2)]
        wide, narrow = [[(ahead - behind) / 2 for ahead, behind in pair] for pair in pairs]
        differences = [(8 * b - a) / (3 * step) for a, b in zip(wide, narrow, strict=True)]
        distances.append(max(float((a - b).abs().max()) for a, b in zip(product.values(), differences, strict=True)))
    assert min(distances) <= 1e-3 * size


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.one_in(4)
def test_transformers_with_their_default_attention_have_products(name: str, training: bool) -> None:
    torch.manual_seed(0)
    model, data = TRANSFORMERS[name]()
    model = model.double().train(training)
    assert model.config._attn_implementation == "sdpa"
    assert_product_is_right(
        lambda parameters: torch.func.functional_call(model, parameters, (), data).loss, parameters_of(model)
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_programs_of_transformers_are_right(name: str, training: bool) -> None:
    """Captured and made functional, without a compiler; with dropout they draw what the tape draws."""
    torch.manual_seed(0)
    model, data = TRANSFORMERS[name]()
    model = model.double().train(training)
    func = lambda parameters: torch.func.functional_call(model, parameters, (), data).loss  # noqa: E731  # a function in one line
    parameters = parameters_of(model)
    v = {name: torch.randn_like(leaf) for name, leaf in parameters.items()}
    torch.manual_seed(2)
    found = programs.hessian(func, parameters) @ v
    torch.manual_seed(2)
    with sdpa_kernel(SDPBackend.MATH):
        expected = hesse.vhp(func, parameters, v)[1]
    size = max(float(entry.abs().max()) for entry in expected.values())
    for name, entry in expected.items():
        # Some models round to float32 inside.
        assert_values(found[name], entry, rtol=1e-5, atol=1e-5 * size)


def encoder(dropout: float = 0.1) -> nn.Module:
    layer = nn.TransformerEncoderLayer(8, 2, 12, dropout, batch_first=True)
    return nn.TransformerEncoder(layer, 2).double()


def through(model: nn.Module, *args: Any, **kwargs: Any) -> Function:
    def func(parameters: dict[str, Tensor]) -> Tensor:
        return (torch.func.functional_call(model, parameters, args, kwargs).sin() ** 2).mean()

    return func


PADDING = torch.tensor([[False, False, False, False], [False, False, True, True]])


def sequences() -> Tensor:
    return torch.randn(2, 4, 8, dtype=torch.float64)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("padding", [None, PADDING], ids=["whole", "padded"])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_the_transformer_encoder_has_products(training: bool, padding: Tensor | None) -> None:
    torch.manual_seed(0)
    model = encoder().train(training)
    assert_product_is_right(through(model, sequences(), src_key_padding_mask=padding), parameters_of(model))


def test_pytorch_has_no_product_of_the_transformer_encoder() -> None:
    model = encoder(dropout=0)
    assert "_scaled_dot_product_flash_attention_for_cpu_backward" in refusal(lambda x: model(x).mean(), (sequences(),))


def test_multihead_attention_has_products_by_parameters_and_inputs() -> None:
    torch.manual_seed(0)
    model = nn.MultiheadAttention(8, 2, batch_first=True, kdim=6, vdim=5).double()
    inputs = {
        "query": sequences(),
        "key": torch.randn(2, 3, 6, dtype=torch.float64),
        "value": torch.randn(2, 3, 5, dtype=torch.float64),
    }
    names = parameters_of(model)

    def func(leaves: dict[str, Tensor]) -> Tensor:
        given = {name: leaves[name] for name in inputs}
        weights = {name: leaves[name] for name in names}
        return torch.func.functional_call(model, weights, (), {**given, "need_weights": False})[0].pow(2).sum()

    assert_product_is_right(func, {**names, **inputs})


def test_the_transformer_decoder_has_products() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(8, 2, 12, 0.0, batch_first=True)
    model = nn.TransformerDecoder(layer, 1).double()
    causal = nn.Transformer.generate_square_subsequent_mask(4, dtype=torch.float64)
    assert_product_is_right(through(model, sequences(), sequences(), tgt_mask=causal), parameters_of(model))


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_layer_that_is_recomputed_has_products(dropout: float) -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 12, dropout, batch_first=True).double()
    x = sequences()

    def func(parameters: dict[str, Tensor]) -> Tensor:
        layer = lambda x: torch.func.functional_call(model, parameters, (x,))  # noqa: E731  # a function in one line
        return checkpoint(layer, x, use_reentrant=False).sin().mean()

    assert_product_is_right(func, parameters_of(model))


def test_a_recomputed_layer_is_differentiated_a_third_time_after_the_product() -> None:
    """The layer is evaluated again, and its rule used, when hesse has long returned."""
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True).double()
    x, v = sequences().requires_grad_(), sequences()

    def third(func: Callable[[Tensor], Tensor]) -> Tensor:
        product = hesse.vhp(func, x, v, create_graph=True)[1]
        return torch.autograd.grad(product.sin().sum(), x)[0]

    recomputed = third(lambda x: checkpoint(model, x, use_reentrant=False).sin().mean())
    assert_values(recomputed, third(lambda x: model(x).sin().mean()))
    with sdpa_kernel(SDPBackend.MATH):
        assert_values(recomputed, third(lambda x: model(x).sin().mean()))


def test_torchscript_has_products() -> None:
    torch.manual_seed(0)
    x = sequences()
    scripted = torch.jit.script(nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True).double())
    assert_product_is_right(lambda leaves: scripted(leaves["x"]).sin().mean(), {"x": x})


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("training", [False, True], ids=["evaluation", "training"])
def test_under_no_grad_and_inference_mode_the_encoder_has_the_same_product(
    mode: Callable[[], Any], training: bool
) -> None:
    """Without gradients the encoder takes a path of its own, which has no derivative at all."""
    torch.manual_seed(0)
    model, x, v = encoder().train(training), sequences(), sequences()

    def func(x: Tensor) -> Tensor:
        torch.manual_seed(2)
        return model(x).sin().mean()

    expected = hesse.vhp(func, x, v)[1]
    with mode():
        assert_values(hesse.vhp(func, x, v)[1], expected)
        assert_values(hesse.Hessian(func, x) @ v, expected)
