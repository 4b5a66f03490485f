"""Models that several ranks share are refused where they are evaluated; those of a single rank are not."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed._composable.replicate import replicate
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

import hesse
from tests.capabilities import differentiates_gathers_twice

CROSS_ENTROPY = nn.CrossEntropyLoss()
LABELS = torch.arange(12) % 4
OPERATORS = [hesse.LossHessian, hesse.GaussNewton, hesse.Fisher, hesse.EmpiricalFisher]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).double()


def sharded(mesh: DeviceMesh) -> nn.Module:
    model = network()
    fully_shard(model[0], mesh=mesh)
    return fully_shard(model, mesh=mesh)


def strided(mesh: DeviceMesh) -> nn.Module:
    """Tensor parallel in part, and cut by FSDP in another."""
    model = network()
    parallelize_module(model, mesh, {"2": ColwiseParallel()})
    fully_shard(model[0], mesh=mesh)
    model[0].register_parameter("more", nn.Parameter(DTensor.from_local(torch.ones(3), mesh, [Replicate()])))
    return model


def dense_hessian(x: Tensor) -> Tensor:
    """Of the network's mean loss over x, by torch alone."""
    model = network()
    names = [name for name, _ in model.named_parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]
    lengths = [parameter.numel() for parameter in model.parameters()]

    def loss(flat: Tensor) -> Tensor:
        parts = [part.reshape(shape) for part, shape in zip(flat.split(lengths), shapes, strict=True)]
        return CROSS_ENTROPY(functional_call(model, dict(zip(names, parts, strict=True)), (x,)), LABELS)

    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    return torch.autograd.functional.hessian(loss, flat)


