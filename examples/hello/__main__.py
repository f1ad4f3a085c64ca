"""The smallest host and plugin: `python examples/hello`."""

from pathlib import Path

import shmhub


def main() -> None:
    with shmhub.PluginHost() as host:
        greeter = host.spawn(Path(__file__).with_name("greeter.py"))
        print(greeter.greet("world"))


if __name__ == "__main__":
    main()
