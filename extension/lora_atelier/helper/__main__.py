"""python -m lora_atelier.helper: answers questions, a line of JSON each way, and ends after a minute without one.

{"id": 1, "do": "credentials", "path": "a.png", "anchors": ""}
{"id": 1, "result": {...}}   or   {"id": 1, "missing": "c2pa-python"}   or   {"id": 1, "error": "..."}
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from . import content_credentials

IDLE_S = 60.0


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to one question. Never raises: whatever fails is said in it."""
    try:
        if question.get("do") != "credentials":
            return {"error": "unknown question"}
        return {"result": content_credentials.read(Path(str(question["path"])), str(question.get("anchors", "")))}
    except ImportError:
        return {"missing": content_credentials.PACKAGE}
    except Exception as error:  # the edge: foreign files and a foreign library may fail in any way
        return {"error": f"{type(error).__name__}: {error}"[:300]}


def serve(lines: TextIO, say: Callable[[str], object], *, idle_s: float = IDLE_S) -> None:
    """Answer every line until the stream ends or nothing comes for ``idle_s`` seconds."""
    waiting: queue.Queue[str] = queue.Queue()

    def listen() -> None:
        for line in lines:
            waiting.put(line)
        waiting.put("")

    threading.Thread(target=listen, daemon=True).start()
    while True:
        try:
            line = waiting.get(timeout=idle_s)
        except queue.Empty:
            return
        if not line:
            return
        try:
            question = json.loads(line)
        except ValueError:
            continue
        if isinstance(question, dict):
            say(json.dumps({"id": question.get("id"), **answer(question)}) + "\n")


def main() -> int:
    """Serve standard input; what libraries print there goes to the error stream."""
    out, sys.stdout = sys.stdout, sys.stderr

    def say(line: str) -> None:
        out.write(line)
        out.flush()

    serve(sys.stdin, say)
    return 0


if __name__ == "__main__":
    sys.exit(main())
