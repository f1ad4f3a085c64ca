"""The plugin: a Python file with a decorated function."""

import shmhub

plugin = shmhub.Plugin("greeter")


@plugin.method
def greet(name: str) -> str:
    """Say hello."""
    return f"Hello, {name}!"


if __name__ == "__main__":
    plugin.run()
