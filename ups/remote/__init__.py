"""The same command elsewhere: a rented GPU, a Slurm cluster, a box over ssh.

spec.py      what a job is: `JobSpec`, the same for every engine
driver.py    what an engine can do: `Driver`, and what it answers: `Offer`, `Plan`, `Status`
drivers/     one file for each engine: dstack, slurm, ssh
agent.py     what runs on the other machine: preflight, pull, train, evaluate, push
records.py   what is known here of every job, append-only
"""
