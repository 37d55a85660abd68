"""Models: generation types, upstream protocols, the text engine, manifests and the Triton repository compiler.

OpenVINO tells its maker over the internet that it was imported, unasked, wherever `openvino_telemetry` can be imported.
Here it cannot, and nor can OpenVINO's converters, which load it and are not used: no byte leaves, an import takes a
third of the time and each process 8 MiB less. Whatever imports OpenVINO therefore imports this package first.
"""

import sys
from typing import Any, cast

for _name in ("openvino_telemetry", "openvino.tools"):
    # None there makes an import fail; OpenVINO goes on without.
    sys.modules.setdefault(_name, cast("Any", None))
