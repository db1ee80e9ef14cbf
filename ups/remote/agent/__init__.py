"""What runs on the machine: it checks, fetches, trains, evaluates and pushes, and always ends.

__main__   the process: job.json, signals, exit code
work       the steps of a job, in order
checks     what must be right before anything is paid for
steps      one step as a child process, and what ends it: signal, time limit, hang
pushing    the run's snapshots on their way to the remote while it trains
telling    status.json, and UPS-EVENT lines in the log
"""
