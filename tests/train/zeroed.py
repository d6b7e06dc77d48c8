"""Runs train_lora.py with DeepSpeed on the CPU, as a program under `accelerate launch`.

accelerate takes DeepSpeed to be for accelerators alone. It runs on the CPU over gloo as well (`DS_ACCELERATOR=cpu`), so
the one thing changed here is what accelerate believes the processes are; everything else is its own.
"""

import runpy
import sys

from accelerate import PartialState
from accelerate.utils import DistributedType

from tests.conftest import ROOT

PartialState(cpu=True)
PartialState._shared_state["distributed_type"] = DistributedType.DEEPSPEED
sys.path.insert(0, str(ROOT / "scripts"))
sys.argv[0] = str(ROOT / "scripts" / "train_lora.py")
runpy.run_path(sys.argv[0], run_name="__main__")
