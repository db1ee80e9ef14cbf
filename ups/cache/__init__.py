"""The latent cache: tokens of one dataset version and one codec, encoded once.

caches/<dataset>/<version>/<codec label>-<fingerprint>/
    manifest.json          what it is and the sha256 of every shard; written last
    train-00000.npy ...    (trajectory, time, tokens, dim), memory-mapped by readers;
                           the number is the place of its first trajectory in the split
    progress.json          shards finished so far; only while a build is unfinished
"""
