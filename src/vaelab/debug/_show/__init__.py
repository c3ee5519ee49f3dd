"""How a report looks: as `text` in a terminal, `html` in a notebook, `figure` in print.

In goes a `NonFiniteReport` or a `SpikeReport`, out comes what is shown; nothing is
computed. All three tell in the same order: what and where, why, what to do and whether
that was tried, then the chain of events. What is hard is to say nothing twice: a
statement stands where it is first needed, and later only its line. `words` has the
phrases that they share.
"""
