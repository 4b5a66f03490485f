"""The command that was called, for what it writes."""

from __future__ import annotations

import shlex

import typer


def invocation(context: typer.Context) -> str:
    """The command with all that was given on its line, ready for a shell; what was left out had its default."""
    words = ["hesse", str(context.info_name)]
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[str(parameter.name)]
        if parameter.param_type_name == "option":
            words.append(parameter.opts[0])
        if value is not True:
            words.append(str(value))
    return shlex.join(words)
