"""Use cases of ``stack``: several services on one machine."""

from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

from msgspec.structs import replace

from vramcalc.api import Names, Request, machine_of, read_questions
from vramcalc.errors import BadInputError, UsageError
from vramcalc.reports.stack import StackReport, freeze_stack
from vramcalc.sources.machines import resolve_cards
from vramcalc.sources.stack_file import ServiceEntry, StackFile, read_stack, stack_of
from vramcalc.specs.gpu import OperatingSystem
from vramcalc.specs.machine import Machine
from vramcalc.specs.workload import Workload
from vramcalc.stack import Loaded, Prompt, Service, load_in_order, prompt_budget
from vramcalc.units import parse_bytes, parse_count


def answer_stack(
    file: Path | None = None,
    *,
    gpu: str | None = None,
    ram: str | None = None,
    services: Sequence[str] = (),
    registries: Sequence[Path] = (),
) -> StackReport:
    """Return the services of a file, or of texts, in the order they load, with the RAG prompt's budget.

    Raises ``BadInputError`` for a broken file, ``UsageError`` for names nobody knows or neither file nor services.
    """
    if (file is None) == (not services):
        raise UsageError("a stack is a FILE or several --service", "e.g. vramcalc stack stack.yaml")
    if file is not None and (gpu is not None or ram is not None):
        raise UsageError(f"{file} names its machine", "change it there, or leave --gpu and --ram out")
    if file is None and gpu is None:
        raise UsageError("no GPU was named", "add e.g. --gpu 2xrtx4090")
    stack = read_stack(file) if file is not None else stack_of(gpu or "", ram, services)
    stated = stack.machine
    names = Names.of(registries)
    request = Request(
        model="",
        gpus=(stated.gpu,),
        ram=stated.ram,
        reserve=stated.reserve,
        os=cast("OperatingSystem", stated.os),
        registries=registries,
    )
    machine = machine_of(request, resolve_cards(stated.gpu, names.cards).gpus)
    prompt = None if stack.rag is None else Prompt(**stack.rag.model_dump())
    asked = [_service(entry, request, machine, names, prompt) for entry in stack.services]
    loaded = load_in_order(asked, machine, prompt)
    budget = None if prompt is None else prompt_budget(prompt, loaded)
    rag = None if prompt is None or budget is None else (prompt.service, budget)
    return freeze_stack(loaded, machine, rag, [*_notes(stack, loaded, prompt)])


def _service(entry: ServiceEntry, request: Request, machine: Machine, names: Names, prompt: Prompt | None) -> Service:
    cards = entry.gpus or tuple(range(len(machine.gpus)))
    if any(not 0 <= card < len(machine.gpus) for card in cards) or len(set(cards)) < len(cards):
        raise BadInputError(
            f"service {entry.name}: gpus {list(cards)} are not cards of this machine",
            f"name them from 0 to {len(machine.gpus) - 1}, each once",
        )
    share = entry.memory_share
    concurrency = prompt.concurrency if prompt is not None and prompt.service == entry.name else None
    load = Workload(
        n_context=_count(entry),
        n_sequences=entry.parallel or concurrency,
        step_tokens=entry.step_tokens,
        memory_share=None if share is None else Fraction(str(share)),
        max_num_seqs=entry.max_num_seqs,
        cpu_offload_bytes=_offloaded(entry),
        enforce_eager=entry.enforce_eager,
        tensor_parallel=entry.tp,
    )
    own = replace(
        request,
        model=entry.model,
        gpus=("+".join(machine.gpus[card].id for card in cards),),
        engines=(entry.engine,),
        quants=(entry.quant,),
        kv_type=entry.kv_type,
        workload=load,
    )
    asked, _ = next(read_questions(own, names))
    own_cards = replace(machine, gpus=tuple(machine.gpus[card] for card in cards))
    return Service(entry.name, replace(asked, machine=own_cards), cards)


def _count(entry: ServiceEntry) -> int | None:
    if not isinstance(entry.context, str):
        return entry.context
    try:
        return parse_count(entry.context)
    except ValueError as error:
        raise BadInputError(f"service {entry.name}: context: {error}", "k is 1024: 8k = 8192") from error


def _offloaded(entry: ServiceEntry) -> int:
    try:
        return 0 if entry.cpu_offload is None else parse_bytes(entry.cpu_offload)
    except ValueError as error:
        raise BadInputError(f"service {entry.name}: cpu_offload: {error}", "GB is 10^9 bytes and GiB 2^30") from error


def _notes(stack: StackFile, loaded: Sequence[Loaded], prompt: Prompt | None) -> Iterator[str]:
    order = [one.service.name for one in loaded]
    if order != [entry.name for entry in stack.services]:
        yield f"as written it does not fit together: load {', then '.join(order)}"
    for one in loaded:
        if one.evicts:
            yield (
                f"Ollama unloads {', '.join(one.evicts)} to load {one.service.name}: its prediction is above 80 % of "
                "what is free; every switch between them loads a model again"
            )
    if prompt is not None:
        yield (
            "longer requests are refused or cut by the engine, and more at once wait: with these numbers the "
            "cache is never asked for more than it holds"
        )
    yield "a service holds its high figure, vLLM its whole share; loading is taken to need no more (assumed)"
