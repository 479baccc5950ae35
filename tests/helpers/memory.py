"""A logger that keeps in memory what is logged."""

from stable_baselines3.common.logger import KVWriter, Logger


class Memory(KVWriter):
    """Keeps every dump of the logger, a dict each, in ``written``."""

    def __init__(self):
        self.written = []

    def write(self, key_values, key_excluded, step=0):
        self.written.append(dict(key_values))

    def close(self):
        pass

    def latest(self):
        """Return the latest value of each key."""
        return {key: value for values in self.written for key, value in values.items()}


def logging_to_memory(model):
    """Let ``model`` log to a new ``Memory``, and return it."""
    memory = Memory()
    model.set_logger(Logger(None, [memory]))
    return memory
