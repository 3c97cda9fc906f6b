"""Executors: where and how work is done.

::

    JobExecutor (common.executor)     the interface
      BaseJobExecutor  (base)         state that all share: open or closed, runs by name, events, report
        LocalJobExecutor  (local)     workers see the memory of the main side
          InlineJobExecutor           (inline)      in the calling thread; the readable reference
          ConcurrentJobExecutor       (concurrent)  on a pool of threads

    run      the decisions of one run, without I/O
    driver   the loop that carries them out, over a backend for each kind of worker

Import an executor from its own module; nothing is imported here.
"""
