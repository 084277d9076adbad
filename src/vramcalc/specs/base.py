"""What every spec shares: frozen, closed to unknown keys, built when first used."""

from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Self, Union, cast, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict

from vramcalc.ledger import Basis
from vramcalc.units import parse_bytes


class Spec(BaseModel):
    """A fact: immutable, complete, closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    @classmethod
    def restore(cls, plain: Mapping[str, Any]) -> Self:
        """Return the spec whose ``model_dump(mode="json")`` is ``plain``, trusting that it was validated before.

        Building a validator costs a start about 25 ms; this costs none. Raises ``ValueError`` where ``plain`` has other
        fields than the class, as after an upgrade.
        """
        if plain.keys() != cls.model_fields.keys():
            raise ValueError(f"not the fields of {cls.__name__}")
        values = {name: _restored(field.annotation, plain[name]) for name, field in cls.model_fields.items()}
        return cast("Self", cls.model_construct(**values))


def _restored(annotation: Any, value: Any) -> Any:  # noqa: ANN401 - annotations are objects of any type
    """Return one field's value as its annotation types it: specs, enums and tuples out of plain JSON."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _restored(arguments[0], value)
    if origin in (Union, UnionType):
        return None if value is None else _restored(_member(arguments, value), value)
    if origin is tuple:
        return tuple(_restored(arguments[0], item) for item in value)
    if origin is dict:
        return {key: _restored(arguments[1], item) for key, item in value.items()}
    if not isinstance(annotation, type):
        return value
    return annotation.restore(value) if issubclass(annotation, Spec) else _plain(annotation, value)


def _plain(kind: type, value: Any) -> Any:  # noqa: ANN401
    return kind(value) if issubclass(kind, Enum) else value


def _member(members: tuple[Any, ...], value: Any) -> Any:  # noqa: ANN401
    """Return the member of a union that ``value`` belongs to: by its ``kind`` where they are tagged."""
    for member in members:
        fields = getattr(member, "model_fields", {})
        if "kind" in fields and value.get("kind") in get_args(fields["kind"].annotation):
            return member
    return next(member for member in members if member is not NoneType)


def _bytes(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


ByteSize = Annotated[int, BeforeValidator(_bytes)]  # YAML says "12288MiB"; inside it is an int of bytes


class SizeFact(Spec):
    """An amount of memory with its provenance."""

    size: ByteSize
    basis: Basis
    source: str
