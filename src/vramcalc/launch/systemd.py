"""A systemd unit.

Source: systemd.service(5), COMMAND LINES and systemd.syntax(7), QUOTING.
"""

from vramcalc.errors import RefusedError
from vramcalc.launch.service import Service

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./=:,+@")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def render(service: Service) -> str:
    """Return the unit. Raises ``RefusedError`` for several machines and for macOS."""
    if service.nodes > 1:
        raise RefusedError("a unit runs on one machine", "take --target kubernetes, or shell for Ray")
    if service.vendor == "apple":
        raise RefusedError("macOS has no systemd", "take --target shell")
    command = ("ollama", "serve") if service.engine == "ollama" else service.command
    lines = [
        "[Unit]",
        f"Description={_specifiers(service.title)}",
        "After=network-online.target",
        "Wants=network-online.target",
        "",
        "[Service]",
        *(f"Environment={quote(f'{k}={v}', expands=False)}" for k, v in service.environment.items()),
        f"ExecStart=/usr/bin/env {' '.join(map(quote, command))}",
        "Restart=on-failure",
        "RestartSec=10",
        "TimeoutStartSec=900",
        "",
        "[Install]",
        "WantedBy=multi-user.target",
        "",
    ]
    return "\n".join(lines)


def quote(word: str, *, expands: bool = True) -> str:
    """Return a word as a unit's line takes it; ``expands``: where ``$`` would name a variable."""
    text = _specifiers(word)
    if expands:
        text = text.replace("$", "$$")
    if text and set(word) <= _PLAIN:
        return text
    return '"' + "".join(_ESCAPES.get(c, c if c.isprintable() else _bytes(c)) for c in text) + '"'


def _specifiers(text: str) -> str:
    return text.replace("%", "%%")


def _bytes(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())
