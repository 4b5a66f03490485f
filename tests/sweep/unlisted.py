"""Operators that PyTorch differentiates by a formula of derivatives.yaml and that its database does not reach."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchgen
import yaml
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .sweep import Case, cases_of, operators, weighted_sum

aten: Any = torch.ops.aten
_FORMULAS = Path(torchgen.__file__).parent / "packaged" / "autograd" / "derivatives.yaml"


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def wavy(outputs: Any) -> Tensor:
    return torch.sin(weighted_sum(outputs))


@functools.cache
def formulas() -> dict[str, dict[str, str]]:
    """Of each operator with its overload: for each argument the formula of the gradient."""
    # libyaml's parser, where it was built in, is ten times as fast.
    entries = yaml.load(_FORMULAS.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {entry["name"].partition("(")[0]: entry for entry in entries}


# Called by later samples of the database than each operator's first.
LATER = {
    *["_ctc_loss.Tensor", "_upsample_nearest_exact2d", "lerp.Tensor", "masked_fill.Tensor", "median.dim"],
    *["nll_loss2d_backward", "nll_loss2d_forward", "reflection_pad2d", "reflection_pad2d_backward"],
    *["reflection_pad3d", "reflection_pad3d_backward", "replication_pad3d", "replication_pad3d_backward"],
    *["sort.stable", "upsample_nearest2d"],
}


def unlisted(samples: int) -> set[str]:
    """The operators with a formula that no double backward of so many samples of the database's operators calls."""
    called = _Called()
    for op in operators().values():
        for case in itertools.islice(cases_of(op), samples):
            with called:
                # What it raises is judged elsewhere.
                _answered(case)
    return formulas().keys() - called.names


def _answered(case: Case) -> None:
    x = case.inputs_to_follow()
    try:
        gradient = torch.autograd.grad(case.func(*x), x, create_graph=True, allow_unused=True)
        followed = [entry.sum() for entry in gradient if entry is not None and entry.requires_grad]
        if followed:
            torch.autograd.grad(sum(followed), x, allow_unused=True)
    except Exception:
        return


class _Called(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.name().removeprefix("aten::"))
        return func(*args, **(kwargs or {}))


PLACES = torch.tensor([2, 0, 1, 2])
IMAGE, VOLUME = draw(1, 2, 4, 4), draw(1, 2, 3, 3, 3)
KERNEL, KERNEL3D = draw(2, 2, 3, 3, seed=1), draw(2, 2, 2, 2, 2, seed=1)
PROBABILITIES = draw(3, 4).sigmoid()


def _sample(function: Callable[..., Any], *inputs: Tensor) -> Case:
    return Case(lambda *x: wavy(function(*x)), inputs)


def _complex(x: Tensor, y: Tensor) -> Tensor:
    return torch.view_as_real(torch.complex(x.clone(), y.clone()).conj_physical_())


def _sparse(x: Tensor, layout: torch.layout) -> Tensor:
    return x.sin().to_sparse(layout=layout, blocksize=(1, 1) if "bs" in str(layout) else None).to_dense()


def _norm(overload: str, *args: Any, **kwargs: Any) -> Callable[[Tensor], Tensor]:
    return lambda x: getattr(aten.norm, overload)(x, *args, **kwargs)


def _of_list(function: Callable[..., Any], *args: Any) -> Callable[..., Any]:
    return lambda *x: function(list(x), *args)


def _packed(x: Tensor) -> Tensor:
    return torch.nn.utils.rnn.pack_padded_sequence(x.sin(), torch.tensor([3, 1]), batch_first=True).data


