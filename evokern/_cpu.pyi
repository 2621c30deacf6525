from typing import Any

# Bound in csrc/cpu/bindings*.cpp. Shapes, types and values are checked by evokern.ops.
def __getattr__(name: str) -> Any: ...
