"""Many requests at once over one exported model, each at the depth that the load allows. Never imports torch.

>>> from layerdial.serving import Job, Pool                              # doctest: +SKIP
>>> with Pool(Recognizer("english")) as pool:                            # doctest: +SKIP
...     print(pool.submit(Job("a.flac", deadline_ms=500)).result().transcript.text)
"""

from __future__ import annotations

from layerdial.serving.jobs import Job, Metrics, Refused, Served
from layerdial.serving.pool import Pool

__all__ = ["Job", "Metrics", "Pool", "Refused", "Served"]