SAMPLES: dict[str, Case] = {
    "_batch_norm_no_update": _sample(
        lambda x, w, b: aten._batch_norm_no_update(x, w, b, draw(2), draw(2, seed=1).exp(), 0.1, 1e-3)[0],
        IMAGE,
        draw(2),
        draw(2, seed=1),
    ),
    "_convolution": _sample(
        lambda x, w: aten._convolution(
            x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, False, False, False, False
        ),
        IMAGE,
        KERNEL,
    ),
    "_embedding_bag_dense_backward": _sample(
        lambda x: F.embedding_bag(PLACES.reshape(2, 2), x.sin(), mode="mean"), draw(3, 2)
    ),
    "_euclidean_dist": _sample(aten._euclidean_dist, draw(3, 2), draw(4, 2, seed=1)),
    "_foreach_div.List": _sample(
        lambda x, y: torch._foreach_div([x, x], [y.exp(), y.cosh()]), draw(3), draw(3, seed=1)
    ),
    "_foreach_maximum.Scalar": _sample(_of_list(torch._foreach_maximum, 0.2), draw(3), draw(2, seed=1)),
    "_foreach_maximum.ScalarList": _sample(_of_list(torch._foreach_maximum, [0.2, 0.1]), draw(3), draw(2, seed=1)),
    "_foreach_minimum.Scalar": _sample(_of_list(torch._foreach_minimum, 0.2), draw(3), draw(2, seed=1)),
    "_foreach_minimum.ScalarList": _sample(_of_list(torch._foreach_minimum, [0.2, 0.1]), draw(3), draw(2, seed=1)),
    "_foreach_mm": _sample(lambda x, y: torch._foreach_mm([x, y], [y, x]), draw(2, 2), draw(2, 2, seed=1)),
    "_foreach_norm.Scalar": _sample(_of_list(torch._foreach_norm, 3), draw(3), draw(2, 2, seed=1)),
    "_foreach_pow.List": _sample(lambda x, y: torch._foreach_pow([x.exp()], [y]), draw(3), draw(3, seed=1)),
    "_foreach_pow.ScalarAndTensor": _sample(lambda x: torch._foreach_pow(2.5, [x]), draw(3)),
    "_foreach_pow.ScalarList": _sample(lambda x: torch._foreach_pow([x.exp()], [1.7]), draw(3)),
    "_fused_rms_norm": _sample(lambda x, w: aten._fused_rms_norm(x, [3], w, 1e-3)[0], draw(2, 3), draw(3, seed=1)),
    "_index_put_impl_": _sample(
        lambda x, y: aten._index_put_impl_(x.sin(), [PLACES], y, True, False), draw(3), draw(4, seed=1)
    ),
    "_lazy_clone": _sample(lambda x: torch._lazy_clone(x.sin()), draw(3)),
    "_masked_softmax": _sample(
        lambda x: torch._masked_softmax(x, torch.tensor([[False, True, False]]), 1, 1), draw(1, 3)
    ),
    "_native_batch_norm_legit.no_stats": _sample(
        lambda x, w, b: aten._native_batch_norm_legit.no_stats(x, w, b, True, 0.1, 1e-3)[0],
        IMAGE,
        draw(2),
        draw(2, seed=1),
    ),
    "_native_batch_norm_legit_no_training": _sample(
        lambda x, w, b: aten._native_batch_norm_legit_no_training(x, w, b, draw(2), draw(2, seed=1).exp(), 0.1, 1e-3)[
            0
        ],
        IMAGE,
        draw(2),
        draw(2, seed=1),
    ),
    "fmod.Scalar": _sample(lambda x: aten.fmod.Scalar(x.sin(), 0.7) ** 2, draw(3)),
    "_neg_view": _sample(lambda x: torch._neg_view(x) * x, draw(3)),
    "_pack_padded_sequence": _sample(_packed, draw(2, 3, 2)),
    "_reshape_alias": _sample(lambda x: aten._reshape_alias(x.sin(), [6], [1]), draw(2, 3)),
    "_reshape_copy": _sample(lambda x: aten._reshape_copy(x.sin(), [6]), draw(2, 3)),
    "_slow_conv2d_forward": _sample(
        lambda x, w: aten._slow_conv2d_forward(x, w, [3, 3], None, [1, 1], [0, 0]), IMAGE, KERNEL
    ),
    "_sparse_log_softmax": _sample(lambda x: torch.sparse.log_softmax(x.to_sparse(), 1).to_dense(), draw(2, 3)),
    "_sparse_softmax": _sample(lambda x: torch.sparse.softmax(x.to_sparse(), 1).to_dense(), draw(2, 3)),
    "_sparse_sparse_matmul": _sample(
        lambda x, y: torch.sparse.mm(x.to_sparse(), y.to_sparse()).to_dense(), draw(2, 3), draw(3, 2, seed=1)
    ),
    "_sparse_sum.dim": _sample(lambda x: torch.sparse.sum(x.sin().to_sparse(), 1).to_dense(), draw(2, 3)),
    "_to_sparse_bsc": _sample(lambda x: _sparse(x, torch.sparse_bsc), draw(2, 2)),
    "_to_sparse_bsr": _sample(lambda x: _sparse(x, torch.sparse_bsr), draw(2, 2)),
    "_to_sparse_csc": _sample(lambda x: _sparse(x, torch.sparse_csc), draw(2, 2)),
    "_to_sparse_csr": _sample(lambda x: _sparse(x, torch.sparse_csr), draw(2, 2)),
    "_unsafe_index.Tensor": _sample(lambda x: aten._unsafe_index.Tensor(x.sin(), [PLACES]), draw(3)),
    "_unsafe_index_put": _sample(
        lambda x, y: aten._unsafe_index_put(x.sin(), [PLACES], y, True), draw(3), draw(4, seed=1)
    ),
    "_upsample_bicubic2d_aa": _sample(lambda x: F.interpolate(x.sin(), (3, 3), mode="bicubic", antialias=True), IMAGE),
    "_upsample_nearest_exact3d": _sample(lambda x: F.interpolate(x.sin(), (2, 4, 2), mode="nearest-exact"), VOLUME),
    "_weight_norm_interface": _sample(lambda v, g: torch._weight_norm(v, g, 0), draw(3, 4), draw(3, 1, seed=1)),
    "acosh_": _sample(lambda x: (x.exp() + 1).acosh_(), draw(3)),
    "affine_grid_generator": _sample(
        lambda x: F.affine_grid(x.sin(), [1, 1, 2, 2], align_corners=False), draw(1, 2, 3)
    ),
    "as_strided_": _sample(lambda x: x.sin().as_strided_((2, 2), (2, 1)), draw(5)),
    "asinh_": _sample(lambda x: x.exp().asinh_(), draw(3)),
    "atanh_": _sample(lambda x: x.sin().atanh_(), draw(3)),
    "celu_": _sample(lambda x: F.celu(x.sin(), 0.7, inplace=True), draw(4)),
    "chunk": _sample(lambda x: x.sin().chunk(2), draw(4)),
    "clamp_max": _sample(lambda x: x.sin().clamp_max(0.3), draw(4)),
    "conj_physical_": _sample(_complex, draw(3), draw(3, seed=1)),
    "conv_tbc": _sample(torch.conv_tbc, draw(4, 1, 2), draw(3, 2, 2, seed=1), draw(2, seed=2)),
    "copysign.Scalar": _sample(lambda x: torch.copysign(x.exp(), -1.0), draw(3)),
    "elu_": _sample(lambda x: F.elu(x.sin(), 0.7, inplace=True), draw(4)),
    "fill.Tensor": _sample(lambda x, y: torch.fill(x.sin(), y.sin()), draw(3), draw(seed=1)),
    "fill_.Tensor": _sample(lambda x, y: x.sin()[:2].fill_(y.sin()), draw(3), draw(seed=1)),
    "igamma": _sample(lambda x: torch.igamma(PROBABILITIES, x.exp()), draw(3, 4)),
    "igammac": _sample(lambda x: torch.igammac(PROBABILITIES, x.exp()), draw(3, 4)),
    "leaky_relu_": _sample(lambda x: F.leaky_relu(x.sin(), 0.3, inplace=True), draw(4)),
    "linear": _sample(F.linear, draw(2, 3), draw(2, 3, seed=1), draw(2, seed=2)),
    "matmul": _sample(torch.matmul, draw(2, 3), draw(3, 2, seed=1)),
    "lift": _sample(lambda x: aten.lift(x.sin()), draw(3)),
    "norm.Scalar": _sample(_norm("Scalar", 3), draw(3)),
    "norm.ScalarOpt_dim_dtype": _sample(_norm("ScalarOpt_dim_dtype", 2, [1], False, dtype=torch.float64), draw(2, 3)),
    "norm.ScalarOpt_dtype": _sample(_norm("ScalarOpt_dtype", 2, dtype=torch.float64), draw(2, 3)),
    "polygamma_": _sample(lambda x: (x.exp() + 1).polygamma_(1), draw(3)),
    "slow_conv3d_forward": _sample(
        lambda x, w: aten.slow_conv3d_forward(x, w, [2, 2, 2], None, [1, 1, 1], [0, 0, 0]), VOLUME, KERNEL3D
    ),
    "slow_conv_dilated2d": _sample(
        lambda x, w: aten.slow_conv_dilated2d(x, w, [3, 3], None, [1, 1], [1, 1], [2, 2]),
        draw(1, 2, 5, 5),
        KERNEL,
    ),
    "slow_conv_dilated3d": _sample(
        lambda x, w: aten.slow_conv_dilated3d(x, w, [2, 2, 2], None, [1, 1, 1], [0, 0, 0], [2, 2, 2]), VOLUME, KERNEL3D
    ),
    "slow_conv_transpose2d": _sample(
        lambda x, w: aten.slow_conv_transpose2d(x, w, [3, 3], None, [2, 2], [1, 1], [0, 0], [1, 1]), IMAGE, KERNEL
    ),
    "slow_conv_transpose3d": _sample(
        lambda x, w: aten.slow_conv_transpose3d(x, w, [2, 2, 2], None, [1, 1, 1]), VOLUME, KERNEL3D
    ),
    "special_xlog1py.other_scalar": _sample(lambda x: torch.special.xlog1py(x.sin(), 1.5), draw(3)),
    "special_xlog1py.self_scalar": _sample(lambda x: torch.special.xlog1py(1.5, x.exp()), draw(3)),
    "special_zeta": _sample(lambda x: torch.special.zeta(PROBABILITIES + 2, x.exp() + 1), draw(3, 4)),
    "special_zeta.self_scalar": _sample(lambda x: torch.special.zeta(2.5, x.exp() + 1), draw(3)),
    "squeeze_": _sample(lambda x: x.sin().squeeze_(), draw(1, 3, 1)),
    "squeeze_.dims": _sample(lambda x: x.sin().squeeze_((0, 2)), draw(1, 3, 1)),
    "t_": _sample(lambda x: x.sin().t_() @ x, draw(2, 3)),
    "threshold_": _sample(lambda x: F.threshold(x.sin(), 0.1, 0.4, inplace=True), draw(4)),
    "unsafe_split_with_sizes": _sample(lambda x: torch.unsafe_split_with_sizes(x.sin(), [1, 3]), draw(4)),
    "unsqueeze_": _sample(lambda x: x.sin().unsqueeze_(1) * x, draw(3)),
    "upsample_nearest3d": _sample(lambda x: F.interpolate(x.sin(), (2, 4, 2), mode="nearest"), VOLUME),
    "xlogy.Scalar_Other": _sample(lambda x: torch.xlogy(x.sin(), 1.5), draw(3)),
    "xlogy.Scalar_Self": _sample(lambda x: torch.xlogy(1.5, x.exp()), draw(3)),
}
"""A function through each that a CPU computes in float64."""

