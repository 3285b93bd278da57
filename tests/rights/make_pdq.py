"""Make ``pdq.json`` with the pdqhash package, which compiles Meta's own code:

pip install pdqhash==0.2.8
python tests/rights/make_pdq.py
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import numpy as np
import pdqhash

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import pdq_cases  # noqa: E402

if __name__ == "__main__":
    made = {}
    for name, pixels in pdq_cases.pictures():
        bits, quality = pdqhash.compute(pixels)
        made[name] = [np.packbits(bits.astype(np.uint8)).tobytes().hex(), int(quality)]
    said = {"made_by": "make_pdq.py", "pdqhash": importlib.metadata.version("pdqhash"), "hashes": made}
    (HERE / "pdq.json").write_text(json.dumps(said, indent=0) + "\n", encoding="utf-8")
