"""From a user's model and loss to what is summed over data, and to what must not change meanwhile."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hesse._autograd.captured import captured
from hesse._autograd.generators import put_back
from hesse._base import checks, trees
from hesse._base.devices import default_generators
from hesse._base.errors import StalePointError, first_line
from hesse._base.several_ranks import is_dtensor, is_parallel, is_sharded, refuse_model, refusing_models
from hesse._base.space import Space
from hesse._base.trees import Spec
from hesse._data import rows
from hesse._data.losses import (
    Weight,
    hugging_face_count,
    masks_unevenly,
    recognize,
    reduction_of,
)
from hesse._data.mesh_model import MeshModel, mesh_of
from hesse._data.objective import Counted, Prediction, require_scalar
from hesse._data.own_batch import OwnBatch
from hesse._data.parallel_model import ParallelModel
from hesse._data.parameters import Params, select
from hesse._data.private_model import Model, Private
from hesse._data.sharded_model import ShardedModel, reshard
from hesse._ranks.group import Ranks

Call = Callable[[nn.Module, Any, Any], Tensor]
"""The loss of a batch, made from model, loss and batch."""

Output = Callable[[nn.Module, Any], tuple[Any, Any]]
"""The prediction and the target of a batch, made from model and batch; the loss is ``loss(prediction, target)``."""


def watched(model: nn.Module, *functions: Any) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors of the point: the model's, and what the loss and other functions capture."""
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        yield f"The model's {key!r}", tensor
    for function in functions:
        if function is not None:
            yield from captured(function)


