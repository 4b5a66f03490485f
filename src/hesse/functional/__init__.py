"""The contract of ``torch.autograd.functional``, kept to the letter and extended where PyTorch's own stops."""

from hesse.functional._hessian import hessian
from hesse.functional._hvp import hvp
from hesse.functional._jacobian import jacobian
from hesse.functional._jvp import jvp
from hesse.functional._vhp import vhp
from hesse.functional._vjp import vjp

__all__ = ["hessian", "hvp", "jacobian", "jvp", "vhp", "vjp"]
