"""The providers' wires, written: one file a protocol. They share nothing with the codecs, so that they can contradict them."""
