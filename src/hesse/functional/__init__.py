"""The contract of ``torch.autograd.functional``, kept to the letter and extended where PyTorch's own stops."""

from hesse.functional.hessian import hessian
from hesse.functional.hvp import hvp
from hesse.functional.jacobian import jacobian
from hesse.functional.jvp import jvp
from hesse.functional.vhp import vhp
from hesse.functional.vjp import vjp

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]
