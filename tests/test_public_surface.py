"""What is public, and how it is called: a record that changes only on purpose."""

import inspect
import pathlib
import types

import hesse

RECORD = pathlib.Path(__file__).with_name("public_surface.txt")
MODULES = [hesse, hesse.functional, hesse.func]


def lines() -> list[str]:
    """A line for each public object, with its signature, and one for each public attribute of a class."""
    found = []
    for module in MODULES:
        for name, value in sorted(vars(module).items()):
            if name not in module.__all__ or (isinstance(value, types.ModuleType) and value not in MODULES):
                continue
            if getattr(value, "__module__", "hesse").split(".")[0] != "hesse":
                continue
            full = f"{module.__name__}.{name}"
            found.append(full + _signature(value))
            if isinstance(value, type):
                found += [f"{full}.{line}" for line in _attributes(value)]
    return found


def _attributes(cls: type) -> list[str]:
    return [
        name + ("" if isinstance(value := inspect.getattr_static(cls, name), property) else _signature(value))
        for name in sorted(dir(cls))
        if not name.startswith("_") and name not in dir(_foreign_base(cls))
    ]


def _foreign_base(cls: type) -> type:
    return next(base for base in cls.__mro__ if not base.__module__.startswith("hesse"))


def _signature(value: object) -> str:
    try:
        parameters = inspect.signature(value).parameters.values()  # type: ignore[arg-type]  # what has none is caught
    except (TypeError, ValueError):
        return ""
    plain = [parameter.replace(annotation=inspect.Parameter.empty) for parameter in parameters]
    return str(inspect.Signature(plain))


def test_the_public_surface_is_as_recorded() -> None:
    assert lines() == RECORD.read_text().splitlines()


if __name__ == "__main__":
    RECORD.write_text("\n".join(lines()) + "\n")
