"""Complex inputs and complex intermediate results of real functions."""

from __future__ import annotations

import torch
from torch import Tensor

from .scenario import Case, draw, scenario


@scenario
def real_part_of_a_square() -> Case:
    # Re z² = a² - b².
    diagonal = torch.tensor([2.0, -2.0] * 3, dtype=torch.float64)
    return Case(lambda z: (z**2).real.sum(), draw(3, dtype=torch.complex128), torch.diag(diagonal))


@scenario
def imaginary_part_of_a_square() -> Case:
    # Im z² = 2ab.
    block = torch.tensor([[0.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
    return Case(lambda z: (z**2).imag.sum(), draw(2, dtype=torch.complex128), torch.block_diag(block, block))


@scenario
def fourth_power_of_the_modulus() -> Case:
    z = draw(3, dtype=torch.complex128)
    parts = torch.view_as_real(z)
    # (a² + b²)²: second derivatives 8 p pᵀ + 4 |z|² 1.
    blocks = 8 * parts[:, :, None] * parts[:, None, :]
    blocks = blocks + 4 * (z.abs() ** 2)[:, None, None] * torch.eye(2, dtype=torch.float64)
    return Case(lambda z: (z.abs() ** 4).sum(), z, torch.block_diag(*blocks))


@scenario
def hermitian_form() -> Case:
    matrix = draw(3, 3, dtype=torch.complex128)
    return Case(lambda z: torch.vdot(z, (matrix + matrix.mH) @ z).real, draw(3, dtype=torch.complex128))


@scenario
def angles_and_exponentials() -> Case:
    return Case(
        lambda z: (torch.exp(z).real * z.abs() + torch.polar(z.abs(), z.angle() * 2).imag).sum(),
        2 + 0.3 * draw(3, dtype=torch.complex128),
    )


@scenario
def complex_solve() -> Case:
    shift = 3 * torch.eye(2, dtype=torch.complex128)
    return Case(
        lambda a, b: (torch.linalg.solve(a + shift, b).abs() ** 2).sum(),
        (draw(2, 2, dtype=torch.complex128), draw(2, dtype=torch.complex128)),
    )


@scenario
def real_and_complex_input_together() -> Case:
    return Case(
        lambda x, z: (torch.exp(x) * z).abs().pow(2).sum() + (x * z.real).sum() ** 2,
        (draw(2), draw(2, dtype=torch.complex128)),
    )


@scenario
def complex_input_without_dimensions() -> Case:
    return Case(lambda z: (z**3).real, draw(dtype=torch.complex128))


@scenario
def real_input_seen_as_complex() -> Case:
    return Case(lambda x: (torch.view_as_complex(x) ** 3).real.sum(), draw(3, 2))


@scenario
def spectrum_of_a_real_signal() -> Case:
    weights = draw(4)
    return Case(lambda x: (weights * torch.fft.rfft(x).abs() ** 3).sum(), 0.5 * draw(6))


@scenario
def filter_by_fourier_transform_and_back() -> Case:
    def func(x: Tensor, gain: Tensor) -> Tensor:
        return torch.sin(torch.fft.irfft(torch.fft.rfft(x) * gain, n=5)).sum()

    return Case(func, (draw(5), draw(3)))


@scenario
def fourier_transform_of_a_complex_field() -> Case:
    return Case(lambda z: (torch.fft.fft2(z).abs() ** 4).mean(), draw(2, 3, dtype=torch.complex128))


@scenario
def short_time_fourier_transform() -> Case:
    window = torch.hann_window(4, dtype=torch.float64)

    def func(x: Tensor) -> Tensor:
        frames = torch.stft(x, n_fft=4, hop_length=2, window=window, center=False, return_complex=True)
        return (1 + frames.abs() ** 2).log().sum()

    return Case(func, draw(8))
