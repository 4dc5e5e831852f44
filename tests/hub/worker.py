"""A process that runs what the tests send it, one JSON line each, with the Hub's client in it.

The client reads its settings when it is imported, so each setting needs a process of its own; one
process serves many tests, because importing torch takes longer than any of them.
"""

import contextlib
import io
import json
import os
import sys
import traceback

from zoo.errors import ZooError

answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
for line in sys.stdin:
    order = json.loads(line)
    for name, value in order["environment"].items():
        os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
    printed = io.StringIO()
    names = dict(order["values"])
    answer = {"error": None, "message": "", "result": None}
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            exec(compile(order["code"], "order", "exec"), names)
            answer["result"] = names.get("result")
        except ZooError as error:
            answer |= {"error": type(error).__name__, "message": str(error)}
        except BaseException:
            answer |= {"error": "not a ZooError", "message": traceback.format_exc()}
    answer["printed"] = printed.getvalue()
    answers.write(json.dumps(answer, default=str) + "\n")
    answers.flush()
