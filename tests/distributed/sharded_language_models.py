"""Checks that ranks run: models of Hugging Face that ``fully_shard`` cut up."""

import torch
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call

import hesse
from tests.distributed.sharded_products import NEXT, TOKENS, entries, loss
from tests.distributed.shared_products import close, mine


def hugging_face() -> None:
    """Llama and GPT-2 from their configurations, with PyTorch's fused attention."""
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 11, "use_cache": False}
    llama = LlamaConfig(hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2, **shape)
    gpt = GPT2Config(n_embd=8, n_layer=2, n_head=2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0, **shape)
    for kind, config in ((LlamaForCausalLM, llama), (GPT2LMHeadModel, gpt)):
        torch.manual_seed(0)
        alone, model = kind(config).double(), kind(config).double()
        model.load_state_dict(alone.state_dict())
        leaves = {name: parameter.detach().clone().requires_grad_() for name, parameter in alone.named_parameters()}
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            value = loss(functional_call(alone, leaves, (TOKENS,)).logits, NEXT)
            gradient = torch.autograd.grad(value, [*leaves.values()], create_graph=True)
            flat = torch.cat([part.reshape(-1) for part in gradient])
            v = torch.randn(len(flat), 1, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
            parts = torch.autograd.grad(flat @ v[:, 0], [*leaves.values()])
        for layer in model.model.layers if kind is LlamaForCausalLM else model.transformer.h:
            fully_shard(layer)
        fully_shard(model)
        H = hesse.LossHessian(
            model, loss, mine(TOKENS, NEXT), output=lambda model, batch: (model(batch[0]).logits, batch[1])
        )
        here = entries(H)
        # Llama's normalization rounds to single precision itself.
        tolerance = 1e-5 if kind is LlamaForCausalLM else 1e-12
        close(H @ v[here], torch.cat([part.reshape(-1, 1) for part in parts])[here], tolerance)
        assert "in full" not in str(H.explain())


CHECKS = [hugging_face]
