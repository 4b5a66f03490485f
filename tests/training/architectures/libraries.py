"""Small models of Hugging Face's."""

from __future__ import annotations

import torch
import transformers

from ..training import Training

_LITTLE = "150KB"
_SMALL = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "vocab_size": 20}


def _batches() -> list[dict[str, torch.Tensor]]:
    made = []
    for rows in (3, 2):
        ids = torch.randint(3, 20, (rows, 6))
        labels = ids.clone()
        labels[0, 4:] = -100
        made.append({"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels})
    return made


def gpt2_with_dropout() -> Training:
    config = transformers.GPT2Config(
        n_layer=1, n_embd=8, n_head=2, vocab_size=20, n_positions=8, bos_token_id=1, eos_token_id=2
    )
    return Training(transformers.GPT2LMHeadModel(config).train(), _batches(), None, draws=True, little=_LITTLE)


def llama() -> Training:
    config = transformers.LlamaConfig(**_SMALL, num_key_value_heads=1, max_position_embeddings=8)
    return Training(transformers.LlamaForCausalLM(config).train(), _batches(), None, little=_LITTLE)


def bert_checkpointed() -> Training:
    config = transformers.BertConfig(
        **_SMALL, max_position_embeddings=8, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )
    model = transformers.BertForMaskedLM(config)
    model.activation_checkpointing_enable()
    return Training(model.train(), _batches(), None, little=_LITTLE)


def mamba() -> Training:
    config = transformers.MambaConfig(vocab_size=20, hidden_size=8, state_size=4, num_hidden_layers=1)
    batches = [{key: batch[key] for key in ("input_ids", "labels")} for batch in _batches()]
    return Training(transformers.MambaForCausalLM(config).train(), batches, None, little=_LITTLE)
