"""What ``hesse vhp`` prints and writes, against PyTorch's own products and dense Hessians."""

from __future__ import annotations

import re

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

PROBLEMS = {
    "lone": """
        import hesse, torch

        def problem():
            return hesse.Problem(func=lambda x: (x**4).sum() + x.prod(), inputs=torch.tensor([1.0, 2.0, 3.0]))
    """,
    "pair": """
        import hesse, torch

        def problem():
            return hesse.Problem(
                func=lambda x, y: (x**3 * y).sum() + y.sin().sum(), inputs=(torch.arange(4.0), torch.ones(2, 4))
            )
    """,
    "nested": """
        import hesse, torch

        def func(tree):
            return (tree["layer"]["weight"] @ tree["parts"][0]).exp().sum() * tree["parts"][1]

        def problem():
            return hesse.Problem(
                func=func,
                inputs={"layer": {"weight": torch.full((2, 3), 0.1)}, "parts": [torch.ones(3), torch.tensor(2.0)]},
            )
    """,
}
NAMES = {"lone": ["value"], "pair": ["0", "1"], "nested": ["layer.weight", "parts.0", "parts.1"]}
REFERENCES = {
    "lone": (lambda x: (x**4).sum() + x.prod(), (torch.tensor([1.0, 2.0, 3.0]),)),
    "pair": (lambda x, y: (x**3 * y).sum() + y.sin().sum(), (torch.arange(4.0), torch.ones(2, 4))),
    "nested": (
        lambda w, x, s: (w @ x).exp().sum() * s,
        (torch.full((2, 3), 0.1), torch.ones(3), torch.tensor(2.0)),
    ),
}


