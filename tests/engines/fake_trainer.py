"""A trainer with every bad habit, one by one: `fake_trainer.py HABIT STEPS [--resume CHECKPOINT] [config]`, in its scratch folder."""

import json
import os
import signal
import struct
import sys
import time
from pathlib import Path

habit, steps = sys.argv[1], int(sys.argv[2])
output = Path("output")


def tensors(path: Path, step: int, cut: int = 0) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes([step % 256]) * 64
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data[: len(data) - cut])


def bar(step: int) -> None:
    line = f"\rSteps:  {100 * step // steps}%|█▊  | {step}/{steps} [00:01<00:05,  9.41it/s, loss={1 / (step + 1):.3f}, lr=0.001]"
    print(line, end="", file=sys.stderr, flush=True)


first = 0
if "--resume" in sys.argv:
    first = json.loads(Path(sys.argv[sys.argv.index("--resume") + 1], "state.json").read_text())["step"]
    print(f"resumed at {first}")
Path("pid").write_text(str(os.getpid()))
if habit == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
if habit in ("fork", "deaf") and os.fork() == 0:
    Path("child").write_text(str(os.getpid()))
    time.sleep(600)
if habit == "daemon" and os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        Path("child").write_text(str(os.getpid()))
        os.closerange(0, 3)
        time.sleep(600)
    os._exit(0)
if habit == "flood":
    for number in range(200_000):
        print(f"line {number}")
if habit == "hang":
    print("begins")
    sys.stdout.flush()
    time.sleep(600)
if habit == "fills":
    for number in range(600):
        Path(f"big{number}").write_bytes(bytes(2**20))
        time.sleep(0.02)
if habit == "outside":
    output.joinpath("adapter.safetensors").symlink_to("/etc/hostname")
    sys.exit(0)
if habit == "crash":
    print("RuntimeError: the sky fell")
    sys.exit(3)
if habit == "oom":
    print("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
    sys.exit(1)
print("Loading:  50%|█▊  | 1/2 [00:01<00:05,  9.41it/s]", end="\r", file=sys.stderr, flush=True)
for step in range(first + 1, steps + 1):
    bar(step)
    if step % 10 == 0:
        print({"loss": str(1 / step), "epoch": "0.25"}, flush=True)
        checkpoint = output / f"checkpoint-{step}"
        tensors(checkpoint / "model.safetensors", step)
        (checkpoint / "state.json").write_text(json.dumps({"step": step}))
        (output / "samples").mkdir(exist_ok=True)
        (output / "samples" / f"{step:06}.png").write_bytes(b"\x89PNG sample %d" % step)
    if habit == "half" and step == steps:
        tensors(output / "checkpoint-half" / "model.safetensors", step, cut=30)
        time.sleep(600)
    if habit in ("slow", "deaf", "fork", "daemon", "half"):
        time.sleep(0.02)
if habit != "empty":
    tensors(output / "adapter.safetensors", steps)
