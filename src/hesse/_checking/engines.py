"""Which engines may make the products of a function."""

from __future__ import annotations

from hesse._checking.finding import Finding, found
from hesse._checking.subject import Subject
from hesse._linearize.compiled import Compiled
from hesse._operators import Hessian

# Capturing takes milliseconds a node.
_MOST_NODES = 1_000


def refusal_of_compiled(subject: Subject, num_nodes: int) -> Finding | None:
    """Why no program can be captured, or none that agrees with the tape; None where ``engine="compiled"`` serves.

    The program is captured and compared, and not compiled, which is what takes long; not even that where the autograd
    graph has many nodes.
    """
    if num_nodes > _MOST_NODES:
        sentence = f'Whether engine="compiled" can be used was not tried: the autograd graph has {num_nodes} nodes.'
        return found("not compiled", sentence, frame=None)
    # Only here, since it loads the compiler.
    from hesse._linearize.program.inductor import EAGER

    try:
        with subject.preserved():
            Hessian(
                subject.func,
                subject.inputs,
                has_aux=subject.has_aux,
                argnums=subject.argnums,
                engine=Compiled(subject.func, ("rmatvec",), backend=EAGER),
            ).close()
    # Whatever is raised says that the tape has to serve, and the tape has served.
    except Exception as error:
        reason = " ".join(str(error).split())
        return found("not compiled", f"No program can be had of it: {reason}", frame=None)
    return None