REFUSED: dict[str, Case] = {
    name: SAMPLES.pop(name)
    for name in (
        "_masked_softmax",
        "_sparse_log_softmax",
        "_sparse_softmax",
        "_sparse_sum.dim",
        "acosh_",
        "asinh_",
        "atanh_",
    )
}
"""Those that have a gradient and no derivative of it, or not in place: refused by name."""

REASONS: dict[str, str] = {
    r"(_?cudnn|_?miopen|_?mps|_nnpack|_lstm_mps|lstm_mps|_?mkldnn|to_mkldnn).*": "of a device or a library",
    r"_thnn_fused_.*|_fused_dropout|_conv_depthwise2d|conv_depthwise3d|_grouped_mm|_pin_memory": "on CUDA devices",
    r"convolution(_backward)?_overrideable|_scaled_dot_product_fused_attention_overrideable": "for other devices",
    r"max_pool2d(_backward)?|linear_backward": "composite on a CPU",
    r"_(scaled_dot_product|flash|efficient).*attention.*": "attention, in tests/rules/test_attention.py",
    r"_nested_.*|to_padded_tensor": "of nested tensors",
    r"_test_.*|_new_zeros_with_same_feature_meta|slice_inverse": "of PyTorch's own tests, forward mode and exports",
    r"special_.*(polynomial|bessel|airy).*": "without a derivative, in tests/rules/test_special_functions.py",
    r".*fake_quantize.*|_fused_moving_avg_obs_fq_helper|div\.Scalar_mode": "step functions",
    r"(bernoulli|cauchy|exponential|geometric|log_normal|normal|random|uniform|rrelu_with_noise)_?.*": "draws",
    r"native_dropout|poisson|multinomial|_standard_gamma(_grad)?": "draws",
    r"(eq|ne|ge|gt|le|lt)_\..*|_is_(all|any)_true|(all|any|count_nonzero)(\..*)?": "of no derivative",
    r"_?unique.*|hash_tensor|histc|view\.dtype|embedding_renorm_|nonzero|one_hot": "of no derivative",
    r"(_|crow_|col_|ccol_|row_)?indices|_values|_coalesce|_sparse_(addmm|coo_tensor.*)": "sparse, tested as rules",
    r"geqrf|nextafter|special_zeta\.other_scalar": "of no gradient in PyTorch",
    r"_?upsample_.*_backward|_slow_conv2d_backward.*": "the gradient of a sample",
    r"_upsample_lanczos2d_aa|_grid_sampler_2d_cpu_fallback(_backward)?": "not in float64",
}
"""Why the others have no sample, by patterns of their names."""


def reason(name: str) -> str | None:
    """Why an operator has no sample, if there is a reason."""
    return next((why for pattern, why in REASONS.items() if re.fullmatch(pattern, name)), None)
