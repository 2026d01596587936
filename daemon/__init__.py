"""What happens here: files, the engine, the control socket and the command line.

Imports store and peers; nothing imports it. A package of this name also comes with
python-daemon: `IS_DIZZYD` tells the two apart (daemon.cli refuses to start with the other).
"""

__version__ = "0.1.0"

IS_DIZZYD = True
