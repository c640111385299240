"""Many requests at once over one exported model, each at the depth that the load allows. Never imports torch.

>>> from layerdial.serving.jobs import Job                               # doctest: +SKIP
>>> from layerdial.serving.pool import Pool                              # doctest: +SKIP
>>> with Pool(Recognizer("english")) as pool:                            # doctest: +SKIP
...     print(pool.submit(Job("a.flac", deadline_ms=500)).result().transcript.text)
"""