def detached(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def of_parameters(name: str, model: nn.Module, x: Tensor) -> Any:
    """One of the functions or operators, by the parameters of a model."""

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return CROSS_ENTROPY(functional_call(model, parameters, (x,)), LABELS)

    at = detached(model)
    ones = {key: torch.ones_like(tensor) for key, tensor in at.items()}
    calls: dict[str, Callable[[], Any]] = {
        "vhp": lambda: hesse.vhp(loss, at, ones),
        "hvp": lambda: hesse.hvp(loss, at, ones),
        "jvp": lambda: hesse.functional.jvp(loss, at, ones),
        "vjp": lambda: hesse.functional.vjp(loss, at),
        "jacobian": lambda: hesse.functional.jacobian(loss, at),
        "hessian": lambda: hesse.functional.hessian(loss, at),
        "Hessian": lambda: hesse.Hessian(loss, at),
        "Jacobian": lambda: hesse.Jacobian(loss, at),
        "GaussNewton": lambda: hesse.GaussNewton(loss, inputs=at).gradient,
    }
    return calls[name]()


ENTRIES = ["vhp", "hvp", "jvp", "vjp", "jacobian", "hessian", "Hessian", "Jacobian", "GaussNewton"]


def test_an_operator_over_data_takes_a_model_of_fsdp_of_one_rank(mesh: DeviceMesh, x: Tensor) -> None:
    v = torch.linspace(-1, 1, 76, dtype=torch.float64)
    H = hesse.LossHessian(sharded(mesh), CROSS_ENTROPY, (x, LABELS))
    torch.testing.assert_close(H @ v, dense_hessian(x) @ v)


def test_what_is_evaluated_beside_operators_refuses_a_model_of_fsdp(mesh: DeviceMesh, x: Tensor) -> None:
    problem = hesse.Problem(model=sharded(mesh), loss=CROSS_ENTROPY, data=(x, LABELS))
    with pytest.raises(NotImplementedError, match=r"^Problem .* model of FSDP.*get_model_state_dict"):
        problem.function()
    with pytest.raises(
        NotImplementedError, match=r"^LossHessian takes a model whose parameters fully_shard cut over one mesh, but"
    ):
        hesse.LossHessian(strided(mesh), CROSS_ENTROPY, (x, LABELS))


def test_an_operator_over_data_takes_a_tensor_parallel_model_of_one_rank(mesh: DeviceMesh, x: Tensor) -> None:
    v = torch.linspace(-1, 1, 76, dtype=torch.float64)
    model = parallelize_module(network(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    if differentiates_gathers_twice(mesh):
        H = hesse.LossHessian(model, CROSS_ENTROPY, (x, LABELS))
        torch.testing.assert_close(H @ v, dense_hessian(x) @ v)
        return
    with pytest.raises(hesse.NoDerivativeError, match="has a wrong derivative itself"):
        hesse.LossHessian(model, CROSS_ENTROPY, (x, LABELS))


def test_what_is_evaluated_beside_operators_refuses_a_tensor_parallel_model(mesh: DeviceMesh, x: Tensor) -> None:
    model = parallelize_module(network(), mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})
    problem = hesse.Problem(model=model, loss=CROSS_ENTROPY, data=(x, LABELS))
    with pytest.raises(NotImplementedError, match=r"^Problem .* DTensors.*'0.weight' is one"):
        problem.function()


def test_a_buffer_that_is_a_dtensor_is_refused(mesh: DeviceMesh, x: Tensor) -> None:
    model = network()
    model.register_buffer("scale", DTensor.from_local(torch.ones(3), mesh, [Replicate()]))
    with pytest.raises(NotImplementedError, match="'scale' is one"):
        hesse.LossHessian(model, CROSS_ENTROPY, (x, LABELS))


@pytest.mark.parametrize("operator", OPERATORS)
def test_an_operator_over_data_refuses_ddp_of_two_ranks_within_a_model(
    operator: Any, group_of_two: None, x: Tensor
) -> None:
    model = nn.Sequential(DistributedDataParallel(network()))
    with pytest.raises(NotImplementedError, match=rf"^{operator.__name__} does not reduce.*2 ranks.*model.module"):
        operator(model, CROSS_ENTROPY, (x, LABELS))


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_function_may_not_evaluate_a_model_of_fsdp(entry: str, mesh: DeviceMesh, x: Tensor) -> None:
    with pytest.raises(NotImplementedError, match=rf"^{entry} .* model of FSDP"):
        of_parameters(entry, sharded(mesh), x)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_function_may_not_evaluate_ddp_of_two_ranks(entry: str, group_of_two: None, x: Tensor) -> None:
    with pytest.raises(NotImplementedError, match=rf"^{entry} does not reduce"):
        of_parameters(entry, DistributedDataParallel(network()), x)


def test_the_first_fsdp_is_refused(x: Tensor) -> None:
    # It cannot be made on a CPU; this one wraps nothing.
    wrapper = FullyShardedDataParallel.__new__(FullyShardedDataParallel)
    nn.Module.__init__(wrapper)
    model = nn.Sequential(network(), wrapper)
    with pytest.raises(NotImplementedError, match=r"^LossHessian .* model of FSDP.*FullyShardedDataParallel"):
        hesse.LossHessian(model, CROSS_ENTROPY, (x, LABELS))


def test_a_model_that_replicate_was_called_on_is_refused(group_of_two: None, x: Tensor) -> None:
    with pytest.raises(NotImplementedError, match="does not reduce over ranks, but got a DDPSequential of 2 ranks"):
        hesse.LossHessian(replicate(network()), CROSS_ENTROPY, (x, LABELS))


@pytest.mark.parametrize("operator", [hesse.LossHessian, hesse.GaussNewton])
def test_a_loss_may_not_evaluate_a_model_of_fsdp(operator: Any, mesh: DeviceMesh, x: Tensor) -> None:
    head = fully_shard(nn.Linear(4, 4).double(), mesh=mesh)
    with pytest.raises(NotImplementedError, match=rf"^{operator.__name__} .* model of FSDP"):
        _ = operator(network(), lambda output, target: CROSS_ENTROPY(head(output), target), (x, LABELS)).value


def test_the_curvature_of_a_functions_loss_may_not_evaluate_a_model_of_fsdp(mesh: DeviceMesh, x: Tensor) -> None:
    head = fully_shard(nn.Linear(4, 4).double(), mesh=mesh)
    with pytest.raises(NotImplementedError, match=r"^GaussNewton .* model of FSDP"):
        _ = hesse.GaussNewton(torch.tanh, inputs=x, loss=lambda output: head(output).square().sum()).value


class Task:
    """Evaluates a model that no closure reaches."""

    def loss(self, x: Tensor) -> Tensor:
        return MODELS["wrapped"](x).square().sum()


MODELS: dict[str, nn.Module] = {}


def test_a_model_is_found_however_it_is_reached(group_of_two: None, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Task()
    monkeypatch.setitem(MODELS, "wrapped", DistributedDataParallel(network()))
    with pytest.raises(NotImplementedError, match=r"^vhp does not reduce"):
        hesse.vhp(lambda t: task.loss(t), x, x)
    monkeypatch.setitem(MODELS, "wrapped", network())
    assert hesse.vhp(lambda t: task.loss(t), x, x)[1].shape == x.shape


def test_the_module_in_ddp_is_right_for_this_ranks_data(group_of_two: None, x: Tensor) -> None:
    model = DistributedDataParallel(network())
    v = torch.linspace(-1, 1, 76, dtype=torch.float64)
    expected = dense_hessian(x) @ v
    torch.testing.assert_close(hesse.LossHessian(model.module, CROSS_ENTROPY, (x, LABELS)) @ v, expected)

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return CROSS_ENTROPY(functional_call(model.module, parameters, (x,)), LABELS)

    torch.testing.assert_close(hesse.Hessian(loss, detached(model.module)) @ v, expected)


def test_a_compiled_model_that_is_not_wrapped_is_taken_without_a_word(group: None, x: Tensor) -> None:
    compiled = torch.compile(network(), backend="eager")
    v = torch.linspace(-1, 1, 76, dtype=torch.float64)
    # Warnings are errors here, and PyTorch warns of hooks where a compiled module is called.
    torch.testing.assert_close(hesse.LossHessian(compiled, CROSS_ENTROPY, (x, LABELS)) @ v, dense_hessian(x) @ v)


def test_ddp_of_one_rank_is_exact(group: None, x: Tensor) -> None:
    v = torch.linspace(-1, 1, 76, dtype=torch.float64)
    H = hesse.LossHessian(DistributedDataParallel(network()), CROSS_ENTROPY, (x, LABELS))
    torch.testing.assert_close(H @ v, dense_hessian(x) @ v)


def test_a_whole_copy_of_a_sharded_model_is_the_remedy(mesh: DeviceMesh, x: Tensor) -> None:
    v = torch.linspace(-1, 1, 76, dtype=torch.float64)
    for model in (sharded(mesh), parallelize_module(network(), mesh, {"0": ColwiseParallel()})):
        copy = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4)).double()
        copy.load_state_dict(get_model_state_dict(model, options=StateDictOptions(full_state_dict=True)))
        torch.testing.assert_close(hesse.LossHessian(copy, CROSS_ENTROPY, (x, LABELS)) @ v, dense_hessian(x) @ v)


def test_a_refused_model_trains_on_and_no_hook_stays(mesh: DeviceMesh, x: Tensor) -> None:
    model, alone = sharded(mesh), network()
    with pytest.raises(NotImplementedError, match="FSDP"):
        hesse.vhp(lambda t: model(t).square().sum(), x, x)
    assert not torch.nn.modules.module._global_forward_pre_hooks
    for net in (model, alone):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        CROSS_ENTROPY(net(x), LABELS).backward()
        optimizer.step()
    for trained, expected in zip(model.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(trained.full_tensor(), expected)


def test_another_thread_may_evaluate_ddp_meanwhile(group_of_two: None, x: Tensor) -> None:
    model = DistributedDataParallel(network())
    outputs: list[Tensor] = []

    def func(t: Tensor) -> Tensor:
        thread = threading.Thread(target=lambda: outputs.append(model(x)))
        thread.start()
        thread.join()
        return (t**3).sum()

    product = hesse.vhp(func, x, x)[1]
    torch.testing.assert_close(product, 6 * x * x)
    assert outputs[0].shape == (12, 4)
