"""What a Stable Diffusion webui runs: it finds our package, which does the rest.

Webuis run every file in this folder.
"""

import sys
from pathlib import Path

_PACKAGE = str(Path(__file__).resolve().parents[1] / "extension")
# Only for this import: the names in a webui's search path are everybody's.
sys.path.insert(0, _PACKAGE)
try:
    from lora_atelier.ui import webui
finally:
    sys.path.remove(_PACKAGE)

webui.start()
LoraAtelierScript = webui.script()
