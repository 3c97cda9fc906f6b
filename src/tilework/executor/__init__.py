"""Executors: where and how work is done.

::

    JobExecutor (common.executor)     the interface
      BaseJobExecutor  (base)         state that all share: open or closed, runs by name, events, report
        DrivenJobExecutor  (driven)   runs are carried out by a driver, over a way to the workers
          StoringJobExecutor (storing)  what is scattered is in a store
            DaskJobExecutor           (dask)        on the workers of a Dask cluster
            PipelinedExecutor         (pipelined)   in worker processes of this machine
            ConcurrentJobExecutor     (concurrent)  on any pool of `concurrent.futures`
            LocalJobExecutor  (local)   workers see the memory of the main side
              InlineJobExecutor       (inline)      in the calling thread; the readable reference
              DelayedJobExecutor      (delayed)     nowhere: tasks become parts of a Dask graph

    run      the decisions of one run, without I/O
    driver   the loop that carries them out, over a backend for each kind of worker
    remote   what crosses the line between processes: pickles, and errors that always arrive
    calling  a task or a function is called: what all workers need, and no more

Import an executor from its own module; nothing is imported here.
"""
