"""Which engines may make the products of a function."""

from __future__ import annotations

from hesse._autograd.arguments import check_point
from hesse._checking.finding import Finding, found
from hesse._checking.subject import Subject
from hesse._linearize.engines import Engines
from hesse._linearize.options import Options
from hesse._operators.hessian import gradient_map

# Capturing takes milliseconds a node.
_MOST_NODES = 1_000


def refusal_of_compiled(subject: Subject, num_nodes: int) -> Finding | None:
    """Why no program can be captured, or none that agrees with the tape; None where ``engine="compiled"`` serves.

    The program is captured and compared, and not compiled, which is what takes long; not even that where the autograd
    graph has many nodes.
    """
    if num_nodes > _MOST_NODES:
        sentence = f'Whether engine="compiled" can be used was not tried: the autograd graph has {num_nodes} nodes.'
        return found("not compiled", sentence)
    # Only here, since it loads the compiler.
    from hesse._linearize.program.backends import EAGER

    try:
        with subject.preserved():
            point = check_point("check", subject.func, subject.inputs, subject.argnums)
            gradient_at = gradient_map("check", point, subject.has_aux, create_graph=False)
            engines = Engines(Options("compiled"), subject.func, EAGER)
            engines.linearize("gradient", gradient_at, point.leaves, subject.inputs, name="check").close()
    # Whatever is raised says that the tape has to serve, and the tape has served.
    except Exception as error:
        reason = " ".join(str(error).split())
        return found("not compiled", f"No program can be had of it: {reason}")
    return None
