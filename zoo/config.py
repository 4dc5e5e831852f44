"""The base of every architecture's configuration: a frozen dataclass of plain values."""

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Self

from zoo.errors import ConfigError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Hyper-parameters of one architecture: subclass it frozen and keyword-only.

    The field's words: `vocab_size max_seq_len d_model n_layers n_heads n_kv_heads d_head
    d_ff dropout norm_eps rope_theta tie_embeddings`. `__post_init__` raises
    `ConfigError` on values that cannot work together.
    """

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build from plain values.

        Raises:
            ConfigError: an unknown key (near misses suggested), a missing one, or a value of the
                wrong type.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key, value in values.items():
            if key not in fields:
                close = get_close_matches(key, fields, n=1)
                guess = f" Did you mean {close[0]!r}?" if close else ""
                raise ConfigError(
                    f"{cls.__name__} has no key {key!r}.{guess} Its keys: {', '.join(fields)}"
                )
            wanted: Any = fields[key].type
            if wanted is float and type(value) is int:
                continue
            if wanted in (int, float, bool, str) and type(value) is not wanted:
                raise ConfigError(f"{cls.__name__}: {key} must be {wanted.__name__}, got {value!r}")
        missing = [
            name
            for name, field in fields.items()
            if name not in values
            and field.default is dataclasses.MISSING
            and field.default_factory is dataclasses.MISSING
        ]
        if missing:
            raise ConfigError(f"{cls.__name__} needs a value for {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """The plain values, in field order."""
        return dataclasses.asdict(self)

    def require_positive(self, *names: str) -> None:
        """Raise `ConfigError` unless each named field is a number above zero."""
        for name in names:
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"{type(self).__name__}: {name} must be above 0, got {getattr(self, name)}"
                )

    def require_divisible(self, whole: str, part: str) -> None:
        """Raise `ConfigError` unless field `whole` is a multiple of field `part`."""
        a, b = getattr(self, whole), getattr(self, part)
        if b <= 0 or a % b:
            raise ConfigError(
                f"{type(self).__name__}: {whole}={a} must be a multiple of {part}={b}"
            )
