"""Writes the providers' wires, one file per protocol. A wire is the form in which a protocol sends its answer.

These files share no code with the codecs that read the wires, so that the tests can find a mistake in a codec.
"""
