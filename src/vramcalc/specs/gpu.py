"""What is known of a graphics card or unified-memory chip."""

from typing import Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from vramcalc.specs.base import ByteSize, SizeFact, Spec

Vendor = Literal["nvidia", "amd", "intel", "apple", "huawei", "hypothetical"]
OperatingSystem = Literal["linux", "windows", "wsl", "macos"]
Precision = Literal["f64", "f32", "tf32", "f16", "bf16", "fp8", "int8", "fp4", "int4"]


class UsableMemory(Spec):
    """What one process may allocate, where it was measured; the stated rule fills the gaps."""

    linux: SizeFact | None = None
    windows: SizeFact | None = None
    wsl: SizeFact | None = None
    macos: SizeFact | None = None


class Memory(Spec):
    """The three totals of a card, which differ."""

    advertised: ByteSize = Field(gt=0)
    driver: SizeFact | None = None  # what nvidia-smi (or its like) shows
    usable: UsableMemory = Field(default_factory=UsableMemory)  # what cudaMemGetInfo (or its like) calls total


class GpuSpec(Spec):
    """One card, or one chip with one size of unified memory."""

    id: str
    name: str
    vendor: Vendor
    architecture: str
    year: PositiveInt | None
    aliases: tuple[str, ...] = ()
    memory: Memory
    unified_memory: bool = False
    bandwidth_gb_per_s: PositiveFloat | None
    tensor_tflops: dict[Precision, PositiveFloat] = Field(default_factory=dict)  # dense: without sparsity
    compute_capability: str | None = Field(default=None, pattern=r"^\d{1,2}\.\d$")
    n_sms: PositiveInt | None = None
    pcie_generation: PositiveInt | None = None
    pcie_lanes: PositiveInt | None = None
    nvlink_gb_per_s: NonNegativeInt | None = None  # both directions together, per card, as the vendor states it
    context_memory: SizeFact | None = None  # a CUDA context's own memory, where measured
    source: str

    @model_validator(mode="after")
    def _cuda_cards_have_a_compute_capability(self) -> "GpuSpec":
        if self.vendor == "nvidia" and not self.compute_capability:
            msg = "compute_capability is missing"
            raise ValueError(msg)
        return self
