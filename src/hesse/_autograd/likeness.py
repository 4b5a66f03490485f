"""What a tensor is to a program beside its numbers: a parameter, of a class, with attributes that a user gave it."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parameter import is_lazy


def passing_for(tensor: Tensor, original: Tensor) -> Tensor:
    """A tensor in the place of another of a user's: that its program sees no difference but the numbers.

    The tensor itself where its class allows it, with the attributes of the other.
    """
    kind = type(original)
    if kind is nn.Parameter and type(tensor) is Tensor:
        # As nearly always. Whether a tensor is a parameter takes longer to ask.
        tensor._is_param = True
    elif isinstance(original, nn.Parameter) and not is_lazy(original):
        if kind is not nn.Parameter and type(tensor) is Tensor and issubclass(kind, nn.Parameter):
            tensor = tensor.as_subclass(kind)
        elif not isinstance(tensor, nn.Parameter):
            # How PyTorch tells a parameter of another class.
            tensor._is_param = True
    attributes = vars(original)
    if attributes:
        vars(tensor).update({key: value for key, value in attributes.items() if key not in vars(tensor)})
    return tensor
