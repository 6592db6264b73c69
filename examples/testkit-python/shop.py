"""A shop that signs its orders, as small as a program can be that has something to test."""

import taskseal


class Orders:
    def __init__(self, signer):
        self.sealer = taskseal.Sealer(signer)

    def order(self, article, count):
        return self.sealer.seal([[article, count], {}, {}])
