"""Write golden/layers.json.gz from sd-scripts' own list of what it trains: make_golden.py KEYS.json

KEYS.json holds, for "sd15-lora", "sd15-locon", "sdxl-lora", "sdxl-locon", the layers that sd-scripts (commit 48d368fa)
wrote with rank 16 and convolution rank 8: [name, shape of lora_down, shape of lora_up].
"""

import gzip
import json
import sys
from pathlib import Path


def main():
    said = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    golden = {
        case: {name: [down, up] for part in ("unet", "te") for name, down, up in said[case][part]} for case in said
    }
    text = json.dumps(golden, sort_keys=True, separators=(",", ":"))
    path = Path(__file__).with_name("golden") / "layers.json.gz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(text.encode("ascii"), 9, mtime=0))


if __name__ == "__main__":
    main()
