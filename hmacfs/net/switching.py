"""A place to listen at, whose connections come to one factory today and to another one tomorrow."""

from __future__ import annotations

from twisted.internet.interfaces import IAddress, ILoggingContext, IProtocolNegotiationFactory
from twisted.internet.protocol import Factory, Protocol
from twisted.web.server import Site
from zope.interface import implementer


@implementer(IProtocolNegotiationFactory, ILoggingContext)
class Switch(Factory):
    """Has the site that is in force make the protocol of each new connection. Those that are there stay where they are.

    :ivar current: that site. May be changed at any time.
    """

    noisy = False

    def __init__(self, current: Site) -> None:
        self.current = current

    def logPrefix(self) -> str:
        return type(self.current).__name__

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        protocol: Protocol | None = self.current.buildProtocol(addr)
        return protocol

    def acceptableProtocols(self) -> list[bytes]:
        names: list[bytes] = self.current.acceptableProtocols()
        return names
