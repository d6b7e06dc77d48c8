"""Runs train_lora.py with FSDP2 on the CPU, as a program under `accelerate launch`.

accelerate takes FSDP to be for accelerators alone: on the CPU it would fall back to DDP. torch's own FSDP2 runs there
over gloo, so the one thing changed here is what accelerate believes the processes are; everything else is its own.
"""

import runpy
import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from tests.conftest import ROOT

PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
sys.path.insert(0, str(ROOT / "scripts"))
sys.argv[0] = str(ROOT / "scripts" / "train_lora.py")
runpy.run_path(sys.argv[0], run_name="__main__")
