"""The latent cache: tokens of one dataset version and one codec, encoded once.

caches/<dataset>/<version>/<codec label>-<fingerprint>-<dtype>[-x<repeats>s<seed>]/
    manifest.json          what it is and the sha256 of every shard; written last
    train-00000.npy ...    (trajectory, time, tokens, dim), memory-mapped by readers;
                           the number is the place of its first trajectory in the split, which
                           is repeated, moved, where the cache has repeats
    deprecated.json        where the cache is to be used no more: {"reason", "when"}
    progress.json          shards finished so far; only while a build is unfinished
"""
