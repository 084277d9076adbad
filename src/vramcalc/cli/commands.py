"""The commands by name. One is imported and built when it is called; the others cost a start nothing."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

# Name to summary: the first line of the command's docstring, which a test holds. Modules are named as their commands,
# or stand in ``_MODULES``.
SUMMARIES = {
    "estimate": "Tell whether a model runs on your GPUs, what takes the memory, and what would help.",
    "solve": "Find the one unknown that still fits, and what stops it there.",
    "plan": "List the ways to make it fit, cheapest first, and tell whether Ollama or vLLM suits the machine.",
    "compare": "Set models, GPUs, engines, formats and contexts side by side.",
    "stack": "Tell whether several services run together on one machine, and what a RAG prompt may hold.",
    "explain": "Print each formula with its symbols, the numbers put in, and the source.",
    "inspect": "Print what a file of weights holds, by role and type, and what is odd about it.",
    "launch": "Print the command, Modelfile, Compose file, unit or manifest that runs the first estimate that fits.",
    "detect": "Print this machine's GPUs and memory, as `--gpu local --ram local` take them.",
    "watch": "Tell whether memory in use grows over time, on this machine or in a log.",
    "models": "The models it knows: list, search, show, add.",
    "gpus": "The GPUs it knows: list, search, show.",
    "validate": "Print our error per engine and figure against measured runs; exit 3 where it grew.",
    "schema": "Print the JSON Schema of all answers in JSON.",
}
_MODULES = {"models": "catalogue", "gpus": "catalogue"}


class LazyCommands(TyperGroup):
    """A group that knows its commands by name alone until one is called. Any stands for typer's private classes."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        super().__init__(**settings)
        self.commands = dict.fromkeys(SUMMARIES)  # type: ignore[assignment]  # the names: near ones are suggested

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401, ARG002
        """Return a command, built now; None for an unknown name."""
        return build_command(cmd_name) if cmd_name in SUMMARIES else None

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401, ARG002
        """Write the names with their summaries, without building a command."""
        room = formatter.width - max(map(len, SUMMARIES)) - 6
        with formatter.section("Commands"):
            formatter.write_dl([(name, _shortened(summary, room)) for name, summary in SUMMARIES.items()])


class SectionedCommand(TyperCommand):
    """A command whose help sorts its options into sections."""

    def format_options(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401
        """Write the sections that have options, the command's own last."""
        from vramcalc.cli.options import SECTIONS  # noqa: PLC0415 - for help alone

        titles = {name: title for title, names in SECTIONS.items() for name in names}
        rows: dict[str, list[Any]] = {title: [] for title in ("Arguments", *SECTIONS, "Options")}
        for parameter in self.get_params(ctx):
            title = "Arguments" if parameter.param_type_name == "argument" else titles.get(parameter.name, "Options")
            record = parameter.get_help_record(ctx)
            rows[title] += [record] if record else []
        for title, records in rows.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def build_command(name: str) -> Any:  # noqa: ANN401
    """Return typer's command of one of ``SUMMARIES``."""
    target = getattr(import_module(f"vramcalc.cli.{_MODULES.get(name, name)}"), name)
    if not isinstance(target, typer.Typer):
        function, target = target, typer.Typer(add_completion=False, rich_markup_mode=None)
        target.command(name, cls=SectionedCommand)(function)
    return typer.main.get_command(target)


def _shortened(text: str, width: int) -> str:
    if len(text) <= width:
        return text
    return text[: max(0, width - 3)].rsplit(" ", 1)[0] + "..."
