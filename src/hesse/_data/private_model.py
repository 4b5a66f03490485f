"""A user's model, evaluated with other tensors for its parameters and otherwise left alone."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from hesse._autograd import graph
from hesse._autograd.agreement import coarsest, disagreement
from hesse._autograd.aliases import Aliases
from hesse._autograd.blueprint import Blueprint
from hesse._autograd.captured import ByMemory, reach, same
from hesse._autograd.generators import global_generators, put_back, put_back_where_it_fails
from hesse._autograd.likeness import passing_for
from hesse._autograd.preserving import Spared, Values
from hesse._base.devices import default_generators
from hesse._base.several_ranks import is_dtensor
from hesse._base.space import Space
from hesse._base.trees import Spec
from hesse._linearize.guard import State, address

Result = TypeVar("Result")

# A larger parameter that stays is shared by the first evaluation, and put back where that writes into it;
_COPIED = 1 << 18
# one that is larger still is not copied only to be put back: samples of it are.
_BACKED_UP = 1 << 22

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

# The modes in which, and functions with which, a model has been found to have the same outputs each time.
_repeating: weakref.WeakKeyDictionary[nn.Module, tuple[list[bool], list[Any]]] = weakref.WeakKeyDictionary()


class Private(NamedTuple):
    """What one evaluation is made of: copies of the model, and of the functions that belong to it."""

    module: nn.Module
    functions: list[Any]


class _Kept(RuntimeError):
    """Outputs depend on a tensor that was made of a parameter, and kept."""

    outputs: Sequence[Tensor] = ()


class Model(Spared):
    """A model with tensors of an evaluation's own for its chosen parameters.

    Each evaluation gets a private copy of the module tree. Parameters that are not chosen, or require no gradients, are
    constants. Buffers are copies, so that what a layer writes into them (BatchNorm its averages) does not reach the
    model; neither does what a layer keeps in its attributes. A backward that evaluates layers again, for a checkpoint,
    finds the copy as it was.

    Args:
        model: the user's model.
        chosen: those of its parameters that are variables, by name.
        functions: functions of the user's that may lead to modules of the model, which then lead to the copies.
        name: the operator that errors speak of.

    Attributes:
        leaves: the variables at the point.
        repeats: whether the first evaluation is repeated, to see whether its outputs are the same.
    """

    repeats = True

    def __init__(self, model: nn.Module, chosen: dict[str, nn.Parameter], functions: Sequence[Any], name: str) -> None:
        self.module, self.chosen = model, chosen
        self.leaves: list[Tensor] = list(chosen.values())
        self._operator = name
        self._roots = (model, *functions)
        self._blueprint = Blueprint(*self._roots)
        self._blueprint.require_found(self._roots, name)
        tensors = self._blueprint.tensors
        places = {id(tensor): place for place, tensor in enumerate(tensors)}
        # Chosen ones that require no gradients stay in their place, and their derivatives come out as zeros.
        variables = {key: parameter for key, parameter in chosen.items() if parameter.requires_grad}
        self._variables = [places[id(parameter)] if key in variables else None for key, parameter in chosen.items()]
        known = {address(parameter): key for key, parameter in variables.items() if parameter.numel()}
        self._by_address = ByMemory(known)
        self._given: list[Any] = list(tensors)  # None for what a copy is without
        # The outputs of the last evaluation, while evaluations are compared.
        self._outputs: Sequence[Tensor] | None = None
        self._constants = list(set(self._blueprint.parameters).difference(self._variables))
        self._give(self._constants)
        # Layers that scale the rows of their weight down write into it each time, and differentiate by what they wrote.
        embeddings = [module for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)]
        scaled = [module.weight for module in embeddings if module.max_norm is not None]
        self._copied = [*self._blueprint.buffers, *[places[id(weight)] for weight in scaled if id(weight) in places]]
        self._aliases = Aliases(tensors, [*self._blueprint.buffers, *self._blueprint.plain])
        # Which plain tensors an evaluation writes into; found out at the first.
        self._written: list[int] | None = None
        self._modules = list(model.modules())
        self._modes = self._training()
        tables = [
            table
            for module in self._modules
            if not isinstance(module, torch.jit.ScriptModule)
            for table in (module._parameters, module._modules)
        ]
        self._held = [(table, key, entry) for table in tables for key, entry in table.items()]

    def _give(self, constants: Sequence[int]) -> None:
        """Parameters that are no variables: the same tensors in each evaluation, which is how a program knows them."""
        for place in constants:
            original = self._blueprint.tensors[place]
            if type(original) is nn.Parameter:
                # Writes into it are not counted as the original's.
                self._given[place] = passing_for(original.data, original)
            elif original.requires_grad:
                self._given[place] = passing_for(original.detach(), original)

    def run(self, x: Sequence[Tensor], evaluate: Callable[[Private], Result]) -> Result:
        """``evaluate(private)``, in which the chosen parameters are ``x``."""
        # Stand-ins, of which a program is captured, have no values to look at.
        if self._written is None and all([type(leaf) in (Tensor, nn.Parameter) for leaf in x]):
            self._outputs = ()
            try:
                return self._run_first(x, evaluate)
            except _Kept as kept:
                return self._run_without(kept, x, evaluate)
            finally:
                self._outputs = None
        try:
            return evaluate(self._made(self._tensors(x, self._plain)))
        except _Kept as kept:
            raise RuntimeError(str(kept)) from None

    def _run_without(self, kept: _Kept, x: Sequence[Tensor], evaluate: Callable[[Private], Result]) -> Result:
        """Like ``_run_first``, by copies that are without what the model keeps of its earlier evaluations.

        A cache is filled anew. What the model does not make anew, or makes otherwise, is none.
        """
        if not self._blueprint.derived:
            raise RuntimeError(str(kept))
        given = self._given.copy()
        for place in self._blueprint.derived:
            self._given[place] = None
        try:
            result = self._run_first(x, evaluate)
            if self._differs_from(kept.outputs):
                raise RuntimeError("Without what the model keeps its outputs are others.")
            return result
        except BaseException as error:
            self._given = given
            if not isinstance(error, Exception):
                raise
            raise RuntimeError(str(kept)) from error

    @functools.cached_property
    def as_it_is(self) -> Private:
        """The model and the functions with the user's own tensors, as a program looks for them."""
        return self._made(self._given)

    @property
    def _plain(self) -> Sequence[int]:
        """The places of plain tensors that an evaluation writes into, as far as is known."""
        return self._blueprint.plain if self._written is None else self._written

    def _made(self, tensors: Sequence[Any]) -> Private:
        """Copies of the model and of the functions, with these tensors."""
        copies = self._blueprint.make(tensors)
        return Private(copies[0], copies[1:])

    def functions(self) -> list[Any]:
        """Copies of the functions, for an evaluation of theirs without the model."""
        used = self._blueprint.needed(1)[1]
        copied = [place for place in (*self._copied, *self._plain) if place in used]
        return self._blueprint.make(self._copied_into(self._given.copy(), copied), 1)

    def _tensors(self, x: Sequence[Tensor], copied: Sequence[int]) -> list[Any]:
        tensors = self._given.copy()
        self._put(x, tensors)
        return self._copied_into(tensors, [*self._copied, *copied])

    def _put(self, x: Sequence[Tensor], tensors: list[Any]) -> None:
        """The variables into their places."""
        for place, leaf in zip(self._variables, x, strict=True):
            if place is not None:
                tensors[place] = passing_for(leaf, self._blueprint.tensors[place])

    def _copied_into(self, tensors: list[Any], copied: Sequence[int]) -> list[Any]:
        """With copies in these places."""
        places = self._aliases.together(copied)
        for place, fresh in self._aliases.copies(tensors, places):
            tensors[place] = passing_for(fresh, self._blueprint.tensors[place])
        return tensors

    @put_back_where_it_fails()
    def _run_first(self, x: Sequence[Tensor], evaluate: Callable[[Private], Result]) -> Result:
        """Like ``run``, and look what the evaluation writes into."""
        # Another thread may train the model: neither must see what the other writes. Tools' threads are daemons.
        alone = not [one for one in threading.enumerate() if one is not threading.current_thread() and not one.daemon]
        stay = {place: self._blueprint.tensors[place] for place in self._constants}
        # Those of FSDP are gathered in each evaluation, or are pieces.
        sizes = {place: constant.numel() for place, constant in stay.items() if not is_dtensor(constant)}
        tried = [*self._blueprint.plain, *[place for place, size in sizes.items() if size <= _COPIED or not alone]]
        backups = self._backups()
        versions = {place: self._blueprint.tensors[place]._version for place in self._blueprint.parameters}
        draws = [put_back(generator) for generator in default_generators()]
        tensors = self._tensors(x, tried)
        private = self._made(tensors)
        try:
            result = evaluate(private)
        finally:
            written = {place for place, backup in backups.items() if backup.has_changed()}
            for place in written if alone else ():
                backups[place].restore()
            written |= {
                place for place, version in versions.items() if self._blueprint.tensors[place]._version != version
            }
            constants = [place for place in self._constants if place in written or self._has_changed(place, tensors)]
            self._give(constants)
        made = _made_parameter(private.module, tensors)
        changed = sorted(written.difference(constants))
        if changed or made is not None:
            name = made or self._name_of(self._blueprint.tensors[changed[0]])
            what = "makes" if made else "writes into"
            raise RuntimeError(
                f"An evaluation of the model given to {self._operator} {what} its parameter {name!r}, so there is no"
                " point that stays. Where it does so the first time only, evaluate the model once before; otherwise"
                " take that out of forward."
            )
        if constants and alone:
            # As those of a running average are: again, with copies in their place.
            self._copied += constants
            for draw in draws:
                draw()
            return self._run_first(x, evaluate)
        apart = [place for place in self._aliases.apart if not same(tensors[place], self._given[place])]
        if apart:
            raise RuntimeError(
                f"An evaluation of the model given to {self._operator} writes into a tensor of shape"
                f" {tuple(tensors[apart[0]].shape)} that shares memory with another one of the model's, which a private"
                " copy cannot. Clone one of them where the model is made."
            )
        changing = [place for place in tried if place in constants or not same(tensors[place], self._given[place])]
        way = self._modes, [_reference(function) for function in self._roots[1:]]
        if alone and self.repeats and _repeating.get(self.module) != way:
            del result, private, tensors  # with the graph of an evaluation
            result = self._run_again(lambda: evaluate(self._made(self._tensors(x, changing))), draws)
            _repeating[self.module] = way
        self._written = changing
        return result

    def _run_again(self, evaluate: Callable[[], Result], draws: Sequence[Callable[[], object]]) -> Result:
        """A second evaluation; raise where it has other outputs, by something that copies share with the model."""

        def evaluated() -> Result:
            for draw in draws:
                draw()
            return evaluate()

        expected = self._outputs
        result = evaluated()
        if self._differs_from(expected):
            del result  # and its graph
            # Numbers that are drawn from these differ each time, which is said where a batch is evaluated again.
            draws = [*draws, *map(put_back, global_generators())]
            evaluated()
            expected, before = self._outputs, self._values()
            result = evaluated()
            if self._differs_from(expected):
                now = self._values()
                changed = [name for name, value in now.items() if before.get(name, value) != value]
                raise RuntimeError(
                    f"The model given to {self._operator} has other outputs each time it is evaluated, and keeps what"
                    f" they depend on where a private copy shares it{f', in {changed[0]!r}' if changed else ''}: in an"
                    " iterator, a global variable, an attribute of a class or their like, which these evaluations have"
                    " changed. Keep it in a plain attribute of the model, or take it out of forward."
                )
        return result

    def _values(self) -> dict[str, Any]:
        """By name, plain values that the model and the functions reach."""
        plain = int | float | str
        return {name: value for root in self._roots for name, value in reach(root) if isinstance(value, plain)}

    def _backups(self) -> dict[int, Values | State]:
        """Of the parameters that evaluations share with the user's model, as far as they may be written into."""
        # PyTorch's own layers write no values into their parameters.
        users = any([not type(module).__module__.startswith("torch.") for module in self._modules])
        tensors = {place: self._blueprint.tensors[place] for place in self._blueprint.parameters if users}
        return {
            place: Values(_local(tensor)) if tensor.numel() <= _BACKED_UP else State.of("", tensor)
            for place, tensor in tensors.items()
            if place not in self._copied
        }

    def _has_changed(self, place: int, tensors: Sequence[Any]) -> bool:
        """Whether an evaluation has done to a constant, beside its numbers, what the next one would find."""
        used, given, original = tensors[place], self._given[place], self._blueprint.tensors[place]
        if given is original or place in self._copied:
            return False
        if used.requires_grad or used.grad is not None:
            return True
        # Counts of writes begin at zero.
        return used is given and (
            address(given) != address(original) or (given._version > 0 and type(original) is nn.Parameter)
        )

    def require_followed(self, outputs: Sequence[Tensor], x: Sequence[Tensor]) -> None:
        """Raise if outputs depend on a chosen parameter, or on what was made of one, that is not of this evaluation."""
        if any([leaf.grad_fn is not None for leaf in x]):
            # Variables of the caller's may be made of anything.
            return
        if (key := self.reached(outputs, x)) is not None:
            kept = _Kept(
                f"The parameter {key!r} is used in a way that {self._operator} cannot follow: a second reference"
                " to it, or a tensor made of it, is kept beside its module, and stays when parameters are replaced."
                " Reach it through the model that is given to the loss, and empty what the model keeps (in many,"
                " model.train() does)."
            )
            kept.outputs = [output.detach() for output in outputs]
            raise kept
        self._outputs = None if self._outputs is None else [output.detach() for output in outputs]

    def reached(self, outputs: Sequence[Tensor], beside: Sequence[Tensor]) -> str | None:
        """The name of a chosen parameter that outputs depend on in another way than by these variables, or None."""
        given = {id(leaf) for leaf in beside}
        # Whatever variable stands for a parameter, in whichever evaluation, has its memory.
        names = [self._by_address.get(address(leaf)) for leaf in graph.leaves(outputs) if id(leaf) not in given]
        return next(filter(None, names), None)

    def _differs_from(self, outputs: Sequence[Tensor] | None) -> bool:
        """Whether the last evaluation had other outputs than these."""
        return disagreement(self._outputs or (), outputs, precision=coarsest(outputs)) > 1 if outputs else False

    def change(self) -> str | None:
        """What was done to the model since this was made, beside what is written into its tensors; or None."""
        if self._training() != self._modes:
            return "The model was switched between training and evaluation"
        if all([table.get(key) is entry for table, key, entry in self._held]):
            return None
        # A layer may be replaced by another of the same parameters.
        present = {id(parameter) for parameter in self.module.parameters()}
        held = [(key, entry) for _, key, entry in self._held if isinstance(entry, Tensor) and id(entry) not in present]
        return f"The model's parameter {self._name_of(*held[0][::-1])!r} was replaced by another" if held else None

    def _name_of(self, parameter: Tensor, otherwise: str = "") -> str:
        names = [*self.chosen.items(), *self.module.named_parameters()]
        return next((key for key, found in names if found is parameter), otherwise)

    def _training(self) -> list[bool]:
        return [module.training for module in self._modules]

    def batch_statistics(self) -> str | None:
        """The name of a layer that normalizes by statistics of the whole batch, or None."""
        for key, module in self.module.named_modules():
            if isinstance(module, _BATCH_NORMS) and (module.training or module.running_mean is None):
                return f"{key or 'the model itself'} ({type(module).__name__})"
        return None

    def tensors(self) -> Iterator[Tensor]:
        """Parameters and buffers that every rank has whole."""
        yield from self.module.parameters()
        yield from self.module.buffers()

    def space(self, spec: Spec, name: str) -> Space:
        """The vectors of the chosen parameters."""
        return Space(self.leaves, spec, name)

    def weigh(self, count: Callable[[], float | None]) -> None:
        """The last evaluation's loss is a mean of so many terms; only ranks that hold it together need to know."""

    def device(self) -> torch.device | None:
        """Where the model is, or None where it is on several devices and places tensors itself."""
        devices = {tensor.device for tensor in [*self.module.parameters(), *self.module.buffers()]}
        return devices.pop() if len(devices) == 1 else None


def _reference(function: Any) -> Any:
    """What is equal to itself while a function lives; its identity would be another's once it is gone."""
    try:
        return function if function is None else weakref.ref(function)
    except TypeError:  # equal to no other, so that it is looked at each time
        return object()


def _local(parameter: Tensor) -> Tensor:
    """What this rank holds of it."""
    return parameter.detach().to_local() if is_dtensor(parameter) else parameter  # type: ignore[attr-defined]  # only DTensor has it


def _made_parameter(module: nn.Module, given: Sequence[Tensor | None]) -> str | None:
    """The name of a parameter that an evaluation has made, which would be another one each time."""
    known = {id(tensor) for tensor in given}
    for part in module.modules():
        for key, parameter in part._parameters.items():
            if isinstance(parameter, nn.Parameter) and parameter.requires_grad and id(parameter) not in known:
                return key
    return None