class Objective:
    """The loss of a batch as a function of a model's chosen parameters as they are now; ``ranks`` may share it."""

    def __init__(
        self,
        name: str,
        model: nn.Module,
        loss: Any,
        params: Params,
        *,
        call: Call | None = None,
        output: Output | None = None,
        weight: Weight | None = None,
        predicts: bool = False,
        ranks: Ranks | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"The model given to {name} should be a torch.nn.Module but has type {type(model)}.")
        sharded, parallel = [ranks is not None and of(model) for of in (is_sharded, is_parallel)]
        refuse_model(model, name, cut=sharded or parallel)
        if call is not None and output is not None:
            raise TypeError(f"{name} takes call= or output=, which both say what the loss of a batch is, but got both.")
        if sharded:
            reshard(model)
        functions, chosen = (loss, call, output), select(model, params, name)
        self.model: Model
        if ranks is not None and (sharded or parallel):
            kind = ParallelModel if parallel else ShardedModel if mesh_of(model) is None else MeshModel
            self.model = kind(model, chosen, functions, name, ranks)
        else:
            self.model = Model(model, chosen, functions, name)
        checks.functions(name, optional=True, loss=loss, call=call, output=output, weight=weight)
        self.leaves = self.model.leaves
        names = list(chosen)
        self.spec = Spec(
            lambda leaves: dict(zip(names, leaves, strict=True)), tuple([(key,) for key in names]), length=None
        )
        self.name = name
        self.loss = loss
        self._call, self._output, self._weight, self._predicts = call, output, weight, predicts
        self.known = recognize(loss) if call is None else None
        self.device = self.model.device()
        self._row_shape: tuple[int, ...] | None = None
        self._is_apart = False
        self._own_batch, self._own_target = OwnBatch(name), OwnBatch(name)
        if loss is None and output is not None:
            raise TypeError(f"{name} needs a loss of the prediction and target that output= gives but got None.")

    def move(self, leaves: list[Tensor]) -> None:
        """To other values of the parameters; the model keeps its own."""
        self.leaves = self.model.leaves = leaves

    @property
    def is_models_own(self) -> bool:
        """Whether the loss is what the model works out itself, as those of Hugging Face do."""
        return self.loss is None and self._call is None

    def stated_reduction(self) -> str | None:
        """What the loss says of its reduction; a Hugging Face model's own is a mean."""
        return "mean" if self.is_models_own else reduction_of(self.loss)

    def batch_statistics(self) -> str | None:
        """A layer that normalizes by statistics of the whole batch, if there is one."""
        return self.model.batch_statistics()

    def tensors(self) -> Iterator[Tensor]:
        """All parameters and buffers that are the same on all ranks, chosen or not; also those of the loss."""
        yield from self.model.tensors()
        if isinstance(self.loss, nn.Module):
            own = [*self.loss.parameters(), *self.loss.buffers()]
            yield from [tensor for tensor in own if not is_dtensor(tensor)]

    def space(self) -> Space:
        """The vectors of the parameters."""
        return self.model.space(self.spec, self.name)

    def require_same_mode(self) -> None:
        """Raise if the model is not the one that this was made of, in the same mode."""
        change = self.model.change()
        if change is not None:
            raise StalePointError(
                f"{change} since this {self.name} was made, so its point is gone. Call at() for the operator of the"
                " model as it is now."
            )

    def value(self, x: Sequence[Tensor], batch: Any) -> tuple[Tensor, Counted]:
        """The loss of a batch at the parameters x."""

        def evaluate(private: Private) -> tuple[Tensor, Counted]:
            value, counted = self._own_batch(batch, lambda own: self._value(private, own))
            self.model.require_followed([value], x)
            return value, counted

        found: tuple[Tensor, Counted] = self.model.run(x, refusing_models(self.name, evaluate))
        self.model.weigh(lambda: self.count(batch, found[1]))
        return found

    def predict(self, x: Sequence[Tensor], batch: Any) -> Prediction:
        """The prediction for a batch at the parameters x."""

        def evaluate(private: Private) -> Prediction:
            prediction = self._own_batch(batch, lambda own: self._predict(private, own))
            self.model.require_followed(prediction.leaves, x)
            self._look_beside(prediction, private.functions[0])
            return prediction

        found: Prediction = self.model.run(x, refusing_models(self.name, evaluate))
        self.model.weigh(lambda: self.count(batch, found.counted))
        return found

    def _value(self, private: Private, batch: Any) -> tuple[Tensor, Counted]:
        model, (loss, call, _) = private
        if self._has_prediction(batch):
            prediction = self._predict(private, batch)
            counted = prediction.counted
            if self._output is not None:
                # Counting must not hold the graph of a target that the model made.
                counted = counted._replace(target=trees.map_tensors(Tensor.detach, counted.target))
            return require_scalar(self._compared(loss, prediction, prediction.leaves), self.name), counted
        if call is not None:
            value: Any = call(model, loss, batch)
        elif self.known is not None:
            raise TypeError(
                f"The loss given to {self.name} compares a prediction with a target, but a batch of type {type(batch)}"
                " does not say what these are: only a pair (x, y) does. Give output=, a function of model and batch"
                " that returns (prediction, target)."
            )
        elif loss is not None:
            value = loss(model, batch)
        elif isinstance(batch, Mapping):
            value = getattr(model(**batch), "loss", None)
        else:
            raise TypeError(
                f"{self.name} without a loss takes the one that the model works out from a batch of keywords, but the"
                f" batch is {type(batch)}. Give a loss."
            )
        return require_scalar(value, self.name), Counted()

    def _predict(self, private: Private, batch: Any) -> Prediction:
        model, (_, _, output) = private
        if output is not None:
            pair = output(model, batch)
            if not (isinstance(pair, tuple) and len(pair) == 2):
                raise TypeError(
                    f"output= given to {self.name} should return a pair (prediction, target) but returned {type(pair)}."
                )
            predicted, target = pair
        elif _is_pair(batch) and self._call is None:
            predicted, target = self._called(model, batch[0]), batch[1]
        else:
            raise TypeError(
                f"{self.name} needs the model's prediction, and a batch of type {type(batch)} does not say what it is:"
                " only a pair (x, y) does. Give output=, a function of model and batch that returns (prediction,"
                " target)."
            )
        if self._predicts and self._output is not None:
            # J is the Jacobian of the prediction alone, whatever the target was made of.
            target = trees.map_tensors(Tensor.detach, target)
        leaves, spec = trees.flatten(predicted)
        places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.dtype.is_floating_point]
        if not places:
            raise TypeError(
                f"The model given to {self.name} should predict floating-point tensors but gave {type(predicted)}."
            )

        if self._predicts and any([is_dtensor(leaves[i]) for i in places]):
            raise TypeError(
                f"The model given to {self.name} should predict plain tensors but gave a DTensor. Give its last layer"
                " use_local_output=True, and outputs of the layout Replicate()."
            )
        others = [None if i in places else leaf for i, leaf in enumerate(leaves)]
        shape = tuple(predicted.shape) if isinstance(predicted, Tensor) else None
        return Prediction([leaves[i] for i in places], places, others, spec, Counted(shape, target))

    def _called(self, model: nn.Module, x: Any) -> Any:
        """The model's prediction for the first entry of a pair."""
        try:
            return model(x)
        except (TypeError, AttributeError) as error:
            if not isinstance(x, Tensor):
                error.add_note(
                    f"{self.name} calls the model with the first entry of a pair (x, y), here of type"
                    f" {type(x).__name__}. Give several batches as a list, not a tuple; and output= for a model that is"
                    " called in another way."
                )
            raise

    def _look_beside(self, prediction: Prediction, loss: Any) -> None:
        """Raise at the first evaluation if the loss finds more of it in the model than the prediction."""
        # Stand-ins, of which a program is captured, do not decide.
        if self._is_apart or self.known is not None or any([type(leaf) is not Tensor for leaf in prediction.leaves]):
            return
        draws = [put_back(generator) for generator in default_generators()]
        self.loss_of(prediction, [leaf.detach().clone() for leaf in prediction.leaves], loss)
        for draw in draws:
            draw()
        self._is_apart = True

    def loss_of(self, prediction: Prediction, leaves: Sequence[Tensor], loss: Any = None) -> Tensor:
        """The loss of a prediction with other tensors in the place of its floating-point ones."""
        if loss is None:
            # What a module writes into itself must not reach the user's.
            loss = self.loss if self.model.as_it_is.functions[0] is self.loss else self.model.functions()[0]
        loss = refusing_models(self.name, loss)

        def compared(target: Any) -> Any:
            return self._compared(loss, prediction._replace(counted=Counted(target=target)), leaves)

        value = require_scalar(self._own_target(prediction.target, compared), self.name)
        key = self.model.reached([value], leaves)
        if key is not None:
            raise ValueError(
                f"The loss given to {self.name} depends on the parameter {key!r} beside the tensors of the prediction,"
                " by which alone it is differentiated. Return what it needs as real tensors of the prediction, as by"
                " output=; add the matrix of a penalty to the operator."
            )
        return value

    def _compared(self, loss: Any, prediction: Prediction, leaves: Sequence[Tensor]) -> Any:
        """What the loss says of a prediction and its target."""
        predicted, target = prediction.rebuilt(leaves), prediction.target
        try:
            return loss(predicted, target)
        except Exception as error:
            if isinstance(error, TypeError | AttributeError) and self._output is None:
                other = "output=, which gives them" if self._predicts else "call=, a function of model, loss and batch"
                error.add_note(
                    f"{self.name} calls the loss with a prediction and a target, since a batch is a pair. Give {other}."
                )
            numbers = [len(entry) for entry in (predicted, target) if isinstance(entry, Tensor) and entry.dim()]
            # Subclasses say what else is wrong, such as a lack of memory.
            if len(set(numbers)) < 2 or type(error) not in (RuntimeError, ValueError, IndexError):
                raise
            raise ValueError(
                f"A batch given to {self.name} has {numbers[0]} rows of predictions and {numbers[1]} of targets, which"
                f" the loss refuses ({first_line(error)}). Give as many of one as of the other."
            ) from error

    def reads(self) -> dict[str, Any]:
        """By name, all that is read beside the batch and the variables."""
        model, (loss, call, output) = self.model.as_it_is
        return {"the model": model, "the loss": loss, "call": call, "output": output}

    def functions(self) -> list[Any]:
        """The user's functions that say what the loss of a batch is."""
        return [self.loss, self._call, self._output]

    def layers(self) -> dict[str, Any]:
        """By name, what the modules of the model and the loss are."""
        found: dict[str, Any] = {}
        for name, tree in (("model", self.model.module), ("loss", self.loss)):
            for key, module in tree.named_modules() if isinstance(tree, nn.Module) else ():
                path = f"{name}.{key}" if key else name
                found |= {f"{path}{setting}": value for setting, value in _settings(module).items()}
        return found

    def _has_prediction(self, batch: Any) -> bool:
        if self._predicts or self._output is not None:
            return True
        return self._call is None and self.loss is not None and _is_pair(batch)

    def count(self, batch: Any, counted: Counted) -> float | None:
        """How many terms the loss of a batch is the mean of, if that can be told."""
        target = counted.target
        if self._weight is not None:
            try:
                weight = self._weight(batch)
            except (TypeError, AttributeError) as error:
                error.add_note(
                    f"{self.name} calls weight= with one argument, a batch, here of type {type(batch).__name__}."
                )
                raise
            return self._weighed(weight)
        recognized = self.recognized_terms(counted)
        if recognized is not None:
            return recognized
        if self.is_models_own:
            count = hugging_face_count(self.model.module, batch)
            if count is not None:
                return count
        elif masks_unevenly(batch if target is None else target) or self._differs(batch if target is None else target):
            return None
        return rows.count(batch if target is None else target)

    def recognized_terms(self, counted: Counted) -> float | None:
        """How many terms one of PyTorch's own losses reduces, whatever the user counts; None for other losses."""
        shape, target = counted
        if self.known is None or shape is None or not isinstance(target, Tensor):
            return None
        return self.known.counted(shape, target)

    def _differs(self, target: Any) -> bool:
        """Whether a row of a target has another shape than those before: a mean over its entries is none over rows."""
        labels = target.get("labels") if isinstance(target, Mapping) else target
        if not isinstance(labels, Tensor):
            return False
        shape = tuple(labels.shape[1:])
        self._row_shape = shape if self._row_shape is None else self._row_shape
        return shape != self._row_shape

    def _weighed(self, weight: Any) -> float:
        try:
            number = float(weight)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if not 0 <= number < math.inf:
            raise ValueError(
                f"weight= given to {self.name} should return a finite number of at least 0 but returned {weight!r}."
            )
        return number


def _is_pair(batch: Any) -> bool:
    return isinstance(batch, tuple | list) and len(batch) == 2


def _settings(module: nn.Module) -> dict[str, Any]:
    """The class and the mode of a module, and what else one of PyTorch's own was told."""
    kinds = [kind for kind in type(module).__mro__ if not kind.__module__.startswith("torch.distributed")]
    is_own = kinds[0].__module__.startswith("torch.")
    told = {
        f".{key}": value
        for key, value in vars(module).items()
        if key == "training"
        or (is_own and not key.startswith("_") and isinstance(value, bool | int | float | str | tuple))
    }
    return {"": kinds[0].__name__, **told}
