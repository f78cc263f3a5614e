"""Every run of the tests has a cache of its own, also in the processes that it starts."""

import os
import tempfile

_cache = tempfile.TemporaryDirectory(prefix="seresnet-tests-")
os.environ["SERESNET_CACHE"] = _cache.name
