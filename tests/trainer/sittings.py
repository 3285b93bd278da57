"""A process that has imported all that a trainer needs, and forks one for each line: "RUN_DIR<tab>OPERATIONS".

It answers with the trainer's process id and, when that has ended, with its exit status. A number of OPERATIONS other
than 0 lets the trainer kill itself as SIGKILL does, right before that many-th operation on the file system that keeping
a state makes: files opened, folders made, things renamed and removed.
"""

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "extension"))

# So that forks have them.
import accelerate  # noqa: F401
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel  # noqa: F401
from transformers import CLIPTextModel  # noqa: F401

from lora_atelier.trainer import results, run, session  # noqa: F401

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate"}


def kill_at_operation(number):
    """Let this process end at an operation of its keeping of states."""
    left = [number]
    keeping = [False]

    def audit(event, _):
        if keeping[0] and event in OPERATIONS:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    real = results.Results.keep

    def keep(self, progressed):
        keeping[0] = True
        try:
            return real(self, progressed)
        finally:
            keeping[0] = False

    results.Results.keep = keep
    sys.addaudithook(audit)


def main():
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what trainers print
    print("ready", file=out)
    for line in sys.stdin:
        path, operations = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            if int(operations):
                kill_at_operation(int(operations))
            os._exit(run.run(Path(path)))
        print(pid, file=out)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=out)


if __name__ == "__main__":
    main()
