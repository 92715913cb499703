"""Archives that torch-model-archiver made for anyone's handlers: scanned, described, sealed again.

Nothing of an archive is run or unpickled here.
"""
