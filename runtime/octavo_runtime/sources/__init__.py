"""Where models come from: a local path, the Hugging Face hub, or S3-compatible storage, fetched into a cache folder.

    reference.py  MODEL's text -> which kind               child.py     runs all of this in a process of its own
    choose.py     a listing -> the files worth fetching     __main__.py  that process
    meter.py      bytes -> percent, speed, time left        hub.py, s3.py  the two kinds of `Remote`
    download.py   a `Remote`'s files -> a folder, resumed after any end, whole or not there at all

Pure: reference, choose, meter.
"""
