"""Random cases of real sizes against float64 truths: ``python -m tests.soak``, or ``make soak``.

Every case draws its sizes (log-uniform up to 60,000 rows and 40,000 columns, next to powers of two
and multiples of tiles, primes), dtype, strides, offset and labels from one seed, so a run that
passes says little about the next: run it long, and after every change of a kernel or a plan.
A failure prints the one line that repeats it.

* ``draws``: what is drawn. ``bounds``: the errors that arithmetic allows.
* ``losses``, ``moments``, ``centers``, ``collapse``, ``rows``, ``evaluations``, ``ranks``: the
  cases, each beside its float64 truth, written from the definitions. A truth gives the *magnitude*
  of each number: the sum of the absolute values that it is a sum of. What is allowed is that times
  the rounding of such a sum in the arithmetic that the library promises.
* ``problems``: what the cases of losses share. ``run``: one case with its options. ``__main__``:
  cases until the time is up.
"""