def vector_for(kind: str, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    _, inputs = REFERENCES[kind]
    return {
        name: torch.randn(x.shape, generator=generator, dtype=dtype)
        for name, x in zip(NAMES[kind], inputs, strict=True)
    }


def printed(output: str) -> dict[str, float]:
    return {
        match[1]: float(match[2])
        for match in re.finditer(r"^(\S+(?: [^\s\d]+)*(?: / \S+)?) {2,}([-+.\deE]+|nan)", output, re.MULTILINE)
    }


@pytest.mark.parametrize("kind", PROBLEMS)
def test_the_product_along_a_given_vector_is_pytorchs(kind, write_problem, hesse_command):
    vector = vector_for(kind)
    save_file(vector, "v.safetensors")
    result = hesse_command("vhp", write_problem(PROBLEMS[kind]), "--vector", "v.safetensors", "--out", "p.safetensors")
    assert result.exit_code == 0, result.output
    func, inputs = REFERENCES[kind]
    value, expected = torch.autograd.functional.vhp(func, inputs, tuple(vector.values()))
    product = load_file("p.safetensors")
    assert list(product) == sorted(NAMES[kind])
    for name, entry in zip(NAMES[kind], expected, strict=True):
        torch.testing.assert_close(product[name], entry)
    numbers = printed(result.stdout)
    along = sum(torch.sum(v * h).item() for v, h in zip(vector.values(), expected, strict=True))
    length = sum(torch.sum(v * v).item() for v in vector.values())
    gradient = torch.cat([g.flatten() for g in torch.autograd.functional.vjp(func, inputs)[1]])
    assert numbers["value"] == pytest.approx(value.item(), rel=1e-6)
    assert numbers["gradient norm"] == pytest.approx(gradient.norm().item(), rel=1e-6)
    assert numbers["vᵀHv"] == pytest.approx(along, rel=1e-5)
    assert numbers["vᵀHv / vᵀv"] == pytest.approx(along / length, rel=1e-5)
    assert numbers["products"] == 1
    assert numbers["seconds"] > 0


def test_a_random_vector_depends_on_the_seed_alone(write_problem, hesse_command):
    path = write_problem()
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert hesse_command("vhp", path, "--seed", seed, "--out", f"{name}.safetensors").exit_code == 0
    a, b, c = (load_file(f"{name}.safetensors")["value"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    # H is diagonal, so the product shows the vector: the seed's probe, as the operators draw it.
    import hesse

    probe = hesse.Hessian(lambda x: (x**4).sum(), torch.tensor([1.0, 2.0, 3.0])).randn(1, 5).squeeze(-1)
    torch.testing.assert_close(a / torch.tensor([12.0, 48.0, 108.0]), probe)


def test_many_products_write_the_first_and_compare_with_pytorch(write_problem, hesse_command):
    path = write_problem(PROBLEMS["nested"])
    one = hesse_command("vhp", path, "--out", "one.safetensors")
    many = hesse_command("vhp", path, "--products", 7, "--compare", "--out", "many.safetensors")
    assert one.exit_code == many.exit_code == 0, many.output
    first, again = load_file("one.safetensors"), load_file("many.safetensors")
    assert all(torch.equal(first[name], again[name]) for name in NAMES["nested"])
    numbers = printed(many.stdout)
    assert numbers["products"] == 7
    assert numbers["PyTorch's vhp"] > 0
    assert numbers["ratio"] > 0
    assert numbers["difference"] < 1e-6
    assert "PyTorch" not in one.stdout


def test_the_function_runs_once_for_many_products(write_problem, hesse_command):
    path = write_problem(
        """
        import hesse, torch

        def func(x):
            print("evaluated")
            return (x**4).sum()

        def problem():
            return hesse.Problem(func=func, inputs=torch.ones(2))
        """
    )
    assert hesse_command("vhp", path, "--products", 9).stdout.count("evaluated") == 1


def test_dtype_casts_inputs_and_vector(write_problem, hesse_command):
    save_file(vector_for("lone"), "v.safetensors")
    words = ("vhp", write_problem(PROBLEMS["lone"]), "--vector", "v.safetensors", "--out", "p.safetensors")
    for name in ("float64", "bfloat16"):
        result = hesse_command(*words, "--dtype", name, "--device", "cpu")
        assert result.exit_code == 0, result.output
        assert load_file("p.safetensors")["value"].dtype is getattr(torch, name)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_inputs_have_a_real_curvature_and_files_of_their_own(dtype, write_problem, hesse_command):
    path = write_problem(
        f"""
        import hesse, torch

        def func(z):
            return (z.abs() ** 4).sum() + (z**3).real.sum()

        def problem():
            return hesse.Problem(func=func, inputs=torch.tensor([1 + 2j, 0.5 - 1j], dtype=torch.{dtype}))
        """
    )

    def func(pairs: Tensor) -> Tensor:
        z = torch.view_as_complex(pairs)
        return (z.abs() ** 4).sum() + (z**3).real.sum()

    point = torch.view_as_real(torch.tensor([1 + 2j, 0.5 - 1j], dtype=torch.complex128))
    dense = torch.autograd.functional.hessian(func, point).reshape(4, 4)
    v = torch.tensor([[1.0, -1.0], [2.0, 0.5]], dtype=torch.float64)
    stored = torch.view_as_complex(v).to(torch.complex64) if dtype == "complex64" else v
    save_file({"value": stored}, "v.safetensors")
    result = hesse_command("vhp", path, "--vector", "v.safetensors", "--out", "p.safetensors")
    assert result.exit_code == 0, result.output
    expected = (dense @ v.flatten()).reshape(2, 2)
    assert printed(result.stdout)["vᵀHv"] == pytest.approx((v * expected).sum().item(), rel=1e-5)
    product = load_file("p.safetensors")["value"]
    if dtype == "complex64":
        assert product.dtype is torch.complex64
        product = torch.view_as_real(product)
    torch.testing.assert_close(product.double(), expected, rtol=1e-5, atol=1e-5)
    # What is written can be given back.
    assert hesse_command("vhp", path, "--vector", "p.safetensors").exit_code == 0


def test_the_dtype_of_complex_inputs_becomes_the_complex_counterpart(write_problem, hesse_command):
    path = write_problem(
        """
        import hesse, torch

        def func(z):
            print(z.dtype)
            return (z.abs() ** 4).sum()

        def problem():
            return hesse.Problem(func=func, inputs=torch.ones(2, dtype=torch.complex128))
        """
    )
    assert "torch.complex64" in hesse_command("vhp", path, "--dtype", "float32").stdout


def test_a_problem_that_takes_device_and_dtype_is_given_them_and_taken_as_it_comes(write_problem, hesse_command):
    path = write_problem(
        """
        import hesse, torch

        def problem(*, device=None, dtype=None):
            print(device, dtype)
            weight = torch.ones(3, dtype=dtype)
            return hesse.Problem(func=lambda x: ((x @ weight) ** 2).sum(), inputs=torch.ones(3, dtype=dtype))
        """
    )
    result = hesse_command("vhp", path, "--dtype", "float64", "--device", "cpu", "--out", "p.safetensors")
    assert result.exit_code == 0, result.output
    assert "cpu torch.float64" in result.stdout
    assert load_file("p.safetensors")["value"].dtype is torch.float64
    assert "None None" in hesse_command("vhp", path).stdout


def test_neighbors_of_a_problem_file_can_be_imported_and_nothing_is_left_beside_it(
    write_problem, hesse_command, tmp_path
):
    write_problem("power = 4\n", "neighbor_of_problem.py")
    path = write_problem(
        """
        import dataclasses
        import hesse, torch
        from neighbor_of_problem import power

        @dataclasses.dataclass
        class Point:
            x: "torch.Tensor"

        def problem():
            return hesse.Problem(func=lambda point: (point.x**power).sum(), inputs=Point(torch.ones(2)))
        """
    )
    assert hesse_command("vhp", path, "--out", "p.safetensors").exit_code == 0
    assert list(load_file("p.safetensors")) == ["x"]
    assert not list(tmp_path.glob("__pycache__/problem*"))


def test_an_edited_problem_file_is_read_again(write_problem, hesse_command):
    source = "import hesse, torch\ndef problem():\n    return hesse.Problem(lambda x: {} * x.sum(), torch.ones(1))\n"
    for factor in (2, 3):
        assert printed(hesse_command("vhp", write_problem(source.format(factor))).stdout)["value"] == factor


def test_results_fit_a_narrow_terminal(write_problem, hesse_command):
    output = hesse_command("vhp", write_problem(), "--compare", columns=32).stdout
    assert max(map(len, output.splitlines())) <= 32
    assert "\x1b" not in output
