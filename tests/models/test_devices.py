import subprocess
import sys

from persona_prune.models.devices import peak_host_memory_mb


def test_the_peak_is_this_process_own_not_that_of_the_one_that_started_it():
    before = peak_host_memory_mb()
    held = bytearray(b"x") * (1 << 30)
    assert peak_host_memory_mb() > before
    assert peak_host_memory_mb() > 1024
    code = "from persona_prune.models.devices import peak_host_memory_mb as peak; print(peak())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(child.stdout) < 1024 < len(held)
