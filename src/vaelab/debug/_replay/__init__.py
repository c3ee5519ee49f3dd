"""How `explain` finds out: a call is traced, replayed, and put into words.

- The call as a jaxpr: `call`, `modules`, `rules`; `jaxprs` knows the versions of JAX.
- The replay, equation by equation: `interpreter`, with `tiles`, `loops` and `shards`.
- What became non-finite, and where: `arrays`, `events`, `locate`, `direction`.
- Which of it matters: `chains`, `origins`.
- The report: `writing`, `causes` with its rules in `domains` and `losses`, `facts`.
- Further replays that test the report: `verify`, `clamp`.
"""
